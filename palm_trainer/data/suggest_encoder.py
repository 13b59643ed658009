"""The encoder of a suggested configuration: one that can read the data, with room for nearly every row."""

import math
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from palm_trainer.config.encoder import ScratchEncoderConfig
from palm_trainer.data.example import Example
from palm_trainer.data.pieces import UNKNOWN_LIMIT, count_pieces, count_tokens, is_ideograph
from palm_trainer.errors import PalmError
from palm_trainer.tokenization.cut_vocabulary import isolate_characters
from palm_trainer.tokenization.e5_files import E5_POSITIONS, E5_SMALL_ZH, INSTALL, TOKENIZER, is_installed
from palm_trainer.tokenization.encoder_files import count_positions, locate_encoder, read_tokenizer
from palm_trainer.tokenization.learned import train_tokenizer

PRETRAINED = "minilm-l6-en"
"""The encoder that is installed with the package. It reads English, and other languages in Latin letters."""
UNREAD_LIMIT = 0.3
"""Share of unread letters from which an encoder is not suited to the data."""
UNREAD_ROWS_LIMIT = 0.1
"""Share of rows with mostly unread letters from which an encoder is not suited to the data."""
COVERED = 0.99
"""Share of the rows of each split that `max_length` does not cut."""

_USUAL_LENGTHS = (32, 64, 128, 256, 512)
_LENGTH_STEP = 128
"""Longer lengths are multiples of this one."""
_PASSAGE_LENGTH = 384
"""Tokens of a window of question and passage."""
_LEARNED_POSITIONS = 8192
"""Largest `max_length` of an encoder from scratch."""
_ROWS = 2_000
"""Rows of a split whose letters are looked at. Shares need no more."""
_UNSPACED_SHARE = 0.3
"""Share of letters of scripts without blanks from which a token is a character."""
_MARKS_SHARE = 0.01
"""Share of characters with marks that lower-casing would remove from which the case is kept."""
# Thai, Lao and Tibetan; Myanmar; Khmer; Tai Le, New Tai Lue and Khmer symbols. East Asian scripts come after all.
_UNSPACED = (("\u0e00", "\u0fff"), ("\u1000", "\u109f"), ("\u1780", "\u17ff"), ("\u1950", "\u19ff"))
_UNSPACED_FROM = "\u2e80"
_MULTILINGUAL = "google-bert/bert-base-multilingual-cased"
_CHINESE = "hfl/chinese-roberta-wwm-ext"
_SUGGESTED_FOR_CHINESE = "scratch"
"""Encoder for Chinese without the hub. E5_SMALL_ZH takes its place, where it is installed, once it is measured to gain."""

Splits = Mapping[str, Sequence[Example]]


@dataclass(frozen=True)
class EncoderSuggestion:
    """An encoder for some data.

    Args:
        table: section `[encoder]` of the configuration.
        remarks: why it was chosen and what it cuts, a line each.
        comments: lines for the section, for a user with access to other encoders.
    """

    table: dict[str, Any]
    remarks: list[str]
    comments: list[str] = field(default_factory=list)


def suggest_encoder(splits: Splits, *, passages: bool) -> EncoderSuggestion:
    """Choose the packaged encoder where it can read the data, else one from scratch, by counting pieces.

    Args:
        splits: examples by split, `train` among them.
        passages: True where a task reads passages in windows.
    """
    try:
        folder = Path(locate_encoder(PRETRAINED))
    except PalmError as error:  # the package is not installed
        return _suggest_scratch(splits, passages, str(error).removesuffix("."))
    tokenizer = read_tokenizer(folder)
    counts = count_pieces(_sample(splits), tokenizer, reads_ideographs=False)
    unread_rows = len(counts.unread_rows) / len(counts.lengths)
    if counts.unread_share > UNREAD_LIMIT or unread_rows > UNREAD_ROWS_LIMIT:
        reason = (
            f"{PRETRAINED} reads English: {counts.unread_share:.0%} of the letters of this data are unknown to it "
            f"or read one at a time, in {unread_rows:.0%} of the rows most of them"
        )
        return _suggest_scratch(splits, passages, reason)
    length, length_remarks = _max_length(splits, tokenizer, count_positions(folder), passages)
    shares = f"{counts.unknown_share:.1%} of the pieces unknown, {counts.unread_share:.0%} of the letters unread"
    remarks = [f"encoder {PRETRAINED}: {shares}", *length_remarks]
    if unread_rows > 1 - COVERED:
        remarks.append(
            f"{unread_rows:.0%} of the rows are in a script that {PRETRAINED} cannot read. "
            f'With access to the Hugging Face Hub: model = "{_MULTILINGUAL}"'
        )
    return EncoderSuggestion({"model": PRETRAINED, "max_length": length}, remarks)


