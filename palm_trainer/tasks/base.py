"""Base of the task kinds: everything the trainer does differently for one kind of task is a method of its object."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import FloatArray, TaskAnswer
from palm_trainer.config.loader import TaskConfig
from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.text_files import Defect
from palm_trainer.data.statistics import iterate_labels
from palm_trainer.data.targets.base import Target
from palm_trainer.data.targets.match import NEGATIVE
from palm_trainer.tasks.logit_calibration import LogitCalibration
from palm_trainer.tasks.mistakes import Mistake, MistakeSide, Segment, short_source, shorten_text
from palm_trainer.tasks.report_tables import MatchThresholds, ReportTable

if TYPE_CHECKING:  # commands that only read data need no torch, which takes seconds to load
    from palm_trainer.model.heads import TaskHead

PREDICTIONS = "predictions.json"
"""Name of PALM's file of predictions."""
LABELS_NAMED = 6
"""Labels that a summary of a field names."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One example of one task: gold label and answer in the form of `TaskKind.compare`, and the answer itself."""

    data: str
    example: Example
    field: str
    gold: Any
    predicted: Any
    answer: TaskAnswer


@dataclass(frozen=True, slots=True)
class LearnContext:
    """What a target needs of the rest of the configuration: tokens of a row, the encoder's tokenizer, the seed."""

    max_length: int
    tokenizer_json: str
    seed: int


