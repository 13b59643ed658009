"""Checks with vectors of an encoder: confident learning, conflicting neighbours, and classes that overlap."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from palm_serve.types import FloatArray
from palm_trainer.data.example import LabelledSpan, spans_in
from palm_trainer.data.words import word_ranges
from palm_trainer.health.findings import CONFIDENT, NEIGHBOURS, Finding, Merge
from palm_trainer.health.out_of_fold import (
    BoolArray,
    IntArray,
    find_label_issues,
    out_of_fold_probabilities,
    wrong_scores,
)
from palm_trainer.health.rows import Row, TaskRows, normal_text, span_name
from palm_trainer.health.vectors import Vectors

NEIGHBOUR_COUNT = 10
CONFLICT_SHARE = 0.9
"""Share of the neighbours with another class from which a label is suspected."""
OVERLAP_SHARE = 0.3
"""Share of a class's neighbours in another class from which the two may be one."""
_NEAREST = 3
_CHUNK = 1024
_LEAST_ROWS = 20
"""Rows of a task below which out-of-fold probabilities say little."""
_NO_SPAN = "O"

Neighbours: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class WordLabels:
    """The words of all rows in order: row and word of each, and the number of its label. `names[0]` is no span."""

    rows: IntArray
    words: IntArray
    labels: IntArray
    names: Sequence[str]


def check_classes(rows: TaskRows, vectors: Vectors, seed: int) -> tuple[list[Finding], list[Merge]]:
    """Check the classes of a task's training rows.

    Args:
        rows: rows of a task with one class each.
        vectors: of its training rows.
        seed: of the folds.
    """
    train = rows.rows["train"]
    names = sorted({str(rows.value(row)) for row in train})
    numbers = {name: number for number, name in enumerate(names)}
    labels = np.array([numbers[str(rows.value(row))] for row in train], np.int64)
    if len(train) < _LEAST_ROWS or len(names) < 2:
        return [], []
    groups = [normal_text(f"{row.example.text} {row.example.pair or ''}") for row in train]
    probabilities = out_of_fold_probabilities(vectors.texts, labels, groups, len(names), seed)
    neighbours = find_neighbours(vectors.texts)
    findings = list(_confident_classes(rows, names, labels, probabilities, neighbours))
    findings += _conflicting_neighbours(rows, names, labels, neighbours)
    return findings, _overlapping_classes(rows, names, labels, neighbours)


