"""One tensor as PaddlePaddle's fluid saved it: one file a parameter.

The layout (paddle/fluid/framework/lod_tensor.cc, tensor_util.cc; little endian): uint32 version 0; uint64 number of LoD levels, each with uint64
bytes and its content; uint32 tensor version 0; int32 bytes of the description; the description, a protocol buffer `TensorDesc` with field 1 the
data type and field 2 the dimensions; the values, row by row.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palm_trainer.errors import PalmError

_TYPES = {2: "<i4", 3: "<i8", 4: "<f2", 5: "<f4", 6: "<f8"}
"""Paddle's number of a data type (framework.proto, VarType.Type) -> numpy's."""
_MOST_LEVELS = 8
"""Levels of detail in use are at most two; a larger number is the start of some other file."""


class _Cut(Exception):
    """The file ends before the tensor does, or holds something else."""


def read_tensor(path: Path) -> NDArray[np.generic]:
    """The tensor in a file. Raises PalmError for a file that is cut short, has bytes too many, or is none of Paddle's."""
    data = path.read_bytes()
    try:
        return _parse(data)
    except _Cut as cut:
        raise PalmError(
            f"{path}: {len(data)} bytes that are no tensor of Paddle's: {cut}. "
            "Unpack the archive again, or fetch it again if that does not help."
        ) from None


def _parse(data: bytes) -> NDArray[np.generic]:
    version, at = _number(data, 0, 4)
    levels, at = _number(data, at, 8)
    if version != 0 or levels > _MOST_LEVELS:
        raise _Cut(f"version {version} with {levels} levels of detail, but version 0 is known")
    for _ in range(levels):
        size, at = _number(data, at, 8)
        at += size
    version, at = _number(data, at, 4)
    size, at = _number(data, at, 4)
    if version != 0:
        raise _Cut(f"tensor of version {version}, but version 0 is known")
    kind, shape = _description(_take(data, at, size))
    at += size
    if kind not in _TYPES or any(side < 0 for side in shape):
        raise _Cut(f"data type {kind} of shape {shape}")
    wanted = math.prod(shape) * np.dtype(_TYPES[kind]).itemsize
    if len(data) - at != wanted:
        raise _Cut(f"values of {len(data) - at} bytes, but shape {shape} needs {wanted}")
    return np.frombuffer(data, _TYPES[kind], offset=at).reshape(shape)


def _take(data: bytes, at: int, size: int) -> bytes:
    if at + size > len(data):
        raise _Cut(f"it ends where {size} bytes are due at {at}")
    return data[at : at + size]


def _number(data: bytes, at: int, size: int) -> tuple[int, int]:
    """An unsigned number of some bytes, and where the next thing starts."""
    return int.from_bytes(_take(data, at, size), "little"), at + size


def _description(data: bytes) -> tuple[int, list[int]]:
    """Data type and dimensions of a `TensorDesc`; dimensions may be packed or not."""
    kind, shape, at = -1, [], 0
    while at < len(data):
        key, at = _varint(data, at)
        value, at = _varint(data, at)
        if key == 0x08:
            kind = value
        elif key == 0x10:
            shape.append(value)
        elif key == 0x12:
            end = at + value
            while at < end:
                side, at = _varint(data, at)
                shape.append(side)
        else:
            raise _Cut(f"field {key >> 3} in its description")
    return kind, shape


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """A protocol buffer's variable-length number (a negative one comes out as 64 bits), and where the next thing starts."""
    value = 0
    for place in range(10):
        byte = _take(data, at + place, 1)[0]
        value |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return value - (1 << 64) if value >> 63 else value, at + place + 1
    raise _Cut("a number without end in its description")
