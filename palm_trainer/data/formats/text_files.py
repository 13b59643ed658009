"""Shared by all parsers: format options, the tally of defects, and strict reading of text files."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from sys import intern

from palm_trainer.data.found_values import FoundValues
from palm_trainer.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class FormatOptions:
    """Options of the formats, documented in `DataConfig`. Each format uses those that it needs."""

    columns: tuple[str, ...] = ()
    header: bool | None = None
    delimiter: str | None = None
    label_separator: str | None = None
    scheme: str = "bio"
    joiner: str = " "
    intent_suffix: str | None = None
    intent_line: bool = False
    token_column: int | None = None
    tag_column: int | None = None


@dataclass(frozen=True, slots=True)
class Defect:
    """A defect of the data that was repaired or skipped."""

    kind: str
    count: int
    first: str
    """`file:line` of the first occurrence."""


MAX_KINDS = 60
"""Kinds that a tally tells apart. Names from the data are part of some kinds, and data may hold any number of them."""
OTHER_KINDS = f"of further kinds (the first {MAX_KINDS} are listed)"
REPEATED_CLASS = "class given twice for one row (kept once)"


@dataclass(slots=True)
class Defects:
    """A tally of defects by kind: the account of what a reader changed, left out or passed over."""

    _by_kind: dict[str, Defect] = field(default_factory=dict)
    values: FoundValues = field(init=False)
    """Values that the reader found beside the examples."""

    def __post_init__(self) -> None:
        self.values = FoundValues(self.add)

    def add(self, kind: str, source: str, count: int = 1) -> None:
        """Count defects.

        Args:
            kind: description of the defect.
            source: `file:line` of the first one.
            count: number of new defects.
        """
        if kind not in self._by_kind and len(self._by_kind) >= MAX_KINDS:
            kind = OTHER_KINDS
        previous = self._by_kind.get(kind)
        if previous is None:
            self._by_kind[kind] = Defect(kind, count, source)
        else:
            self._by_kind[kind] = Defect(kind, previous.count + count, previous.first)

    def __iter__(self) -> Iterator[Defect]:
        return iter(self._by_kind.values())


BYTE_ORDER_MARK = "byte order mark before the first line (removed)"
MORE_MARKS = "further byte order mark at the beginning of a line (removed)"
CRLF = "line ended by CRLF (read as a line end)"
CR_ENDS = "line ended by CR alone (read as a line end)"
_MARK = "\ufeff"
_LINE_MARKS = re.compile(r"(?<=[\n\r])\ufeff+")
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


def check_readable(path: Path) -> None:
    """Check that a path can be opened as a file.

    Raises:
        DataError: it cannot.
    """
    if path.is_fifo():  # opening it waits for a writer, and it cannot be read twice
        raise DataError(f"{path}: must be a regular file, got a pipe. Write its content to a file first")
    try:
        path.open("rb").close()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check its path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from None


def read_text(path: Path, defects: Defects | None = None) -> str:
    """Read a whole file without byte order marks at the beginning of a line, as joined files have them.

    Byte order marks, CRLF and, where a file has no other line ends, CR are counted in `defects`.

    Raises:
        DataError: the file is missing, unreadable, empty, or not UTF-8 (with line and column of the
            first bad byte).
    """
    check_readable(path)
    return decode_text(path.read_bytes(), path, defects)


def decode_text(data: bytes, path: Path, defects: Defects | None = None) -> str:
    """Return the text of a file, as `read_text` does.

    Args:
        data: content of the file.
        path: its path, for messages.
        defects: tally of byte order marks and line ends.

    Raises:
        DataError: the content is empty or not UTF-8.
    """
    zero = data.find(b"\0")
    if zero >= 0 and not data.startswith(_UTF_16):
        raise DataError(f"{_place(path, data, zero)}: a zero byte, as in a binary file; give a text file in UTF-8")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        byte = data[error.start]
        place = _place(path, data, error.start)
        raise DataError(
            f"{place}: byte 0x{byte:02x} is not UTF-8{_guess_encoding(data)}; convert the file to UTF-8"
        ) from None
    defects = Defects() if defects is None else defects
    text = _with_line_ends(path, text, defects)
    text = _without_marks(path, text, defects)
    if not text.strip():
        raise DataError(f"{path}: an empty file; a data file holds at least one example")
    return text


def _with_line_ends(path: Path, text: str, defects: Defects) -> str:
    """Return a text with LF for each CR, if it has no LF. Count CR and CRLF."""
    if "\r" not in text:
        return text
    if "\n" not in text:
        defects.add(CR_ENDS, f"{path}:1", text.count("\r"))
        return text.replace("\r", "\n")
    crlf_count = text.count("\r\n")
    if crlf_count:
        line = _line_of(text, text.index("\r\n"))
        defects.add(CRLF, f"{path}:{line}", crlf_count)
    return text


def _without_marks(path: Path, text: str, defects: Defects) -> str:
    """Return a text without the byte order marks before its lines, and count them."""
    if _MARK not in text:
        return text
    if text.startswith(_MARK):
        defects.add(BYTE_ORDER_MARK, f"{path}:1")
        count = len(text) - len(text.lstrip(_MARK))
        text = text[count:]
        if count > 1:
            defects.add(MORE_MARKS, f"{path}:1", count - 1)
    marks = _LINE_MARKS.findall(text)
    if marks:
        first = _LINE_MARKS.search(text)
        assert first is not None
        defects.add(MORE_MARKS, f"{path}:{_line_of(text, first.start())}", sum(map(len, marks)))
    return _LINE_MARKS.sub("", text)


def _line_of(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1


def _place(path: Path, data: bytes, position: int) -> str:
    """Return `file:line:column` of a byte."""
    start = data.rfind(b"\n", 0, position) + 1
    column = len(data[start:position].decode("utf-8", "replace")) + 1
    line = data.count(b"\n", 0, position) + 1
    return f"{path}:{line}:{column}"


def _guess_encoding(data: bytes) -> str:
    """Guess the encoding of a file that is not UTF-8, for the message."""
    if data.startswith(_UTF_16):
        return " (UTF-16, by its first bytes)"
    try:
        text = data.decode("gb18030")
    except UnicodeDecodeError:
        return ""
    chinese_count = sum("\u4e00" <= character <= "\u9fff" for character in text)
    return " (GBK or GB18030, it seems)" if chinese_count > 0.2 * len(text) else ""


def split_lines(text: str) -> list[str]:
    """Split text at LF or CRLF.

    Other separators of `str.splitlines` (U+2028, U+0085, FF) stay inside a line.
    """
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def join_words(words: Iterable[str], joiner: str) -> tuple[str, tuple[tuple[int, int], ...]]:
    """Join words to a text. Returns the text, and the code-point range of each word in it."""
    texts = []
    ranges = []
    start = 0
    for word in words:
        texts.append(word)
        ranges.append((start, start + len(word)))
        start += len(word) + len(joiner)
    return joiner.join(texts), tuple(ranges)


def align_words(text: str, words: Sequence[str]) -> tuple[tuple[int, int], ...] | None:
    """Find words in a text that holds them in order, with nothing but white space between them.

    Args:
        text: the text.
        words: its words.

    Returns:
        Code-point range of each word. None: the text does not hold exactly these words.
    """
    ranges = []
    position = 0
    for word in words:
        while position < len(text) and text[position].isspace() and not text.startswith(word, position):
            position += 1
        if not text.startswith(word, position):
            return None
        ranges.append((position, position + len(word)))
        position += len(word)
    return None if text[position:].strip() else tuple(ranges)


def class_value(text: str, separator: str | None, source: str, defects: Defects) -> str | tuple[str, ...]:
    """Return a class, or several split at `separator`.

    Without a class in the text, no class applies.

    Args:
        text: the class or classes.
        separator: between several classes. None: one class.
        source: `file:line`, for messages.
        defects: tally of classes that stand twice.
    """
    if separator is None:
        return intern(text)  # a million rows have few classes
    names = map(str.strip, text.split(separator))
    return distinct_classes(list(filter(None, names)), source, defects)


def distinct_classes(names: Sequence[str], source: str, defects: Defects) -> tuple[str, ...]:
    """Return the classes of a row in order, each once.

    Args:
        names: the classes.
        source: `file:line`, for messages.
        defects: tally of classes that stand twice.
    """
    distinct = tuple(dict.fromkeys(names))
    if len(distinct) < len(names):
        defects.add(REPEATED_CLASS, source, len(names) - len(distinct))
    return distinct
