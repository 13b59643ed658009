"""Tokenization of texts into tokens with character offsets. Training's evaluation and the server both use this module.

It is the only importer of `tokenizers`.
"""

import json
from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple, TypeAlias
from weakref import WeakValueDictionary

from tokenizers import Encoding as RawEncoding
from tokenizers import Tokenizer

from palm_serve.types import SPECIAL, Encoding, InputTexts, RowLayout, Windows

_IN_CONTEXT = RowLayout(context=True)


class TextTokenizer:
    """A tokenizer that never changes once it is made, so threads may share it.

    Args:
        tokenizer_json: contents of a `tokenizer.json`. Its own padding and truncation settings are ignored.
        max_length: tokens of an encoding, special tokens included. Longer inputs are cut and marked `truncated`.
    """

    def __init__(self, tokenizer_json: str, max_length: int) -> None:
        self._tokenizer = Tokenizer.from_str(tokenizer_json)
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self.max_length = max_length

    @classmethod
    def in_use(cls, tokenizer_json: str, max_length: int) -> "TextTokenizer | None":
        """Return a tokenizer that is in use with the same contents, or None."""
        return _IN_USE.get((tokenizer_json, max_length))

    @classmethod
    def shared(cls, tokenizer_json: str, max_length: int) -> "TextTokenizer":
        """Return a tokenizer that is in use with the same contents, or make one.

        Reading a tokenizer holds the interpreter's lock for 20 ms. A new version of a model usually has the tokenizer of
        the version that it replaces.
        """
        tokenizer = cls.in_use(tokenizer_json, max_length)
        if tokenizer is None:
            tokenizer = cls(tokenizer_json, max_length)
            _IN_USE[tokenizer_json, max_length] = tokenizer
        return tokenizer

    @cached_property
    def unknown_id(self) -> int | None:
        """Id of the piece for text that the vocabulary cannot write, or None if there is no such piece."""
        return find_unknown_id(self._tokenizer)

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Tokenize one text, or a text and its pair."""
        return _convert(self._tokenizer.encode(text, pair), text)

    def encode_batch(self, inputs: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        """Tokenize many texts or pairs in threads of the tokenizer, without the interpreter's lock."""
        raw_encodings = self._tokenizer.encode_batch(list(inputs))
        encodings = []
        for raw, text_or_pair in zip(raw_encodings, inputs, strict=True):
            text = text_or_pair if isinstance(text_or_pair, str) else text_or_pair[0]
            encodings.append(_convert(raw, text))
        return encodings

    def encode_windows(self, inputs: Sequence[tuple[str, str]], windows: Windows) -> list[tuple[Encoding, ...]]:
        """Tokenize questions with their passages, each into one or more windows.

        Every token of a passage is in a window. Each window holds as many as fit after the question. `truncated` and
        `seen` describe the question, because the passage is always read completely.
        """
        texts = []
        for question, passage in inputs:
            texts.append(question)
            texts.append(passage)
        # One call, in threads of the tokenizer. Tokens beyond max_length come as overflow, without overlap.
        raw_encodings = self._tokenizer.encode_batch(texts, add_special_tokens=False)
        rows = []
        for index, (question, _) in enumerate(inputs):
            raw_question = raw_encodings[2 * index]
            raw_passage = raw_encodings[2 * index + 1]
            rows.append(self._split_windows(raw_question, raw_passage, question, windows))
        return rows

    def encode_rows(self, inputs: Sequence[InputTexts], layout: RowLayout = _IN_CONTEXT) -> list[tuple[Encoding, ...]]:
        """Tokenize texts, with their pairs or contexts, into the rows that a model reads.

        Args:
            inputs: the texts.
            layout: how they are read. The default reads one row for each input, with its context, cut to `max_length`.
        """
        if layout.windows is not None:
            return self.encode_windows([(texts.text, texts.pair or "") for texts in inputs], layout.windows)
        plain: list[str | tuple[str, str]] = []
        in_context: list[InputTexts] = []
        for texts in inputs:
            if _reads_context(texts, layout):
                in_context.append(texts)
            else:
                plain.append(texts.text if texts.pair is None else (texts.text, texts.pair))
        plain_rows = iter(self.encode_batch(plain))
        context_rows = iter(self._encode_in_context(in_context) if in_context else ())
        rows: list[tuple[Encoding, ...]] = []
        for texts in inputs:
            rows.append((next(context_rows if _reads_context(texts, layout) else plain_rows),))
        return rows

    def _encode_in_context(self, inputs: Sequence[InputTexts]) -> list[Encoding]:
        """Tokenize texts, each with as much of the beginning of its context as fits after the whole text."""
        if self.max_length < self._tokenizer.num_special_tokens_to_add(is_pair=True) + 2:
            return self.encode_batch([texts.text for texts in inputs])
        raw_texts = self._tokenizer.encode_batch([texts.text for texts in inputs], add_special_tokens=False)
        raw_contexts = self._tokenizer.encode_batch([texts.context for texts in inputs], add_special_tokens=False)
        template = self._template
        encodings = []
        for texts, raw_text, raw_context in zip(inputs, raw_texts, raw_contexts, strict=True):
            text_tokens = _tokens(raw_text, template.text_type, 0)
            room = self.max_length - template.special_tokens - len(text_tokens)
            context_tokens = _tokens(raw_context, template.pair_type, 1)[: max(0, room)]
            if not context_tokens:
                encodings.append(self.encode(texts.text))
                continue
            row = [*template.before, *text_tokens, *template.between, *context_tokens, *template.after]
            encodings.append(_from_tokens(row, truncated=False, code_points_seen=len(texts.text)))
        return encodings

    def _split_windows(
        self, raw_question: RawEncoding, raw_passage: RawEncoding, question: str, windows: Windows
    ) -> tuple[Encoding, ...]:
        template = self._template
        question_tokens = _tokens(raw_question, template.text_type, 0)
        passage_tokens = _tokens(raw_passage, template.pair_type, 1)
        room = self.max_length - template.special_tokens
        read_tokens = question_tokens[: max(0, min(windows.max_query, room - 1))]
        truncated = len(read_tokens) < len(question_tokens)
        code_points_seen = _last_offset(read_tokens) if truncated else len(question)
        room -= len(read_tokens)
        stride = max(1, min(windows.stride, room))
        encodings = []
        for start in range(0, max(len(passage_tokens) - room, 0) + stride, stride):
            window = passage_tokens[start : start + room]
            row = [*template.before, *read_tokens, *template.between, *window, *template.after]
            encodings.append(_from_tokens(row, truncated=truncated, code_points_seen=code_points_seen))
        return tuple(encodings)

    @cached_property
    def _template(self) -> "_Template":
        """Special tokens of a pair, read from the encoding of a short one."""
        raw = self._tokenizer.encode("a", "a")
        text_start, text_end = _segment_range(raw, 0)
        pair_start, pair_end = _segment_range(raw, 1)
        return _Template(
            _special_tokens(raw, 0, text_start),
            _special_tokens(raw, text_end, pair_start),
            _special_tokens(raw, pair_end, len(raw.ids)),
            raw.type_ids[text_start],
            raw.type_ids[pair_start],
        )


