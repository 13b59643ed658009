"""A SentencePiece tokenizer that reads Chinese one character at a time, and is cut to the pieces of a corpus."""

import json
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

_BLANK = "\u2581"
"""What SentencePiece writes for a blank before a word."""
_CHINESE = ("CJK ", "IDEOGRAPHIC ")
"""How the Unicode names of Chinese characters and of their punctuation begin."""


@dataclass(frozen=True)
class CutVocabulary:
    """A tokenizer with fewer pieces.

    Args:
        tokenizer_json: contents of its `tokenizer.json`.
        old_ids: ids that its pieces had, in their new order: the piece `old_ids[i]` has the id i now.
    """

    tokenizer_json: str
    old_ids: tuple[int, ...]


def isolate_characters(tokenizer_json: str) -> str:
    """Make every Chinese character a piece of its own.

    A span of Chinese text may begin and end at any character, but a piece has one tag: where a piece covers characters
    inside and outside of a span, the span cannot be learnt.

    Args:
        tokenizer_json: contents of a `tokenizer.json`.
    """
    settings = json.loads(tokenizer_json)
    split = {"type": "Split", "pattern": {"Regex": r"\p{Han}"}, "behavior": "Isolated", "invert": False}
    settings["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [settings["pre_tokenizer"], split]}
    return json.dumps(settings, ensure_ascii=False)


def cut_vocabulary(tokenizer_json: str, texts: Iterable[str]) -> CutVocabulary:
    """Keep the pieces that can stand in some texts, single Chinese and ASCII characters, and the special tokens.

    The texts are divided as they were before. The result is a pure function of the set of texts.

    Args:
        tokenizer_json: contents of a `tokenizer.json` with a Unigram model. The ids of its pieces are their places.
        texts: texts that the tokenizer has to read.
    """
    settings = json.loads(tokenizer_json)
    vocabulary: list[list[Any]] = settings["model"]["vocab"]
    special = {token["content"] for token in settings["added_tokens"]}
    pieces = _find_pieces(tokenizer_json, frozenset(piece for piece, _ in vocabulary), texts)
    old_ids: list[int] = []
    for index, (piece, _) in enumerate(vocabulary):
        if piece in special or piece in pieces or _is_basic(piece):
            old_ids.append(index)
    new_ids = {old: new for new, old in enumerate(old_ids)}
    settings["model"]["vocab"] = [vocabulary[index] for index in old_ids]
    settings["model"]["unk_id"] = new_ids[settings["model"]["unk_id"]]
    for token in settings["added_tokens"]:
        token["id"] = new_ids[token["id"]]
    for token in settings["post_processor"]["special_tokens"].values():
        token["ids"] = [new_ids[index] for index in token["ids"]]
    return CutVocabulary(json.dumps(settings, ensure_ascii=False), tuple(old_ids))


def _find_pieces(tokenizer_json: str, vocabulary: frozenset[str], texts: Iterable[str]) -> set[str]:
    """Return the pieces of a vocabulary that stand somewhere in the words of some texts."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    words: set[str] = set()
    for text in texts:
        normalized = tokenizer.normalizer.normalize_str(text)
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized):
            words.add(word)
    longest = max(map(len, vocabulary))
    text_pieces: set[str] = set()
    for word in words:
        for start in range(len(word)):
            for end in range(start + 1, min(start + longest, len(word)) + 1):
                piece = word[start:end]
                if piece in vocabulary:
                    text_pieces.add(piece)
    return text_pieces


def _is_basic(piece: str) -> bool:
    """Return True for a piece of one Chinese or ASCII character, also with the blank before it."""
    character = piece if piece == _BLANK else piece.removeprefix(_BLANK)
    if len(character) != 1:
        return False
    return piece == _BLANK or character.isascii() or unicodedata.name(character, "").startswith(_CHINESE)
