"""Trial of a bundle's tokenizer before it serves: no text that a client may send takes it long or makes it grow.

A request is tokenized on the event loop or beside it, where nothing can stop it. So what a tokenizer may do is bounded
when it is loaded: normalizers by what their settings say, all else by trials on long texts. Regular expressions that are
not those of well-known tokenizers are tried in a process of their own, because nothing else ends one that backtracks.

A trial cannot prove that no text is slow. It finds the expressions whose repetitions overlap, such as `(a+)+$`.
"""

import base64
import binascii
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

from palm_serve.tokenization.text_tokenizer import TextTokenizer

_MAX_GROWTH = 64
"""Limit of the characters that normalizers may make of one. Unicode's own compatibility forms make 18."""
_TEXT_CHARACTERS = 2000
"""Length of a trial's text. Texts up to this length are tokenized on the event loop."""
_TEXT_LIMIT_S = 0.25
"""CPU time for one text. Well-known tokenizers take 2 ms."""
_RETRY_LIMIT_S = 2.5
"""CPU time up to which a text that took too long is tried once more."""
_MAX_WORD_CHARACTERS = 1000
"""Limit of WordPiece's longest word, whose cost grows with the third power of its length. BERT's is 100."""
_TRIAL_LIMIT_S = 20
"""CPU time of a process that tries regular expressions. Its texts take well-known ones a second."""
_TRIAL_MEMORY = 4 << 30
_FEW_CHARACTERS = "a 中ﷺ"
"""Characters of the texts where no expression is tried. Unicode expands the last one most (U+FDFA)."""
_CHARACTERS = "aA0_q .,'-/\t\n中é😀ﷺ"
"""Characters of the texts where one is: one of each class."""
_MAX_CHARACTERS = 48

_KNOWN_EXPRESSIONS = frozenset(
    (
        r" {2,}",
        r"\s+",
        r"[\r\n]",
        r"\s?[^\s|]+",
        r"\p{N}{1,3}",
        r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    )
)
"""Expressions of the tokenizers of GPT-2, CLIP, XLM-R, Llama 3 and Qwen 2."""


def open_tokenizer(tokenizer_json: str, max_length: int) -> TextTokenizer:
    """Return a tokenizer that has passed its trial, or one with the same contents that is in use.

    Args:
        tokenizer_json: contents of a `tokenizer.json`.
        max_length: tokens of an encoding, special tokens included.

    Raises:
        ValueError: the contents are no tokenizer, or one that a text can hold up. The message states the fault.
    """
    tokenizer = TextTokenizer.in_use(tokenizer_json, max_length)
    if tokenizer is not None:
        return tokenizer
    try:
        tokenizer = TextTokenizer.shared(tokenizer_json, max_length)
        settings = json.loads(tokenizer_json)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # `tokenizers` raises plain Exceptions, and panics derive from BaseException
        raise ValueError(f"it is no tokenizer ({error})") from None
    growth = math.prod(map(_growth, _nodes(settings.get("normalizer"))))
    if growth > _MAX_GROWTH:
        raise ValueError(f"its normalizers may make at most {_MAX_GROWTH} characters of one, got {growth:,.0f}")
    longest_word = settings["model"].get("max_input_chars_per_word", 0)
    if longest_word > _MAX_WORD_CHARACTERS:
        raise ValueError(f"max_input_chars_per_word must be at most {_MAX_WORD_CHARACTERS:,}, got {longest_word:,}")
    expressions = set(_expressions(settings)) - _KNOWN_EXPRESSIONS
    if expressions:
        _try_in_process(tokenizer_json, max_length, expressions)
    else:
        try_texts(tokenizer, _FEW_CHARACTERS)
    return tokenizer


def try_texts(tokenizer: TextTokenizer, characters: str) -> None:
    """Tokenize texts that repeat one character.

    Args:
        tokenizer: the tokenizer.
        characters: each makes one text, and one with another character at its end.

    Raises:
        ValueError: a text takes too long, or the tokenizer fails.
    """
    for character in dict.fromkeys(characters):
        for length in (1, 250, _TEXT_CHARACTERS):
            # The second text ends with a character that no expression expects.
            for text, pair in ((character * length, None), ("a", f"{character * length}\x01")):
                _try_text(tokenizer, text, pair, f"{length:,} times {character!r}")


