"""Labelled rows of the tasks, as the files have them."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from palm_trainer.config.loader import Config
from palm_trainer.config.mappings import select_keys
from palm_trainer.data.example import Example, FieldValue, LabelledSpan, spans_in
from palm_trainer.data.splits import Splits
from palm_trainer.tasks import task_kind
from palm_trainer.tasks.fields import resolve_fields

SPLITS = ("train", "dev", "test")
"""Splits that are checked."""
ValueKind: TypeAlias = Literal["class", "classes", "spans"]

_NO_WORD = re.compile(r"[\W_]+")


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a data set. `file_split` is the split whose files hold it, `split` the one that it is used for."""

    data: str
    split: str
    file_split: str
    example: Example


@dataclass(frozen=True)
class TaskRows:
    """The labelled rows of a task.

    Args:
        task: its name.
        field: field that it learns.
        kind: what a value of the field is.
        rows: rows with this field by split, each in the order of the files.
    """

    task: str
    field: str
    kind: ValueKind
    rows: dict[str, list[Row]]

    def value(self, row: Row) -> FieldValue:
        """Return the label of a row."""
        return row.example.fields[self.field]

    def labels(self, row: Row) -> list[str]:
        """Return the classes of a row, or the labels of its spans."""
        return labels_of(self.value(row))


def read_rows(config: Config) -> list[TaskRows]:
    """Read the rows of all tasks whose labels are classes or spans. No review is applied.

    Args:
        config: the configuration.

    Raises:
        DataError: a file cannot be used.
    """
    data_sets = {}
    for name, data in config.data.items():
        data_sets[name] = data.model_copy(update={"review": ()})
    splits = Splits(data_sets, seed=config.train.seed)
    train = {name: splits.examples(name, "train") for name in data_sets}
    rows: dict[tuple[str, str], list[Row]] = {}
    for split in SPLITS:
        for name in splits.data_sets(split):
            file_split = "train" if data_sets[name].dev_share and split == "dev" else split
            examples = splits.examples(name, split)
            rows[split, name] = [Row(name, split, file_split, example) for example in examples]
    task_rows = []
    for task, settings in resolve_fields(config, train).tasks.items():
        kind = task_kind(settings.kind)
        if not kind.is_answered or not kind.has_labels(settings) or settings.field is None:
            continue
        by_split = {}
        for split in SPLITS:
            sets = select_keys(rows, [(split, name) for name in settings.data])
            by_split[split] = _labelled(sets.values(), settings.field)
        value_kind: ValueKind = "class"
        if kind.learns_tags:
            value_kind = "spans"
        elif kind.learns_several_classes:
            value_kind = "classes"
        task_rows.append(TaskRows(task, settings.field, value_kind, by_split))
    return task_rows


def _labelled(sets: Iterable[Sequence[Row]], field: str) -> list[Row]:
    """Return the rows that have a field."""
    labelled = []
    for rows in sets:
        for row in rows:
            if field in row.example.fields:
                labelled.append(row)
    return labelled


def labels_of(value: FieldValue) -> list[str]:
    """Return the classes of a value, or the labels of its spans with their roles and groups."""
    if isinstance(value, str):
        return [value]
    labels = []
    for item in value:
        labels.append(span_name(item) if isinstance(item, LabelledSpan) else item)
    return labels


def span_name(span: LabelledSpan) -> str:
    """Return the label of a span, with its role and group where it has some."""
    return "/".join(filter(None, (span.label, span.role, span.group)))


def normal_text(text: str) -> str:
    """Return a text without case, punctuation, compatibility forms and repeated blanks.

    A text of punctuation alone stays as it is.
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    return _NO_WORD.sub(" ", folded).strip() or folded.strip()


def describe_value(value: FieldValue, text: str) -> str:
    """Return a label as words: a class, classes, or spans with their texts."""
    if isinstance(value, str):
        return f"'{value}'"
    described = []
    spans = spans_in(value)
    for span in spans:
        described.append(f"'{text[span.start : span.end]}' as {span_name(span)}")
    if not spans:
        described = [f"'{item}'" for item in value]
    return ", ".join(described) or "none"