_Token: TypeAlias = tuple[int, int, tuple[int, int], int]
"""Id, type, offsets and segment."""


class _Template(NamedTuple):
    """Special tokens around a text and its pair, and the token types of the two."""

    before: list[_Token]
    between: list[_Token]
    after: list[_Token]
    text_type: int
    pair_type: int

    @property
    def special_tokens(self) -> int:
        """Number of special tokens."""
        return len(self.before) + len(self.between) + len(self.after)


def _reads_context(texts: InputTexts, layout: RowLayout) -> bool:
    """Return True if the context is a part of the row."""
    return layout.context and texts.pair is None and bool(texts.context)


def _from_tokens(row: Sequence[_Token], *, truncated: bool, code_points_seen: int) -> Encoding:
    """Return the encoding of a row of tokens."""
    ids, types, offsets, segments = zip(*row, strict=True)
    return Encoding(list(ids), list(types), list(offsets), list(segments), truncated, code_points_seen)


def _segment_range(raw: RawEncoding, segment: int) -> tuple[int, int]:
    """Return the half-open range of the tokens of a segment."""
    segments = list(raw.sequence_ids)
    start = segments.index(segment)
    end = len(segments) - segments[::-1].index(segment)
    return start, end


def _special_tokens(raw: RawEncoding, begin: int, end: int) -> list[_Token]:
    return [(raw.ids[index], raw.type_ids[index], (0, 0), SPECIAL) for index in range(begin, end)]


def _tokens(raw: RawEncoding, type_id: int, segment: int) -> list[_Token]:
    """Return all tokens of an encoding, its overflow included, with this type and segment."""
    tokens = []
    for encoding in (raw, *raw.overflowing):
        for token_id, offsets in zip(encoding.ids, encoding.offsets, strict=True):
            tokens.append((token_id, type_id, offsets, segment))
    return tokens


def _last_offset(tokens: Sequence[_Token]) -> int:
    """Return the largest end of a token in its text. Zero for no tokens."""
    last_offset = 0
    for _, _, (_, end), _ in tokens:
        last_offset = max(last_offset, end)
    return last_offset


def find_unknown_id(tokenizer: Tokenizer) -> int | None:
    """Return the id of a tokenizer's piece for text that the vocabulary cannot write, or None if there is no such piece."""
    token = getattr(tokenizer.model, "unk_token", None)
    if isinstance(token, str):
        token_id: int | None = tokenizer.token_to_id(token)
        return token_id
    unknown_id = json.loads(tokenizer.to_str())["model"].get("unk_id")  # Unigram has it only here
    return unknown_id if isinstance(unknown_id, int) else None


def bare_tokenizer_json(tokenizer_json: str) -> str:
    """Return the tokenizer without padding and truncation, as a bundle holds it."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return str(tokenizer.to_str())


_IN_USE: WeakValueDictionary[tuple[str, int], TextTokenizer] = WeakValueDictionary()


def _convert(raw: RawEncoding, text: str) -> Encoding:
    """Convert an encoding of the tokenizers package."""
    offsets = raw.offsets
    segments = [SPECIAL if segment is None else segment for segment in raw.sequence_ids]
    truncated = bool(raw.overflowing)
    code_points_seen = len(text)
    if truncated:
        code_points_seen = 0
        for (_, end), segment in zip(offsets, segments, strict=True):
            if segment == 0:
                code_points_seen = max(code_points_seen, end)
    return Encoding(raw.ids, raw.type_ids, offsets, segments, truncated, code_points_seen)
