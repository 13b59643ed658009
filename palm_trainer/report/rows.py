"""What the report looks at: a run's files, and every evaluated example with its gold labels and the model's answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palm_serve.types import TaskAnswer
from palm_trainer.config.loader import Config
from palm_trainer.data.example import Example
from palm_trainer.data.splits import Splits
from palm_trainer.evaluation.evaluate import Answering, Metrics
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
