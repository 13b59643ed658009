"""A seventh task kind in three classes, from its data to a served answer. CONTRIBUTING.md describes the steps.

The kind is `regression`: a number for each text, learned with a squared error.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Self

import numpy as np
import pytest
import torch
from pydantic import Field
from torch import Tensor, nn

from palm_serve.bundle import manifest
from palm_serve.bundle.golden import GoldenAnswer
from palm_serve.bundle.manifest import KindFacts, TaskInfo
from palm_serve.decoding import Item, OutputColumn, ServedKind, kinds, register_served_kind
from palm_serve.rpc.oip.outputs import outputs_of
from palm_serve.types import Encoding, FloatArray, Match, TaskAnswer, TextRequest
from palm_trainer.config.loader import TaskConfig, load_config
from palm_trainer.config.schema import TASK_KINDS
from palm_trainer.data.example import Example
from palm_trainer.data.inputs import Inputs, Texts
from palm_trainer.errors import ConfigError, DataError
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.model.heads import LossSum, TaskHead, factory
from palm_trainer.model.heads.base import HeadSettings
from palm_trainer.runs.evaluate_run import evaluate_run
from palm_trainer.tasks import Judged, LearnContext, TaskKind, register_task_kind, registry
from palm_trainer.tensors import POOLED_OUTPUT

# File 1, palm_serve/decoding/regression.py: from the graph's output to an answer.


class RegressionDecoder:
    """`<task>.logits`, float32 [B, 1] -> a score."""

    def __init__(self, task: TaskInfo) -> None:
        self._output = task.outputs[0]

    def __call__(self, outputs: Mapping[str, FloatArray], items: Sequence[Item]) -> list[Match]:
        scores = outputs[self._output][: len(items), 0]
        return [Match(None, float(score)) for score in scores]


class ServedRegression(ServedKind[Match]):
    """A number for a text, answered as a score without a label."""

    facts = KindFacts("regression")

    def decoder(self, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> RegressionDecoder:
        return RegressionDecoder(task)

    def golden(self, answer: Match) -> GoldenAnswer:
        return GoldenAnswer(score=round(answer.score, 4))

    def columns(self, task: TaskInfo) -> Mapping[str, OutputColumn]:
        return {"score": OutputColumn(lambda answer: answer.score)}


# File 2, palm_trainer/model/heads/regression.py: vectors to outputs, outputs and targets to a loss.


class RegressionHead(TaskHead):
    """A linear layer on the text's vector, and a squared error."""

    kind = "regression"
    inputs = (POOLED_OUTPUT,)

    def __init__(self, input_dim: int, dropout_prob: float) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_prob)
        self.linear = nn.Linear(input_dim, 1)

    @classmethod
    def from_task(cls, info: TaskInfo, settings: HeadSettings) -> Self:
        return cls(settings.input_dim, settings.dropout)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {"logits": self.linear(self.dropout(features[POOLED_OUTPUT.name]))}

    def labels(self, targets: Tensor) -> Tensor:
        return (~targets.isnan()).sum()

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> LossSum:
        labelled = ~targets.isnan()
        difference = outputs["logits"].float()[labelled, 0] - targets[labelled]
        return LossSum(difference.square().sum(), self.labels(targets))


# File 3, palm_trainer/tasks/regression.py: target, metrics, and everything else that the trainer asks a kind.


class RegressionTarget:
    """The number of a field; not a number where the example has none."""

    inputs: Inputs = Texts()

    def __init__(self, task: str, field: str) -> None:
        self.field = field
        self.info = TaskInfo(kind="regression", outputs=(f"{task}.logits",))

    def encode(self, example: Example, encoding: Encoding) -> float:
        return float(str(example.fields.get(self.field, "nan")))

    def collate(self, targets: Sequence[float], length: int) -> Tensor:
        return torch.tensor(targets, dtype=torch.float32)


class RegressionTask(TaskConfig):
    """Its section of a configuration."""

    kind: Literal["regression"]
    largest: float = Field(default=5.0, gt=0)
    """Largest number that a text may have."""


class RegressionKind(TaskKind):
    """A number for each text."""

    name = "regression"
    section = RegressionTask
    head = RegressionHead
    primary_metric = "r2"
    wanted_value = "a number"

    def learn(
        self, task: str, settings: TaskConfig, examples: Sequence[Example], context: LearnContext
    ) -> RegressionTarget:
        assert isinstance(settings, RegressionTask)
        for example in examples:
            value = example.fields.get(settings.field or "", "0")
            if not _is_number(value, settings.largest):
                raise DataError(
                    f"{example.source}: task '{task}' needs a number up to {settings.largest}, got {value!r}."
                )
        return RegressionTarget(task, settings.field or "")

    def compare(self, example: Example, field: str, answer: TaskAnswer) -> tuple[Any, Any]:
        assert isinstance(answer, Match)
        return float(str(example.fields[field])), answer.score

    def is_correct(self, row: Judged) -> bool:
        return bool(abs(row.gold - row.predicted) < 0.1)

    def metrics(self, rows: Sequence[Judged], positive: str) -> dict[str, float]:
        gold = np.array([row.gold for row in rows])
        predicted = np.array([row.predicted for row in rows])
        unexplained = np.square(gold - predicted).sum() / np.square(gold - gold.mean()).sum()
        return {"r2": max(0.0, float(1 - unexplained))}


