"""Slot values that change places: an example with other values of the same labels, anew in every epoch.

What is drawn is a pure function of (seed, epoch, example), so that a resumed run, or another number of processes, draws the same.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
import numpy.typing as npt

from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.jsonl import ANSWER

Words = tuple[tuple[int, int], ...]

ALIKE = 0.25
"""Two labels draw from each other's values where at least so much of all that either has is common to both (their Jaccard index) ..."""
COMMON = 2
"""... and at least so many values: one alone may be chance."""


@dataclass(frozen=True, slots=True)
class Value:
    """What stands in a span, and the ranges of its words, where the data has words."""

    text: str
    words: Words | None


class Substitution:
    """Changes all values of some examples; those whose label has one value only stay.

    A label draws from its own values and from those of labels like it (`ALIKE`): cities to leave from and cities to go to are the same cities,
    though training has not seen each in both roles.

    Args:
        examples: the training examples of the data set. The values come from them too, each with the same probability, however often it occurs.
        field: whose spans are replaced. Spans of other fields move with the text; an example where one of them is cut stays as it is.
        probability: that an example is changed, in each epoch.
        seed: with epoch and example, decides everything.
    """

    def __init__(self, examples: Sequence[Example], field: str, probability: float, seed: int) -> None:
        self._examples = examples
        self._field = field
        self._probability = probability
        self._seed = seed
        found: dict[str, dict[str, Value]] = {}
        for example in examples:
            for span in _spans(example, field):
                value = _value(example, span)
                found.setdefault(span.label, {}).setdefault(value.text, value)
        self._values = _pools(found)
        self._epoch = -1
        self._chosen: npt.NDArray[np.bool_] = np.zeros(0, dtype=np.bool_)

    def draw(self, epoch: int, index: int) -> Example | None:
        """The example as it is in this epoch; None where it is as ever."""
        if epoch != self._epoch:
            share = np.random.default_rng((self._seed, epoch)).random(len(self._examples))
            self._epoch, self._chosen = epoch, share < self._probability
        if not self._chosen[index]:
            return None
        example = self._examples[index]
        spans = _spans(example, self._field)
        generator = np.random.default_rng((self._seed, epoch, index))
        values = [self._other(example, span, generator) for span in spans]
        if all(value.text == example.text[s.start : s.end] for s, value in zip(spans, values, strict=True)):
            return None
        return replace_spans(example, spans, values)

    def _other(self, example: Example, span: LabelledSpan, generator: np.random.Generator) -> Value:
        """Another value of the span's label or one like it, or its own where there is none."""
        text = example.text[span.start : span.end]
        values = self._values[span.label]
        chosen = values[int(generator.integers(len(values)))]
        if chosen.text == text:  # one of the others, each as likely
            others = [value for value in values if value.text != text]
            chosen = others[int(generator.integers(len(others)))] if others else chosen
        return chosen


def _pools(values: Mapping[str, Mapping[str, Value]]) -> dict[str, list[Value]]:
    """What each label draws from, each text once."""
    pools = {label: dict(own) for label, own in values.items()}
    for one, other in combinations(values, 2):
        common = len(values[one].keys() & values[other].keys())
        if common >= COMMON and common >= ALIKE * len(values[one].keys() | values[other].keys()):
            pools[one] = {**values[other], **pools[one]}
            pools[other] = {**values[one], **pools[other]}
    return {label: list(pool.values()) for label, pool in pools.items()}


def replace_spans(example: Example, spans: Sequence[LabelledSpan], values: Sequence[Value]) -> Example | None:
    """The example with values in the place of spans (in text order, not overlapping); None where that cuts a span of another field, or a word."""
    moves = _Moves(spans, [len(value.text) for value in values])
    parts, end = [], 0
    for span, value in zip(spans, values, strict=True):
        parts += [example.text[end : span.start], value.text]
        end = span.end
    fields: dict[str, FieldValue] = {}
    for name, held in example.fields.items():
        fields[name] = held
        marked = [item for item in held if isinstance(item, LabelledSpan)]
        if marked and not (name == ANSWER and example.pair is not None):
            moved = [new for item in marked if (new := moves.span(item)) is not None]
            if len(moved) < len(marked):
                return None
            fields[name] = tuple(moved)
    words = None if example.words is None else _words(example.words, spans, values, moves)
    if example.words is not None and words is None:
        return None
    return replace(example, text="".join([*parts, example.text[end:]]), fields=fields, words=words)


class _Moves:
    """Where positions of the old text are in the new one."""

    def __init__(self, spans: Sequence[LabelledSpan], lengths: Sequence[int]) -> None:
        self._replaced: list[tuple[int, int, int]] = []  # start, end, how much longer the text is after it
        longer = 0
        for span, length in zip(spans, lengths, strict=True):
            longer += length - (span.end - span.start)
            self._replaced.append((span.start, span.end, longer))

    def position(self, old: int) -> int | None:
        """None inside a replaced span."""
        shift = 0
        for start, end, longer in self._replaced:
            if old >= end:
                shift = longer
            elif old > start:
                return None
        return old + shift

    def span(self, item: LabelledSpan) -> LabelledSpan | None:
        """The same span in the new text; None where a replaced one cuts it."""
        start, end = self.position(item.start), self.position(item.end)
        return None if start is None or end is None else replace(item, start=start, end=end)


def _words(old: Words, spans: Sequence[LabelledSpan], values: Sequence[Value], moves: _Moves) -> Words | None:
    """Words outside the spans where they are now, and those of the values; None where a span's border cuts a word, or a value has no words."""
    found = []
    for start, end in old:
        touching = [span for span in spans if span.start < end and start < span.end]
        if any(start < span.start or span.end < end for span in touching):
            return None
        first, last = moves.position(start), moves.position(end)
        if not touching and first is not None and last is not None:
            found.append((first, last))
    for span, value in zip(spans, values, strict=True):
        begin = moves.position(span.start)
        if begin is None or value.words is None:
            return None
        found += [(begin + start, begin + end) for start, end in value.words]
    return tuple(sorted(found))


def _spans(example: Example, field: str) -> list[LabelledSpan]:
    """Spans of a field in text order; none where two overlap."""
    spans = sorted(
        (item for item in example.fields.get(field, ()) if isinstance(item, LabelledSpan)), key=lambda span: span.start
    )
    return [] if any(right.start < left.end for left, right in pairwise(spans)) else spans


def _value(example: Example, span: LabelledSpan) -> Value:
    words = None
    if example.words is not None:
        inside = [(s, e) for s, e in example.words if span.start < e and s < span.end]
        if all(span.start <= s and e <= span.end for s, e in inside):
            words = tuple((s - span.start, e - span.start) for s, e in inside)
    return Value(example.text[span.start : span.end], words)
