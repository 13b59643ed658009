"""Checks of a JSON value before protobuf reads it as a message, which name the field that is wrong.

protobuf's own reader passes over names of enumerations that it does not know, and takes lists and strings for empty messages.
"""

import math
import re
import struct
from collections.abc import Callable
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp

from palm_serve.errors import InvalidRequest
from palm_serve.rpc.messages.requests import quoted, shortened

_Check = Callable[[Any, str], None]
_CHECKS: dict[str, dict[str, _Check]] = {}
"""Check of each field by its names in JSON, by the full name of the message."""
_WELL_KNOWN = "google.protobuf."
"""Package of messages that have forms of their own in JSON."""
_TIME_RULE = "a time such as 2026-01-31T12:00:00Z"
_NOT_FINITE = ("NaN", "Infinity", "-Infinity")
_INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: (-(2**31), 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 2**63 - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, 2**64 - 1),
}
"""Smallest and largest value by type."""
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_LONGEST_NUMBER = 32
"""Characters of a number in a string. Python takes long to read a long one."""
_LARGEST_FLOAT = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]


def check_message(value: Any, descriptor: Descriptor, place: str = "") -> None:
    """Check that a value of JSON can be read as a message. Fields that are not known are passed over.

    Args:
        value: the value.
        descriptor: of the message.
        place: path of the value in the body. Empty: it is the body.

    Raises:
        InvalidRequest: it cannot. The message names the first field at fault, such as `requests.0.text`.
    """
    if not isinstance(value, dict):
        raise _fault(place, "an object", value)
    checks = _CHECKS.get(descriptor.full_name)
    if checks is None:
        checks = _CHECKS[descriptor.full_name] = _describe(descriptor)
    for name, content in value.items():
        check = checks.get(name)
        if check is not None and content is not None:
            check(content, f"{place}.{name}" if place else name)


def _describe(descriptor: Descriptor) -> dict[str, _Check]:
    checks = {}
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            check = _map(_check_of(field.message_type.fields_by_name["value"]))
        elif field.is_repeated:
            check = _list(_check_of(field))
        else:
            check = _check_of(field)
        checks[field.name] = checks[field.json_name] = check
    return checks


def _list(check: _Check) -> _Check:
    def check_list(value: Any, place: str) -> None:
        if not isinstance(value, list):
            raise _fault(place, "a list", value)
        for index, item in enumerate(value):
            check(item, f"{place}.{index}")

    return check_list


def _map(check: _Check) -> _Check:
    def check_map(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise _fault(place, "an object", value)
        for key, item in value.items():
            _check_string(key, place)
            check(item, f"{place}.{key}")

    return check_map


def _check_of(field: FieldDescriptor) -> _Check:
    """Return the check of one value of a field."""
    message, enum = field.message_type, field.enum_type
    if message is not None:
        if message.full_name.startswith(_WELL_KNOWN):
            return _well_known(message)
        return lambda value, place: check_message(value, message, place)
    if enum is not None:
        return _enum(enum)
    if field.cpp_type in _INTEGERS:
        return _integer(*_INTEGERS[field.cpp_type])
    if field.cpp_type == FieldDescriptor.CPPTYPE_BOOL:
        return _check_bool
    if field.cpp_type == FieldDescriptor.CPPTYPE_STRING:
        return _check_string
    return _number(_LARGEST_FLOAT if field.cpp_type == FieldDescriptor.CPPTYPE_FLOAT else math.inf)


def _well_known(descriptor: Descriptor) -> _Check:
    """Return the check of a message of protobuf's own, which is read for it."""
    message_class = GetMessageClass(descriptor)
    rule = _TIME_RULE if descriptor.full_name == Timestamp.DESCRIPTOR.full_name else f"a {descriptor.name} of protobuf"

    def check(value: Any, place: str) -> None:
        try:
            json_format.ParseDict(value, message_class())
        except (json_format.ParseError, UnicodeError, RecursionError, ValueError, TypeError, AttributeError):
            raise _fault(place, rule, value) from None

    return check


def _check_string(value: Any, place: str) -> None:
    if not isinstance(value, str):
        raise _fault(place, "a string", value)
    try:
        value.encode()
    except UnicodeEncodeError:
        short_place = shortened(place)
        raise InvalidRequest(
            f"{short_place} must be valid Unicode, got half of a surrogate pair. Correct it.", short_place
        ) from None


def _check_bool(value: Any, place: str) -> None:
    if not isinstance(value, bool):
        raise _fault(place, "true or false", value)


def _enum(enum: EnumDescriptor) -> _Check:
    # protobuf's own mappings fail on half of a surrogate pair.
    names = dict.fromkeys(enum.values_by_name)
    numbers = frozenset(enum.values_by_number)

    def check(value: Any, place: str) -> None:
        if isinstance(value, str) and value in names:
            return
        if isinstance(value, int) and not isinstance(value, bool) and value in numbers:
            return
        raise _fault(place, f"one of {', '.join(names)}", value)

    return check


def _integer(smallest: int, largest: int) -> _Check:
    def check(value: Any, place: str) -> None:
        number = _as_number(value)
        if number is None or (isinstance(number, float) and not number.is_integer()):
            raise _fault(place, "a whole number", value)
        if not smallest <= number <= largest:
            raise _fault(place, f"a whole number from {smallest:,} to {largest:,}", value)

    return check


def _number(largest: float) -> _Check:
    def check(value: Any, place: str) -> None:
        if isinstance(value, str) and value in _NOT_FINITE:
            return
        number = _as_number(value)
        if number is None or not -largest <= number <= largest or math.isinf(number):
            raise _fault(place, "a number", value)

    return check


def _as_number(value: Any) -> int | float | None:
    """Return the number that a value of JSON stands for: a number, or a string that holds one. None: it is neither."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int | float):
        return value
    if not isinstance(value, str) or len(value) > _LONGEST_NUMBER or _NUMBER.fullmatch(value) is None:
        return None
    return int(value) if value.lstrip("-").isdigit() else float(value)


def _fault(place: str, rule: str, value: Any) -> InvalidRequest:
    short_place = shortened(place)
    return InvalidRequest(
        f"{short_place or 'the body'} must be {rule}, got {_describe_value(value)}. Correct it.", short_place
    )


def _describe_value(value: Any) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int):
        # Python refuses to write a whole number of thousands of digits.
        return f"{value:,}" if abs(value) < 2**64 else "a number of more than 64 bits"
    if value is None:
        return "null"
    return "a list" if isinstance(value, list) else "an object"
