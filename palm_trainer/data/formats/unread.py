"""Lines and JSON that hold labels in a way that no reader knows.

They must not be trained on as plain text, nor fail without the name of their format.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from palm_trainer.errors import DataError

_SHARE = 0.5
"""Share of the lines from which they count as labelled."""

_SIGNS: Mapping[str, re.Pattern[str]] = {
    "`word:TAG`": re.compile(r"(?:^|\s)\S+[:/|_](?:O|[BIESMLU]-\S+)(?:\s|$)"),
    "`word TAG` with other lines between": re.compile(r"^\S+(?:[ \t]+\S+)*[ \t]+(?:O|[BIESMLU]-\S+)\s*$"),
    "`text <=> label`": re.compile(r"\S\s*(?:<=>|\|\|\|)\s*\S"),
    "`__label__NAME`": re.compile(r"__label__\S"),
    "`[value](label)`": re.compile(r"\[[^\[\]]{1,200}\](?:\([^()]{1,200}\)|\{[^{}]{1,200}\})"),
    "`<label>value</label>`": re.compile(r"<(\w{1,80})>[^<>]{1,200}</\1>"),
    "columns separated by tabs": re.compile(r"\S\t+\S"),
    "`[IN:... [SL:...`": re.compile(r"\[(?:IN|SL):\w"),
}
"""Notation, and what a line in it holds."""


def check_unlabelled(path: Path, lines: Sequence[str]) -> None:
    """Check that the lines of a file do not look labelled.

    Args:
        path: the file, for messages.
        lines: its first lines, without blank ones.

    Raises:
        DataError: most lines look labelled in a notation that is not read.
    """
    for notation, sign in _SIGNS.items():
        marked = sum(sign.search(line) is not None for line in lines)
        if marked > _SHARE * len(lines):
            raise DataError(
                f"{path}:1: no labels found, but {marked} of {len(lines)} lines hold {notation}. "
                "If these lines hold labels, this format is not read: write jsonl or another format of README. "
                'If they are plain text, set `format = "text"` (`palm-train convert --from text`).'
            )


def check_unread_json(path: Path, document: Any) -> None:
    """Check that a JSON file is not the training data of another product that is not read.

    Args:
        path: the file, for messages.
        document: its content.

    Raises:
        DataError: it is. The message names the product.
    """
    product = _product(document)
    if product:
        raise DataError(
            f"{path}: training data of {product}, which is not read. Write it as jsonl, a line for each text: "
            '{"text": ..., "intent": ..., "slots": [{"start": ..., "end": ..., "label": ...}]}.'
        )


def _product(document: Any) -> str:
    """Return the product that writes such JSON; empty if none is known."""
    if isinstance(document, list):
        return "Dialogflow (user says)" if _is_dialogflow(document) else ""
    if not isinstance(document, dict):
        return ""
    if "userSays" in document or ("responses" in document and "auto" in document):
        return "Dialogflow (intent)"
    rows = document.get("utterances") or document.get("data")
    if "zip-command" in document or ("paragraphs" not in _first_keys(rows) and "text" in _first_keys(rows)):
        return "wit.ai or a like product"
    intents = document.get("intents")
    if isinstance(intents, dict) and any(_is_snips(intent) for intent in intents.values()):
        return "Snips NLU"
    return "Snips (one intent a file)" if any(_is_snips_list(value) for value in document.values()) else ""


def _is_dialogflow(rows: list[Any]) -> bool:
    return "isTemplate" in _first_keys(rows) or "text" in _first_keys(_first_value(rows, "data"))


def _is_snips(intent: Any) -> bool:
    return isinstance(intent, dict) and _is_snips_list(intent.get("utterances"))


def _is_snips_list(rows: Any) -> bool:
    """Return True for utterances that are divided into pieces with and without a slot."""
    return "text" in _first_keys(_first_value(rows, "data"))


def _first_value(rows: Any, key: str) -> Any:
    """Return a value of the first object of a list; None without one."""
    return rows[0].get(key) if _first_keys(rows) else None


def _first_keys(rows: Any) -> set[str]:
    """Return the keys of the first element of a list; none if it is no object."""
    return set(rows[0]) if isinstance(rows, list) and rows and isinstance(rows[0], dict) else set()
