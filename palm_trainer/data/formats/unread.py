"""Lines that hold labels in a way that no reader knows. They must not be trained on as plain text."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

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
    "`label +++$+++ text`": re.compile(r"\+\+\+\$\+\+\+"),
    '`<name key="value">`': re.compile(r"<\w{1,80}(?:\s+[\w:-]{1,80}=\"[^\"<>]{0,200}\")+\s*/?>"),
    "`(label (label word) ...)`": re.compile(r"^\s*\(\w{1,80} \("),
    "`text @label`": re.compile(r"\S\s+@[\w/.-]+\s*$"),
    "`text;label`": re.compile(r"\w;[\w/.-]+\s*$"),
    "`word/tag`": re.compile(r"^(?:[^\s/]+/[A-Za-z]{1,8}(?:\s+|$)){2,}$"),
    "`LABEL:name text`": re.compile(r"^[A-Z]{2,20}:[a-z]\w*\s+\S"),
    "`0 text`": re.compile(r"^\d +[^\W\d]"),
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
                "If these lines hold labels, this format is not read: write jsonl or another format of docs/reference/formats.md. "
                'If they are plain text, set `format = "text"` (`palm-train convert --from text`).'
            )
