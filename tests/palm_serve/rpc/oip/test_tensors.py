"""Serialized tensors, and the messages about invalid ones."""

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.errors import InvalidRequest
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.oip.tensors import read_texts, write_raw, write_typed

Tensor = oip.ModelInferRequest.InferInputTensor
TEXTS = st.lists(st.text(), min_size=1, max_size=8)


def typed(
    *elements: bytes, shape: list[int] | None = None, datatype: str = "BYTES"
) -> oip.ModelInferRequest.InferInputTensor:
    contents = oip.InferTensorContents(bytes_contents=elements)
    return Tensor(name="text", datatype=datatype, shape=shape or [len(elements)], contents=contents)


def bare(*shape: int) -> oip.ModelInferRequest.InferInputTensor:
    return Tensor(name="text", datatype="BYTES", shape=shape)


@given(texts=TEXTS, column=st.booleans())
def test_read_texts_of_typed_contents(texts: list[str], column: bool) -> None:
    tensor = typed(*(text.encode() for text in texts), shape=[len(texts), 1] if column else None)
    assert read_texts(tensor, None, 8) == texts


@given(texts=TEXTS)
def test_read_texts_of_raw_contents(texts: list[str]) -> None:
    raw = write_raw([text.encode() for text in texts], "BYTES")
    assert read_texts(bare(len(texts)), raw, 8) == texts


@given(raw=st.binary(max_size=40), count=st.integers(1, 4))
def test_read_texts_of_random_bytes_never_crashes(raw: bytes, count: int) -> None:
    try:
        texts = read_texts(bare(count), raw, 4)
    except InvalidRequest:
        return
    assert write_raw([text.encode() for text in texts], "BYTES") == raw


@pytest.mark.parametrize(
    ("tensor", "raw", "match"),
    [
        (typed(b"a", datatype="FP32"), None, "input 'text' must have the datatype BYTES, got 'FP32'"),
        (typed(b"a", shape=[2]), None, r"must have 2 elements for its shape \[2\], got 1 in bytes_contents"),
        (typed(b"a", shape=[1, 2]), None, r"must have the shape \[n\] or \[n, 1\], got \[1, 2\]"),
        (typed(b"a", shape=[1, 1, 1]), None, r"must have the shape .* got \[1, 1, 1\]"),
        (bare(*[1] * 99), None, r"must have the shape .* got \[1, 1, 1, 1, \.\.\.\]"),
        (bare(), None, r"must have the shape .* got \[\]"),
        (bare(0), None, r"must have the shape .* got \[0\]"),
        (bare(-1), None, r"must have the shape .* got \[-1\]"),
        (bare(5), None, "must have at most 4 rows, got 5. Send several requests"),
        (bare(2**62), b"", "must have at most 4 rows"),
        (bare(1), None, "got 0 in bytes_contents"),
        (typed(b"a", b"b\xff"), None, "row 1 of input 'text' must be UTF-8, got another encoding at byte 1"),
        (
            bare(2),
            struct.pack("<I", 1) + b"a",
            "must hold 2 elements, got 5 bytes that end within element 2. Send each element as its length",
        ),
        (bare(1), struct.pack("<I", 2) + b"a", "must hold 1 elements, got .* end within element 1"),
        (bare(1), b"\x01\x00", "must hold 1 elements, got 2 bytes that end within element 1"),
        (bare(1), struct.pack("<I", 1) + b"abc", "must end after 1 elements, got 2 more bytes"),
    ],
)
def test_read_texts_refuses_invalid_tensors(
    tensor: oip.ModelInferRequest.InferInputTensor, raw: bytes | None, match: str
) -> None:
    with pytest.raises(InvalidRequest, match=match):
        read_texts(tensor, raw, 4)


def test_read_texts_refuses_values_in_other_fields() -> None:
    tensor = Tensor(
        name="text",
        datatype="BYTES",
        shape=[1],
        contents=oip.InferTensorContents(fp32_contents=[1.0], bytes_contents=[b"a"]),
    )
    with pytest.raises(
        InvalidRequest, match="input 'text' must have its values in bytes_contents, got values in fp32_contents"
    ):
        read_texts(tensor, None, 4)


def test_read_texts_refuses_shared_memory() -> None:
    tensor = typed(b"a")
    tensor.parameters["shared_memory_region"].string_param = "mine"
    with pytest.raises(
        InvalidRequest,
        match=r"must not have parameters, got 'shared_memory_region'.*Send the contents, not a shared memory region",
    ):
        read_texts(tensor, None, 4)


def test_read_texts_ignores_binary_data_size() -> None:
    tensor = bare(1)
    tensor.parameters["binary_data_size"].int64_param = 5
    assert read_texts(tensor, struct.pack("<I", 1) + b"a", 4) == ["a"]


def test_write_typed_and_raw_hold_equal_values() -> None:
    assert [*write_typed([b"a", b""], "BYTES").bytes_contents] == [b"a", b""]
    assert [*write_typed([True, False], "BOOL").bool_contents] == [True, False]
    assert [*write_typed([0.5], "FP32").fp32_contents] == [0.5]
    assert write_raw([b"ab", b""], "BYTES") == b"\x02\x00\x00\x00ab\x00\x00\x00\x00"
    assert write_raw([True, False], "BOOL") == b"\x01\x00"
    assert np.frombuffer(write_raw([0.5, 1.0], "FP32"), "<f4").tolist() == [0.5, 1.0]
