"""A tokenizer that is cut to the pieces which some texts can produce."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tokenizers import Tokenizer

from palm_trainer.errors import ConfigError
from palm_trainer.tokenization.cut_vocabulary import CutVocabulary

__all__ = ["CutVocabulary", "count_changed", "prune_vocabulary"]

_KEY = "train.distillation.student.vocabulary"
_BLANK = "\u2581"


def prune_vocabulary(tokenizer_json: str, texts: Iterable[str]) -> CutVocabulary:
    """Keep the pieces that can stand in some texts, all single characters and the special pieces.

    The texts are divided as they were before. The result is a pure function of the set of texts.

    Args:
        tokenizer_json: contents of a `tokenizer.json` with a WordPiece or Unigram model.
        texts: texts that the tokenizer has to read.

    Raises:
        ConfigError: the model is of another kind, or a special piece is not in the vocabulary.
    """
    settings = json.loads(tokenizer_json)
    model = settings["model"]
    kind = model.get("type")
    if kind not in ("WordPiece", "Unigram"):
        raise ConfigError(
            f"{_KEY} = 'text' needs a tokenizer with WordPiece or Unigram pieces, got {kind}. Leave it out."
        )
    ids = _ids_by_piece(model)
    special = _special_pieces(settings, ids)
    prefix = model.get("continuing_subword_prefix", "##") if kind == "WordPiece" else ""
    pieces = special | _reachable_pieces(tokenizer_json, ids, texts, prefix)
    for piece in ids:
        if len(piece.removeprefix(prefix or _BLANK)) <= 1:
            pieces.add(piece)
    old_ids = sorted(ids[piece] for piece in pieces)
    return CutVocabulary(_with_ids(settings, ids, old_ids), tuple(old_ids))


def count_changed(before: str, after: str, texts: Iterable[str]) -> int:
    """Count the texts that a cut tokenizer divides into other pieces than before.

    Args:
        before: contents of the `tokenizer.json`.
        after: contents of the cut one.
        texts: to divide.
    """
    tokenizers = (Tokenizer.from_str(before), Tokenizer.from_str(after))
    changed = 0
    for text in texts:
        first, second = (tokenizer.encode(text).tokens for tokenizer in tokenizers)
        changed += first != second
    return changed


def _ids_by_piece(model: Mapping[str, Any]) -> dict[str, int]:
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        return dict(vocabulary)
    ids = {}
    for index, (piece, _) in enumerate(vocabulary):
        ids[piece] = index
    return ids


def _special_pieces(settings: Mapping[str, Any], ids: Mapping[str, int]) -> set[str]:
    """Return the pieces that no text need hold: added ones, and those of unknown text."""
    special = {token["content"] for token in settings["added_tokens"]}
    unknown = settings["model"].get("unk_token")
    if unknown is not None:
        special.add(unknown)
    unknown_id = settings["model"].get("unk_id")
    for piece, index in ids.items():
        if index == unknown_id:
            special.add(piece)
    missing = sorted(special - ids.keys())
    if missing:
        raise ConfigError(
            f"{_KEY} = 'text' needs a tokenizer whose special pieces are in its vocabulary, got '{missing[0]}', which is not. "
            "To cut it would drop a special piece. Leave it out."
        )
    return special


def _reachable_pieces(tokenizer_json: str, ids: Mapping[str, int], texts: Iterable[str], prefix: str) -> set[str]:
    """Return the pieces of a vocabulary that stand somewhere in the words of some texts.

    Args:
        tokenizer_json: the tokenizer.
        ids: by piece.
        texts: to read.
        prefix: of pieces inside a word.
    """
    tokenizer = Tokenizer.from_str(tokenizer_json)
    words: set[str] = set()
    for text in texts:
        normalized = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
        if tokenizer.pre_tokenizer is None:
            words.add(normalized)
            continue
        for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized):
            words.add(word)
    longest = max(map(len, ids))
    pieces: set[str] = set()
    for word in words:
        for start in range(len(word)):
            inner = prefix if start else ""
            for end in range(start + 1, min(start + longest, len(word)) + 1):
                piece = inner + word[start:end]
                if piece in ids:
                    pieces.add(piece)
    return pieces


def _with_ids(settings: dict[str, Any], ids: Mapping[str, int], old_ids: list[int]) -> str:
    """Return a `tokenizer.json` with the kept pieces, numbered anew."""
    model = settings["model"]
    new_ids = {old: new for new, old in enumerate(old_ids)}
    if isinstance(model["vocab"], dict):
        ordered = sorted((index, piece) for piece, index in ids.items() if index in new_ids)
        model["vocab"] = {piece: new_ids[index] for index, piece in ordered}
    else:
        model["vocab"] = [model["vocab"][index] for index in old_ids]
        if model.get("unk_id") is not None:
            model["unk_id"] = new_ids[model["unk_id"]]
    for token in settings["added_tokens"]:
        token["id"] = new_ids[ids[token["content"]]]
    _renumber_processor(settings.get("post_processor"), new_ids)
    padding = settings.get("padding")
    if padding:
        padding["pad_id"] = new_ids[padding["pad_id"]]
    return json.dumps(settings, ensure_ascii=False)


def _renumber_processor(processor: Any, new_ids: Mapping[int, int]) -> None:
    """Change the ids in a post-processor, and in those that it consists of, in place."""
    if not processor:
        return
    for inner in processor.get("processors", ()):
        _renumber_processor(inner, new_ids)
    special = processor.get("special_tokens")
    for token in special.values() if isinstance(special, dict) else ():
        token["ids"] = [new_ids[index] for index in token["ids"]]
    for key in ("sep", "cls"):
        if isinstance(processor.get(key), list):
            piece, index = processor[key]
            processor[key] = [piece, new_ids[index]]
