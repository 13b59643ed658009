"""Prototype heads with the other methods of training."""

import json

import pytest
import torch

from palm_trainer.config.loader import load_config
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.job_from_config import job_from_config

PROTOTYPE = "tasks.intent.head=prototype"


@pytest.fixture(scope="module")
def teachers(tmp_path_factory, write_config, fit):
    """Finished runs on the tiny data set, by the head of their intents."""
    runs = {}
    for head in ("linear", "prototype"):
        config = load_config(
            write_config(tmp_path_factory.mktemp(head)), ["train.epochs=1", f"tasks.intent.head={head}"]
        )
        fit(config)
        runs[head] = config.train.output
    return runs


@pytest.mark.parametrize(("teacher", "student"), [("linear", "prototype"), ("prototype", "linear"), ("prototype",) * 2])
def test_distillation_between_heads(tiny_config, fit, teachers, teacher, student):
    overrides = [f'train.distillation.teachers=["{teachers[teacher].as_posix()}"]', f"tasks.intent.head={student}"]
    job = job_from_config(tiny_config("train.epochs=1", *overrides), start_heads=True)
    batch = job.loop.sources["travel"].next()
    with torch.no_grad():
        logits = load_trained(teachers[teacher]).model(**batch.inputs)["intent.logits"]
    torch.testing.assert_close(batch.soft["intent"], (logits / 2).softmax(1), atol=1e-5, rtol=1e-4)
    before = job.trained.model.head("intent").linear.weight.detach().clone()
    step = job.loop.train_on("travel", batch)
    assert step.losses["intent"] > 0
    assert not torch.equal(job.trained.model.head("intent").linear.weight, before)


@pytest.mark.parametrize(
    "overrides",
    [
        ["train.regularization.r_drop=1.0"],
        ["train.regularization.r_drop=1.0", "tasks.intent.dropout=0.2"],
        ["train.regularization.ema_decay=0.9", "train.regularization.label_smoothing=0.1"],
        ["train.regularization.fgm=0.5", "train.accumulate_steps=2"],
        ["train.balancing.method=gradnorm"],
        ["train.precision=bf16"],
        ["train.checkpoints.average_best=2"],
    ],
)
def test_training_methods_learn_the_class_vectors(tiny_config, fit, overrides):
    config = tiny_config("train.epochs=2", PROTOTYPE, *overrides)
    started = job_from_config(config, start_heads=True).trained.model.head("intent").linear.weight.detach().clone()
    metrics = fit(config).metrics
    assert 0 <= metrics["dev"]["intent"]["accuracy"] <= 1
    learnt = load_trained(config.train.output).model.head("intent")
    assert not torch.equal(learnt.linear.weight, started)
    assert learnt.linear.weight.isfinite().all()
    assert learnt.linear.scale.item() != 20.0
    for line in (config.train.output / "events.jsonl").read_text().splitlines():
        assert "NaN" not in line
        assert json.loads(line)
