"""Strings that are labelled in two ways between the same words: two on the left, one on the right."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from palm_trainer.data.example import LabelledSpan, spans_in
from palm_trainer.data.words import word_ranges
from palm_trainer.health.findings import OTHER_LABEL, UNMARKED, ContextKind, Finding
from palm_trainer.health.rows import Row, TaskRows, span_name

NO_SPAN = "O"
"""Stands for a string that is no span."""
_EDGE = ""
"""Stands for a word before the first and after the last."""
_LONGEST = 8
"""Words of a string that is looked for in other rows."""

_Words: TypeAlias = tuple[str, ...]
_Context: TypeAlias = tuple[str, _Words, str, str, str]
"""What was said before the text, the string, two words before it and one after it."""


@dataclass(frozen=True, slots=True)
class _Occurrence:
    """A string in a row. `label` is NO_SPAN where no span touches it."""

    row: Row
    start: int
    end: int
    label: str
    span: LabelledSpan | None = None


@dataclass(slots=True)
class _Occurrences:
    """Occurrences of a string in one context, by label."""

    by_label: dict[str, list[_Occurrence]] = field(default_factory=lambda: defaultdict(list))

    @property
    def labels(self) -> list[str]:
        """Labels of the spans, the most frequent first."""
        labels = [label for label in self.by_label if label != NO_SPAN]
        return sorted(labels, key=lambda label: -len(self.by_label[label]))


def find_contexts(rows: TaskRows) -> tuple[list[Finding], list[ContextKind]]:
    """Find spans of train that other rows label otherwise, or do not label.

    The rarer way of each context counts as wrong. If both are as frequent, the rows without the span count as wrong.

    Args:
        rows: rows of a task with spans.

    Returns:
        The findings, and the contexts with their counts, the most frequent first.
    """
    findings: list[Finding] = []
    kinds = []
    for context, occurrences in _collect(rows).items():
        labels = occurrences.labels
        unmarked = occurrences.by_label.get(NO_SPAN, [])
        if unmarked and labels:
            findings += _compare_with_none(rows.field, context, occurrences)
        if len(labels) > 1:
            findings += _compare_labels(rows.field, context, occurrences)
        if len(labels) > 1 or (unmarked and labels):
            counts = {label: len(occurrence) for label, occurrence in occurrences.by_label.items()}
            _, string, *words_before, after = context
            before = " ".join(words_before).strip()
            kinds.append(ContextKind(rows.task, before, " ".join(string), after, counts))
    kinds.sort(key=lambda kind: (-sum(kind.counts.values()), kind.string))
    return findings, kinds


def _collect(rows: TaskRows) -> dict[_Context, _Occurrences]:
    """Return the occurrences of each labelled string in each of its contexts."""
    sentences = []
    labelled: set[_Words] = set()
    for row in rows.rows["train"]:
        ranges = word_ranges(row.example)
        words = [row.example.text[start:end] for start, end in ranges]
        spans = _spans_by_words(spans_in(rows.value(row)), ranges)
        sentences.append((row, ranges, words, spans))
        for first, last in spans:
            labelled.add(tuple(words[first:last]))
    longest = min(_LONGEST, max(map(len, labelled), default=0))
    contexts: dict[_Context, _Occurrences] = defaultdict(_Occurrences)
    for row, ranges, words, spans in sentences:
        in_spans = _words_in_spans(rows, row, ranges)
        for first, last in _strings(words, longest, labelled):
            span = spans.get((first, last))
            if span is None and any(in_spans[first:last]):
                continue  # a part of another span
            before = (words[first - 2] if first > 1 else _EDGE, words[first - 1] if first else _EDGE)
            after = words[last] if last < len(words) else _EDGE
            context = (row.example.inputs.context, tuple(words[first:last]), *before, after)
            label = NO_SPAN if span is None else span_name(span)
            occurrence = _Occurrence(row, ranges[first][0], ranges[last - 1][1], label, span)
            contexts[context].by_label[label].append(occurrence)
    return contexts


def _spans_by_words(
    spans: Sequence[LabelledSpan], ranges: Sequence[tuple[int, int]]
) -> dict[tuple[int, int], LabelledSpan]:
    """Return the spans that begin and end with words, by the first word and the word after the last."""
    firsts = {start: number for number, (start, _) in enumerate(ranges)}
    lasts = {end: number + 1 for number, (_, end) in enumerate(ranges)}
    by_words = {}
    for span in spans:
        if span.start in firsts and span.end in lasts:
            by_words[firsts[span.start], lasts[span.end]] = span
    return by_words


def _words_in_spans(rows: TaskRows, row: Row, ranges: Sequence[tuple[int, int]]) -> list[bool]:
    """Return for each word whether a span touches it."""
    spans = spans_in(rows.value(row))
    in_spans = []
    for start, end in ranges:
        in_spans.append(any(span.start < end and start < span.end for span in spans))
    return in_spans


def _strings(words: Sequence[str], longest: int, labelled: set[_Words]) -> Iterator[tuple[int, int]]:
    """Yield first word and word after the last of each string that is a span somewhere."""
    for first in range(len(words)):
        for last in range(first + 1, min(len(words), first + longest) + 1):
            if tuple(words[first:last]) in labelled:
                yield first, last


def _compare_with_none(name: str, context: _Context, occurrences: _Occurrences) -> Iterator[Finding]:
    """Yield the rarer of: rows in which a string is a span, and rows in which it is none."""
    unmarked = occurrences.by_label[NO_SPAN]
    label = occurrences.labels[0]
    marked: list[_Occurrence] = []
    for span_label in occurrences.labels:
        marked += occurrences.by_label[span_label]
    total = len(marked) + len(unmarked)
    place = _describe(context)
    if len(unmarked) <= len(marked):
        model = occurrences.by_label[label][0].span
        assert model is not None
        for occurrence in unmarked:
            to = (LabelledSpan(occurrence.start, occurrence.end, model.label, model.role, model.group),)
            why = f"{place} is {label} in {len(occurrences.by_label[label])} rows, and no span in {len(unmarked)}."
            near = _near(occurrence, occurrences.by_label[label])
            yield Finding(
                UNMARKED, occurrence.row, name, why, len(marked) / total, to, occurrence.start, occurrence.end, near
            )
    else:
        for occurrence in marked:
            why = f"{place} is no span in {len(unmarked)} rows, and {occurrence.label} in {len(occurrences.by_label[occurrence.label])}."
            near = _near(occurrence, unmarked)
            yield Finding(
                UNMARKED, occurrence.row, name, why, len(unmarked) / total, (), occurrence.start, occurrence.end, near
            )


def _compare_labels(name: str, context: _Context, occurrences: _Occurrences) -> Iterator[Finding]:
    """Yield the spans that do not have the most frequent label of their context."""
    labels = occurrences.labels
    models = occurrences.by_label[labels[0]]
    model = models[0].span
    assert model is not None
    total = sum(len(occurrences.by_label[label]) for label in labels)
    for label in labels[1:]:
        for occurrence in occurrences.by_label[label]:
            to = (LabelledSpan(occurrence.start, occurrence.end, model.label, model.role, model.group),)
            why = (
                f"{_describe(context)} is {labels[0]} in {len(models)} rows, and {label} in "
                f"{len(occurrences.by_label[label])}."
            )
            score = 0.6 * len(models) / total  # both labels may be right
            near = _near(occurrence, models)
            yield Finding(OTHER_LABEL, occurrence.row, name, why, score, to, occurrence.start, occurrence.end, near)


def _near(occurrence: _Occurrence, differing: Sequence[_Occurrence]) -> list[Row]:
    """Return three rows that label the string otherwise."""
    return [opposite.row for opposite in differing if opposite.row is not occurrence.row][:3]


def _describe(context: _Context) -> str:
    """Return a string with its context in words."""
    _, string, *words_before, after = context
    before = " ".join(words_before).strip()
    described = f"'{' '.join(string)}'"
    if before:
        described += f" after '{before}'"
    else:
        described += " at the beginning"
    return f"{described} before '{after}'" if after else f"{described} at the end"