def _try_text(tokenizer: TextTokenizer, text: str, pair: str | None, name: str) -> None:
    """Tokenize one text and its pair. Raise ValueError with their `name` if that fails or takes too long."""
    seconds, tokens = _time_text(tokenizer, text, pair, name)
    # On a busy machine a text of 2 ms has once taken 0.8 s of CPU time.
    if _TEXT_LIMIT_S < seconds < _RETRY_LIMIT_S:
        again, _ = _time_text(tokenizer, text, pair, name)
        seconds = min(seconds, again)
    if tokens > tokenizer.max_length:
        raise ValueError(
            f"its texts must have at most max_length = {tokenizer.max_length} tokens, got {tokens} for {name}"
        )
    if seconds > _TEXT_LIMIT_S:
        raise ValueError(f"it may take {_TEXT_LIMIT_S:g} s for a text, and took {seconds:.1f} s for {name}")


def _time_text(tokenizer: TextTokenizer, text: str, pair: str | None, name: str) -> tuple[float, int]:
    """Return the CPU seconds and the tokens of a text. Raise ValueError with its `name` where the tokenizer fails."""
    began = time.thread_time()
    try:
        tokens = len(tokenizer.encode(text, pair))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        raise ValueError(f"it fails on {name}: {error}") from None
    return time.thread_time() - began, tokens


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield all objects of a JSON value."""
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield node
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def _growth(normalizer: dict[str, Any]) -> float:
    """Return how many characters a normalizer may make of one, as its settings say."""
    if normalizer.get("type") == "Replace":
        pattern = normalizer.get("pattern", {})
        content = len(normalizer.get("content", ""))
        if "String" in pattern:
            return max(1.0, content / len(pattern["String"])) if pattern["String"] else math.inf
        return max(1.0, content)
    if normalizer.get("type") == "Precompiled":
        try:
            table = base64.b64decode(normalizer["precompiled_charsmap"] or "")
        except (binascii.Error, KeyError, TypeError):
            return math.inf
        trie_bytes = int.from_bytes(table[:4], "little")
        replacements = table[4 + trie_bytes :].decode(errors="replace").split("\0")
        return max(1.0, *map(len, replacements))
    if normalizer.get("type") == "Prepend":
        return 1.0 + len(normalizer.get("prepend", ""))
    return 1.0


def _expressions(settings: dict[str, Any]) -> Iterator[str]:
    """Yield the regular expressions of a tokenizer."""
    for section in ("normalizer", "pre_tokenizer"):
        for node in _nodes(settings.get(section)):
            if isinstance(node.get("Regex"), str):
                yield node["Regex"]


def _try_in_process(tokenizer_json: str, max_length: int, expressions: set[str]) -> None:
    """Try regular expressions in a process with limits on its CPU time and memory.

    Raises:
        ValueError: it fails or exceeds a limit.
    """
    characters = dict.fromkeys(_CHARACTERS)
    for expression in sorted(expressions):
        characters.update(dict.fromkeys(expression))
    task = {"json": tokenizer_json, "max_length": max_length, "characters": "".join(characters)[:_MAX_CHARACTERS]}
    # -P: nothing is imported from the working directory.
    command = [sys.executable, "-P", "-c", "from palm_serve.tokenization.trial import main; main()"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    trial = subprocess.run(
        command, input=json.dumps(task), capture_output=True, text=True, encoding="utf-8", env=environment, check=False
    )
    if trial.returncode:
        reason = trial.stdout.strip() or f"a trial of {_TRIAL_LIMIT_S} s did not end"
        raise ValueError(f"its regular expressions must take a text in time: {reason}")


def main() -> None:
    """Run a trial as a process: read it from standard input, print the fault, and exit with 1 if there is one."""
    if sys.platform != "win32":
        import resource

        for number, limit in ((resource.RLIMIT_CPU, _TRIAL_LIMIT_S), (resource.RLIMIT_AS, _TRIAL_MEMORY)):
            hard = resource.getrlimit(number)[1]
            resource.setrlimit(number, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
    task = json.loads(sys.stdin.buffer.read())
    try:
        try_texts(TextTokenizer(task["json"], task["max_length"]), task["characters"])
    except ValueError as error:
        sys.stdout.buffer.write(str(error).encode(errors="backslashreplace"))
        sys.exit(1)
