"""Text -> pieces with character offsets. The only importer of `tokenizers`; training's evaluation and the server both tokenize here."""

from collections.abc import Sequence
from functools import cached_property
from itertools import chain
from typing import NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from tokenizers import Encoding as RawEncoding
from tokenizers import Tokenizer

from palm_serve.types import SPECIAL, Encoding, Windows


class TextTokenizer:
    """A tokenizer configured once and never changed, so that threads may share it.

    Args:
        json: contents of a `tokenizer.json` (its own padding and truncation settings are ignored).
        max_length: tokens, special ones included; longer inputs are cut and marked `truncated`.
    """

    def __init__(self, json: str, max_length: int) -> None:
        self._tokenizer = Tokenizer.from_str(json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self.max_length = max_length

    @classmethod
    def shared(cls, json: str, max_length: int) -> "TextTokenizer":
        """One that is in use with these contents, else a new one, whose reading holds the interpreter's lock for 20 ms: a version that is
        swapped in is seldom tokenized otherwise than the one that it replaces."""
        found = _IN_USE.get((json, max_length))
        if found is None:
            found = _IN_USE[json, max_length] = cls(json, max_length)
        return found

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Tokenizes one text, or a text and its pair."""
        return _convert(self._tokenizer.encode(text, pair), text)

    def encode_batch(self, inputs: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        """Tokenizes many texts or pairs in Rust threads, without the interpreter lock."""
        raw = self._tokenizer.encode_batch(list(inputs))
        return [_convert(r, i if isinstance(i, str) else i[0]) for r, i in zip(raw, inputs, strict=True)]

    def encode_windows(self, inputs: Sequence[tuple[str, str]], windows: Windows) -> list[tuple[Encoding, ...]]:
        """Tokenizes questions with their passages: one encoding for each window, at least one.

        Every piece of a passage is in a window, and each window holds as many as fit behind the question. `truncated` and `seen` are the
        question's: of the passage all is read.
        """
        # Together in Rust threads; what exceeds max_length comes as overflow, without overlap.
        raw = self._tokenizer.encode_batch(list(chain.from_iterable(inputs)), add_special_tokens=False)
        questions, passages = (iter(raw[start::2]) for start in (0, 1))
        return [self._windows(next(questions), next(passages), text, windows) for text, _ in inputs]

    def encode_rows(
        self, inputs: Sequence[tuple[str, str | None]], windows: Windows | None = None
    ) -> list[tuple[Encoding, ...]]:
        """What a model reads of each text and its pair: one encoding, or with `windows` (which need pairs) one for each."""
        if windows is not None:
            return self.encode_windows([(text, pair or "") for text, pair in inputs], windows)
        return [(e,) for e in self.encode_batch([text if pair is None else (text, pair) for text, pair in inputs])]

    def _windows(
        self, question: RawEncoding, passage: RawEncoding, text: str, windows: Windows
    ) -> tuple[Encoding, ...]:
        frame = self._frame
        asked, read = _pieces(question, frame.text_type, 0), _pieces(passage, frame.pair_type, 1)
        room = self.max_length - sum(map(len, (frame.before, frame.between, frame.after)))
        kept = asked[: max(0, min(windows.max_query, room - 1))]
        room -= len(kept)
        step = max(1, min(windows.stride, room))
        seen = len(text) if len(kept) == len(asked) else max((offsets[1] for _, _, offsets, _ in kept), default=0)
        found = []
        for start in range(0, max(len(read) - room, 0) + step, step):
            row = [*frame.before, *kept, *frame.between, *read[start : start + room], *frame.after]
            ids, types, offsets, segments = (list(column) for column in zip(*row, strict=True))
            found.append(Encoding(ids, types, offsets, segments, len(kept) < len(asked), seen))
        return tuple(found)

    @cached_property
    def _frame(self) -> "_Frame":
        raw = self._tokenizer.encode("a", "a")
        first, second = ([i for i, s in enumerate(raw.sequence_ids) if s == segment] for segment in (0, 1))

        def specials(begin: int, end: int) -> list[_Piece]:
            return [(raw.ids[i], raw.type_ids[i], (0, 0), SPECIAL) for i in range(begin, end)]

        return _Frame(
            specials(0, first[0]),
            specials(first[-1] + 1, second[0]),
            specials(second[-1] + 1, len(raw.ids)),
            raw.type_ids[first[0]],
            raw.type_ids[second[0]],
        )


_Piece: TypeAlias = tuple[int, int, tuple[int, int], int]
"""Id, type, offsets, segment."""


class _Frame(NamedTuple):
    """Special tokens around a text and its pair, and the types of the two."""

    before: list[_Piece]
    between: list[_Piece]
    after: list[_Piece]
    text_type: int
    pair_type: int


def _pieces(raw: RawEncoding, type_id: int, segment: int) -> list[_Piece]:
    """All pieces of an untyped encoding, its overflow included."""
    parts = (raw, *raw.overflowing)
    return [(i, type_id, offsets, segment) for r in parts for i, offsets in zip(r.ids, r.offsets, strict=True)]


def bare_tokenizer_json(json: str) -> str:
    """The tokenizer without padding and truncation, as a bundle holds it."""
    tokenizer = Tokenizer.from_str(json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return str(tokenizer.to_str())


_IN_USE: WeakValueDictionary[tuple[str, int], TextTokenizer] = WeakValueDictionary()


def _convert(raw: RawEncoding, text: str) -> Encoding:
    segments = [SPECIAL if segment is None else segment for segment in raw.sequence_ids]
    truncated = bool(raw.overflowing)
    seen = len(text)
    if truncated:
        seen = max((end for (_, end), segment in zip(raw.offsets, segments, strict=True) if segment == 0), default=0)
    return Encoding(raw.ids, raw.type_ids, raw.offsets, segments, truncated, seen)
