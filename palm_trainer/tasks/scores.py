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
    """Return the scores of each label, most frequent first.

    Args:
        rows: gold and answered items of each example: classes, or whole spans.
        label: of an item.
    """
    gold_counts: Counter[str] = Counter()
    answer_counts: Counter[str] = Counter()
    hits: Counter[str] = Counter()
    for gold, answered in rows:
        gold, answered = frozenset(gold), frozenset(answered)
        gold_counts.update(map(label, gold))
        answer_counts.update(map(label, answered))
        hits.update(map(label, gold & answered))
    names = sorted(gold_counts | answer_counts, key=lambda name: (-gold_counts[name], name))
    return [_label_score(name, hits[name], gold_counts[name], answer_counts[name]) for name in names]


def _label_score(name: str, hits: int, gold_count: int, answer_count: int) -> LabelScore:
    f1 = 2 * hits / (gold_count + answer_count)
    return LabelScore(
        name,
        hits / answer_count if answer_count else None,
        hits / gold_count if gold_count else None,
        f1,
        gold_count,
        answer_count,
    )


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
    """Return the confusion matrix, of more than `limit` labels that of those that are confused most."""
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
    rows = []
    for gold in labels:
        rows.append(tuple(pairs[gold, predicted] for predicted in labels))
    counts = tuple(rows)
    diagonal = sum(counts[i][i] for i in range(len(labels)))
    errors = sum(count for (gold, predicted), count in pairs.items() if gold != predicted)
    return Confusion(tuple(labels), counts, len(support), errors, sum(map(sum, counts)) - diagonal)


def span_errors(rows: Iterable[tuple[frozenset[Unit], frozenset[Unit], bool]]) -> tuple[Counter[str], Confusions]:
    """Count the kinds of wrong spans, and which type is answered for which where they meet.

    Args:
        rows: gold units, answered units, and whether their ends are inclusive (words) or exclusive (characters).
    """
    errors: Counter[str] = Counter()
    pairs: Confusions = Counter()
    for gold, answered, inclusive in rows:
        missed = sorted(gold - answered)
        met: set[Unit] = set()
        for span in sorted(answered - gold):
            neighbours = [missed_span for missed_span in missed if _meet(span, missed_span, inclusive)]
            met.update(neighbours)
            errors[_span_error(span, neighbours)] += 1
            for neighbour in neighbours:
                if neighbour[2] != span[2]:
                    pairs[neighbour[2], span[2]] += 1
            if not neighbours:
                pairs[NOTHING, span[2]] += 1
        unmet = [span for span in missed if span not in met]
        errors["missed: nothing was answered there"] += len(unmet)
        for span in unmet:
            pairs[span[2], NOTHING] += 1
    return +errors, pairs


def _meet(first: Unit, second: Unit, inclusive: bool) -> bool:
    return first[0] < second[1] + inclusive and second[0] < first[1] + inclusive


def _span_error(span: Unit, neighbours: Sequence[Unit]) -> str:
    if any(neighbour[:2] == span[:2] for neighbour in neighbours):
        return "right boundaries, wrong type"
    if any(neighbour[2] == span[2] for neighbour in neighbours):
        return "right type, wrong boundaries"
    return "wrong type and boundaries" if neighbours else "invented: nothing is there"


@dataclass(frozen=True, slots=True)
class ThresholdScore:
    """Result of acting on answers from a confidence on: share of the rows, and how many of these are right."""

    threshold: float
    share: float
    accuracy: float | None


def thresholds(points: Sequence[tuple[float, bool]], steps: Sequence[float]) -> list[ThresholdScore]:
    """Return share and accuracy of the answers whose confidence reaches each step."""
    scores = []
    for step in steps:
        outcomes = [right for confidence, right in points if confidence >= step]
        scores.append(
            ThresholdScore(step, len(outcomes) / len(points), sum(outcomes) / len(outcomes) if outcomes else None)
        )
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
    """Return precision and recall of a yes at each threshold.

    Args:
        points: score of each pair, and whether it is a match.
        steps: thresholds on the score.
    """
    matches = sum(is_match for _, is_match in points)
    non_matches = len(points) - matches
    scores = []
    for step in steps:
        hits = sum(is_match for score, is_match in points if score >= step)
        answered = sum(score >= step for score, _ in points)
        rate = (answered - hits) / non_matches if non_matches else None
        score = LabelScore("", None, None, None, 0, 0)
        if matches + answered:
            score = _label_score("", hits, matches, answered)
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
    """Return exact match and F1 by the tokens of the gold answer (`metrics.answer_tokens`). 0 is "no answer"."""
    lengths = [_shortest(answers) for answers in gold]
    scores = []
    for low, high in _LENGTHS:
        rows = [i for i, n in enumerate(lengths) if n >= low and (high is None or n <= high)]
        if rows:
            metrics = reading_scores([gold[i] for i in rows], [predicted[i] for i in rows])
            name = f"{low}" if low == high else f"{low} or more" if high is None else f"{low} to {high}"
            name = "no answer" if high == 0 else name
            scores.append(ReadingScore(name, metrics["exact_match"], metrics["f1"], len(rows)))
    return scores


def _shortest(answers: Sequence[str]) -> int:
    """Return the tokens of the shortest right answer."""
    return min(len(answer_tokens(text)) for text in answers)


def label_pairs(gold: Iterable[str], predicted: Iterable[str]) -> Confusions:
    """Count gold and predicted class of each example."""
    return Counter(zip(gold, predicted, strict=True))


def set_confusions(rows: Iterable[tuple[frozenset[str], frozenset[str]]]) -> Confusions:
    """Count each missed label with each wrong one of its example, or with NOTHING."""
    pairs: Confusions = Counter()
    for gold, answered in rows:
        pairs.update(product(sorted(gold - answered) or [NOTHING], sorted(answered - gold) or [NOTHING]))
    del pairs[NOTHING, NOTHING]
    return pairs
