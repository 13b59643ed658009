"""Backbones, weights, heads, schedules and the door of the Python API."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import palm_trainer as palm
from palm_trainer.api.lr_sched import TriangularScheduler, WarmupScheduler
from palm_trainer.errors import ConfigError, PalmError, WiringError
from palm_trainer.model.encoders import load_weights, unfreeze_rows
from palm_trainer.model.encoders.active_embedding import freeze_unused_rows
from palm_trainer.training.optimization.ema import Ema

XLNET = {"d_model": 16, "n_layer": 1, "n_head": 2, "d_inner": 32, "ff_activation": "gelu", "n_token": 50}


def run(backbone, rows=2, length=5):
    ids = torch.arange(rows * length).reshape(rows, length) + 5
    return backbone.eval()(ids, torch.ones_like(ids), torch.zeros_like(ids))["sequence_output"]


def test_importing_the_package_loads_nothing():
    code = (
        "import sys, palm_trainer; assert 'torch' not in sys.modules; assert set(palm_trainer.__all__) <= set(dir(palm_trainer)); "
        "assert palm_trainer.lr_sched.TriangularSchedualer; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], check=True)


def test_door_names_what_there_is():
    with pytest.raises(AttributeError, match=r"no attribute 'readers'; it has: MultiHeadTrainer, Trainer, backbone"):
        palm.readers  # noqa: B018


@pytest.mark.parametrize("name", ["BERT", "ERNIE", "RoBERTa"])
def test_configurations_are_checked(name, config):
    family = getattr(palm.backbone, name)
    backbone = family.from_config({**config, "is_pairwise": False, "task_type_vocab_size": 3}, phase="predict")
    assert (backbone.hidden_size, backbone.training) == (16, False)
    assert backbone.encoder.config.intermediate_size == 64
    assert backbone.encoder.config.layer_norm_eps == 1e-6
    assert set(backbone.inputs_attr) == {"token_ids", "input_mask", "segment_ids"}
    assert backbone.outputs_attr["sentence_embedding"] == [[-1, 16], "float32"]
    with pytest.raises(ConfigError, match=rf"{name}.from_config: the configuration lacks hidden_size, vocab_size"):
        family.from_config({k: v for k, v in config.items() if k not in ("hidden_size", "vocab_size")})
    with pytest.raises(ConfigError, match="lacks type_vocab_size"):
        family.from_config({k: v for k, v in config.items() if k != "type_vocab_size"})
    with pytest.raises(ConfigError, match=r"phase must be .*, got 'test'"):
        family.from_config(config, phase="test")


def test_xlnet_takes_its_own_names():
    backbone = palm.backbone.XLNet.from_config(XLNET)
    assert run(backbone).shape == (2, 5, 16)
    with pytest.raises(ConfigError, match="lacks d_model"):
        palm.backbone.XLNet.from_config({})


def test_berts_weights_fit_an_ernie_with_a_zero_task_embedding(config, tmp_path):
    bert, ernie = palm.backbone.BERT.from_config(config), palm.backbone.ERNIE.from_config(config)
    state = {
        f"bert.{k}".replace("LayerNorm.weight", "LayerNorm.gamma"): v for k, v in bert.encoder.state_dict().items()
    }
    (tmp_path / "params").mkdir()
    save_file({**state, "cls.seq_relationship.bias": torch.zeros(2)}, tmp_path / "params/model.safetensors")
    report = load_weights(ernie, str(tmp_path))
    assert (report.missing, report.unexpected) == ((), ("cls.seq_relationship.bias",))
    assert len(report.matched) == len(state)
    assert torch.equal(run(bert), run(ernie))
    assert str(report).endswith("; not used: cls.seq_relationship.bias")


def test_weights_that_do_not_fit(config, tmp_path):
    bert = palm.backbone.BERT.from_config(config)
    state = {k: v.clone() for k, v in bert.encoder.state_dict().items()}
    name = "embeddings.word_embeddings.weight"
    for folder, tensors in (("other", {"x": torch.zeros(1)}), ("large", {**state, name: torch.zeros(200, 16)})):
        (tmp_path / folder).mkdir()
        save_file(tensors, tmp_path / folder / "model.safetensors")
    with pytest.raises(PalmError, match=r"none of its 1 tensors belongs to the backbone \(x\)"):
        load_weights(bert, str(tmp_path / "other"))
    with pytest.raises(
        PalmError, match=r"'embeddings.word_embeddings.weight' is \[200, 16\], but \[100, 16\] in the backbone"
    ):
        load_weights(bert, str(tmp_path / "large"))
    (tmp_path / "paddle").mkdir()
    (tmp_path / "paddle/word_embedding").write_bytes(b"")
    with pytest.raises(PalmError, match="It holds parameters of Paddle: convert them with `palm-train models convert"):
        load_weights(bert, str(tmp_path / "paddle"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken/model.safetensors").write_bytes(b"not safe")
    with pytest.raises(PalmError, match=r"broken.model.safetensors: cannot be read"):
        load_weights(bert, str(tmp_path / "broken"))


def test_missing_tensors_are_warned_of(single, tmp_path):
    one = single()
    state = {k: v.clone() for k, v in one.backbone.encoder.state_dict().items() if "layer.0.output" not in k}
    save_file(state, tmp_path / "model.safetensors")
    with pytest.warns(UserWarning, match=r"4 tensors of the backbone are not in it and keep their random values"):
        report = one.trainer.load_pretrain(tmp_path)
    assert len(report.missing) == 4
    assert one.said[-2] == f"Loading pretraining parameters from {tmp_path}..."
    assert one.said[-1] == str(report)
    one.trainer.train_one_step(one.trainer.get_one_batch())
    with pytest.raises(WiringError, match="the training has begun; its weights would be lost"):
        one.trainer.load_pretrain(tmp_path)


def test_thawed_rows_keep_what_was_trained(config):
    bert = palm.backbone.BERT.from_config(config)
    before = run(bert)
    freeze_unused_rows(bert, torch.tensor([0, 5, 6]))
    with torch.no_grad():
        bert.encoder.get_input_embeddings().active[1] += 1
    changed = run(bert)
    unfreeze_rows(bert)
    assert torch.equal(run(bert), changed)
    assert not torch.equal(before, changed)
    unfreeze_rows(bert)


def test_triangular_is_continuous_and_palms_jumps():
    ours, palms = TriangularScheduler(10, 100), palm.lr_sched.TriangularSchedualer(10, 100, compat=True)
    steps = np.array([ours(step) for step in range(101)])
    assert abs(np.diff(steps)).max() == pytest.approx(0.1)
    assert (steps.max(), steps[100]) == (1, 0)
    assert [palms(step) for step in (0, 5, 9, 10, 50, 100, 120)] == pytest.approx([0, 0.5, 0.9, 0.9, 0.5, 0, 0])


def test_schedules_are_held_against_the_plan():
    assert (fits := TriangularScheduler(10, 100)).fitted(100) is fits
    with pytest.warns(
        UserWarning, match="the rate would be 0 for the last 100 steps, because the training has 200 steps"
    ):
        fitted = TriangularScheduler(10, 100).fitted(200)
    assert (fitted(19), fitted(200)) == (1, 0)
    compat = TriangularScheduler(10, 100, compat=True)
    with pytest.warns(UserWarning, match="compat=True keeps it so"):
        assert compat.fitted(200) is compat
    warmup = palm.lr_sched.WarmupSchedualer(10)
    assert [warmup(step) for step in (0, 9, 500)] == [0.1, 1, 1]
    assert warmup.fitted(100) is warmup
    with pytest.warns(UserWarning, match=r"the full rate is never reached. Write WarmupScheduler\(1\)"):
        warmup.fitted(10)


@pytest.mark.parametrize("steps", [(0, 10), (10, 10), (-1, 5)])
def test_wrong_schedules(steps):
    with pytest.raises(ConfigError, match=r"warmup_steps must be above 0 and below num_train_steps"):
        TriangularScheduler(*steps)
    with pytest.raises(ConfigError, match="warmup_steps must be above 0, got 0"):
        WarmupScheduler(0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: palm.head.Classify(0, 16), "num_classes must be at least 1, got 0"),
        (lambda: palm.head.Classify(2, 16, 1.0), "dropout_prob must be at least 0 and below 1, got 1.0"),
        (lambda: palm.head.SequenceLabel(2, 16, phase="test"), "phase must be 'train' or 'predict', got 'test'"),
        (
            lambda: palm.head.Match(2, 16, learning_strategy="listwise"),
            "learning_strategy must be 'pointwise' or 'pairwise', got 'listwise'",
        ),
    ],
)
def test_wrong_heads(make, message):
    with pytest.raises(WiringError, match=message):
        make()


def test_average_follows_the_parameters():
    layer = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(layer.weight)
    ema = Ema(layer, 0.5)
    with torch.no_grad():
        layer.weight += 1
    ema.update()
    with ema.applied():
        assert layer.weight.item() == pytest.approx(1 - 2 / 11)
    assert layer.weight.item() == 1