class TaskKind:
    """One kind of task. Subclasses are stateless; `registry.py` holds one object of each."""

    name: ClassVar[str]
    section: ClassVar[type[TaskConfig]]
    """Section of the configuration, with the options of the kind."""
    head: ClassVar["type[TaskHead]"]
    """Head class, for `register_task_kind`. Those of the built-in kinds stand in `model/heads/factory.py`."""
    primary_metric: ClassVar[str] = "accuracy"
    """Metric that stands for a task of the kind, a fraction from 0 to 1. Higher is better."""
    is_answered: ClassVar[bool] = True
    """False for a kind that only shapes the encoder: it is never evaluated with answers, exported or served."""
    trains_every_embedding: ClassVar[bool] = False
    """True where rows of the embedding table are trained that no text of the data holds."""
    learns_tags: ClassVar[bool] = False
    """True where the labels are spans of the text, a tag for each token."""
    learns_several_classes: ClassVar[bool] = False
    """True where any number of classes apply to a text."""
    detects_out_of_scope: ClassVar[bool] = False
    """True where text can be rejected that belongs to no class."""
    answers_tokens: ClassVar[bool] = False
    """True where the head's outputs have an axis for the tokens."""
    calibrates_answers: ClassVar[bool] = False
    """True where the temperature is fitted on decoded answers, since their confidence is no function of one row of logits."""
    needs_full_ranking: ClassVar[bool] = False
    """True where the report needs the confidence of every label."""
    wanted_value: ClassVar[str] = "one class"
    """Value of a field that the kind learns, for messages."""
    default_field: ClassVar[str] = ""
    """Field that is taken where neither the task's name nor its role is one."""
    label_noun: ClassVar[str] = "labels"
    """Name of the task's labels in the report."""
    answer_noun: ClassVar[str] = "answers"
    """Name of that which has a confidence, in the report."""
    example_pair: ClassVar[tuple[str, str]] = ("your text", "its pair")
    """Text and pair in the model card's example of a call."""
    custom_head_options: ClassVar[Mapping[str, Any]] = {}
    """Options of the target where the user of the Python API wrote the head."""

    def fits(self, value: FieldValue) -> bool:
        """Return True if a task of this kind can learn such a value."""
        return isinstance(value, str)

    def fitting_fields(self, fields: Mapping[str, FieldValue], settings: TaskConfig) -> list[str]:
        """Return the names of the fields that the task can learn, given an example value of each."""
        return [name for name, value in fields.items() if name != NEGATIVE and self.fits(value)]

    def learn(self, task: str, settings: TaskConfig, examples: Sequence[Example], context: LearnContext) -> Target:
        """Build the task's target with the labels of its training examples.

        Args:
            task: task name.
            settings: its section of the configuration, with the field set.
            examples: training examples of all its data sets.
            context: what the rest of the configuration says.

        Raises:
            DataError: the examples hold nothing that the kind can learn.
        """
        raise NotImplementedError

    def evaluation_examples(self, settings: TaskConfig, field: str, examples: Sequence[Example]) -> Sequence[Example]:
        """Return the examples that the task is scored on.

        Args:
            settings: the task's section of the configuration.
            field: that it learns.
            examples: of the split.
        """
        return examples

    def has_labels(self, settings: TaskConfig) -> bool:
        """Return True if the task's field holds labels whose frequency matters."""
        return True

    def counts_labels(self, info: TaskInfo) -> bool:
        """Return True if the report counts the values of the task's field."""
        return True

    def with_label_names(self, settings: TaskConfig, field: str, examples: Sequence[Example]) -> Sequence[Example]:
        """Return the examples with the labels of a field as the task names them.

        Args:
            settings: the task's section of the configuration.
            field: that it learns.
            examples: of one split.
        """
        return examples

    def data_losses(self, settings: TaskConfig, field: str, examples: Sequence[Example]) -> list[Defect]:
        """Return the parts of the labels that the task leaves out, and how often they occur.

        Args:
            settings: the task's section of the configuration.
            field: that it learns.
            examples: of one split.
        """
        return []

    def labels_in(self, example: Example, field: str) -> Iterator[str]:
        """Yield the labels that a field of an example is counted under."""
        yield from iterate_labels(example, field)

    def field_summary(self, settings: TaskConfig, field: str, examples: Sequence[Example]) -> str:
        """Describe how often each label occurs, for `palm-train plan`.

        Args:
            settings: the task's section of the configuration.
            field: that it learns.
            examples: training examples.
        """
        counter: Counter[str] = Counter()
        for example in self.with_label_names(settings, field, examples):
            counter.update(iterate_labels(example, field))
        counts = counter.most_common()
        named = [f"{label} {count}" for label, count in counts[:LABELS_NAMED]]
        if len(counts) > LABELS_NAMED:
            named.append("...")
        return f"{len(counts)}: {', '.join(named)}{unlabelled_note(field, examples)}"

    def exclusive_labels(self, info: TaskInfo) -> bool:
        """Return True if exactly one of the task's labels applies to a text, so that its logits go through a softmax."""
        return False

    def has_logits_of_labels(self) -> bool:
        """Return True if the head has one logit for each label of a text."""
        return not self.answers_tokens and self.is_answered

    def card_labels(self, info: TaskInfo) -> list[str]:
        """Return the label names that the model card lists."""
        return list(info.labels)

    def compare(self, example: Example, field: str, answer: TaskAnswer) -> tuple[Any, Any]:
        """Return gold label and answer in one comparable form.

        Args:
            example: with its gold label.
            field: that holds the label.
            answer: of the model.
        """
        raise NotImplementedError

    def is_correct(self, row: Judged) -> bool:
        """Return True if the whole answer is right."""
        return bool(row.gold == row.predicted)

    def outcomes(self, example: Example, field: str, answer: TaskAnswer) -> list[tuple[float, bool]]:
        """Return each confidence of an answer, and whether the part that it belongs to is right.

        Args:
            example: with its gold label.
            field: that holds the label.
            answer: of the model.
        """
        return []

    def metrics(self, rows: Sequence[Judged], positive: str) -> dict[str, float]:
        """Return the task's metrics, fractions from 0 to 1.

        Args:
            rows: its judged examples, at least one.
            positive: the label that F1 is of (match); empty for other kinds.
        """
        raise NotImplementedError

    def units(self, rows: Sequence[Judged]) -> list[tuple[Judged, ...]]:
        """Group the rows that are scored as one."""
        return [(row,) for row in rows]

    def contribution(self, unit: Sequence[Judged]) -> tuple[float, float]:
        """Return numerator and denominator that a unit adds to the primary metric."""
        return float(self.is_correct(unit[0])), 1.0

    def is_unit_correct(self, unit: Sequence[Judged]) -> bool:
        """Return True if the whole unit is right."""
        return self.is_correct(unit[0])

    def logit_calibration(self, info: TaskInfo) -> LogitCalibration | None:
        """Return the calibration of the task's logits [N, C], or None where it has none."""
        return None

    def has_open_limit(self, settings: TaskConfig | None) -> bool:
        """Return True if a decision limit is to be chosen on dev. None: the task was declared in Python."""
        return False

    def limit_rows(self, info: TaskInfo, rows: Sequence[tuple[Example, str]]) -> list[tuple[Example, str]]:
        """Return the dev examples, with their field, that a limit can be chosen on. None of them: there is no limit."""
        return []

    def without_limit(self, info: TaskInfo) -> TaskInfo:
        """Return the task as it must answer while the limit is searched for."""
        return info

    def best_limit(self, info: TaskInfo, rows: Sequence[tuple[Example, str, TaskAnswer]]) -> float | None:
        """Return the limit that is best on dev examples with their fields and answers, or None."""
        return None

    def with_limit(self, info: TaskInfo, limit: float) -> TaskInfo:
        """Return the task with another limit."""
        raise NotImplementedError

    def tables(self, rows: Sequence[Judged]) -> list[ReportTable]:
        """Return the tables of the task's section in the report."""
        return []

    def match_thresholds(self, info: TaskInfo, rows: Sequence[Judged]) -> MatchThresholds | None:
        """Return what each threshold on a score would give, or None where there is no score."""
        return None

    def summary(self, rows: Sequence[Judged]) -> str:
        """Say how many answers are wrong."""
        wrong = sum(not self.is_correct(row) for row in rows)
        return f"{wrong:,} of {len(rows):,} examples are not wholly right."

    def mistakes(self, rows: Iterable[Judged]) -> list[Mistake]:
        """Return all wrong answers as the report shows them."""
        return [self._mistake(row) for row in rows if not self.is_correct(row)]

    def _mistake(self, row: Judged) -> Mistake:
        gold, answered, context = self.sides(row)
        source = row.example.source
        return Mistake(source, short_source(source), row.data, context, gold, answered, self.error_confidence(row))

    def error_confidence(self, row: Judged) -> float | None:
        """Return the confidence of the wrong part of an answer, or None where it only left something out."""
        return None

    def sides(self, row: Judged) -> tuple[MistakeSide, MistakeSide, tuple[Segment, ...]]:
        """Return what is right, what was answered, and the texts that both sides read."""
        gold = Segment(str(row.gold), "", "missed")
        answered = Segment(str(row.predicted), "", "wrong")
        return MistakeSide(labels=(gold,)), MistakeSide(labels=(answered,)), text_segments(row.example)

    def palm_record(
        self, example: Example, index: int, info: TaskInfo, answer: Any, logits: FloatArray | None
    ) -> dict[str, Any]:
        """Return an answer in the fields of Baidu's PALM, `index` and `text_a` aside.

        Args:
            example: what was asked.
            index: its position in the file.
            info: manifest entry of the task.
            answer: what the model answered.
            logits: of the example, [C], where `has_logits_of_labels`.
        """
        raise NotImplementedError

    def palm_files(self, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Return the contents of PALM's prediction files by name: a JSON object per line, unless the kind says otherwise."""
        return {PREDICTIONS: "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)}


def unlabelled_note(field: str, examples: Sequence[Example]) -> str:
    """Return `; N rows unlabelled` where some examples lack the field."""
    unlabelled = sum(field not in example.fields for example in examples)
    return f"; {unlabelled} rows unlabelled" if unlabelled else ""


def text_segments(example: Example) -> tuple[Segment, ...]:
    """Return the text of an example and its pair, shortened."""
    return tuple(shorten_text(text) for text in (example.text, example.pair) if text is not None)


def numbers(values: FloatArray | None) -> list[float]:
    """Return an array as a list, an empty one for None."""
    return [] if values is None else [float(value) for value in values]
