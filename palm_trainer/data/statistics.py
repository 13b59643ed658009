"""What is wrong with the splits of a data set taken together: labels that training never sees, texts that leak, skew, cuts."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats.text_files import Defect, Defects

LEAKED = "text that occurs in train too"
RELABELLED = "text that occurs in train with other labels"
SKEW_LIMIT = 0.8
"""A class that more of the rows have than this makes accuracy look good by itself."""
_NAMED = 6


def find_split_defects(splits: Mapping[str, Sequence[Example]], fields: Sequence[str]) -> dict[str, list[Defect]]:
    """Faults by split, of `train` and the splits that are compared with it.

    Args:
        splits: examples of `train`, and of any other split.
        fields: the fields that tasks learn or are scored on.
    """
    train = splits["train"]
    found = {split: Defects() for split in splits}
    _note_skew(train, fields, found["train"])
    for split, examples in splits.items():
        if split != "train":
            _note_leaks(train, examples, found[split])
            for name in fields:
                _note_unseen(train, examples, name, found[split])
    return {split: list(defects) for split, defects in found.items()}


def iterate_labels(example: Example, field: str) -> Iterator[str]:
    """The classes or span labels that a field of an example holds."""
    value = example.fields.get(field, ())
    if isinstance(value, str):
        yield value
    else:
        for item in value:
            yield item.label if isinstance(item, LabelledSpan) else item


def _note_skew(examples: Sequence[Example], fields: Sequence[str], defects: Defects) -> None:
    for name in fields:
        classes = [(value, e.source) for e in examples if isinstance(value := e.fields.get(name), str)]
        if not classes:
            continue
        most, count = Counter(value for value, _ in classes).most_common(1)[0]
        share = count / len(classes)
        if SKEW_LIMIT < share < 1:
            kind = f"row whose {name} is '{most}', {share:.0%} of all (who always says so is as accurate)"
            defects.add(kind, next(source for value, source in classes if value == most), count)


def _note_leaks(train: Sequence[Example], examples: Sequence[Example], defects: Defects) -> None:
    known = {(example.text, example.pair): example for example in train}
    noted = set()
    for example in examples:
        key = (example.text, example.pair)
        if key in known and key not in noted:
            noted.add(key)
            defects.add(LEAKED if known[key].fields == example.fields else RELABELLED, example.source)


def _note_unseen(train: Sequence[Example], examples: Sequence[Example], field: str, defects: Defects) -> None:
    seen = {label for example in train for label in iterate_labels(example, field)}
    rows = [(e.source, new) for e in examples if (new := [v for v in iterate_labels(e, field) if v not in seen])]
    if rows:
        names = sorted({label for _, new in rows for label in new})
        more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
        defects.add(
            f"row with {field} that train does not have ({', '.join(names[:_NAMED])}{more})", rows[0][0], len(rows)
        )
