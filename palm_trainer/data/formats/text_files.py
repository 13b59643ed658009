"""What every format's parser shares: its options, the tally of defects, and reading text files strictly."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from palm_trainer.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatOptions:
    """How to read a file; each format uses the options that it needs (documented in `DataConfig`)."""

    columns: tuple[str, ...] = ()
    header: bool | None = None
    delimiter: str | None = None
    label_separator: str | None = None
    scheme: str = "bio"
    joiner: str = " "
    intent_suffix: str | None = None
    intent_line: bool = False


@dataclass(frozen=True, slots=True)
class Defect:
    """Something wrong with the data that was repaired or passed over."""

    kind: str
    count: int
    first: str
    """`file:line` of the first one."""


@dataclass(slots=True)
class Defects:
    """The tally of a data set's defects."""

    _found: dict[str, Defect] = field(default_factory=dict)

    def add(self, kind: str, where: str, count: int = 1) -> None:
        """Counts `count` more of a kind, seen at `file:line`."""
        known = self._found.get(kind)
        self._found[kind] = Defect(kind, known.count + count, known.first) if known else Defect(kind, count, where)

    def __iter__(self) -> Iterator[Defect]:
        return iter(self._found.values())


BYTE_ORDER_MARK = "byte order mark before the first line (removed)"
CRLF = "line ended by CRLF (read as a line end)"
_BOM = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def check_readable(path: Path) -> None:
    """Raises DataError for a path that cannot be opened as a file."""
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the path in the configuration") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def read_text(path: Path, defects: Defects | None = None) -> str:
    """The whole file without its byte order mark; that and CRLF are counted in `defects`.

    Raises:
        DataError: missing, unreadable, empty, or not UTF-8 (with line and column of the first bad byte).
    """
    check_readable(path)
    data = path.read_bytes()
    if (zero := data.find(b"\0")) >= 0 and not data.startswith(_UTF_16):
        raise DataError(f"{_place(path, data, zero)}: a zero byte, as in a binary file; give a text file in UTF-8")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        byte, where = data[error.start], _place(path, data, error.start)
        raise DataError(
            f"{where}: byte 0x{byte:02x} is not UTF-8{_encoding(data)}; convert the file to UTF-8"
        ) from None
    if not text.strip():
        raise DataError(f"{path}: an empty file; a data file holds at least one example")
    if defects is not None:
        if data.startswith(_BOM):
            defects.add(BYTE_ORDER_MARK, f"{path}:1")
        if ended := data.count(b"\r\n"):
            line = data.count(b"\n", 0, data.index(b"\r\n")) + 1
            defects.add(CRLF, f"{path}:{line}", ended)
    return text


def _place(path: Path, data: bytes, position: int) -> str:
    """`file:line:column` of a byte."""
    start = data.rfind(b"\n", 0, position) + 1
    column = len(data[start:position].decode("utf-8", "replace")) + 1
    line = data.count(b"\n", 0, position) + 1
    return f"{path}:{line}:{column}"


def _encoding(data: bytes) -> str:
    """What it may be instead."""
    if data.startswith(_UTF_16):
        return " (UTF-16, by its first bytes)"
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    wide = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return " (GBK or GB18030, it seems)" if wide > 0.2 * len(text) else ""


def lines(text: str) -> list[str]:
    """Lines ended by LF or CRLF; what else `str.splitlines` breaks at (U+2028, U+0085, FF) stays inside a line."""
    found = text.split("\n")
    if found[-1] == "":
        found.pop()
    return [line.removesuffix("\r") for line in found]


def load_json(path: Path, defects: Defects | None = None) -> Any:
    """The value of a JSON file; `defects` as for `read_text`.

    Raises:
        DataError: as `read_text`, or not JSON (with line and column).
    """
    try:
        return json.loads(read_text(path, defects))
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}:{error.colno}: not JSON: {error.msg}; correct it") from None


def join_words(words: Iterable[str], joiner: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """The canonical text of word-tagged data, and the code-point range of each word in it."""
    text, ranges, start = [], [], 0
    for word in words:
        text.append(word)
        ranges.append((start, start + len(word)))
        start += len(word) + len(joiner)
    return joiner.join(text), tuple(ranges)


def class_value(text: str, separator: str | None) -> str | tuple[str, ...]:
    """A class, or the several that `separator` splits it into (empty text: no class applies)."""
    if separator is None:
        return text
    return tuple(dict.fromkeys(part.strip() for part in text.split(separator) if part.strip()))
