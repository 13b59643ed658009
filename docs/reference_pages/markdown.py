"""Pieces of Markdown, as code hosts and the site read it."""

import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"(`[^`]*`)")
_NAMES = re.compile(
    r"""
    (?<![\w/.-])(?:
        --[a-z][a-z-]*[a-z]              # an option
        | [A-Z][A-Z0-9]*(?:_[A-Z0-9*]+)+(?:=\w+)?  # a variable or a status
        | [a-z_]{2,}(?:\.[A-Za-z_]\w+)+(?:=\w+)?  # a path of a key, or a file
        | [a-z][a-z0-9]*(?:\.?[a-z0-9]*_[a-z0-9_.]*[a-z0-9])  # a key, a field or a module
    )(?![\w/-])
    """,
    re.VERBOSE,
)
_SPECIAL = re.compile(r"([*<>|\[\]_])")


def prose(text: str) -> str:
    """Return the text of a docstring or a help text as one line of Markdown. Options, variables and keys become code."""
    parts = _CODE.split(" ".join(text.split()))
    for index in range(0, len(parts), 2):
        parts[index] = _outside_code(parts[index])
    return "".join(parts).replace("``", "")


def _outside_code(text: str) -> str:
    lines = []
    place = 0
    for name in _NAMES.finditer(text):
        lines += [_SPECIAL.sub(r"\\\1", text[place : name.start()]), f"`{name[0]}`"]
        place = name.end()
    return "".join([*lines, _SPECIAL.sub(r"\\\1", text[place:])])


def code(text: object) -> str:
    """Return a text as code, an empty one as nothing."""
    return f"`{text}`" if str(text) else ""


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table.

    Args:
        heads: titles of the columns.
        rows: cells as Markdown. Bars in them are escaped here.
    """
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(map(_cell, line))} |" for line in lines)


def _cell(text: str) -> str:
    return re.sub(r"(?<!\\)\|", r"\\|", text)


def block(language: str, text: str) -> str:
    """Return a block of code."""
    return f"```{language}\n{text}\n```"


def paragraphs(*parts: str) -> str:
    """Return parts with an empty line between them, without those that are empty."""
    return "\n\n".join(part for part in parts if part)
