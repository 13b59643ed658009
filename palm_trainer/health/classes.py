"""Classes that are rare, far from the mean, or differ between splits."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, pstdev

from palm_trainer.data.words import word_ranges
from palm_trainer.health.findings import ClassWarning
from palm_trainer.health.rows import Row, TaskRows

FEW_ROWS = 20
"""A class with fewer rows in train is hard to learn, and its scores vary."""
IMBALANCE = 0.5
"""Share by which the rows of a class may differ from the mean of all classes."""
SHARE_POINTS = 0.05
"""Difference of a class's share between train and another split."""
LENGTH_WORDS = 3
"""Difference of the mean, or of the standard deviation, of a class's words between train and another split."""
_MINIMUM = 5
"""Rows of a class in a split whose lengths are compared."""
_LISTED = 6


def find_class_warnings(rows: TaskRows) -> list[ClassWarning]:
    """Find the warnings about the classes of a task, or about the labels of its spans."""
    counts = {}
    for split, split_rows in rows.rows.items():
        if split_rows:
            counts[split] = _count(rows, split_rows)
    if not counts.get("train"):
        return []
    return [
        *_compare_counts(rows.task, counts["train"]),
        *_compare_shares(rows.task, counts),
        *_compare_lengths(rows),
    ]


def _count(rows: TaskRows, split_rows: Sequence[Row]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for row in split_rows:
        counts.update(rows.labels(row))
    return counts


def _compare_counts(task: str, counts: Counter[str]) -> Iterator[ClassWarning]:
    """Yield rare classes, and one warning that lists the classes far from the mean."""
    for label, count in sorted(counts.items(), key=lambda item: item[1]):
        if count < FEW_ROWS:
            yield ClassWarning(task, label, f"fewer than {FEW_ROWS} in train", str(count))
    mean = counts.total() / len(counts)
    far = [label for label, count in counts.most_common() if abs(count - mean) > IMBALANCE * mean]
    if far:
        listed = ", ".join(f"{label} {counts[label]}" for label in far[:_LISTED])
        remainder = f" and {len(far) - _LISTED} more" if len(far) > _LISTED else ""
        warning = f"more than {IMBALANCE:.0%} off the mean of {mean:.0f}: {listed}{remainder}"
        yield ClassWarning(
            task, f"{len(far)} of {len(counts)}", warning, f"{max(counts.values())} : {min(counts.values())}"
        )


def _compare_shares(task: str, counts: Mapping[str, Counter[str]]) -> Iterator[ClassWarning]:
    train = counts["train"]
    for split, split_counts in counts.items():
        for label in sorted({*train, *split_counts}):
            train_share = train[label] / train.total()
            split_share = split_counts[label] / max(1, split_counts.total())
            if round(abs(train_share - split_share), 9) > SHARE_POINTS:
                yield ClassWarning(
                    task, label, f"share differs between train and {split}", f"{train_share:.1%} / {split_share:.1%}"
                )


def _compare_lengths(rows: TaskRows) -> Iterator[ClassWarning]:
    """Yield the classes whose texts are longer, or vary more, in one split than in train."""
    if rows.kind == "spans":
        return
    train = _lengths(rows, "train")
    for split in rows.rows:
        if split == "train":
            continue
        for label, lengths in _lengths(rows, split).items():
            train_lengths = train.get(label, [])
            if min(len(lengths), len(train_lengths)) < _MINIMUM:
                continue
            for name, measure in (("mean", fmean), ("standard deviation of the", pstdev)):
                figures = (measure(train_lengths), measure(lengths))
                if abs(figures[0] - figures[1]) > LENGTH_WORDS:
                    warning = f"{name} length in words differs between train and {split}"
                    yield ClassWarning(rows.task, label, warning, f"{figures[0]:.1f} / {figures[1]:.1f}")


def _lengths(rows: TaskRows, split: str) -> dict[str, list[int]]:
    """Return the number of words of each text, by class."""
    lengths: dict[str, list[int]] = defaultdict(list)
    for row in rows.rows[split]:
        words = len(word_ranges(row.example))
        for label in rows.labels(row):
            lengths[label].append(words)
    return lengths
