"""Validation of the parameters of a ModelInferRequest."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from palm_serve.errors import InvalidRequest
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.messages.requests import quoted
from palm_serve.v1 import palm_pb2 as pb

_UINT32_MAX = 2**32 - 1
_UINT64_MAX = 2**64 - 1
_PREFIX = "OFFSET_UNIT_"
_UNITS: dict[str, int] = {}
for _name, _number in pb.OffsetUnit.items():
    if _number:
        _UNITS[_name.removeprefix(_PREFIX).lower()] = _number
_THRESHOLDS = tuple(pb.Thresholds.DESCRIPTOR.fields_by_name)
_EMPTY_FINAL = "triton_enable_empty_final_response"
"""Sent by the streams of tritonclient. It has no effect, because every request has exactly one response."""
PARAMETERS = ("top_k", "offset_unit", "priority", "timeout", *_THRESHOLDS)


@dataclass(slots=True)
class InferParameters:
    """Valid parameters of a request. `fields` are those that ParseRequest and PredictRequest share."""

    fields: dict[str, Any] = field(default_factory=dict)
    thresholds: pb.Thresholds = field(default_factory=pb.Thresholds)
    timeout_us: int = 0
    """Timeout of the request in microseconds. 0: none."""


def read_parameters(message_parameters: Mapping[str, oip.InferParameter]) -> InferParameters:
    """Check the parameters. Raises InvalidRequest."""
    parameters = InferParameters()
    for name, parameter in message_parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind else None
        if name == "timeout":
            parameters.timeout_us = _integer(name, value, _UINT64_MAX, "microseconds")
        elif name == "top_k":
            parameters.fields[name] = _integer(name, value, _UINT32_MAX, "labels of a ranking")
        elif name == "priority":
            parameters.fields[name] = _integer(name, value, pb.Priority.PRIORITY_BATCH, "1 interactive, 2 batch")
        elif name == "offset_unit":
            parameters.fields[name] = _unit(value)
        elif name in _THRESHOLDS:
            setattr(parameters.thresholds, name, _float(name, value))
        elif name != _EMPTY_FINAL:
            raise InvalidRequest(f"unknown parameter {quoted(name)}. Known are {', '.join(PARAMETERS)}.", "parameters")
    return parameters


def _integer(name: str, value: object, maximum: int, meaning: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
        raise InvalidRequest(
            f"parameter '{name}' must be an integer from 0 to {maximum:,} ({meaning}), got {_described(value)}. Correct or remove it.",
            "parameters",
        )
    return int(value)


def _float(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidRequest(
            f"parameter '{name}' must be a number, got {_described(value)}. Correct or remove it.", "parameters"
        )
    return float(value)


def _unit(value: object) -> int:
    number = _UNITS.get(value.lower().removeprefix(_PREFIX.lower())) if isinstance(value, str) else None
    if number is None:
        raise InvalidRequest(
            f"parameter 'offset_unit' must be one of {', '.join(_UNITS)}, got {_described(value)}. Correct or remove it.",
            "parameters",
        )
    return number


def _described(value: object) -> str:
    return "no value" if value is None else quoted(str(value))
