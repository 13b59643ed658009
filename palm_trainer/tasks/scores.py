"""Scores behind the report's tables: pure functions on gold labels and answers. Fractions from 0 to 1; None where nothing can be said."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeVar

from palm_trainer.tasks.metrics import Unit, answer_tokens, reading_scores

_Item = TypeVar("_Item", bound=Hashable)

Confusions = Counter[tuple[str, str]]
"""(gold, predicted) -> how often."""

NOTHING = "(none)"
"""Stands for no span in a confusion of spans."""


@dataclass(frozen=True, slots=True)
class LabelScore:
    """How well one label is found. `support` counts it in the gold labels, `answered` in the answers."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int
    answered: int


def label_scores(
    rows: Iterable[tuple[Iterable[_Item], Iterable[_Item]]], label: Callable[[_Item], str]
) -> list[LabelScore]:
    """Scores of each label, most frequent first.

    Args:
        rows: gold and answered items of each example: classes, or whole spans.
        label: of an item.
    """
    wanted: Counter[str] = Counter()
    found: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for gold, answered in rows:
        gold, answered = frozenset(gold), frozenset(answered)
        wanted.update(map(label, gold))
        found.update(map(label, answered))
        hits.update(map(label, gold & answered))
    names = sorted(wanted | found, key=lambda name: (-wanted[name], name))
    return [_label_score(name, hits[name], wanted[name], found[name]) for name in names]


def _label_score(name: str, hits: int, wanted: int, found: int) -> LabelScore:
    f1 = 2 * hits / (wanted + found)
    return LabelScore(name, hits / found if found else None, hits / wanted if wanted else None, f1, wanted, found)


@dataclass(frozen=True, slots=True)
class Confusion:
    """A square of counts, gold by predicted, over some of the labels."""

    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    all_labels: int
    errors: int
    """Wrong answers in all."""
    shown_errors: int
    """Those that the square holds."""


def confusion(pairs: Confusions, limit: int = 25) -> Confusion:
    """The confusion matrix; of more than `limit` labels those that are confused most, less than that where few are confused."""
    support: Counter[str] = Counter()
    mixed: Counter[str] = Counter()
    for (gold, predicted), count in pairs.items():
        support[gold] += count
        support[predicted] += 0
        if gold != predicted:
            mixed[gold] += count
            mixed[predicted] += count
    labels = sorted(support, key=lambda name: (-support[name], name))
    if len(labels) > limit:
        labels = sorted(mixed, key=lambda name: (-mixed[name], name))[:limit]
        labels.sort(key=lambda name: (-support[name], name))
    counts = tuple(tuple(pairs[gold, predicted] for predicted in labels) for gold in labels)
    diagonal = sum(counts[i][i] for i in range(len(labels)))
    errors = sum(count for (gold, predicted), count in pairs.items() if gold != predicted)
    return Confusion(tuple(labels), counts, len(support), errors, sum(map(sum, counts)) - diagonal)


def span_errors(rows: Iterable[tuple[frozenset[Unit], frozenset[Unit], bool]]) -> tuple[Counter[str], Confusions]:
    """How spans go wrong, and which type is taken for which where they meet.

    Args:
        rows: gold units, answered units, and whether their ends are inclusive (words) or exclusive (characters).
    """
    kinds: Counter[str] = Counter()
    taken: Confusions = Counter()
    for gold, answered, inclusive in rows:
        missed, wrong = sorted(gold - answered), sorted(answered - gold)
        met = set()
        for span in wrong:
            others = [other for other in missed if _meet(span, other, inclusive)]
            met.update(others)
            kinds[_span_error(span, others)] += 1
            taken.update((other[2], span[2]) for other in others if other[2] != span[2])
            if not others:
                taken[NOTHING, span[2]] += 1
        unmet = [span for span in missed if span not in met]
        kinds["missed: nothing was answered there"] += len(unmet)
        taken.update((span[2], NOTHING) for span in unmet)
    return +kinds, taken


def _meet(one: Unit, other: Unit, inclusive: bool) -> bool:
    return one[0] < other[1] + inclusive and other[0] < one[1] + inclusive


def _span_error(span: Unit, met: Sequence[Unit]) -> str:
    if any(other[:2] == span[:2] for other in met):
        return "right boundaries, wrong type"
    if any(other[2] == span[2] for other in met):
        return "right type, wrong boundaries"
    return "wrong type and boundaries" if met else "invented: nothing is there"


@dataclass(frozen=True, slots=True)
class ThresholdScore:
    """What follows from acting on answers from a confidence on: share of the rows, and how many of these are right."""

    threshold: float
    share: float
    accuracy: float | None


def thresholds(points: Sequence[tuple[float, bool]], steps: Sequence[float]) -> list[ThresholdScore]:
    """Share and accuracy of the answers whose confidence reaches each step."""
    scores = []
    for step in steps:
        kept = [right for confidence, right in points if confidence >= step]
        scores.append(ThresholdScore(step, len(kept) / len(points), sum(kept) / len(kept) if kept else None))
    return scores


@dataclass(frozen=True, slots=True)
class MatchScore:
    """A match task's yes at a threshold on its score."""

    threshold: float
    precision: float | None
    recall: float | None
    f1: float | None
    false_positive_rate: float | None


def match_thresholds(points: Sequence[tuple[float, bool]], steps: Sequence[float]) -> list[MatchScore]:
    """What each threshold on the score gives. Points: score of a pair, and whether it is a match."""
    matches = sum(is_match for _, is_match in points)
    others = len(points) - matches
    scores = []
    for step in steps:
        hits = sum(is_match for score, is_match in points if score >= step)
        found = sum(score >= step for score, _ in points)
        rate = (found - hits) / others if others else None
        score = _label_score("", hits, matches, found) if matches + found else LabelScore("", None, None, None, 0, 0)
        scores.append(MatchScore(step, score.precision, score.recall, score.f1, rate))
    return scores


@dataclass(frozen=True, slots=True)
class ReadingScore:
    """Reading comprehension over the questions whose shortest right answer has so many tokens."""

    tokens: str
    exact_match: float
    f1: float
    support: int


_LENGTHS = ((0, 0), (1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, None))


def reading_by_length(gold: Sequence[Sequence[str]], predicted: Sequence[str]) -> list[ReadingScore]:
    """Exact match and F1 by the length of the gold answer, in tokens of `metrics.answer_tokens`; 0 is "no answer"."""
    lengths = [min(len(answer_tokens(text)) for text in answers) for answers in gold]
    scores = []
    for low, high in _LENGTHS:
        own = [i for i, n in enumerate(lengths) if n >= low and (high is None or n <= high)]
        if own:
            found = reading_scores([gold[i] for i in own], [predicted[i] for i in own])
            name = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
            name = "no answer" if high == 0 else name
            scores.append(ReadingScore(name, found["exact_match"], found["f1"], len(own)))
    return scores


def label_pairs(gold: Iterable[str], predicted: Iterable[str]) -> Confusions:
    """Gold and predicted class of each example, counted."""
    return Counter(zip(gold, predicted, strict=True))


def set_confusions(rows: Iterable[tuple[frozenset[str], frozenset[str]]]) -> Confusions:
    """Which labels stand where others should: each missed label with each wrong one of its example, or with NOTHING."""
    taken: Confusions = Counter()
    for gold, answered in rows:
        taken.update(product(sorted(gold - answered) or [NOTHING], sorted(answered - gold) or [NOTHING]))
    del taken[NOTHING, NOTHING]
    return taken
