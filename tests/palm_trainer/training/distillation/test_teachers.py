"""Teachers: labels by name, exact resume and micro-batches, unlabelled text, and refusals."""

import itertools
import re

import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.config.loader import load_config
from palm_trainer.errors import CheckpointError, ConfigError
from palm_trainer.model.checkpoint import load_trained, save_trained
from palm_trainer.runs.events import Averaged, Finished
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.runs.run import train
from palm_trainer.tensors import NO_SOFT_TARGET


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, write_config, fit):
    """A finished run on the tiny data set."""
    config = load_config(write_config(tmp_path_factory.mktemp("teacher")), ["train.epochs=4"])
    fit(config)
    return config.train.output


@pytest.fixture
def student(tiny_config, teacher):
    """`student("train.epochs=1", ...)`: the tiny configuration with that teacher."""

    def _config(*overrides, runs=(), **options):
        listed = ", ".join(f'"{run.as_posix()}"' for run in (runs or (teacher,)))
        return tiny_config(f"train.distillation.teachers=[{listed}]", *overrides, **options)

    return _config


def test_soft_targets_agree_with_teacher_predictions(student, teacher):
    """As its model answers alone: classes, and marginals of its chain; nothing for special pieces and padding."""
    training = job_from_config(student("train.distillation.temperature=3"))
    source = training.loop.sources["travel"]
    batch, trained = source.next(), load_trained(teacher)
    with torch.no_grad():
        outputs = trained.model(**batch.inputs)
    assert trained.tasks["intent"].labels == training.trained.tasks["intent"].labels
    torch.testing.assert_close(batch.soft["intent"], (outputs["intent.logits"] / 3).softmax(1))
    tagged = batch.targets["slots"] >= 0
    soft = batch.soft["slots"]
    assert torch.equal(soft[..., 0] >= 0, tagged)
    assert (soft[~tagged] == NO_SOFT_TARGET).all()
    lengths = tagged.sum(1)
    emissions = outputs["slots.logits"][:, 1:]
    told, _ = trained.model.head("slots").crf.marginals(emissions / 3, lengths, 3.0)
    torch.testing.assert_close(soft[tagged], told[told.sum(2) > 0.5].float(), rtol=1e-4, atol=1e-6)


def reordered(teacher, where, labels):
    """The teacher with its intents in another order, and one more that nobody else knows."""
    trained = load_trained(teacher)
    info = trained.tasks["intent"]
    linear = trained.model.head("intent").linear
    rows = [info.labels.index(label) for label in labels]
    linear.weight.data, linear.bias.data = linear.weight.data[rows], linear.bias.data[rows]
    trained.tasks["intent"] = info.model_copy(update={"labels": tuple(labels)})
    save_trained(trained, where / "best")
    return where


def test_soft_targets_labels_match_by_name(student, teacher, tmp_path):
    plain = job_from_config(student()).loop.sources["travel"].next()
    other = reordered(teacher, tmp_path / "other", ["hotel", "flight", "fare"])
    mixed = job_from_config(student(runs=[other])).loop.sources["travel"].next()
    torch.testing.assert_close(mixed.soft["intent"], plain.soft["intent"])
    both = job_from_config(student(runs=[other, teacher])).loop.sources["travel"].next()
    torch.testing.assert_close(both.soft["intent"], plain.soft["intent"])


def test_teachers_leave_initial_weights_and_data(student, tiny_config):
    taught, alone = job_from_config(student()), job_from_config(tiny_config())
    one, two = taught.trained.model.state_dict(), alone.trained.model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert torch.equal(
        taught.loop.sources["travel"].next().inputs["input_ids"],
        alone.loop.sources["travel"].next().inputs["input_ids"],
    )


def test_teachers_micro_batches_add_up(student):
    """float64, no dropout; one batch of 8, and four parts of it; with R-Drop's two passes too."""

    def gradients(*overrides):
        training = job_from_config(student("train.batch_size=8", "data.travel.substitute=0.5", *overrides))
        loop, model = training.loop, training.trained.model.double()
        for module in model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        values, _ = loop._gradients(
            "travel", loop.sources["travel"].micro_batches(loop.accumulate, loop.processes), ["intent", "slots"]
        )
        return values, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}

    values, whole = gradients()
    for override in ("train.accumulate_steps=4", "train.regularization.r_drop=1"):
        told, micro_batches = gradients(override)
        assert told == pytest.approx(values, rel=1e-6)
        for name, gradient in whole.items():
            assert (gradient - micro_batches[name]).norm() <= 1e-6 * gradient.norm() + 1e-14, name


def test_teachers_resumed_run_is_bit_exact(student, fit, tmp_path):
    config = student("train.epochs=2", "train.checkpoints.save_every_steps=1", "data.travel.substitute=0.5")
    fit(config)
    broken = config.model_copy(update={"train": config.train.model_copy(update={"output": tmp_path / "broken"})})
    steps = itertools.count()
    for _ in train(broken, stop=lambda: next(steps) >= 7):
        pass
    fit(broken, resume=True)
    one, two = (c.train.output / "last/model.safetensors" for c in (config, broken))
    assert one.read_bytes() == two.read_bytes()