def _is_number(value: object, largest: float) -> bool:
    try:
        return float(str(value)) <= largest
    except ValueError:
        return False


TASKS = """
[data.reviews]
format = "jsonl"
train = "reviews.jsonl"
dev = "reviews.jsonl"
[tasks.stars]
kind = "regression"
data = ["reviews"]
"""
WITH_CLASSES = """
[tasks.mood]
kind = "classify"
data = ["reviews"]
field = "mood"
"""


def review_rows() -> list[dict[str, str]]:
    """Texts with the share of their good words, the last one without."""
    rows = []
    for good in range(5):
        for noun in ("film", "book", "song", "play"):
            text = " ".join(["good"] * good + ["bad"] * (4 - good) + [noun])
            rows.append({"text": text, "stars": str(good / 4), "mood": "good" if good > 2 else "bad"})
    return [*rows, {"text": "good bad film", "mood": "bad"}]


@pytest.fixture
def regression(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register the kind for one test."""
    tables = (manifest.KINDS, kinds._SERVED_KINDS, factory._HEADS, registry._TASK_KINDS, TASK_KINDS.members)
    for table in tables:
        monkeypatch.setitem(table, "regression", None)  # undone at the end, whatever is registered
    register_served_kind(ServedRegression())
    register_task_kind(RegressionKind())


@pytest.mark.usefixtures("regression")
def test_new_kind_is_trained_exported_and_served(kind) -> None:
    """It learns, is evaluated, passes the parity gate and the golden check, and is served as it was evaluated."""
    kind.rows("reviews.jsonl", review_rows())
    done = kind.train(TASKS, epochs=60)
    assert done.metrics["dev"]["stars"]["r2"] > 0.8
    again = evaluate_run(kind.run, load_config(kind.run / "config.toml"), "dev")
    assert again["stars"] == pytest.approx(done.metrics["dev"]["stars"])
    assert "stars" in (kind.run / "report.html").read_text(encoding="utf-8")
    pipeline = kind.serve()
    texts = ["bad bad bad bad film", "good good good good film"]
    served = [prediction.answers["stars"] for prediction in pipeline.predict([TextRequest(t, ()) for t in texts])]
    evaluated = Predictor(load_trained(kind.run)).answers([Example(text) for text in texts])
    assert [answer.score for answer in served] == pytest.approx([own["stars"].score for own in evaluated], abs=1e-4)
    assert served[0].score < 0.3 < 0.7 < served[1].score
    assert "stars.score" in outputs_of(pipeline.bundle.manifest)


@pytest.mark.usefixtures("regression")
def test_new_kind_shares_the_encoder_with_others(kind) -> None:
    kind.rows("reviews.jsonl", review_rows())
    done = kind.train(TASKS + WITH_CLASSES, epochs=2)
    assert done.metrics["dev"].keys() == {"stars", "mood", "exact_match"}
    assert kind.serve().bundle.manifest.tasks.keys() == {"stars", "mood"}


@pytest.mark.usefixtures("regression")
@pytest.mark.parametrize(("stars", "options"), [("many", ""), ("3", "largest = 2.5\n")])
def test_new_kind_names_the_row_that_it_cannot_learn(kind, stars: str, options: str) -> None:
    """Its option is a key of its section."""
    kind.rows("reviews.jsonl", [{"text": "good film", "stars": stars}])
    with pytest.raises(DataError, match=r"reviews.jsonl:1: task 'stars' needs a number up to"):
        kind.train(TASKS + options)


@pytest.mark.usefixtures("regression")
def test_option_of_another_kind_is_refused(kind) -> None:
    kind.rows("reviews.jsonl", review_rows())
    with pytest.raises(ConfigError, match=r"tasks.stars.crf is only for kind 'sequence_label', got 'regression'"):
        kind.config(TASKS + "crf = true\n")


def test_unregistered_kind_is_refused(kind) -> None:
    kind.rows("reviews.jsonl", review_rows())
    with pytest.raises(ConfigError, match=r"tasks.stars.kind must be one of classify, .*, masked_lm, got 'regression'"):
        kind.config(TASKS)
