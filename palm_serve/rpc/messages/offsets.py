"""Conversion of code-point offsets to the unit of a client."""

from collections.abc import Callable

from palm_serve.v1.palm_pb2 import OffsetUnit

CODE_POINT, UTF16, UTF8_BYTE = (
    OffsetUnit.OFFSET_UNIT_CODE_POINT,
    OffsetUnit.OFFSET_UNIT_UTF16,
    OffsetUnit.OFFSET_UNIT_UTF8_BYTE,
)

_WIDTH: dict[int, Callable[[str], int]] = {
    CODE_POINT: len,
    UTF16: lambda text: len(text.encode("utf-16-le")) // 2,
    UTF8_BYTE: lambda text: len(text.encode()),
}


class Offsets:
    """Converts positions of one text. Rising positions, such as those of spans, need one pass over the text in total."""

    def __init__(self, text: str, unit: int) -> None:
        self._text = text
        # In ASCII text the three units are equal.
        self._width = len if text.isascii() else _WIDTH[unit or CODE_POINT]
        self._position = self._offset = 0

    def __call__(self, position: int) -> int:
        """Convert a code-point position, 0 to len(text), to the unit."""
        if self._width is len:
            return position
        if position < self._position:
            self._position = self._offset = 0
        self._offset += self._width(self._text[self._position : position])
        self._position = position
        return self._offset
