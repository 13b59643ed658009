"""Division of a data set into splits: equal texts stay together, and each label keeps its share."""

import hashlib
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from palm_trainer.data.example import Example
from palm_trainer.data.statistics import iterate_labels
from palm_trainer.errors import DataError

_FULL = 1 - 1e-9
"""Owed texts from which a split gets one. The sums are inexact."""

_Label: TypeAlias = tuple[str, str]
"""A field, and a class or span label in it."""


@dataclass
class _TextGroup:
    """Rows with the same text.

    Args:
        key: their normalised text.
        rows: indices of the rows.
        labels: labels of all rows.
    """

    key: str
    rows: list[int] = field(default_factory=list)
    labels: set[_Label] = field(default_factory=set)


def divide(examples: Sequence[Example], shares: Mapping[str, float], seed: int) -> dict[str, list[Example]]:
    """Divide examples into splits.

    Rows whose texts are equal but for case and white space come into the same split. The rarest label of
    each text decides with which others it is drawn, so that each label keeps its share. `train` keeps at
    least one text of each label. The same examples, shares and seed give the same splits.

    Args:
        examples: rows to divide.
        shares: share of the different texts by split. They sum to 1.
        seed: of the draw.

    Returns:
        Examples by split, each in the order of `examples`.

    Raises:
        DataError: a split gets no row.
    """
    groups = _group_texts(examples)
    main = "train" if "train" in shares else next(iter(shares))
    split_by_row = [main] * len(examples)
    text_counts: Counter[_Label] = Counter()
    """Texts with each label that are left in the main split."""
    for group in groups:
        text_counts.update(group.labels)
    owed = dict.fromkeys(shares, 0.5)
    for group in _in_order(groups, text_counts, seed):
        for split, split_share in shares.items():
            owed[split] = min(1.0, owed[split] + split_share)
        due = [split for split in shares if split != main and owed[split] >= _FULL]
        if due and all(text_counts[label] > 1 for label in group.labels):
            owed[due[0]] -= 1
            text_counts.subtract(group.labels)
            for row in group.rows:
                split_by_row[row] = due[0]
    divided: dict[str, list[Example]] = {split: [] for split in shares}
    for example, split in zip(examples, split_by_row, strict=True):
        divided[split].append(example)
    for split, rows in divided.items():
        if not rows:
            raise DataError(
                f"split '{split}' must get at least one row, got none of {len(groups)} different texts. "
                "Give more data, or a larger share."
            )
    return divided


def _group_texts(examples: Sequence[Example]) -> list[_TextGroup]:
    """Return the different texts, each with its rows and labels."""
    names = _label_fields(examples)
    group_by_key: dict[str, _TextGroup] = {}
    for row, example in enumerate(examples):
        texts = example.inputs
        key = _normalise(texts.text) + "\0" + _normalise(texts.second or "")
        group = group_by_key.setdefault(key, _TextGroup(key))
        group.rows.append(row)
        for name in names:
            for label in iterate_labels(example, name):
                group.labels.add((name, label))
    return list(group_by_key.values())


def _label_fields(examples: Sequence[Example]) -> list[str]:
    """Return the fields whose labels repeat. Those of other fields are as many as the rows, and nothing to keep."""
    labels: dict[str, set[str]] = defaultdict(set)
    row_counts: Counter[str] = Counter()
    for example in examples:
        for name in example.fields:
            labels[name].update(iterate_labels(example, name))
            row_counts[name] += 1
    return [name for name, count in row_counts.items() if 2 * len(labels[name]) <= count]


def _normalise(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _in_order(groups: Sequence[_TextGroup], text_counts: Counter[_Label], seed: int) -> list[_TextGroup]:
    """Return the texts by their rarest label, the rarest first, and within a label in an order that the seed draws."""

    def position(group: _TextGroup) -> tuple[int, _Label, str]:
        count, label = min(((text_counts[label], label) for label in group.labels), default=(len(groups), ("", "")))
        digest = hashlib.sha256(f"{seed}\0{group.key}".encode()).hexdigest()
        return count, label, digest

    return sorted(groups, key=position)


def parse_shares(text: str) -> dict[str, float]:
    """Parse shares such as `train=0.8,dev=0.1,test=0.1`.

    Raises:
        DataError: a name is no split or stands twice, or the shares are not positive numbers that sum to 1.
    """
    shares: dict[str, float] = {}
    for entry in text.split(","):
        name, _, value = entry.strip().partition("=")
        try:
            fraction = float(value)
        except ValueError:
            fraction = 0.0
        if name not in ("train", "dev", "test") or name in shares or not 0 < fraction < 1:
            raise DataError(
                f"--split must name train, dev and test once each with a share between 0 and 1, got '{entry}'. "
                "Example: --split train=0.8,dev=0.1,test=0.1"
            )
        shares[name] = fraction
    if abs(sum(shares.values()) - 1) > 1e-6:
        raise DataError(f"--split must have shares that sum to 1, got {sum(shares.values()):g}. Correct one of them.")
    return shares
