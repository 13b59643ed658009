"""Offsets of other products in code points: UTF-16 units of JavaScript and .NET, and values that tell where they stand."""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from itertools import accumulate

from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

OTHER_UNIT = "offsets that fit their value in {} only (read so)"
MOVED = "value that is not at its offsets (moved to where it stands)"


def from_utf16(text: str, start: int, end: int, source: str) -> tuple[int, int]:
    """Convert a range in UTF-16 units to code points.

    Args:
        text: the text.
        start: first unit.
        end: unit after the last.
        source: place of the range, for messages.

    Raises:
        DataError: the range is empty or not within the text, or begins or ends inside of a character.
    """
    limits = _utf16_positions(text)
    length = limits[-1]
    if not 0 <= start < end <= length:
        raise DataError(
            f"{source}: span {start}-{end} is not a range in a text of {length} UTF-16 units; need 0 <= start < end"
        )
    points = _in_code_points(limits, start, end)
    if points is None:
        raise DataError(f"{source}: span {start}-{end} begins or ends inside of a character of two UTF-16 units")
    return points


def place_value(text: str, start: int, end: int, value: str, source: str, defects: Defects) -> tuple[int, int]:
    """Find a value at its offsets, whose unit the product does not tell: code points, UTF-16 units or bytes of UTF-8.

    Args:
        text: the text.
        start: first unit.
        end: unit after the last.
        value: what stands there.
        source: place of the range, for messages.
        defects: tally of offsets in other units, and of values that stand elsewhere.

    Returns:
        Range in code points.

    Raises:
        DataError: the value is empty or does not occur in the text.
    """
    if 0 <= start < end and text[start:end] == value:
        return start, end
    for unit, positions in _UNITS:
        points = _in_code_points(positions(text), start, end)
        if points is not None and text[points[0] : points[1]] == value:
            defects.add(OTHER_UNIT.format(unit), source)
            return points
    nearest = find_nearest(text, value, max(start, 0)) if value else -1
    if nearest < 0:
        raise DataError(f"{source}: {value!r} does not stand in the text. Correct it, or remove it.")
    defects.add(MOVED, source)
    return nearest, nearest + len(value)


def find_nearest(text: str, value: str, start: int) -> int:
    """Return the position of a value nearest to `start`, the earlier of two; -1 if it does not occur.

    Args:
        text: the text.
        value: what is searched.
        start: code point at which it should stand.
    """
    start = min(start, len(text))
    after = text.find(value, start)
    before = text.rfind(value, 0, max(start - 1 + len(value), 0)) if start else -1
    if before >= 0 and (after < 0 or start - before <= after - start):
        return before
    return after


@lru_cache(maxsize=2)  # a text may have thousands of spans
def _utf16_positions(text: str) -> Sequence[int]:
    """Return the UTF-16 unit at which each code point begins, and the number of units."""
    if text.isascii() or max(text, default="") <= "\uffff":
        return range(len(text) + 1)
    return _positions(1 + (character > "\uffff") for character in text)


@lru_cache(maxsize=2)
def _utf8_positions(text: str) -> Sequence[int]:
    """Return the byte at which each code point begins, and the number of bytes."""
    if text.isascii():
        return range(len(text) + 1)
    return _positions(len(character.encode("utf-8", "surrogatepass")) for character in text)


def _positions(lengths: Iterator[int]) -> list[int]:
    return list(accumulate(lengths, initial=0))


_UNITS: tuple[tuple[str, Callable[[str], Sequence[int]]], ...] = (
    ("UTF-16 units", _utf16_positions),
    ("bytes of UTF-8", _utf8_positions),
)


def _in_code_points(positions: Sequence[int], start: int, end: int) -> tuple[int, int] | None:
    """Return a range in code points; None if it is empty, or begins or ends inside of a character."""
    if start >= end:
        return None
    first = bisect_left(positions, start)
    last = bisect_left(positions, end)
    if last == len(positions) or positions[first] != start or positions[last] != end:
        return None
    return first, last
