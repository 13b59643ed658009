"""Slot substitution: training examples with other values of the same labels, drawn anew in every epoch.

Draws are a pure function of (seed, epoch, example), so a resumed run draws the same, with any
number of processes.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from palm_trainer.data.example import Example, FieldValue, LabelledSpan, spans_in
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.found_values import FoundValues

Words = tuple[tuple[int, int], ...]

ALIKE = 0.25
"""Minimum Jaccard index of the values of two labels that share their values ..."""
COMMON = 2
"""... and the minimum number of common values, since a single one may be chance."""
_LISTED_WORD = re.compile(r"\S+")
"""A word of a value of a list. Where words are tagged, blanks separate them."""


@dataclass(frozen=True, slots=True)
class Value:
    """The text of a span, and the ranges of its words if the data has words."""

    text: str
    words: Words | None


def listed_wordings(examples: Sequence[Example], field: str, reader_values: FoundValues | None) -> dict[str, list[str]]:
    """Return the wordings of lists of values for each label of a field.

    Args:
        examples: training examples of the data set.
        field: field with the spans.
        reader_values: values found beside the examples, or None.
    """
    labels: dict[str, None] = {}
    for example in examples:
        for span in spans_in(example.fields.get(field, ())):
            labels[span.label] = None
    if reader_values is None:
        return {}
    return {label: wordings for label in labels if (wordings := reader_values.wordings(label))}


class Substitution:
    """Replaces all values of some examples. A label with a single value keeps it.

    A label draws from its own values and those of similar labels (`ALIKE`). Departure and arrival
    cities, for example, are the same cities, though training has not seen each in both roles.

    Args:
        examples: training examples of the data set. They are also the source of the values, each
            with the same probability, however often it occurs.
        field: field whose spans are replaced. Spans of other fields move with the text. An example
            in which one of them would be split stays unchanged.
        probability: of an example to be changed, in each epoch.
        seed: decides the draws, together with epoch and example.
        lists: wordings from lists of values, by label. They are drawn like the values of the examples.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        field: str,
        probability: float,
        seed: int,
        lists: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self._examples = examples
        self._field = field
        self._probability = probability
        self._seed = seed
        values_by_label: dict[str, dict[str, Value]] = {}
        for example in examples:
            for span in _spans(example, field):
                value = _value(example, span)
                values_by_label.setdefault(span.label, {}).setdefault(value.text, value)
        listed = {}
        for label, known_values in values_by_label.items():
            listed[label] = _listed_values((lists or {}).get(label, ()), known_values)
        self.listed = {label: list(label_values) for label, label_values in listed.items()}
        """Wordings of lists that no example has as a value of the label, by label."""
        self._values = _pool_values(values_by_label, listed)
        self._epoch = -1
        self._is_drawn: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

    def draw(self, epoch: int, index: int) -> Example | None:
        """Draw the variant of an example for an epoch.

        Args:
            epoch: number of the epoch.
            index: of the example.

        Returns:
            The changed example, or None if it stays unchanged.
        """
        if epoch != self._epoch:
            numbers = np.random.default_rng((self._seed, epoch)).random(len(self._examples))
            self._epoch = epoch
            self._is_drawn = numbers < self._probability
        if not self._is_drawn[index]:
            return None
        example = self._examples[index]
        spans = _spans(example, self._field)
        generator = np.random.default_rng((self._seed, epoch, index))
        values = [self._draw_value(example, span, generator) for span in spans]
        unchanged = True
        for span, value in zip(spans, values, strict=True):
            unchanged = unchanged and value.text == example.text[span.start : span.end]
        return None if unchanged else replace_spans(example, spans, values)

    def _draw_value(self, example: Example, span: LabelledSpan, generator: np.random.Generator) -> Value:
        """Draw a different value of the span's label or a similar one.

        Returns the same value if there is no other.
        """
        text = example.text[span.start : span.end]
        candidates = self._values[span.label]
        drawn = candidates[int(generator.integers(len(candidates)))]
        if drawn.text != text:
            return drawn
        alternatives = [value for value in candidates if value.text != text]
        return alternatives[int(generator.integers(len(alternatives)))] if alternatives else drawn


def _pool_values(
    values: Mapping[str, Mapping[str, Value]], listed: Mapping[str, Mapping[str, Value]]
) -> dict[str, list[Value]]:
    """Return the values that each label draws from, each text once. `values` decide which labels are similar."""
    extended = {label: {**label_values, **listed[label]} for label, label_values in values.items()}
    pools = {label: dict(label_values) for label, label_values in extended.items()}
    for first, second in combinations(values, 2):
        common = len(values[first].keys() & values[second].keys())
        if common >= COMMON and common >= ALIKE * len(values[first].keys() | values[second].keys()):
            pools[first] = {**extended[second], **pools[first]}
            pools[second] = {**extended[first], **pools[second]}
    return {label: list(pool.values()) for label, pool in pools.items()}


