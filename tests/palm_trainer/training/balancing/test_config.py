"""`[train.balancing]` from configuration to loop: precision, exact resume, and refusals."""

import copy
import importlib.util
import io
import sys

import pytest
import torch
import torchjd._mixins
import torchjd.aggregation
from safetensors.torch import load_file

from palm_trainer.cli.train import app, command
from palm_trainer.config.loader import load_config
from palm_trainer.config.schema import BalancingConfig
from palm_trainer.errors import ConfigError
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.runs.run import train
from palm_trainer.training import assembly
from palm_trainer.training.balancing import DynamicWeightAverage, FixedWeights, GradNorm, RandomWeights, Uncertainty
from palm_trainer.training.balancing.gradient import project
from palm_trainer.training.loop import Step

METHODS = BalancingConfig.model_fields["method"].annotation.__args__
GRADIENT = ("pcgrad", "cagrad", "upgrad", "aligned_mtl", "mgda")


@pytest.mark.parametrize(
    ("method", "precision"),
    [
        *((method, "fp32") for method in METHODS),
        *((method, "bf16") for method in METHODS if method != "fixed"),
        ("gradnorm", "fp16"),
        ("upgrad", "fp16"),
    ],
)
def test_balancing_state_continues_bit_exact(tiny_config, method, precision):
    """Data sets with two tasks and with one; the state goes through a file, as a checkpoint does."""
    epochs = 3 if method == "dwa" else 1  # it weighs from the third on
    options = (
        f"train.epochs={epochs}",
        f"train.balancing.method={method}",
        f"train.precision={precision}",
        "train.regularization.r_drop=1",
    )
    config = tiny_config(*options, second=True)
    unbroken, other = job_from_config(config), job_from_config(config)
    before = copy.deepcopy(unbroken.trained.model.state_dict())
    steps = unbroken.loop.steps()
    for _ in range(20 if epochs == 3 else 4):
        next(steps)
    file = io.BytesIO()
    torch.save({"model": unbroken.trained.model.state_dict(), "loop": unbroken.loop.state_dict()}, file)
    rest = [(s.step, s.data, s.losses) for s in steps]
    state = torch.load(io.BytesIO(file.getvalue()), weights_only=True)
    other.trained.model.load_state_dict(state["model"])
    other.loop.load_state_dict(state["loop"])
    assert [(s.step, s.data, s.losses) for s in other.loop.steps()] == rest
    one, two = (t.trained.model.state_dict() for t in (unbroken, other))
    assert [name for name in one if not torch.equal(one[name], two[name])] == []
    assert all(torch.isfinite(value).all() for value in one.values())
    assert {name for name in one if not torch.equal(one[name], before[name])} >= {
        f"heads.{task}.linear.weight" for task in ("intent", "slots", "mood")
    }


AGGREGATORS = {
    "pcgrad": torchjd.aggregation.PCGrad(),
    "cagrad": torchjd.aggregation.CAGrad(c=0.4),
    "upgrad": torchjd.aggregation.UPGrad(projector=project),
    "aligned_mtl": torchjd.aggregation.AlignedMTL(),
    "mgda": torchjd.aggregation.MGDA(),
}


@pytest.mark.parametrize("method", GRADIENT)
def test_balancing_agrees_with_torchjd_on_jacobian(tiny_config, method):
    """The tasks' gradients as rows of one dense matrix, aggregated, against a real pass; heads get the gradient of the plain sum."""
    training = job_from_config(tiny_config(f"train.balancing.method={method}"))
    loop, model = training.loop, training.trained.model
    batch = loop.sources["travel"].next()
    labels = {task: int(model.head(task).labels(targets)) for task, targets in batch.targets.items()}
    losses, _ = loop._losses(batch, list(labels), labels)
    shared = [p for p in model.backbone.parameters() if p.requires_grad]
    heads = list(model.heads.parameters())
    rows = []
    for loss in losses.values():
        found = torch.autograd.grad(loss, shared, retain_graph=True, materialize_grads=True, allow_unused=True)
        rows.append(torch.cat([gradient.flatten() for gradient in found]))
    plain = torch.autograd.grad(sum(losses.values()), heads, retain_graph=True)
    wanted = AGGREGATORS[method](torch.stack(rows)) * (1 if method == "pcgrad" else len(rows))
    loop._balancing.backward(losses, lambda loss: loss)
    zeros = [torch.zeros_like(p) if p.grad is None else p.grad for p in shared]
    got = torch.cat([gradient.flatten() for gradient in zeros])
    assert (got - wanted).norm() <= 1e-3 * wanted.norm()
    torch.testing.assert_close([p.grad for p in heads], list(plain))


CLASSES = {
    "fixed": FixedWeights,
    "uncertainty": Uncertainty,
    "dwa": DynamicWeightAverage,
    "gradnorm": GradNorm,
    "random": RandomWeights,
}


@pytest.mark.parametrize("method", CLASSES)
def test_balancing_name_selects_the_method(tiny_config, method):
    assert type(job_from_config(tiny_config(f"train.balancing.method={method}")).loop._balancing) is CLASSES[method]


