"""Tags that each class of another task can have, learnt from training rows and checked on dev."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.decoding.sequence_label import OUTSIDE
from palm_serve.types import FloatArray
from palm_trainer.config.loader import Config
from palm_trainer.config.schema import SequenceLabelTask
from palm_trainer.data.example import Example
from palm_trainer.data.roles import fold_spans
from palm_trainer.data.splits import Splits
from palm_trainer.data.targets.base import Target
from palm_trainer.data.targets.sequence_label import spans_of
from palm_trainer.errors import ConfigError

LIMIT = 0.005
"""Share of dev's spans that may be forbidden under their own class."""


@dataclass(frozen=True)
class GivenTags:
    """Tags of a task that each class of another task can have.

    Args:
        task: name of the other task.
        allowed: 1 for a tag that a class can have, else 0, float32 [classes, tags].
        spans: number of dev's spans in rows with a class.
        forbidden: number of these that a row with their own class could not have.
    """

    task: str
    allowed: FloatArray
    spans: int = 0
    forbidden: int = 0

    @property
    def forbidden_share(self) -> float:
        """Share of dev's spans that are forbidden, 0 to 1."""
        return self.forbidden / max(self.spans, 1)

    @property
    def used(self) -> bool:
        """True if decoding uses it: dev does not speak against it."""
        return self.forbidden_share <= LIMIT

    @property
    def facts(self) -> dict[str, object]:
        """Facts for the log of a run."""
        return {"task": self.task, "used": self.used, "dev_spans": self.spans, "dev_forbidden": self.forbidden}

    def describe(self, tagger: str) -> str:
        """Return a line on its effect on dev. `tagger` is the name of the task that has the tags."""
        figure = (
            f"{self.forbidden:,} of {self.spans:,} spans in dev ({self.forbidden_share:.2%}) "
            f"would be lost, since train never has their type with their {self.task}"
        )
        if not self.spans:
            figure = f"no span in dev has a class of '{self.task}' to check it on"
        if self.used:
            return f"{tagger} is decoded given {self.task}: {figure}"
        return f"{tagger} is not decoded given {self.task}: {figure}, and at most {LIMIT:.1%} may"


def learn_given_tags(config: Config, targets: Mapping[str, Target], splits: Splits) -> dict[str, GivenTags]:
    """Return what each task with `given` learns from the training rows that it shares with the other task.

    Args:
        config: with resolved fields.
        targets: of all tasks.
        splits: of the data. Test is not read.

    Raises:
        ConfigError: the other task reads pairs of texts.
    """
    learnt_tags = {}
    for name, settings in config.tasks.items():
        if not isinstance(settings, SequenceLabelTask) or settings.given is None:
            continue
        classifier = targets[settings.given]
        if classifier.info.pairs:
            raise ConfigError(
                f"tasks.{name}.given must name a task that reads one text, got '{settings.given}', which reads pairs. "
                "Name another task, or remove it."
            )
        pair = _TaskPair(name, targets[name], classifier)
        data_sets = [data for data in settings.data if data in config.tasks[settings.given].data]
        allowed = pair.learn(_read(splits, "train", data_sets))
        spans, forbidden = pair.count_forbidden(allowed, _read(splits, "dev", data_sets))
        learnt_tags[name] = GivenTags(settings.given, allowed, spans, forbidden)
    return learnt_tags


def with_given_tags(info: TaskInfo, name: str, tags: GivenTags) -> TaskInfo:
    """Return the manifest entry of a task that is decoded given another.

    Args:
        info: its entry without it.
        name: its name.
        tags: what it has learnt.
    """
    arrays = {**info.decode.arrays, "given": f"{name}.given"}
    decode = info.decode.model_copy(update={"given": tags.task, "arrays": arrays})
    return info.model_copy(update={"decode": decode})


def _read(splits: Splits, split: str, data_sets: Sequence[str]) -> list[Example]:
    """Return the rows of a split, of those data sets that have it."""
    examples: list[Example] = []
    for data in splits.data_sets(split):
        if data in data_sets:
            examples += splits.examples(data, split)
    return examples


class _TaskPair:
    """A task with tags, and the task whose classes say which of them are possible.

    Args:
        name: of the task with tags, for messages.
        tagger: its target.
        classifier: target of the other.
    """

    def __init__(self, name: str, tagger: Target, classifier: Target) -> None:
        self._name = name
        self._tagger = tagger
        self._classifier = classifier
        self._learns_roles = bool(tagger.info.decode.span_types)

    def learn(self, examples: Sequence[Example]) -> FloatArray:
        """Return 1 for the tags that a class has in a row, and for all tags of a class without a row, [classes, tags]."""
        labels_by_class: dict[str, set[str]] = {}
        for class_name, labels in self._rows(examples):
            labels_by_class.setdefault(class_name, set()).update(labels)
        classes, tags = self._classifier.info.labels, self._tagger.info.labels
        allowed = np.ones((len(classes), len(tags)), dtype=np.float32)
        for row, class_name in enumerate(classes):
            if class_name in labels_by_class:
                labels_of_class = labels_by_class[class_name]
                allowed[row] = [tag == OUTSIDE or tag[2:] in labels_of_class for tag in tags]
        return allowed

    def count_forbidden(self, allowed: FloatArray, examples: Sequence[Example]) -> tuple[int, int]:
        """Return the number of spans, and of those that their own class cannot have. What has no tag is never answered."""
        rows = {class_name: row for row, class_name in enumerate(self._classifier.info.labels)}
        columns = {tag: column for column, tag in enumerate(self._tagger.info.labels)}
        spans, forbidden = 0, 0
        for class_name, labels in self._rows(examples):
            for label in labels:
                spans += 1
                tag = f"B-{label}"
                if class_name in rows and tag in columns:
                    forbidden += not allowed[rows[class_name], columns[tag]]
        return spans, forbidden

    def _rows(self, examples: Sequence[Example]) -> Iterator[tuple[str, list[str]]]:
        """Yield the class of each row that has both fields, and the label of each of its spans as the tags name it."""
        for example in examples:
            if {self._tagger.field, self._classifier.field} <= example.fields.keys():
                spans = spans_of(example, self._tagger.field, self._name)
                labels = [span.label for span in fold_spans(spans, learnt=self._learns_roles)]
                yield str(example.fields[self._classifier.field]), labels
