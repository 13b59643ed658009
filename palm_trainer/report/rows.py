"""Inputs of the report: the files of a run, and recorded answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from palm_serve.types import TaskAnswer
from palm_trainer.config.loader import Config
from palm_trainer.data.example import Example
from palm_trainer.data.splits import Splits
from palm_trainer.evaluation.evaluate import Answering, Metrics

if TYPE_CHECKING:  # pages without a model need no torch, which takes seconds to load
    from palm_trainer.model.multi_task import TrainedModel

_RecordKey = tuple[int, tuple[str, ...] | None]
"""Id of a list of examples, and the tasks that are answered."""


@dataclass(frozen=True)
class RunFacts:
    """A finished run: directory, configuration, best checkpoint, log, metrics by split, and data."""

    path: Path
    config: Config
    trained: "TrainedModel"
    events: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Metrics]
    splits: Splits


class Recording:
    """Predictor that answers each list of examples once, for metrics and report together."""

    def __init__(self, predictor: Answering) -> None:
        self._predictor = predictor
        self._recorded: dict[_RecordKey, tuple[Sequence[Example], list[dict[str, TaskAnswer]]]] = {}

    def answers(self, examples: Sequence[Example], tasks: Sequence[str] | None = None) -> list[dict[str, TaskAnswer]]:
        """Return the answers to each example by task."""
        key = (id(examples), None if tasks is None else tuple(tasks))
        if key not in self._recorded:
            # The examples are stored too, so that no other object can get their id.
            self._recorded[key] = (examples, self._predictor.answers(examples, tasks))
        return self._recorded[key][1]
