"""Tensor files of PaddlePaddle's fluid: one file for each parameter.

The layout (paddle/fluid/framework/lod_tensor.cc, tensor_util.cc; little endian): uint32 version 0;
uint64 number of LoD levels, each with uint64 bytes and its content; uint32 tensor version 0; int32
bytes of the description; the description, a protocol buffer `TensorDesc` with field 1 the data type
and field 2 the dimensions; the values, row by row.
"""

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from palm_trainer.errors import PalmError

_TYPES = {2: "<i4", 3: "<i8", 4: "<f2", 5: "<f4", 6: "<f8"}
"""Number of a data type in Paddle (framework.proto, VarType.Type) -> name in numpy."""
_MAX_LEVELS = 8
"""At most two levels of detail are in use. A larger number means another kind of file."""


class _InvalidTensor(Exception):
    """The file ends before the tensor does, or holds something else."""


def read_tensor(path: Path) -> NDArray[np.generic]:
    """Read the tensor in a file.

    Raises:
        PalmError: the file is truncated, too long, or not one of Paddle's.
    """
    data = path.read_bytes()
    try:
        return _parse(data)
    except _InvalidTensor as error:
        raise PalmError(
            f"{path}: {len(data)} bytes that are no tensor of Paddle's: {error}. "
            "Unpack the archive again, or fetch it again if that does not help."
        ) from None


def _parse(data: bytes) -> NDArray[np.generic]:
    version, offset = _number(data, 0, 4)
    levels, offset = _number(data, offset, 8)
    if version != 0 or levels > _MAX_LEVELS:
        raise _InvalidTensor(f"version {version} with {levels} levels of detail, but version 0 is known")
    for _ in range(levels):
        size, offset = _number(data, offset, 8)
        offset += size
    version, offset = _number(data, offset, 4)
    size, offset = _number(data, offset, 4)
    if version != 0:
        raise _InvalidTensor(f"tensor of version {version}, but version 0 is known")
    data_type, shape = _description(_slice(data, offset, size))
    offset += size
    if data_type not in _TYPES or any(side < 0 for side in shape):
        raise _InvalidTensor(f"data type {data_type} of shape {shape}")
    expected_size = math.prod(shape) * np.dtype(_TYPES[data_type]).itemsize
    if len(data) - offset != expected_size:
        raise _InvalidTensor(f"values of {len(data) - offset} bytes, but shape {shape} needs {expected_size}")
    return np.frombuffer(data, _TYPES[data_type], offset=offset).reshape(shape)


def _slice(data: bytes, offset: int, size: int) -> bytes:
    if offset + size > len(data):
        raise _InvalidTensor(f"it ends where {size} bytes are due at {offset}")
    return data[offset : offset + size]


def _number(data: bytes, offset: int, size: int) -> tuple[int, int]:
    """Return an unsigned number of `size` bytes, and the offset after it."""
    return int.from_bytes(_slice(data, offset, size), "little"), offset + size


def _description(data: bytes) -> tuple[int, list[int]]:
    """Return data type and dimensions of a `TensorDesc`. Dimensions may be packed or not."""
    data_type = -1
    shape = []
    offset = 0
    while offset < len(data):
        key, offset = _varint(data, offset)
        value, offset = _varint(data, offset)
        if key == 0x08:
            data_type = value
        elif key == 0x10:
            shape.append(value)
        elif key == 0x12:
            end = offset + value
            while offset < end:
                side, offset = _varint(data, offset)
                shape.append(side)
        else:
            raise _InvalidTensor(f"field {key >> 3} in its description")
    return data_type, shape


def _varint(data: bytes, offset: int) -> tuple[int, int]:
    """Return a variable-length number of a protocol buffer, and the offset after it.

    Negative numbers take 64 bits.
    """
    value = 0
    for position in range(10):
        byte = _slice(data, offset + position, 1)[0]
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value - (1 << 64) if value >> 63 else value, offset + position + 1
    raise _InvalidTensor("a number without end in its description")
