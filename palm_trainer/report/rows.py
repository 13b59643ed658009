"""What the report looks at: a run's files, and every evaluated example with its gold labels and the model's answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palm_serve.types import Answer, TaskAnswer
from palm_trainer.config.loader import Config
from palm_trainer.data.example import Example
from palm_trainer.data.splits import Splits
from palm_trainer.evaluation.evaluate import Answering, EvaluationSet, Metrics, comparable
from palm_trainer.evaluation.metrics import answer_tokens
from palm_trainer.model.multi_task import TrainedModel


@dataclass(frozen=True)
class RunFacts:
    """A finished run: its directory, configuration, best checkpoint, log, metrics by split, and the splits of its data."""

    path: Path
    config: Config
    trained: TrainedModel
    events: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Metrics]
    splits: Splits


@dataclass(frozen=True, slots=True)
class Judged:
    """One example of one task: what is right and what was answered, as `evaluation.comparable` gives them, and the answer itself."""

    data: str
    example: Example
    field: str
    gold: Any
    predicted: Any
    answer: TaskAnswer

    @property
    def correct(self) -> bool:
        """Whether the whole answer is right (mrc: equal to a right answer after SQuAD's normalization)."""
        if isinstance(self.answer, Answer):
            return any(answer_tokens(text) == answer_tokens(self.predicted) for text in self.gold)
        return bool(self.gold == self.predicted)


class Recording:
    """Answers each list of examples once and remembers, so that metrics and report cost one pass."""

    def __init__(self, predictor: Answering) -> None:
        self._predictor = predictor
        self._known: dict[
            tuple[int, tuple[str, ...] | None], tuple[Sequence[Example], list[dict[str, TaskAnswer]]]
        ] = {}

    def answers(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> list[dict[str, TaskAnswer]]:
        """Answers by task name, one dict an example, in the order given."""
        key = (id(examples), None if tasks is None else tuple(tasks))
        if key not in self._known:  # the examples are kept too: their id stays theirs
            self._known[key] = (examples, self._predictor.answers(examples, tasks))
        return self._known[key][1]


def judge(predictor: Answering, kinds: Mapping[str, str], sets: Sequence[EvaluationSet]) -> dict[str, list[Judged]]:
    """The judged examples of each task that has labels in the sets, in the order of the data."""
    found: dict[str, list[Judged]] = {}
    for one in sets:
        for example, answers in zip(one.examples, predictor.answers(one.examples, tuple(one.fields)), strict=True):
            for task, name in one.fields.items():
                if name in example.fields and task in answers:
                    gold, predicted = comparable(kinds[task], example, name, answers[task])
                    found.setdefault(task, []).append(Judged(one.data, example, name, gold, predicted, answers[task]))
    return found
