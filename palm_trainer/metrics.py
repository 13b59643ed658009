"""Metrics, all fractions from 0 to 1. Plain Python: nothing here knows a model."""

from collections.abc import Iterable, Sequence

from palm_trainer.example import LabelledSpan

Unit = tuple[int, int, str]
"""A span over the data's own units: first, last (inclusive), label."""


def accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of equal labels. A gold label that training never saw cannot be predicted and counts as an error."""
    return sum(g == p for g, p in zip(gold, predicted, strict=True)) / len(gold) if gold else 0.0


def span_scores(gold: Sequence[frozenset[Unit]], predicted: Sequence[frozenset[Unit]]) -> dict[str, float]:
    """Micro-averaged precision, recall and F1 of whole spans with their labels: seqeval's strict mode on BIO."""
    hits = sum(len(g & p) for g, p in zip(gold, predicted, strict=True))
    found, wanted = sum(map(len, predicted)), sum(map(len, gold))
    precision = hits / found if found else 0.0
    recall = hits / wanted if wanted else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return {"f1": f1, "precision": precision, "recall": recall}


def to_units(spans: Iterable[LabelledSpan], words: Sequence[tuple[int, int]] | None) -> frozenset[Unit]:
    """Spans projected to the words that they touch (None: to their characters). Of two spans that touch one word the first keeps it."""
    ordered = sorted(spans, key=lambda span: span.start)
    if words is None:
        return frozenset((span.start, span.end, span.label) for span in ordered)
    units: set[Unit] = set()
    word = 0
    for span in ordered:
        while word < len(words) and words[word][1] <= span.start:
            word += 1
        first = word
        while word < len(words) and words[word][0] < span.end:
            word += 1
        if word > first:
            units.add((first, word - 1, span.label))
    return frozenset(units)
