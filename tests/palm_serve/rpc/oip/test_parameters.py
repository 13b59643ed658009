"""Parameters of a ModelInferRequest."""

import math

import pytest

from palm_serve.errors import InvalidRequest
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.oip.parameters import read_parameters
from palm_serve.v1 import palm_pb2 as pb

P = oip.InferParameter


def test_no_parameters_give_defaults() -> None:
    settings = read_parameters({})
    assert (settings.fields, settings.timeout_us, settings.thresholds) == ({}, 0, pb.Thresholds())


def test_all_parameters_are_read() -> None:
    settings = read_parameters(
        {
            "top_k": P(uint64_param=5),
            "offset_unit": P(string_param="UTF16"),
            "priority": P(int64_param=2),
            "timeout": P(int64_param=2_500_000),
            "intent_confidence": P(double_param=0.25),
            "out_of_scope": P(int64_param=3),
            "triton_enable_empty_final_response": P(bool_param=True),
        }
    )
    assert settings.fields == {"top_k": 5, "offset_unit": pb.OffsetUnit.OFFSET_UNIT_UTF16, "priority": 2}
    assert settings.timeout_us == 2_500_000
    assert settings.thresholds == pb.Thresholds(intent_confidence=0.25, out_of_scope=3)


@pytest.mark.parametrize("name", ["utf8_byte", "UTF8_BYTE", "OFFSET_UNIT_UTF8_BYTE"])
def test_offset_unit_accepts_all_spellings(name: str) -> None:
    settings = read_parameters({"offset_unit": P(string_param=name)})
    assert settings.fields["offset_unit"] == pb.OffsetUnit.OFFSET_UNIT_UTF8_BYTE


@pytest.mark.parametrize(
    ("name", "parameter", "match"),
    [
        ("sequence_id", P(int64_param=1), "unknown parameter 'sequence_id'. Known are top_k, offset_unit, pri"),
        ("top_k", P(string_param="3"), "'top_k' must be an integer from 0 to 4,294,967,295 .* got '3'"),
        ("top_k", P(), "'top_k' must be .* got no value"),
        ("top_k", P(bool_param=True), "'top_k' must be .* got 'True'"),
        ("top_k", P(uint64_param=2**32), "'top_k' must be .* got '4294967296'"),
        ("timeout", P(int64_param=-1), r"'timeout' must be .*\(microseconds\), got '-1'"),
        ("priority", P(int64_param=3), r"'priority' must be .* from 0 to 2 \(1 interactive, 2 batch\), got '3'"),
        (
            "offset_unit",
            P(string_param="bytes"),
            "'offset_unit' must be one of code_point, utf16, utf8_byte, got 'bytes'",
        ),
        ("offset_unit", P(int64_param=2), "'offset_unit' must be .* got '2'"),
        ("ambiguity_margin", P(string_param="x"), "'ambiguity_margin' must be a number, got 'x'"),
    ],
)
def test_invalid_parameter_is_refused(name: str, parameter: oip.InferParameter, match: str) -> None:
    with pytest.raises(InvalidRequest, match=match):
        read_parameters({name: parameter})


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300])
def test_thresholds_accept_any_number(value: float) -> None:
    """The bounds are checked by the rules of Parse."""
    assert read_parameters({"out_of_scope": P(double_param=value)}).thresholds.HasField("out_of_scope")
