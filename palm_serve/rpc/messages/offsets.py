"""Code-point offsets -> the unit that a client counts in."""

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
    """Converts positions of one text. Rising positions, as those of spans, cost one pass over the text together."""

    def __init__(self, text: str, unit: int) -> None:
        self._text = text
        # In ASCII the three units are one.
        self._width = len if text.isascii() else _WIDTH[unit or CODE_POINT]
        self._position = self._offset = 0

    def __call__(self, position: int) -> int:
        """The code-point position `position`, 0 to len(text), in the unit."""
        if self._width is len:
            return position
        if position < self._position:
            self._position = self._offset = 0
        self._offset += self._width(self._text[self._position : position])
        self._position = position
        return self._offset
