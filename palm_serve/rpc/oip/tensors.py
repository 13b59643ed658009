"""Conversion between tensors of the protocol and lists of Python values.

Tensors are typed (`contents`) or raw: row-major and little-endian, each BYTES element preceded by its length.
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
# The client of kserve sends the length of a raw content, which is known from the content.
_IGNORED_PARAMETERS = {"binary_data_size"}


def read_texts(tensor: oip.ModelInferRequest.InferInputTensor, raw: bytes | None, max_rows: int) -> list[str]:
    """Read the strings of a BYTES input of shape [n] or [n, 1].

    Args:
        tensor: the input.
        raw: its raw content. None: its typed contents are used.
        max_rows: limit of n, which is at least 1.

    Raises:
        InvalidRequest: if the input is not valid.
    """
    name = f"input {quoted(tensor.name)}"
    if tensor.datatype != BYTES:
        raise InvalidRequest(
            f"{name} must have the datatype {BYTES}, got {quoted(tensor.datatype)}. Send UTF-8 texts.", tensor.name
        )
    for key in tensor.parameters:
        if key not in _IGNORED_PARAMETERS:
            raise InvalidRequest(
                f"{name} must not have parameters, got {quoted(key)}. Send the contents, not a shared memory region.",
                tensor.name,
            )
    count = _count(tensor, name, max_rows)
    elements = _typed(tensor, name) if raw is None else _raw(raw, name, count)
    if len(elements) != count:
        raise InvalidRequest(
            f"{name} must have {count:,} elements for its shape {[*tensor.shape]}, got {len(elements):,} in bytes_contents. "
            "Correct the shape.",
            tensor.name,
        )
    return [_text(element, row, tensor.name) for row, element in enumerate(elements)]


def write_typed(values: Sequence[Any], datatype: str) -> oip.InferTensorContents:
    """Encode the typed contents of an output."""
    if datatype == BYTES:
        return oip.InferTensorContents(bytes_contents=values)
    if datatype == BOOL:
        return oip.InferTensorContents(bool_contents=values)
    return oip.InferTensorContents(fp32_contents=values)


def write_raw(values: Sequence[Any], datatype: str) -> bytes:
    """Encode the raw content of an output."""
    if datatype == BYTES:
        return b"".join(_LENGTH.pack(len(value)) + value for value in values)
    return np.asarray(values, dtype=np.bool_ if datatype == BOOL else "<f4").tobytes()


def read_values(tensor: oip.ModelInferResponse.InferOutputTensor, raw: bytes | None) -> list[bytes | float | bool]:
    """Decode an output that `write_typed` or `write_raw` has encoded.

    Args:
        tensor: the output.
        raw: its raw content. None: its typed contents are used.
    """
    if raw is None:
        contents = tensor.contents
        if tensor.datatype == BYTES:
            return [*contents.bytes_contents]
        return [*(contents.bool_contents if tensor.datatype == BOOL else contents.fp32_contents)]
    if tensor.datatype == BYTES:
        return [*_raw(raw, f"output {quoted(tensor.name)}", int(tensor.shape[0]))]
    values: list[bytes | float | bool] = np.frombuffer(raw, np.bool_ if tensor.datatype == BOOL else "<f4").tolist()
    return values


def _count(tensor: oip.ModelInferRequest.InferInputTensor, name: str, max_rows: int) -> int:
    shape = [*tensor.shape]
    if len(shape) not in (1, 2) or shape[1:] not in ([], [1]) or shape[0] < 1:
        described = str(shape[:4])[:-1] + ", ...]" if len(shape) > 4 else str(shape)
        raise InvalidRequest(
            f"{name} must have the shape [n] or [n, 1], got {described}. Send one text in each row.", tensor.name
        )
    if shape[0] > max_rows:
        raise InvalidRequest(
            f"{name} must have at most {max_rows:,} rows, got {shape[0]:,}. Send several requests.", tensor.name
        )
    return int(shape[0])


def _typed(tensor: oip.ModelInferRequest.InferInputTensor, name: str) -> Sequence[bytes]:
    for field, _ in tensor.contents.ListFields():
        if field.name != "bytes_contents":
            raise InvalidRequest(
                f"{name} must have its values in bytes_contents, got values in {field.name}. Move them.", tensor.name
            )
    return [*tensor.contents.bytes_contents]


def _raw(raw: bytes, name: str, count: int) -> list[bytes]:
    elements: list[bytes] = []
    position = 0
    while len(elements) < count:
        start = position + _LENGTH.size
        end = len(raw) + 1
        if start <= len(raw):
            end = start + _LENGTH.unpack_from(raw, position)[0]
        if end > len(raw):
            raise InvalidRequest(
                f"the raw content of {name} must hold {count:,} elements, got {len(raw):,} bytes that end within element "
                f"{len(elements) + 1:,}. Send each element as its length (4 bytes, little-endian) and its bytes.",
                "raw_input_contents",
            )
        elements.append(raw[start:end])
        position = end
    if position < len(raw):
        raise InvalidRequest(
            f"the raw content of {name} must end after {count:,} elements, got {len(raw) - position:,} more bytes. Correct the shape.",
            "raw_input_contents",
        )
    return elements


def _text(element: bytes, row: int, field: str) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError as error:
        raise InvalidRequest(
            f"row {row} of input {quoted(field)} must be UTF-8, got another encoding at byte {error.start}. Encode texts as UTF-8.",
            field,
        ) from None