def test_balancing_resumed_run_is_bit_exact(tiny_config, fit, tmp_path):
    options = ("train.epochs=1", "train.balancing.method=uncertainty", "train.regularization.ema_decay=0.9")
    whole = tiny_config(*options, f"train.output={tmp_path / 'whole'}")
    fit(whole)
    config, seen = tiny_config(*options), []
    for event in train(config, stop=lambda: len(seen) >= 4):
        if isinstance(event, Step):
            seen.append(event)
    fit(config, resume=True)
    one, other = (load_file(c.train.output / "last/model.safetensors") for c in (whole, config))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_uncertainty_variances_have_own_group(tiny_config):
    training = job_from_config(tiny_config("train.balancing.method=uncertainty", "train.balancing.learning_rate=0.03"))
    group = training.loop.optimizer.param_groups[-1]
    assert (len(group["params"]), group["peak_lr"], group["weight_decay"]) == (2, 0.03, 0.0)
    next(training.loop.steps())
    assert all(float(p.detach()) != 0 for p in group["params"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("train.balancing.method=pcgrad", "train.regularization.fgm=1"),
            r"got 'pcgrad'. FGM needs the gradient of the summed losses",
        ),
        (
            ("train.balancing.method=gradnorm", "train.regularization.fgm=1"),
            r"got 'gradnorm'. FGM needs the gradient of the summed losses",
        ),
        (
            ("train.balancing.method=uncertainty", "tasks.slots.weight=2.0"),
            r"tasks.slots.weight must be 1 for train.balancing.method = 'uncertainty'",
        ),
        (
            ("train.balancing.method=gradnorm", "tasks.slots.weight=2.0"),
            r"tasks.slots.weight must be 1 for train.balancing.method = 'gradnorm'",
        ),
        (
            ("train.balancing.cagrad_c=0.4",),
            r"train.balancing.cagrad_c is only for method = 'cagrad', got 'fixed'. Remove it",
        ),
        (("train.balancing.learning_rate=1",), r"is only for method = 'uncertainty' or 'gradnorm', got 'fixed'"),
        (
            ("train.balancing.dwa_temperature=1", "train.balancing.method=random"),
            r"dwa_temperature is only for method = 'dwa'",
        ),
        (
            ("train.balancing.gradnorm_alpha=1", "train.balancing.method=dwa"),
            r"gradnorm_alpha is only for method = 'gradnorm'",
        ),
        (("train.balancing.method=sum",), r"train.balancing.method must be 'fixed', 'uncertainty', .*got 'sum'"),
    ],
)
def test_balancing_conflicting_options_are_refused(tiny_config, overrides, message):
    with pytest.raises(ConfigError, match=message):
        tiny_config(*overrides)


@pytest.mark.parametrize("method", ["gradnorm", "random", *GRADIENT])
def test_balancing_separate_tasks_are_refused(tiny_toml, method):
    path = tiny_toml(second=True)
    alone = path.read_text(encoding="utf-8").split("[tasks.slots]")
    path.write_text(alone[0] + "[data.reviews]" + alone[1].split("[data.reviews]")[1], encoding="utf-8")
    said = (
        rf"where no two tasks share a data set, got '{method}'. It balances tasks of one encoder pass. Let tasks share"
    )
    with pytest.raises(ConfigError, match=said):
        load_config(path, [f"train.balancing.method={method}"])
    for other in ("uncertainty", "dwa"):
        assert load_config(path, [f"train.balancing.method={other}"])


@pytest.mark.parametrize("method", [name for name in METHODS if name != "fixed"])
def test_balancing_single_task_is_refused(tiny_toml, method):
    path = tiny_toml()
    head, rest = path.read_text(encoding="utf-8").split("[tasks.slots]")
    path.write_text(head + "[train]" + rest.split("[train]")[1], encoding="utf-8")
    with pytest.raises(
        ConfigError, match=f"fixed for a single task, got '{method}'. It weighs tasks against each other"
    ):
        load_config(path, [f"train.balancing.method={method}"])


@pytest.mark.parametrize("method", ["pcgrad", "gradnorm"])
def test_balancing_frozen_encoder_is_refused(tiny_config, method, monkeypatch):
    def all_frozen(backbone, **_):
        for parameter in backbone.parameters():
            parameter.requires_grad_(False)

    monkeypatch.setattr(assembly, "freeze_layers", all_frozen)
    monkeypatch.setattr(assembly, "freeze_unused_rows", lambda *_: None)
    with pytest.raises(ConfigError, match=rf"'{method}' balances the gradients of .*, which is frozen"):
        job_from_config(tiny_config(f"train.balancing.method={method}"))


@pytest.mark.parametrize(("method", "package"), [("upgrad", "torchjd.aggregation"), ("cagrad", "cvxpy")])
def test_balancing_missing_package_is_named(tiny_config, monkeypatch, method, package):
    if package == "cvxpy":  # torchjd looks for it by its name
        found = importlib.util.find_spec
        monkeypatch.setattr(torchjd._mixins, "find_spec", lambda name: None if name == package else found(name))
    else:
        monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ConfigError, match=rf"'{method}' needs a package that is not installed .*'\.\[gradient\]'"):
        job_from_config(tiny_config(f"train.balancing.method={method}"))


def test_plan_shows_balancing_passes(tiny_toml, capsys):
    assert command(app, ["plan", str(tiny_toml()), "--set", "train.balancing.method=upgrad"]) == 0
    assert "upgrad: a backward pass for each task of a data set" in capsys.readouterr().out
