"""Decoding of `sequence_label` heads: emissions over pieces -> character spans with probabilities.

The tags of the pieces follow BIO by construction (constrained Viterbi). A span runs from its first piece to its last, is trimmed of white
space and takes in the combining marks that follow it (BERT's normalizer drops them, so no piece covers them).
"""

import unicodedata
from collections.abc import Mapping, Sequence
from operator import itemgetter

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.golden import GoldenAnswer, GoldenSpan
from palm_serve.bundle.manifest import KINDS, TaskInfo
from palm_serve.decoding.crf import FORBIDDEN, LARGEST_LEAD, ForwardBackward, Marginals, Potentials, Viterbi
from palm_serve.decoding.decoder_input import Item
from palm_serve.decoding.served_kind import OutputAxes, OutputColumn, ServedKind
from palm_serve.errors import BundleError
from palm_serve.types import Encoding, FloatArray, Int64Array, Span, Spans

_JOINERS = {"\u200d", "\ufe0e", "\ufe0f"}
OUTSIDE = "O"

_LARGEST_LEAD = np.float32(1000.0)
"""Emissions further below the best one count as this far below, so that no emission outweighs a forbidden transition."""


def is_punctuation(character: str) -> bool:
    """Return True for punctuation and symbols (Unicode categories P* and S*)."""
    return unicodedata.category(character)[0] in "PS"


def tagged_range(encoding: Encoding, segment: int = 0) -> tuple[int, int]:
    """Return the positions [first, after) of the tokens of the text (1: of its pair), which stand together."""
    if segment not in encoding.segments:
        return 0, 0
    first = encoding.segments.index(segment)
    return first, first + encoding.segments.count(segment)


