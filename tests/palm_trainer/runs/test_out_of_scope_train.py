"""Training on text that belongs to no class: its target, its loss, and that a run refuses more for it."""

import math

import numpy as np
import pytest
import torch

from palm_trainer.config.data_sets import data_config
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.data.splits import read_split
from palm_trainer.data.targets.classify import ClassifyTarget
from palm_trainer.errors import ConfigError
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.tensors import IGNORE, NO_CLASS


def test_encode_out_of_scope_text_is_no_class():
    target = ClassifyTarget("intent", "intent", ["a", "b"])
    targets = [target.encode(example, None) for example in (Example("x", out_of_scope=True), Example("x"))]
    assert targets == [NO_CLASS, IGNORE]


def test_loss_of_no_class_is_the_divergence_from_equal_probabilities():
    head = ClassifyHead(3, 4)
    logits = torch.tensor([[1.0, 2.0, 0.5], [0.0, 0.0, 0.0], [3.0, -1.0, 0.0], [9.0, 9.0, 1.0]], requires_grad=True)
    targets = torch.tensor([0, NO_CLASS, NO_CLASS, IGNORE])
    total, count = head.loss({"logits": logits}, targets)
    probabilities = logits.softmax(dim=1)
    divergence = sum(-math.log(p) / 3 for p in probabilities[2].tolist()) - math.log(3)
    assert total.item() == pytest.approx(-math.log(probabilities[0, 0].item()) + divergence, rel=1e-5)
    assert count.item() == 3
    total.backward()
    assert logits.grad[1].abs().max() < 1e-6  # equal already
    assert logits.grad[3].abs().max() == 0


def test_loss_without_such_rows_is_the_cross_entropy():
    head = ClassifyHead(3, 4, label_smoothing=0.1)
    logits, targets = torch.randn(5, 3), torch.tensor([0, 1, 2, IGNORE, 1])
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="sum", label_smoothing=0.1)
    assert torch.equal(head.loss({"logits": logits}, targets).total, expected)


@pytest.mark.parametrize(("name", "first"), [("general-en", "How many bones"), ("general-en-test", "How many teeth")])
def test_names_of_packaged_texts_are_read(name, first, tmp_path):
    data = data_config({"format": "jsonl", "train": str(tmp_path / "x.jsonl"), "out_of_scope": [name]})
    assert str(data.out_of_scope[0]) == name  # so that the run's own configuration is portable
    assert read_split(data, "out_of_scope").examples[0].text.startswith(first)


TABLES = """
[data.rows]
format = "jsonl"
train = "train.jsonl"
dev = "train.jsonl"
out_of_scope = "outside.txt"
out_of_scope_train = "outside.txt"

[tasks.intent]
kind = "classify"
role = "intent"
data = ["rows"]

[tasks.slots]
kind = "sequence_label"
data = ["rows"]
"""


def write_rows(kind):
    rows = []
    for text in ("water the lawn", "mow the lawn", "water it", "mow it"):
        rows.append({"text": text, "intent": text.split()[0], "slots": [{"start": 0, "end": 3, "label": "verb"}]})
    kind.rows("train.jsonl", rows * 4)
    (kind.folder / "outside.txt").write_text("blue\ngreen\nblue red\nred green\n" * 4, encoding="utf-8")


def test_run_learns_to_prefer_no_class(kind):
    write_rows(kind)
    trained_on = kind.train(TABLES, epochs=12).metrics["dev"]["intent"]["out_of_scope_recall"]
    assert trained_on > 0.9
    assert load_trained(kind.run).tasks["intent"].labels == ("mow", "water")  # no class was added


def test_out_of_scope_rows_have_no_label_of_other_tasks(kind):
    write_rows(kind)
    job = job_from_config(kind.config(TABLES))
    dataset = job.loop.sources["rows"].dataset
    assert len(dataset) == 16 + 16
    batch = dataset.batch(np.arange(16, 20))
    assert batch.targets["intent"].tolist() == [NO_CLASS] * 4
    assert (batch.targets["slots"] == IGNORE).all()


def test_out_of_scope_train_without_a_classify_task_is_refused(kind):
    write_rows(kind)
    tables = TABLES.replace('kind = "classify"\nrole = "intent"', 'kind = "multi_label"').replace(
        "out_of_scope = ", "#"
    )
    with pytest.raises(ConfigError, match=r"data\.rows\.out_of_scope_train needs a classify task"):
        kind.config(tables)


def test_configuration_of_a_run_keeps_the_name(kind):
    write_rows(kind)
    kind.train(TABLES.replace('"outside.txt"', '"general-en-train"', 2))
    data = load_config(kind.run / "config.toml").data["rows"]
    assert [str(path) for path in (*data.out_of_scope, *data.out_of_scope_train)] == ["general-en-train"] * 2