def find_neighbours(vectors: FloatArray) -> Neighbours:
    """Return the nearest other rows of each row by cosine, the nearest first, [N, at most NEIGHBOUR_COUNT]."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(lengths, 1e-9)
    count = min(NEIGHBOUR_COUNT, len(unit) - 1)
    neighbours = np.zeros((len(unit), count), np.int64)
    for first in range(0, len(unit), _CHUNK):
        cosines = unit[first : first + _CHUNK] @ unit.T
        positions = np.arange(len(cosines))
        cosines[positions, first + positions] = -2.0
        nearest = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(cosines, nearest, axis=1), axis=1, kind="stable")
        neighbours[first : first + _CHUNK] = np.take_along_axis(nearest, order, axis=1)
    return neighbours


def _confident_classes(
    rows: TaskRows, names: Sequence[str], labels: IntArray, probabilities: FloatArray, neighbours: Neighbours
) -> Iterator[Finding]:
    train = rows.rows["train"]
    scores = wrong_scores(labels, probabilities)
    for number in np.flatnonzero(find_label_issues(labels, probabilities)):
        guess = int(probabilities[number].argmax())
        if guess == labels[number]:
            continue
        given_share = probabilities[number, labels[number]]
        why = f"'{names[guess]}' has {probabilities[number, guess]:.0%} and '{names[labels[number]]}' {given_share:.0%}, by heads that did not see the row."
        near = _near_rows(train, neighbours[number], labels, guess)
        yield Finding(CONFIDENT, train[number], rows.field, why, float(scores[number]), names[guess], near=near)


def _near_rows(train: Sequence[Row], neighbours: IntArray, labels: IntArray, guess: int) -> list[Row]:
    """Return the three nearest rows, those of the suggested class first."""
    ordered = sorted(neighbours, key=lambda number: labels[number] != guess)
    return [train[number] for number in ordered[:_NEAREST]]


def _conflicting_neighbours(
    rows: TaskRows, names: Sequence[str], labels: IntArray, neighbours: Neighbours
) -> Iterator[Finding]:
    """Yield the rows whose neighbours nearly all have another class, and most of them the same one."""
    train = rows.rows["train"]
    neighbour_labels = labels[neighbours]
    differing = (neighbour_labels != labels[:, None]).mean(axis=1)
    for number in np.flatnonzero(differing >= CONFLICT_SHARE):
        guess, count = Counter(neighbour_labels[number].tolist()).most_common(1)[0]
        total = neighbours.shape[1]
        if guess == labels[number] or 2 * count <= total:
            continue
        why = f"{count} of the {total} nearest texts are '{names[guess]}'."
        near = _near_rows(train, neighbours[number], labels, guess)
        yield Finding(NEIGHBOURS, train[number], rows.field, why, 0.7 * count / total, names[guess], near=near)


def _overlapping_classes(rows: TaskRows, names: Sequence[str], labels: IntArray, neighbours: Neighbours) -> list[Merge]:
    """Return pairs of classes whose texts lie among each other, by the five nearest neighbours."""
    counts = np.zeros((len(names), len(names)))
    nearest = labels[neighbours[:, :5]]
    for label, neighbour_labels in zip(labels, nearest, strict=True):
        np.add.at(counts[label], neighbour_labels, 1)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    sizes = np.bincount(labels, minlength=len(names))
    data = rows.rows["train"][0].data
    merges = []
    for first in range(len(names)):
        for second in range(first + 1, len(names)):
            overlap = (shares[first, second] + shares[second, first]) / 2
            if overlap < OVERLAP_SHARE:
                continue
            merged, to = (first, second) if sizes[first] < sizes[second] else (second, first)
            why = f"{overlap:.0%} of the five nearest texts of one are of the other."
            merges.append(Merge(data, rows.field, names[merged], names[to], why, float(overlap)))
    return merges


def label_words(rows: TaskRows) -> WordLabels:
    """Return the label of each word of a task's training rows: that of the span that covers it."""
    numbers = {_NO_SPAN: 0}
    row_numbers: list[int] = []
    word_numbers: list[int] = []
    labels: list[int] = []
    for number, row in enumerate(rows.rows["train"]):
        spans = spans_in(rows.value(row))
        for word, (start, end) in enumerate(word_ranges(row.example)):
            label = _NO_SPAN
            for span in spans:
                if span.start < end and start < span.end:
                    label = span_name(span)
            row_numbers.append(number)
            word_numbers.append(word)
            labels.append(numbers.setdefault(label, len(numbers)))
    arrays = [np.array(values, np.int64) for values in (row_numbers, word_numbers, labels)]
    return WordLabels(arrays[0], arrays[1], arrays[2], list(numbers))


