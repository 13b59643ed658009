"""A model and examples -> answers -> metrics. Tokenization, padding and decoding are the server's own, so what is measured is what is served."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch

from palm_serve.decoding import DecoderTable, Item
from palm_serve.engine.inputs import pad_batch
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Classification, FloatArray, Spans, TaskAnswer
from palm_trainer.example import Example, LabelledSpan
from palm_trainer.metrics import Unit, accuracy, span_scores, to_units
from palm_trainer.model import TrainedModel
from palm_trainer.reader.dataset import encode_examples

PRIMARY = {"classify": "accuracy", "sequence_label": "f1"}
"""The metric that stands for a task of each kind."""

Metrics = dict[str, Any]
"""`{"intent": {"accuracy": ...}, "slots": {"f1": ..., ...}, "exact_match": ...}`."""


class Answering(Protocol):
    """What can be evaluated: the trained model, or an exported graph's recorded answers."""

    def answers(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> list[dict[str, TaskAnswer]]:
        """Answers by task name, one dict an example, in the order given."""
        ...


class Predictor:
    """Answers of a trained model in PyTorch, fp32, no dropout.

    Args:
        trained: the model with its tasks.
        batch_size: rows in a batch; examples are sorted by length first.
        top_k: labels in a ranking; 0 for all.
    """

    def __init__(self, trained: TrainedModel, *, batch_size: int = 64, top_k: int = 3) -> None:
        self._trained = trained
        self._tokenizer = TextTokenizer(trained.tokenizer_json, trained.max_length)
        self._batch_size = batch_size
        self._top_k = top_k

    def answers(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> list[dict[str, TaskAnswer]]:
        """Answers by task name, one dict an example, in the order given."""
        trained = self._trained
        chosen = [task for task in trained.tasks if tasks is None or task in tasks]
        decoders = DecoderTable.of({task: trained.tasks[task] for task in chosen}, trained.arrays)
        encodings = encode_examples(examples, self._tokenizer)
        order = np.argsort([len(e) for e in encodings], kind="stable").tolist()
        found: list[dict[str, TaskAnswer]] = [{} for _ in examples]
        for begin in range(0, len(order), self._batch_size):
            rows = order[begin : begin + self._batch_size]
            items = [Item(examples[i].text, encodings[i], examples[i].pair, self._top_k) for i in rows]
            outputs = self._run([item.encoding for item in items], chosen)
            for task in chosen:
                for i, answer in zip(rows, decoders.by_task[task](outputs, items), strict=True):
                    found[i][task] = answer
        return found

    @torch.no_grad()
    def _run(self, encodings: Sequence[Any], tasks: Sequence[str]) -> Mapping[str, FloatArray]:
        model = self._trained.model.eval()
        device = next(model.parameters()).device
        batch = pad_batch(encodings, model.input_names, self._trained.encoder.pad_token_id)
        inputs = {name: torch.from_numpy(array).to(device) for name, array in batch.arrays.items()}
        return {name: value.float().cpu().numpy() for name, value in model(**inputs, tasks=tasks).items()}


@dataclass(frozen=True)
class EvaluationSet:
    """Examples of one data set's split, and which field each of its tasks is scored on."""

    data: str
    examples: Sequence[Example]
    fields: Mapping[str, str]
    """Task -> field of the examples."""


@dataclass
class Scored:
    """Gold and predicted labels of one task, collected over data sets."""

    kind: str
    gold: list[Any] = field(default_factory=list)
    predicted: list[Any] = field(default_factory=list)

    def metrics(self) -> dict[str, float]:
        """The task's metrics."""
        if self.kind == "sequence_label":
            return span_scores(self.gold, self.predicted)
        return {"accuracy": accuracy(self.gold, self.predicted)}


def evaluate(predictor: Answering, tasks: Mapping[str, str], sets: Sequence[EvaluationSet]) -> Metrics:
    """Metrics of every task that has labels in the sets.

    Args:
        predictor: the model.
        tasks: kind of each task.
        sets: what to score; `exact_match` is that of the first set with two tasks or more.
    """
    scored = {task: Scored(kind) for task, kind in tasks.items()}
    exact: float | None = None
    for one in sets:
        correct = []
        for example, answers in zip(one.examples, predictor.answers(one.examples, tuple(one.fields)), strict=True):
            right = True
            for task, name in one.fields.items():
                if name not in example.fields:
                    continue
                gold, predicted = comparable(example, name, answers[task])
                scored[task].gold.append(gold)
                scored[task].predicted.append(predicted)
                right = right and gold == predicted
            correct.append(right)
        if exact is None and len(one.fields) > 1:
            exact = sum(correct) / len(correct)
    metrics: Metrics = {task: score.metrics() for task, score in scored.items() if score.gold}
    if exact is not None:
        metrics["exact_match"] = exact
    return metrics


def comparable(example: Example, name: str, answer: TaskAnswer) -> tuple[str | frozenset[Unit], str | frozenset[Unit]]:
    """Gold label and answer in one form: class names, or spans over the data's own units."""
    value = example.fields[name]
    if isinstance(answer, Classification):
        assert isinstance(value, str)
        return value, answer.label.name
    assert isinstance(answer, Spans)
    gold = [span for span in value if isinstance(span, LabelledSpan)]
    predicted = [LabelledSpan(span.start, span.end, span.name) for span in answer.spans]
    return to_units(gold, example.words), to_units(predicted, example.words)


def score_of(metrics: Metrics, select: str, kinds: Mapping[str, str]) -> float:
    """The number that chooses the best checkpoint: `average` of the tasks' primary metrics, `exact_match`, or `TASK.METRIC`."""
    if select == "average":
        values = [metrics[task][PRIMARY[kind]] for task, kind in kinds.items() if task in metrics]
        return sum(values) / len(values) if values else 0.0
    if select == "exact_match":
        return float(metrics.get("exact_match", 0.0))
    task, _, metric = select.partition(".")
    return float(metrics.get(task, {}).get(metric, 0.0))
