"""Tensors of the protocol <-> lists of Python values, typed (`contents`) or raw (row-major, little-endian; BYTES elements each behind their length).

Source: Open Inference Protocol v2, gRPC, "Tensor Data".
"""

import struct
from collections.abc import Sequence
from typing import Any

import numpy as np

from palm_serve.errors import InvalidRequest
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.messages.requests import quoted

BYTES, FP32, BOOL = "BYTES", "FP32", "BOOL"
_LENGTH = struct.Struct("<I")
# kserve's client tells how long a raw content is, which is plain from the content.
_HARMLESS = {"binary_data_size"}


def read_texts(tensor: oip.ModelInferRequest.InferInputTensor, raw: bytes | None, most: int) -> list[str]:
    """The strings of a BYTES input of shape [n] or [n, 1], n from 1 to `most`; `raw` is its raw content. Raises InvalidRequest."""
    name = f"input {quoted(tensor.name)}"
    if tensor.datatype != BYTES:
        raise InvalidRequest(f"{name} has the datatype {quoted(tensor.datatype)}; it takes {BYTES}", tensor.name)
    unknown = next((key for key in tensor.parameters if key not in _HARMLESS), None)
    if unknown is not None:
        raise InvalidRequest(
            f"{name} has the parameter {quoted(unknown)}; inputs take none here, shared memory included: send the contents",
            tensor.name,
        )
    count = _count(tensor, name, most)
    elements = _typed(tensor, name) if raw is None else _raw(raw, name, count)
    if len(elements) != count:
        raise InvalidRequest(
            f"{name} has {len(elements):,} elements in bytes_contents; its shape {[*tensor.shape]} says {count:,}",
            tensor.name,
        )
    return [_text(element, row, tensor.name) for row, element in enumerate(elements)]


def write_typed(values: Sequence[Any], datatype: str) -> oip.InferTensorContents:
    """Typed contents of an output."""
    if datatype == BYTES:
        return oip.InferTensorContents(bytes_contents=values)
    if datatype == BOOL:
        return oip.InferTensorContents(bool_contents=values)
    return oip.InferTensorContents(fp32_contents=values)


def write_raw(values: Sequence[Any], datatype: str) -> bytes:
    """Raw content of an output."""
    if datatype == BYTES:
        return b"".join(_LENGTH.pack(len(value)) + value for value in values)
    return np.asarray(values, dtype=np.bool_ if datatype == BOOL else "<f4").tobytes()


def _count(tensor: oip.ModelInferRequest.InferInputTensor, name: str, most: int) -> int:
    shape = [*tensor.shape]
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or shape[0] < 1:
        told = str(shape[:4])[:-1] + ", ...]" if len(shape) > 4 else str(shape)
        raise InvalidRequest(f"{name} has the shape {told}; it takes [n] or [n, 1], one text a row", tensor.name)
    if shape[0] > most:
        raise InvalidRequest(f"{name} has {shape[0]:,} rows; the limit is {most:,}: send several requests", tensor.name)
    return int(shape[0])


def _typed(tensor: oip.ModelInferRequest.InferInputTensor, name: str) -> Sequence[bytes]:
    wrong = [field.name for field, _ in tensor.contents.ListFields() if field.name != "bytes_contents"]
    if wrong:
        raise InvalidRequest(f"{name} has values in {wrong[0]}; {BYTES} belong in bytes_contents", tensor.name)
    return [*tensor.contents.bytes_contents]


def _raw(raw: bytes, name: str, count: int) -> list[bytes]:
    elements: list[bytes] = []
    position = 0
    while len(elements) < count:
        start = position + _LENGTH.size
        position = start + _LENGTH.unpack_from(raw, position)[0] if start <= len(raw) else len(raw) + 1
        if position > len(raw):
            raise InvalidRequest(
                f"the raw content of {name} has {len(raw):,} bytes and ends within element {len(elements) + 1:,} of {count:,}; "
                "each element is its length, 4 bytes little-endian, and its bytes",
                "raw_input_contents",
            )
        elements.append(raw[start:position])
    if position < len(raw):
        raise InvalidRequest(
            f"the raw content of {name} has {len(raw) - position:,} bytes after its last element; its shape says {count:,} elements",
            "raw_input_contents",
        )
    return elements


def _text(element: bytes, row: int, field: str) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"row {row} of input {quoted(field)} is not UTF-8 at byte {error.start}: encode texts as UTF-8", field
        ) from None