def check_spans(rows: TaskRows, word_vectors: FloatArray, seed: int) -> list[Finding]:
    """Check the spans of a task's training rows by the probabilities of their words.

    A span is suspected if one of its words is, and scored by its least certain word. Neighbouring words without a span
    that have the same other label are suspected together.

    Args:
        rows: rows of a task with spans.
        word_vectors: of all words of its training rows, [words, H].
        seed: of the folds.
    """
    train = rows.rows["train"]
    words = label_words(rows)
    if len(train) < _LEAST_ROWS or len(words.names) < 2:
        return []
    groups = [normal_text(row.example.text) for row in train]
    word_groups = [groups[number] for number in words.rows]
    probabilities = out_of_fold_probabilities(word_vectors, words.labels, word_groups, len(words.names), seed)
    issues = find_label_issues(words.labels, probabilities)
    scores = wrong_scores(words.labels, probabilities)
    roles = _roles_of_names(rows)
    findings: list[Finding] = []
    firsts = np.searchsorted(words.rows, np.arange(len(train) + 1))
    for number in np.unique(words.rows[issues]):
        in_row = slice(int(firsts[number]), int(firsts[number + 1]))
        facts = _RowWords(train[number], words.labels[in_row], probabilities[in_row], issues[in_row], scores[in_row])
        findings += _suspect_spans(rows.field, facts, words.names, roles)
        findings += _suspect_missing(rows.field, facts, words.names, roles)
    return findings


@dataclass(frozen=True)
class _RowWords:
    """The words of a row: numbers of labels [W], probabilities [W, C], which are suspected [W], and scores [W]."""

    row: Row
    labels: IntArray
    probabilities: FloatArray
    issues: BoolArray
    scores: FloatArray


def _roles_of_names(rows: TaskRows) -> dict[str, LabelledSpan]:
    """Return a span of each name, for its label, role and group."""
    spans: dict[str, LabelledSpan] = {}
    for row in rows.rows["train"]:
        for span in spans_in(rows.value(row)):
            spans.setdefault(span_name(span), span)
    return spans


def _suspect_spans(
    field: str, words: _RowWords, names: Sequence[str], roles: dict[str, LabelledSpan]
) -> Iterator[Finding]:
    """Yield the spans with a suspected word."""
    example = words.row.example
    ranges = word_ranges(example)
    for span in spans_in(example.fields[field]):
        inside = [word for word, (start, end) in enumerate(ranges) if span.start < end and start < span.end]
        if not inside or not words.issues[inside].any():
            continue
        mean = words.probabilities[inside].mean(axis=0)
        guess = int(mean.argmax())
        if names[guess] == span_name(span):
            continue
        given_share = mean[names.index(span_name(span))]
        why = f"{_describe(names[guess])} has {mean[guess]:.0%} and {span_name(span)} {given_share:.0%}, by heads that did not see the row."
        to = _spans(span.start, span.end, names[guess], roles)
        score = float(words.scores[inside].max())
        yield Finding(CONFIDENT, words.row, field, why, score, to, span.start, span.end)


def _suspect_missing(
    field: str, words: _RowWords, names: Sequence[str], roles: dict[str, LabelledSpan]
) -> Iterator[Finding]:
    """Yield neighbouring words without a span that seem to be one."""
    ranges = word_ranges(words.row.example)
    guesses = words.probabilities.argmax(axis=1)
    suspected = words.issues & (words.labels == 0) & (guesses != 0)
    runs: dict[int, list[int]] = defaultdict(list)
    first = -1
    for word in np.flatnonzero(suspected).tolist():
        if first < 0 or word != runs[first][-1] + 1 or guesses[word] != guesses[first]:
            first = word
        runs[first].append(word)
    for inside in runs.values():
        guess = int(guesses[inside[0]])
        start, end = ranges[inside[0]][0], ranges[inside[-1]][1]
        mean = words.probabilities[inside].mean(axis=0)
        why = f"{names[guess]} has {mean[guess]:.0%} and no span {mean[0]:.0%}, by heads that did not see the row."
        to = _spans(start, end, names[guess], roles)
        yield Finding(CONFIDENT, words.row, field, why, float(words.scores[inside].max()), to, start, end)


def _describe(name: str) -> str:
    return "no span" if name == _NO_SPAN else name


def _spans(start: int, end: int, name: str, roles: dict[str, LabelledSpan]) -> tuple[LabelledSpan, ...]:
    """Return the span of a name in a range, none where the name is that of no span."""
    if name == _NO_SPAN:
        return ()
    model = roles[name]
    return (LabelledSpan(start, end, model.label, model.role, model.group),)
