"""Arrays of a bundle (`decode.npz`, `proof.npz`), read within limits on their sizes before anything is unpacked."""

import io
import math
import zipfile
from collections.abc import Collection
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from palm_serve.types import FloatArray

MAX_ARRAY_BYTES = 512 << 20
"""Limit of all arrays together. The transitions between 10,000 tags need 400 MB."""

_DIRECTORY_ENTRY = b"PK\x01\x02"
_SPARE_ENTRIES = 64
"""The signature of a directory entry also occurs among weights, by chance."""
_HEADER_BYTES = 16 << 10
"""Limit of what an entry holds beside its values."""


def read_arrays(content: bytes, names: Collection[str]) -> dict[str, FloatArray]:
    """Return the arrays of an `.npz` file as float32.

    Args:
        content: bytes of the file.
        names: arrays that the manifest names. The file may hold no others.

    Raises:
        ValueError: the file is damaged, too large unpacked, or holds anything but these arrays. The message states the
            fault.
    """
    arrays = {}
    for name, numbers in read_numbers(content, names, MAX_ARRAY_BYTES).items():
        with np.errstate(over="ignore"):
            array = numbers.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"'{name}.npy' must hold finite numbers and nothing else")
        arrays[name] = array
    return arrays


def read_numbers(content: bytes, names: Collection[str], limit: int) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of an `.npz` file in their own types. All numbers are finite.

    Args:
        content: bytes of the file.
        names: arrays that the file may hold.
        limit: largest size of all arrays together, in bytes.

    Raises:
        ValueError: as for `read_arrays`.
    """
    if content.count(_DIRECTORY_ENTRY) > len(names) + _SPARE_ENTRIES:
        raise ValueError("it holds more arrays than the manifest names")
    arrays = {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            entries = archive.infolist()
            _check_entries(entries, names, limit)
            for entry in entries:
                with archive.open(entry) as stream:
                    arrays[entry.filename.removesuffix(".npy")] = _read_array(stream, entry)
    except ValueError:
        raise
    except Exception as error:  # zipfile and numpy raise whatever comes to hand for damaged files
        raise ValueError(f"it is no npz file ({type(error).__name__}: {error})") from None
    return arrays


def _check_entries(entries: list[zipfile.ZipInfo], names: Collection[str], limit: int) -> None:
    """Check the directory of the archive before anything is unpacked."""
    expected = set()
    for name in names:
        expected.add(f"{name}.npy")
    total = 0
    end = 0
    for entry in sorted(entries, key=lambda entry: entry.header_offset):
        if entry.filename not in expected:
            raise ValueError(f"it holds '{entry.filename[:80]}', which the manifest does not name")
        expected.remove(entry.filename)
        if entry.header_offset < end:
            raise ValueError(f"'{entry.filename}' overlaps another array")
        end = entry.header_offset + entry.compress_size
        if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or entry.flag_bits & 1:
            raise ValueError(f"'{entry.filename}' is packed in a way that numpy does not write")
        total += entry.file_size
    if total > limit:
        raise ValueError(f"its arrays must have at most {limit >> 20} MiB, got {total >> 20:,} MiB")


def _read_array(stream: IO[bytes], entry: zipfile.ZipInfo) -> npt.NDArray[Any]:
    """Read one array, whose header must state just as many values as the entry holds."""
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, fortran_order, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"'{entry.filename}' has version {version} of the npy format, not 1.0 or 2.0")
    if dtype.hasobject or dtype.kind not in "fiu":
        raise ValueError(f"'{entry.filename}' must hold numbers, got {dtype}")
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or not size <= entry.file_size <= size + _HEADER_BYTES:
        raise ValueError(f"'{entry.filename}' states another number of values than it holds")
    values = np.frombuffer(stream.read(size), dtype=dtype)
    array = values.reshape(shape, order="F" if fortran_order else "C")
    if stream.read(1) or not np.isfinite(array).all():
        raise ValueError(f"'{entry.filename}' must hold finite numbers and nothing else")
    return array
