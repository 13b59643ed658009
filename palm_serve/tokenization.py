"""Text -> pieces with character offsets. The only importer of `tokenizers`; training's evaluation and the server both tokenize here."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import Encoding as RawEncoding
from tokenizers import Tokenizer

from palm_serve.types import SPECIAL, Encoding


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
    def from_file(cls, path: Path, max_length: int) -> "TextTokenizer":
        """Reads a `tokenizer.json`."""
        return cls(path.read_text(encoding="utf-8"), max_length)

    def encode(self, text: str, pair: str | None = None) -> Encoding:
        """Tokenizes one text, or a text and its pair."""
        return _convert(self._tokenizer.encode(text, pair), text)

    def encode_batch(self, inputs: Sequence[str | tuple[str, str]]) -> list[Encoding]:
        """Tokenizes many texts or pairs in Rust threads, without the interpreter lock."""
        raw = self._tokenizer.encode_batch(list(inputs))
        return [_convert(r, i if isinstance(i, str) else i[0]) for r, i in zip(raw, inputs, strict=True)]


def bare_tokenizer_json(json: str) -> str:
    """The tokenizer without padding and truncation, as a bundle holds it."""
    tokenizer = Tokenizer.from_str(json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return str(tokenizer.to_str())


def _convert(raw: RawEncoding, text: str) -> Encoding:
    segments = [SPECIAL if segment is None else segment for segment in raw.sequence_ids]
    truncated = bool(raw.overflowing)
    seen = len(text)
    if truncated:
        seen = max((end for (_, end), segment in zip(raw.offsets, segments, strict=True) if segment == 0), default=0)
    return Encoding(raw.ids, raw.type_ids, raw.offsets, segments, truncated, seen)
