"""Statistics of tokenized texts: pieces of each row, unknown pieces, and letters that are read one at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tokenizers import Encoding as RawEncoding
from tokenizers import Tokenizer

from palm_serve.tokenization import find_unknown_id
from palm_trainer.data.example import Example

UNKNOWN_LIMIT = 0.05
"""Share of unknown pieces from which an encoder loses too much of the text."""
_BATCH = 4096
"""Rows that are tokenized at a time, so that a large data set needs little memory."""


@dataclass(frozen=True, slots=True)
class PieceCounts:
    """Statistics of tokenized rows.

    Args:
        lengths: pieces of each row before any cut, special tokens included.
        pieces: all pieces without special tokens.
        unknown: pieces that stand for text that the vocabulary cannot write.
        unknown_rows: indices of the rows with unknown pieces.
        letters: letters of the text.
        unread_letters: letters in an unknown piece, and letters of longer words that are a piece each, Latin ones left out.
        unread_rows: indices of the rows of which more than half of the letters are unread.
    """

    lengths: tuple[int, ...]
    pieces: int
    unknown: int
    unknown_rows: tuple[int, ...]
    letters: int
    unread_letters: int
    unread_rows: tuple[int, ...]

    @property
    def unknown_share(self) -> float:
        """Return the share of unknown pieces, from 0 to 1."""
        return self.unknown / self.pieces if self.pieces else 0.0

    @property
    def unread_share(self) -> float:
        """Return the share of letters that the encoder cannot read as words, from 0 to 1."""
        return self.unread_letters / self.letters if self.letters else 0.0

    def cut_rows(self, max_length: int) -> list[int]:
        """Return the indices of the rows with more pieces than `max_length`."""
        cut = []
        for index, length in enumerate(self.lengths):
            if length > max_length:
                cut.append(index)
        return cut


def count_pieces(examples: Sequence[Example], tokenizer_json: str, *, reads_ideographs: bool = True) -> PieceCounts:
    """Tokenize the text of each example with its pair, and count what comes out.

    Args:
        examples: the parsed examples. Row i is example i.
        tokenizer_json: contents of a `tokenizer.json`. Its own truncation is ignored.
        reads_ideographs: False for an encoder of another language, to which a Chinese character says nothing
            although its vocabulary has a piece for it.
    """
    tokenizer = _whole_rows(tokenizer_json)
    unknown_id = find_unknown_id(tokenizer)
    lengths: list[int] = []
    pieces = unknown = letters = unread_letters = 0
    unknown_rows: list[int] = []
    unread_rows: list[int] = []
    for index, (example, encoding) in enumerate(zip(examples, _encode(tokenizer, examples), strict=True)):
        ids = encoding.ids
        lengths.append(len(ids))
        pieces += len(ids) - sum(encoding.special_tokens_mask)
        row_unknown = ids.count(unknown_id) if unknown_id is not None else 0
        if row_unknown:
            unknown += row_unknown
            unknown_rows.append(index)
        row_letters, row_unread = _count_letters(example, encoding, unknown_id, reads_ideographs)
        letters += row_letters
        unread_letters += row_unread
        if 2 * row_unread > row_letters:
            unread_rows.append(index)
    return PieceCounts(
        tuple(lengths), pieces, unknown, tuple(unknown_rows), letters, unread_letters, tuple(unread_rows)
    )


def count_tokens(examples: Sequence[Example], tokenizer_json: str) -> list[int]:
    """Return the length of each row in tokens, before any cut and special tokens included."""
    tokenizer = _whole_rows(tokenizer_json)
    lengths: list[int] = []
    for texts in _batches(examples):
        lengths += map(len, tokenizer.encode_batch_fast(texts))
    return lengths


def _whole_rows(tokenizer_json: str) -> Tokenizer:
    """Return a tokenizer that neither cuts nor pads."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _encode(tokenizer: Tokenizer, examples: Sequence[Example]) -> Iterator[RawEncoding]:
    """Yield the encoding of each example, with its pair where it has one."""
    for texts in _batches(examples):
        yield from tokenizer.encode_batch(texts)


def _batches(examples: Sequence[Example]) -> Iterator[list[str | tuple[str, str]]]:
    """Yield the texts of the examples in batches, each with its pair where it has one."""
    for start in range(0, len(examples), _BATCH):
        texts: list[str | tuple[str, str]] = []
        for example in examples[start : start + _BATCH]:
            second = example.inputs.second
            texts.append(example.text if second is None else (example.text, second))
        yield texts


def _count_letters(
    example: Example, encoding: RawEncoding, unknown_id: int | None, reads_ideographs: bool
) -> tuple[int, int]:
    """Return the letters of a row, and those that are unknown or one of several letters of a word read singly."""
    texts = (example.text, example.inputs.second or "")
    letters = _letters(texts[0]) + _letters(texts[1])
    letters_by_word: dict[tuple[int, int], int] = {}
    single_by_word: dict[tuple[int, int], int] = {}
    unread = 0
    read_before = (-1, 0, 0)
    for token_id, (start, end), word, segment in zip(
        encoding.ids, encoding.offsets, encoding.word_ids, encoding.sequence_ids, strict=True
    ):
        if segment is None or word is None or (segment, start, end) == read_before:
            continue  # a special token, or another byte of the same letter
        read_before = (segment, start, end)
        piece_letters = _letters(texts[segment][start:end])
        if token_id == unknown_id:
            unread += piece_letters
            continue
        if piece_letters == 1 and is_ideograph(texts[segment][start]):
            unread += not reads_ideographs
            continue
        key = (segment, word)
        letters_by_word[key] = letters_by_word.get(key, 0) + piece_letters
        if piece_letters == 1 and not _is_latin(texts[segment][start]):
            single_by_word[key] = single_by_word.get(key, 0) + 1
    for key, count in single_by_word.items():
        if letters_by_word[key] > 1:
            unread += count
    return letters, unread


def _is_latin(letter: str) -> bool:
    """Return True for a Latin letter. Codes are spelled in them, and every vocabulary has them."""
    return letter <= "\u024f" or "\u1e00" <= letter <= "\u1eff"


def _letters(text: str) -> int:
    """Count the letters of a text."""
    return sum(map(str.isalpha, text))


def is_ideograph(character: str) -> bool:
    """Return True for a Chinese character, which is a word or a part of one by itself."""
    return "\u3400" <= character <= "\u9fff" or "\uf900" <= character <= "\ufaff" or character >= "\U00020000"
