"""Defects of a data set's splits: skewed classes, unseen labels, and texts that leak from train."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from palm_trainer.config.mappings import absent
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.text_files import Defect, Defects

LEAKED = "text that occurs in train too"
RELABELLED = "text that occurs in train with other labels"
SKEW_LIMIT = 0.8
"""Share of the rows from which a class makes accuracy misleading."""
_NAMED = 6
"""Labels that a message lists."""


def find_split_defects(
    splits: Mapping[str, Sequence[Example]], fields: Sequence[str], unscored_fields: Sequence[str] = ()
) -> dict[str, list[Defect]]:
    """Find skewed classes and fields without a task in `train`, and leaked texts and unseen labels in the other splits.

    Args:
        splits: examples of `train` and of any other split.
        fields: fields with the labels of tasks.
        unscored_fields: fields that tasks learn and that hold no labels, such as answers.

    Returns:
        Defects by split.
    """
    train = splits["train"]
    defects_by_split: dict[str, list[Defect]] = {}
    for split, examples in splits.items():
        defects = Defects()
        if split == "train":
            _note_unlearnt(train, [*fields, *unscored_fields], defects)
            _note_skew(train, fields, defects)
        else:
            _note_leaks(train, examples, defects)
            for name in fields:
                _note_unseen(train, examples, name, defects)
        defects_by_split[split] = list(defects)
    return defects_by_split


def iterate_labels(example: Example, field: str) -> Iterator[str]:
    """Yield the classes or span labels of a field."""
    value = example.fields.get(field, ())
    if isinstance(value, str):
        yield value
        return
    for item in value:
        yield item.label if isinstance(item, LabelledSpan) else item


def _note_unlearnt(examples: Sequence[Example], fields: Sequence[str], defects: Defects) -> None:
    """Count the rows with a field that no task learns."""
    for example in examples:
        for name in absent(example.fields, fields):
            defects.add(f"row with the field '{name}', which no task learns", example.source)


def _note_skew(examples: Sequence[Example], fields: Sequence[str], defects: Defects) -> None:
    for name in fields:
        counts: Counter[str] = Counter()
        first_sources: dict[str, str] = {}
        for example in examples:
            value = example.fields.get(name)
            if isinstance(value, str):
                counts[value] += 1
                first_sources.setdefault(value, example.source)
        if not counts:
            continue
        label, count = counts.most_common(1)[0]
        class_share = count / counts.total()
        if SKEW_LIMIT < class_share < 1:
            kind = f"row whose {name} is '{label}', {class_share:.0%} of all (a constant answer is as accurate)"
            defects.add(kind, first_sources[label], count)


def _note_leaks(train: Sequence[Example], examples: Sequence[Example], defects: Defects) -> None:
    train_by_text = {}
    for example in train:
        train_by_text[example.inputs] = example
    reported = set()
    for example in examples:
        key = example.inputs
        if key in train_by_text and key not in reported:
            reported.add(key)
            same_labels = train_by_text[key].fields == example.fields
            defects.add(LEAKED if same_labels else RELABELLED, example.source)


def _note_unseen(train: Sequence[Example], examples: Sequence[Example], field: str, defects: Defects) -> None:
    train_labels: set[str] = set()
    for example in train:
        train_labels.update(iterate_labels(example, field))
    unseen: set[str] = set()
    sources: list[str] = []
    for example in examples:
        new_labels = set(iterate_labels(example, field)) - train_labels
        if new_labels:
            unseen |= new_labels
            sources.append(example.source)
    if sources:
        names = sorted(unseen)
        remaining = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        listed = ", ".join(names[:_NAMED])
        kind = f"row with {field} that train does not have ({listed}{remaining})"
        defects.add(kind, sources[0], len(sources))
