"""The parameters of a ModelInferRequest."""

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
_UNITS: dict[str, int] = {
    name.removeprefix(_PREFIX).lower(): number for name, number in pb.OffsetUnit.items() if number
}
_THRESHOLDS = tuple(pb.Thresholds.DESCRIPTOR.fields_by_name)
_EMPTY_FINAL = "triton_enable_empty_final_response"
"""Sent by tritonclient's streams. Every request has exactly one answer here, so there is nothing to switch."""
PARAMETERS = ("top_k", "offset_unit", "priority", "timeout", *_THRESHOLDS)


@dataclass(slots=True)
class Settings:
    """How a client wants to be answered. `fields` are those that ParseRequest and PredictRequest share."""

    fields: dict[str, Any] = field(default_factory=dict)
    thresholds: pb.Thresholds = field(default_factory=pb.Thresholds)
    timeout_us: int = 0
    """0: none."""


def read_settings(parameters: Mapping[str, oip.InferParameter]) -> Settings:
    """Checks the parameters. Raises InvalidRequest."""
    settings = Settings()
    for name, parameter in parameters.items():
        kind = parameter.WhichOneof("parameter_choice")
        value = getattr(parameter, kind) if kind else None
        if name == "timeout":
            settings.timeout_us = _whole(name, value, _UINT64_MAX, "microseconds")
        elif name == "top_k":
            settings.fields[name] = _whole(name, value, _UINT32_MAX, "labels of a ranking")
        elif name == "priority":
            settings.fields[name] = _whole(name, value, pb.Priority.PRIORITY_BATCH, "1 interactive, 2 batch")
        elif name == "offset_unit":
            settings.fields[name] = _unit(value)
        elif name in _THRESHOLDS:
            setattr(settings.thresholds, name, _number(name, value))
        elif name != _EMPTY_FINAL:
            raise InvalidRequest(
                f"unknown parameter {quoted(name)}: this server knows {', '.join(PARAMETERS)}", "parameters"
            )
    return settings


def _whole(name: str, value: object, most: int, meaning: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InvalidRequest(
            f"parameter '{name}' is {_told(value)}; it takes a whole number from 0 to {most:,} ({meaning})",
            "parameters",
        )
    return int(value)


def _number(name: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise InvalidRequest(f"parameter '{name}' is {_told(value)}; it takes a number", "parameters")
    return float(value)


def _unit(value: object) -> int:
    number = _UNITS.get(value.lower().removeprefix(_PREFIX.lower())) if isinstance(value, str) else None
    if number is None:
        raise InvalidRequest(
            f"parameter 'offset_unit' is {_told(value)}; it takes one of {', '.join(_UNITS)}", "parameters"
        )
    return number


def _told(value: object) -> str:
    return "empty" if value is None else quoted(str(value))
