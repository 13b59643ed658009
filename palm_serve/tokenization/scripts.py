"""Scripts of letters, and the test of a text for letters that a model cannot read."""

import unicodedata
from collections.abc import Callable, Collection
from functools import lru_cache, partial

from palm_serve.bundle.manifest import Manifest
from palm_serve.tokenization.text_tokenizer import TextTokenizer
from palm_serve.types import Encoding


@lru_cache(maxsize=65_536)
def script_of(letter: str) -> str:
    """Return the script of a letter in lower case (`latin`, `cyrillic`, `cjk`), or "" for any other character.

    It is the first word of the letter's Unicode name, once compatibility forms (full width, mathematical) are resolved.
    """
    if not letter.isalpha():
        return ""
    plain_letter = unicodedata.normalize("NFKC", letter)[0]
    return unicodedata.name(plain_letter, "").partition(" ")[0].lower()


def is_unknown_language(text: str, encoding: Encoding, unknown_id: int | None, scripts: Collection[str]) -> bool:
    """Return True if a model cannot read most of a text.

    A letter is unread if its script is not among `scripts`, or if it lies in an unknown piece. Most of a text is unread if
    more than half of its letters are, and more than half of its words: one foreign name does not count for more than the
    words around it. A text without letters and digits is unread if all its pieces are unknown.

    Args:
        text: the text. Only the part that the model sees counts.
        encoding: its tokens, perhaps with those of a pair.
        unknown_id: id of the unknown piece, or None if the vocabulary has none.
        scripts: scripts that the model reads.
    """
    seen_text = text[: encoding.seen]
    unknown_ranges = _unknown_ranges(encoding, unknown_id)
    if not unknown_ranges and seen_text.isascii() and "latin" in scripts:
        return False
    unknown_positions: set[int] = set()
    for start, end in unknown_ranges:
        unknown_positions.update(range(start, end))
    letters = unread_letters = words = unread_words = offset = 0
    for word in seen_text.split():
        offset = seen_text.index(word, offset)
        word_letters = word_unread = 0
        for position, character in enumerate(word, offset):
            if script := script_of(character):
                word_letters += 1
                word_unread += position in unknown_positions or script not in scripts
        offset += len(word)
        letters += word_letters
        unread_letters += word_unread
        words += word_letters > 0
        unread_words += 2 * word_unread > word_letters
    if letters:
        return 2 * unread_letters > letters and 2 * unread_words > words
    has_digits = any(map(str.isalnum, seen_text))
    return not has_digits and 0 < len(unknown_ranges) == encoding.segments.count(0)


def language_check(manifest: Manifest, tokenizer: TextTokenizer) -> Callable[[str, Encoding], bool]:
    """Return `is_unknown_language` for a model, called with a text and its tokens.

    It is always false for a model that does not say which scripts it reads.

    Args:
        manifest: of the model's bundle.
        tokenizer: its tokenizer.
    """
    intent = manifest.task_with_role("intent")
    scripts = frozenset(manifest.tasks[intent].thresholds.scripts if intent else ())
    if not scripts:
        return lambda text, encoding: False
    return partial(is_unknown_language, unknown_id=tokenizer.unknown_id, scripts=scripts)


def _unknown_ranges(encoding: Encoding, unknown_id: int | None) -> list[tuple[int, int]]:
    """Return the ranges of the text in unknown pieces."""
    if unknown_id is None:
        return []
    ranges = []
    for token_id, offsets, segment in zip(encoding.input_ids, encoding.offsets, encoding.segments, strict=True):
        if token_id == unknown_id and segment == 0:
            ranges.append(offsets)
    return ranges