def _suggest_scratch(splits: Splits, passages: bool, reason: str) -> EncoderSuggestion:
    """Return an encoder from scratch whose vocabulary can write the data."""
    texts: list[str] = []
    for example in splits["train"]:
        texts += filter(None, (example.text, example.inputs.second))
    characters_of_text = Counter(chain.from_iterable(texts))
    letters = Counter(dict(filter(_is_letter, characters_of_text.items())))
    is_chinese = _count(letters, is_ideograph) > letters.total() / 2
    if is_chinese and _SUGGESTED_FOR_CHINESE == E5_SMALL_ZH and is_installed():
        return _suggest_e5_small_zh(splits, passages)
    characters = _count(letters, _is_unspaced) > _UNSPACED_SHARE * letters.total()
    lowercase = _count(characters_of_text, _loses_mark) <= _MARKS_SHARE * characters_of_text.total()
    tokenizer = _learn(texts, lowercase, characters)
    counts = count_pieces(_sample(splits), tokenizer)
    if not characters and counts.unknown_share > UNKNOWN_LIMIT:
        characters = True
        tokenizer = _learn(texts, lowercase, characters)
        counts = count_pieces(_sample(splits), tokenizer)
    length, length_remarks = _max_length(splits, tokenizer, _LEARNED_POSITIONS, passages)
    table: dict[str, Any] = {"model": "scratch", "max_length": length}
    if characters:
        table["characters"] = True
    if not lowercase:
        table["lowercase"] = False
    unit = "a token for each character" if characters else "a vocabulary of words and their parts"
    remarks = [
        f"encoder from scratch, with {unit} learned from the data, since {reason}",
        f"vocabulary of the encoder from scratch: {counts.unknown_share:.1%} of the pieces unknown",
        *length_remarks,
    ]
    model = _CHINESE if is_chinese else _MULTILINGUAL
    comments = [
        f"From scratch, since {reason}.",
        "A pretrained encoder that reads this script is usually better. With access to the Hugging Face Hub write",
        f'model = "{model}", remove characters and lowercase, and set learning_rate = 5e-5 without head_learning_rate.',
    ]
    if is_chinese:
        comments.append(
            f'Without the hub: model = "{E5_SMALL_ZH}" (to install it, {INSTALL}). Whether it gains is not measured yet.'
        )
    return EncoderSuggestion(table, remarks, comments)


def _suggest_e5_small_zh(splits: Splits, passages: bool) -> EncoderSuggestion:
    """Return the encoder for Chinese that comes with Python packages. Lengths are those of single characters."""
    tokenizer = isolate_characters(TOKENIZER.read().decode("utf-8"))
    counts = count_pieces(_sample(splits), tokenizer)
    length, remarks = _max_length(splits, tokenizer, E5_POSITIONS, passages)
    first = f"encoder {E5_SMALL_ZH}: {counts.unknown_share:.1%} of the pieces unknown"
    return EncoderSuggestion({"model": E5_SMALL_ZH, "max_length": length}, [first, *remarks])


def _learn(texts: Sequence[str], lowercase: bool, characters: bool) -> str:
    """Return the tokenizer that a run with an encoder from scratch learns from the training texts."""
    vocab_size: int = ScratchEncoderConfig.model_fields["vocab_size"].default
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, lowercase=lowercase, characters=characters)
    return str(tokenizer.to_str())


def _max_length(splits: Splits, tokenizer: str, positions: int, passages: bool) -> tuple[int, list[str]]:
    """Return a length that covers the rows of each split, and a remark on it.

    Args:
        splits: examples by split.
        tokenizer: contents of the encoder's `tokenizer.json`.
        positions: largest number of tokens that the encoder reads.
        passages: True where a task reads passages in windows, so that no row is cut.
    """
    if passages:
        return min(_PASSAGE_LENGTH, positions), []
    needed = 0
    all_lengths: list[int] = []
    for examples in splits.values():
        lengths = sorted(count_tokens(examples, tokenizer))
        needed = max(needed, lengths[math.ceil(COVERED * len(lengths)) - 1])
        all_lengths += lengths
    length = min(_round_up(needed), positions)
    cut = sum(map(length.__lt__, all_lengths))
    covered = f"{COVERED:.0%} of the rows of each split have at most {needed} tokens"
    return length, [f"encoder.max_length {length}: {covered}; {cut:,} of {len(all_lengths):,} rows are cut"]


def _round_up(length: int) -> int:
    """Return the first usual length that is long enough."""
    for usual_length in _USUAL_LENGTHS:
        if usual_length >= length:
            return usual_length
    return -(-length // _LENGTH_STEP) * _LENGTH_STEP


def _sample(splits: Splits) -> list[Example]:
    """Return the examples of all splits, evenly spaced ones of a large split."""
    sampled: list[Example] = []
    for examples in splits.values():
        sampled += examples[:: -(-len(examples) // _ROWS)]
    return sampled


def _count(characters: Counter[str], condition: Callable[[str], bool]) -> int:
    """Count the characters that meet a condition."""
    total = 0
    for character, count in characters.items():
        total += count * condition(character)
    return total


def _is_letter(item: tuple[str, int]) -> bool:
    return item[0].isalpha()


def _is_unspaced(letter: str) -> bool:
    """Return True for a letter of a script that is written without blanks."""
    for first, last in _UNSPACED:
        if first <= letter <= last:
            return True
    return letter >= _UNSPACED_FROM


def _loses_mark(character: str) -> bool:
    """Return True if lower-casing, which removes accents too, would remove a mark of a script without capitals.

    Such marks are vowels (Hindi, Thai) or tell syllables apart (Japanese). Every uncased encoder removes the accents
    of scripts with capitals.
    """
    if character <= "\u036f" or character.lower() != character.upper():
        return False
    return len(unicodedata.normalize("NFD", character)) > 1 or unicodedata.category(character) == "Mn"
