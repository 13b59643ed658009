"""Graph files as bytes: which other files they refer to. Reads the wire format of ONNX without the package `onnx`.

Only the messages that can hold a tensor or a graph are entered. All else, weights above all, is passed over.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from mmap import mmap
from pathlib import Path
from typing import NamedTuple

from palm_serve.system.memory_file import MemoryFile

MAX_GRAPH_BYTES = (1 << 31) - 1
"""Limit of protobuf, and so of ONNX."""
MAX_FIELDS = 1_000_000
"""Limit of the fields of a graph. An encoder with 24 layers has about 100,000."""
_MAX_DEPTH = 100
"""Limit of protobuf."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5


@dataclass(frozen=True)
class GraphFile:
    """A graph whose bytes were compared with the manifest.

    Attributes:
        path: where it was read. For messages, and for the runtimes that read external data by themselves.
        content: the ONNX file.
        external: contents of the files that hold its large weights, by name in the graph.
        file: file in memory with the same content. None: there is none.
    """

    path: Path
    content: bytes | mmap = field(repr=False)
    external: dict[str, bytes] = field(default_factory=dict, repr=False)
    file: MemoryFile | None = field(default=None, repr=False)

    @property
    def name(self) -> str:
        """Name of the file."""
        return self.path.name


class _Field(NamedTuple):
    number: int
    value: int
    """Value of a number. Begin of a message or a text."""
    end: int
    """End of a message or a text. -1: the field is a number."""


# Field number -> the message in it, by message. Numbers are those of onnx.proto.
_MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "entry": {},
}
_NODE_OPERATOR = 4
_TENSOR_LOCATION = 14
_ENTRY_KEY, _ENTRY_VALUE = 1, 2


def external_files(content: bytes | mmap) -> set[str]:
    """Return the names of the files that an ONNX file refers to, anywhere in it.

    Raises:
        ValueError: the bytes are no ONNX file, have too many parts, or refer to a file by other means. The message states
            the fault.
    """
    names: set[str] = set()
    fields = 0
    stack = [("model", 0, len(content), 0)]
    while stack:
        message, begin, end, depth = stack.pop()
        if depth > _MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        inner = _MESSAGES[message]
        key = b""
        value = b""
        is_external = False
        has_location = False
        for entry in _fields(content, begin, end):
            fields += 1
            if fields > MAX_FIELDS:
                raise ValueError(f"it must have at most {MAX_FIELDS:,} fields, got more")
            if entry.number in inner and entry.end >= 0:
                stack.append((inner[entry.number], entry.value, entry.end, depth + 1))
                has_location = has_location or message == "tensor"
            elif message == "tensor" and entry.number == _TENSOR_LOCATION:
                is_external = entry.value == 1
            elif message == "node" and entry.number == _NODE_OPERATOR:
                if content[entry.value : entry.end] == b"EPContext":
                    raise ValueError("it holds a node EPContext, which reads a file of its own choice")
            elif message == "entry" and entry.number == _ENTRY_KEY:
                key = content[entry.value : entry.end]
            elif message == "entry" and entry.number == _ENTRY_VALUE:
                value = content[entry.value : entry.end]
        if is_external and not has_location:
            raise ValueError("it holds a tensor in another file, without its name")
        if message == "entry" and key == b"location":
            names.add(value.decode(errors="backslashreplace"))
    return names


def _fields(content: bytes | mmap, position: int, end: int) -> Iterator[_Field]:
    """Yield the fields of one message."""
    while position < end:
        tag, position = _read_varint(content, position, end)
        kind = tag & 7
        if kind == _VARINT:
            value, position = _read_varint(content, position, end)
            yield _Field(tag >> 3, value, -1)
            continue
        if kind == _BYTES:
            size, position = _read_varint(content, position, end)
        elif kind in (_FIXED32, _FIXED64):
            size = 4 if kind == _FIXED32 else 8
        else:
            raise ValueError("it is no ONNX file")
        if size > end - position:
            raise ValueError("it is no ONNX file, or its end is missing")
        yield _Field(tag >> 3, position, position + size if kind == _BYTES else -1)
        position += size


def _read_varint(content: bytes | mmap, position: int, end: int) -> tuple[int, int]:
    """Return a number of variable length and the position after it."""
    byte = content[position] if position < end else 0x80
    if byte < 0x80:
        return byte, position + 1
    value = 0
    for shift in range(0, 70, 7):
        if position >= end:
            break
        byte = content[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("it is no ONNX file, or its end is missing")