def _listed_values(texts: Sequence[str], known_values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the values of a list that are not known yet."""
    listed = {}
    for text in texts:
        if text not in known_values:
            listed[text] = Value(text, tuple(match.span() for match in _LISTED_WORD.finditer(text)))
    return listed


def replace_spans(example: Example, spans: Sequence[LabelledSpan], values: Sequence[Value]) -> Example | None:
    """Replace spans of an example by other values.

    Args:
        example: the example.
        spans: in text order, not overlapping.
        values: the new value of each span.

    Returns:
        The changed example. None if a span of another field or a word would be split.
    """
    positions = _PositionMap(spans, [len(value.text) for value in values])
    segments: list[str] = []
    end = 0
    for span, value in zip(spans, values, strict=True):
        segments += [example.text[end : span.start], value.text]
        end = span.end
    segments.append(example.text[end:])
    fields: dict[str, FieldValue] = {}
    for name, field_value in example.fields.items():
        on_pair = name == ANSWER and example.pair is not None
        moved_value = field_value if on_pair else _move_field(field_value, positions)
        if moved_value is None:
            return None
        fields[name] = moved_value
    words = None
    if example.words is not None:
        words = _move_words(example.words, spans, values, positions)
        if words is None:
            return None
    return replace(example, text="".join(segments), fields=fields, words=words)


class _PositionMap:
    """Maps positions of the old text to positions of the new text."""

    def __init__(self, spans: Sequence[LabelledSpan], lengths: Sequence[int]) -> None:
        self._replaced: list[tuple[int, int, int]] = []  # start, end, growth of the text up to the end
        growth = 0
        for span, length in zip(spans, lengths, strict=True):
            growth += length - (span.end - span.start)
            self._replaced.append((span.start, span.end, growth))

    def position(self, old: int) -> int | None:
        """Return the new position; None inside a replaced span."""
        shift = 0
        for start, end, growth in self._replaced:
            if old >= end:
                shift = growth
            elif old > start:
                return None
        return old + shift

    def span(self, item: LabelledSpan) -> LabelledSpan | None:
        """Return the span in the new text; None if a replaced span splits it."""
        start = self.position(item.start)
        end = self.position(item.end)
        return None if start is None or end is None else replace(item, start=start, end=end)


def _move_field(value: FieldValue, positions: _PositionMap) -> FieldValue | None:
    """Move the spans of a field; classes stay. Returns None if a span would be split."""
    spans = spans_in(value)
    if not spans:
        return value
    moved_spans = []
    for span in spans:
        moved = positions.span(span)
        if moved is None:
            return None
        moved_spans.append(moved)
    return tuple(moved_spans)


def _move_words(
    old: Words, spans: Sequence[LabelledSpan], values: Sequence[Value], positions: _PositionMap
) -> Words | None:
    """Move the words outside the spans, and add those of the new values.

    Returns None if a border of a span splits a word, or a value has no words.
    """
    words = []
    for start, end in old:
        is_inside = False
        for span in spans:
            if span.start < end and start < span.end:
                if start < span.start or span.end < end:
                    return None
                is_inside = True
        new_start = positions.position(start)
        new_end = positions.position(end)
        if not is_inside and new_start is not None and new_end is not None:
            words.append((new_start, new_end))
    for span, value in zip(spans, values, strict=True):
        offset = positions.position(span.start)
        if offset is None or value.words is None:
            return None
        for start, end in value.words:
            words.append((offset + start, offset + end))
    return tuple(sorted(words))


def _spans(example: Example, field: str) -> list[LabelledSpan]:
    """Return the spans of a field in text order, or none if two overlap."""
    spans = sorted(spans_in(example.fields.get(field, ())), key=lambda span: span.start)
    for first, second in pairwise(spans):
        if second.start < first.end:
            return []
    return spans


def _value(example: Example, span: LabelledSpan) -> Value:
    """Return the value of a span. It has words if no word of the data is split by the span."""
    text = example.text[span.start : span.end]
    if example.words is None:
        return Value(text, None)
    words = []
    for start, end in example.words:
        if span.start < end and start < span.end:
            if start < span.start or span.end < end:
                return Value(text, None)
            words.append((start - span.start, end - span.start))
    return Value(text, tuple(words))