def test_teachers_changed_weights_stop_resuming(student, teacher, tmp_path):
    other = reordered(teacher, tmp_path / "other", ["hotel", "flight", "fare"])
    config = student("train.checkpoints.save_every_steps=1", runs=[other])
    steps = itertools.count()
    for _ in train(config, stop=lambda: next(steps) >= 2):
        pass
    reordered(teacher, other, ["flight", "hotel", "fare"])
    with pytest.raises(CheckpointError, match=r"a run of train.distillation.teachers was trained anew"):
        next(train(config, resume=True))


def add(config, text):
    """The configuration file of `tiny_config` with more tables."""
    toml = config.train.output.parent / "tiny.toml"
    toml.write_text(toml.read_text(encoding="utf-8") + text, encoding="utf-8")
    return toml


UNLABELLED = """
[data.plain]
format = "text"
train = "plain.txt"
"""
GUESS = """
[data.more]
format = "text"
train = "plain.txt"
[tasks.guess]
kind = "masked_lm"
auxiliary = true
data = ["more"]
"""


def with_plain(student, tmp_path, *overrides, more=""):
    (tmp_path / "plain.txt").write_text(
        "flights to denver\nthe fare to st. louis\nhotels in boston monday please\n" * 4
    )
    config = student()
    toml = add(config, UNLABELLED + more)
    toml.write_text(toml.read_text().replace('data = ["travel"]', 'data = ["travel", "plain"]'))
    listed = ", ".join(f'"{run.as_posix()}"' for run in config.train.distillation.teachers)
    return load_config(toml, [f"train.distillation.teachers=[{listed}]", *overrides])


def test_teachers_label_unlabelled_text(student, tmp_path):
    """More text, and so another vocabulary than the teacher's: its tags are aligned by characters."""
    loop = job_from_config(with_plain(student, tmp_path)).loop
    batch = loop.sources["plain"].next()
    assert batch.soft.keys() == {"intent", "slots"}
    assert (batch.targets["intent"] < 0).all()
    assert (batch.targets["slots"] < 0).all()
    special = batch.inputs["input_ids"] == batch.inputs["input_ids"][0, 0]
    assert (batch.soft["slots"][special] == NO_SOFT_TARGET).all()
    assert (batch.soft["slots"][..., 0] >= 0).sum() == batch.inputs["attention_mask"].sum() - 2 * len(special)
    chain = {name: p.detach().clone() for name, p in loop.model.head("slots").crf.named_parameters()}
    step = loop.train_on("plain", batch)
    assert all(torch.equal(p, chain[name]) for name, p in loop.model.head("slots").crf.named_parameters())
    assert step.losses.keys() == {"intent", "slots"}
    assert min(step.losses.values()) > 0


def test_teachers_work_with_all_other_options(student, tmp_path, teacher):
    """Joint tasks, masked_lm on plain text, a teacher, substitution and averaging; the files of the teacher are this run's."""
    (tmp_path / "plain.txt").write_text("flights from boston please\nlist hotels in denver now\n" * 4)
    config = student()
    toml = add(config, GUESS)
    settings = load_config(
        toml,
        [
            f'train.distillation.teachers=["{teacher.as_posix()}"]',
            "train.checkpoints.average_best=2",
            "train.epochs=3",
            "train.regularization.r_drop=1",
            "data.travel.substitute=0.4",
            "tasks.intent.data=['travel']",
        ],
    )
    events = list(train(settings))
    assert isinstance(events[-1], Finished)
    assert sum(isinstance(event, Averaged) for event in events) == 1
    assert {task for event in events if hasattr(event, "losses") for task in event.losses} == {
        "intent",
        "slots",
        "guess",
    }
    assert load_file(settings.train.output / "best/model.safetensors")


def refused(student, what, *overrides, **options):
    with pytest.raises(ConfigError, match=re.escape(what)):
        job_from_config(student(*overrides, **options))


def test_load_teachers_unsuitable_run_is_refused(student, teacher, tmp_path, tiny_config):
    lacking = reordered(teacher, tmp_path / "lacking", ["hotel", "flight"])
    refused(student, "does not know the label 'fare'", runs=[lacking])
    trained = load_trained(teacher)
    kinds = {"intent": trained.tasks["intent"].model_copy(update={"kind": "multi_label"})}
    save_trained(
        type(trained)(trained.model, trained.tokenizer_json, 24, kinds, trained.encoder), tmp_path / "kind/best"
    )
    refused(student, "its task 'intent' is of kind multi_label with 3 labels, not classify", runs=[tmp_path / "kind"])
    config = student(second=True)
    mood = config.model_copy(
        update={"data": {"reviews": config.data["reviews"]}, "tasks": {"mood": config.tasks["mood"]}}
    )
    with pytest.raises(ConfigError, match="has none of the tasks mood; it has intent, slots"):
        job_from_config(mood)
    with pytest.raises(CheckpointError, match="no such run directory"):
        job_from_config(student(runs=[tmp_path / "nowhere"]))
    with pytest.raises(ConfigError, match=r"train.distillation.weight needs teachers, got none"):
        tiny_config("train.distillation.weight=0.5")