class SequenceLabelDecoder:
    """Viterbi and span probabilities over `<task>.logits`, float32 [B, S, T]."""

    def __init__(self, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> None:
        self._output = task.outputs[0]
        self._tags = task.labels
        self._index = {tag: i for i, tag in enumerate(task.labels)}
        if OUTSIDE not in self._index:
            raise BundleError(f"'{self._output}': the tags must hold '{OUTSIDE}', got none; export again")
        self._outside = self._index[OUTSIDE]
        self._begins = [tag.startswith("B-") for tag in task.labels]
        self._types = list(map(task.span_type, task.labels))
        self._has_roles = bool(task.decode.span_types)
        learned = None
        if task.decode.crf:
            names = task.decode.arrays
            learned = Potentials(arrays[names["start"]], arrays[names["transitions"]], arrays[names["end"]])
            _check_potentials(self._output, learned, len(task.labels))
        self._inverse_temperature = np.float32(1.0 / task.calibration.temperature)
        self._potentials = Potentials.constrained(task.labels, learned)
        self._viterbi = Viterbi(self._potentials)
        self._marginals = ForwardBackward(self._potentials.scaled(float(self._inverse_temperature)))
        # At a higher temperature the limit on the emissions themselves would count.
        is_cool = _LARGEST_LEAD * self._inverse_temperature >= LARGEST_LEAD
        self._takes_single = self._marginals.takes_single and bool(is_cool)
        punctuation = task.decode.value_punctuation
        self._value_punctuation = None if punctuation is None else frozenset(punctuation)

    def __call__(
        self,
        outputs: Mapping[str, FloatArray],
        items: Sequence[Item],
        forbidden: npt.NDArray[np.bool_] | None = None,
    ) -> list[Spans]:
        """Return the spans of each item, in text order, not overlapping.

        Args:
            outputs: graph outputs by full name.
            items: texts of the batch with their encodings.
            forbidden: tags that an item cannot have, [items, T]: of a span type both or none, never `O`. None: all
                tags are possible.
        """
        logits, size = outputs[self._output], self._marginals.rows
        if len(items) == 1 and self._takes_single:
            return [self._decode_row(logits[:1], items[0], None if forbidden is None else forbidden[:1])]
        answers: list[Spans] = []
        for start in range(0, len(items), size):
            rows = slice(start, start + size)
            answers += self._decode_rows(logits[rows], items[rows], None if forbidden is None else forbidden[rows])
        return answers

    def _decode_row(self, logits: FloatArray, item: Item, forbidden: npt.NDArray[np.bool_] | None) -> Spans:
        """Decode one row as `_decode_rows` does, with less work around the arithmetic.

        Args:
            logits: of the row, [1, S, T].
            item: its text.
            forbidden: tags that it cannot have, [1, T]. None: all are possible.
        """
        first, after = tagged_range(item.encoding)
        if first == after:
            return Spans((), self._has_roles)
        emissions = logits[0, first:after]
        if forbidden is not None:
            if emissions.max() > _LARGEST_LEAD or emissions.min() < -_LARGEST_LEAD:
                # They are limited before tags are forbidden, which leaves other differences.
                return self._decode_rows(logits, [item], forbidden)[0]
            emissions = np.where(forbidden, np.float32(FORBIDDEN), emissions)
        lead = emissions - emissions.max(axis=1, keepdims=True)
        lead *= self._inverse_temperature
        np.maximum(lead, -LARGEST_LEAD, out=lead)
        if self._value_punctuation is not None:
            for position in self._foreign(item, first, after):
                lead[position] = -LARGEST_LEAD
                lead[position, self._outside] = 0.0
        beliefs, path = self._marginals.single(lead)
        if path is None:
            all_emissions, lengths, _ = self._align(logits, [item])
            if forbidden is not None:
                np.copyto(all_emissions, FORBIDDEN, where=forbidden[:, None])
            path = self._viterbi(all_emissions, lengths)[0].tolist()
        return self._spans(item, first, path, beliefs, 0)

    def _decode_rows(
        self, logits: FloatArray, items: Sequence[Item], forbidden: npt.NDArray[np.bool_] | None
    ) -> list[Spans]:
        """Decode as many rows as are best decoded at once."""
        emissions, lengths, firsts = self._align(logits, items)
        if forbidden is not None:
            np.copyto(emissions, FORBIDDEN, where=forbidden[:, None])
        beliefs = self._marginals(emissions * self._inverse_temperature, lengths)
        answers = []
        for row, path in enumerate(self._paths(emissions, lengths, beliefs)):
            answers.append(self._spans(items[row], firsts[row], path, beliefs, row))
        return answers

    def _spans(self, item: Item, first: int, path: Sequence[int], beliefs: Marginals, row: int) -> Spans:
        """Return the spans of a row.

        Args:
            item: text of the row.
            first: position of its first token.
            path: its tags.
            beliefs: probabilities of the batch.
            row: number of the row in the batch.
        """
        spans: list[Span] = []
        for run in self._runs(path):
            free = spans[-1].end if spans else 0
            span = self._span(item, first, path, run, beliefs, row, free)
            if span is not None:
                spans.append(span)
        return Spans(tuple(spans), self._has_roles)

    def _paths(self, emissions: FloatArray, lengths: Int64Array, beliefs: Marginals) -> list[list[int]]:
        """Return the best tags of each row.

        Probabilities prove most of them, since a temperature changes no order. Viterbi finds the others.
        """
        likeliest, certain = beliefs.likeliest()
        paths: list[list[int]] = [path[:size] for path, size in zip(likeliest.tolist(), lengths.tolist(), strict=True)]
        doubtful = np.flatnonzero(~certain)
        for row, path in zip(doubtful.tolist(), self._viterbi(emissions[doubtful], lengths[doubtful]), strict=True):
            paths[row] = path.tolist()
        return paths

    def _align(self, logits: FloatArray, items: Sequence[Item]) -> tuple[FloatArray, Int64Array, list[int]]:
        """Return emissions of the text's tokens only, left-aligned [B, L, T], their number [B], and where each row began."""
        ranges = [tagged_range(item.encoding) for item in items]
        lengths = np.array([after - first for first, after in ranges], dtype=np.int64)
        emissions = np.zeros((len(items), max(int(lengths.max(initial=0)), 1), len(self._tags)), dtype=np.float32)
        for row, (first, after) in enumerate(ranges):
            emissions[row, : after - first] = logits[row, first:after]
        if np.abs(emissions).max() > _LARGEST_LEAD:
            emissions = np.maximum(emissions - emissions.max(axis=2, keepdims=True), -_LARGEST_LEAD)
        for row, (first, after) in enumerate(ranges):
            if self._value_punctuation is not None:
                for position in self._foreign(items[row], first, after):
                    keep = emissions[row, position, self._outside]
                    emissions[row, position] = FORBIDDEN
                    emissions[row, position, self._outside] = keep
        return emissions, lengths, [first for first, _ in ranges]

    def _foreign(self, item: Item, first: int, after: int) -> list[int]:
        """Return the tokens, counted from `first`, that consist of punctuation which no training value holds."""
        if "".join(item.text.split()).isalnum():
            return []
        allowed = self._value_punctuation or frozenset()
        positions = []
        for position in range(first, after):
            start, end = item.encoding.offsets[position]
            piece = item.text[start:end].strip()
            if piece and not piece.isalnum() and _is_other_punctuation(piece, allowed):
                positions.append(position - first)
        return positions

    def _runs(self, path: Sequence[int]) -> list[tuple[int, int]]:
        """Return half-open ranges of tokens that form a span each."""
        runs: list[tuple[int, int]] = []
        for position, tag in enumerate(path):
            if tag == self._outside:
                continue
            if self._begins[tag]:
                runs.append((position, position + 1))
            else:
                runs[-1] = (runs[-1][0], position + 1)
        return runs

    def _span(
        self,
        item: Item,
        first: int,
        path: Sequence[int],
        run: tuple[int, int],
        beliefs: Marginals,
        row: int,
        free: int,
    ) -> Span | None:
        """Return the span of a run of tokens.

        It begins at `free` at the earliest: byte-level tokens may share a character.
        """
        offsets = item.encoding.offsets
        start, end = trim(item.text, max(free, offsets[first + run[0]][0]), offsets[first + run[1] - 1][1])
        if start >= end:
            return None
        tags = path[run[0] : run[1]]
        continuing = self._index.get("I-" + self._tags[tags[0]][2:])
        confidence = beliefs.segment(row, len(path), run[0], tags, continuing)
        span_type = self._types[tags[0]]
        value = item.text[start:end]
        return Span(span_type.name, value, start, end, confidence, span_type.role, span_type.group)


def _check_potentials(output: str, potentials: Potentials, tags: int) -> None:
    """Raise BundleError for potentials of another number of tags."""
    shapes = potentials.start.shape, potentials.transitions.shape, potentials.end.shape
    if shapes != ((tags,), (tags, tags), (tags,)):
        raise BundleError(
            f"'{output}': start, transitions and end must have {tags} tags as the labels, got the shapes {shapes}; export again"
        )


def _is_other_punctuation(text: str, allowed: frozenset[str]) -> bool:
    """Return True if a text consists of punctuation that is not allowed."""
    return allowed.isdisjoint(text) and all(map(is_punctuation, text))


def trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Return a range without white space at its ends, with the combining marks and joiners that follow it.

    Args:
        text: the whole text.
        start: first code point of the range.
        end: code point after the range.
    """
    while end < len(text) and (unicodedata.category(text[end])[0] == "M" or text[end] in _JOINERS):
        end += 1
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end


class ServedSequenceLabel(ServedKind[Spans]):
    """Labelled spans of a text."""

    facts = KINDS["sequence_label"]

    def decoder(self, task: TaskInfo, arrays: Mapping[str, FloatArray]) -> SequenceLabelDecoder:
        """Build the decoder; `arrays` hold the learned scores of a CRF."""
        return SequenceLabelDecoder(task, arrays)

    def golden(self, answer: Spans) -> GoldenAnswer:
        """Return the spans."""
        spans = []
        for span in answer.spans:
            roles = dict(filter(itemgetter(1), (("role", span.role), ("group", span.group))))
            spans.append(GoldenSpan(name=span.name, start=span.start, end=span.end, **roles))
        return GoldenAnswer(spans=tuple(spans))

    def output_axes(self, task: TaskInfo) -> Mapping[str, OutputAxes]:
        """Return the tokens, with one column for each tag."""
        return {task.outputs[0]: (None, len(task.labels))}

    def columns(self, task: TaskInfo) -> Mapping[str, OutputColumn]:
        """Return nothing: spans are answered as JSON only."""
        return {}

    def label_names(self, task: TaskInfo) -> tuple[str, ...]:
        """Return the span names of the tags, in order of first appearance."""
        names: dict[str, None] = {}
        for tag in task.labels:
            if tag != OUTSIDE:
                names[task.span_type(tag).name] = None
        return tuple(names)
