"""Messages as JSON are those of `json_format`."""

import json
import random

import pytest
from google.protobuf import json_format, struct_pb2, timestamp_pb2
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.http.message_json import message_content
from palm_serve.oip import inference_pb2 as oip
from palm_serve.v1 import palm_pb2 as pb

MESSAGES = []
for module in (pb, oip):
    MESSAGES += module.DESCRIPTOR.message_types_by_name.values()
NUMBERS = {
    FieldDescriptor.CPPTYPE_INT32: (-1, 2**31 - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(2**63), 1),
    FieldDescriptor.CPPTYPE_UINT32: (1, 2**32 - 1),
    FieldDescriptor.CPPTYPE_UINT64: (1, 2**64 - 1),
    FieldDescriptor.CPPTYPE_ENUM: (1, 99),
    FieldDescriptor.CPPTYPE_BOOL: (True, True),
    FieldDescriptor.CPPTYPE_FLOAT: (0.1, 0.9, 1 / 3, 1e-7, 123456.789, float("inf"), float("-inf"), float("nan")),
    FieldDescriptor.CPPTYPE_DOUBLE: (0.1, 1 / 3, float("inf"), float("nan")),
}


def value(field, draw, depth):
    if field.message_type is not None:
        return filled(field.message_type, draw, depth + 1)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return draw.randbytes(5)
    if field.type == FieldDescriptor.TYPE_STRING:
        return draw.choice(("a", "北京 \N{GRINNING FACE} \u2028", '"\\'))
    return draw.choice(NUMBERS[field.cpp_type])


def filled(kind, draw, depth=0):
    message = GetMessageClass(kind)()
    if kind.full_name == "google.protobuf.Timestamp":  # most numbers are no times
        message.FromMilliseconds(draw.randrange(0, 10**13))
        return message
    for field in kind.fields:
        if depth > 3 or draw.random() < 0.2:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            key = value(entry["key"], draw, depth)
            if entry["value"].message_type is None:
                getattr(message, field.name)[key] = value(entry["value"], draw, depth)
            else:
                getattr(message, field.name)[key].CopyFrom(value(entry["value"], draw, depth))
        elif field.is_repeated:
            getattr(message, field.name).extend([value(field, draw, depth) for _ in range(2)])
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(value(field, draw, depth))
        else:
            setattr(message, field.name, value(field, draw, depth))
    return message


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.full_name)
def test_messages_are_as_json_format_writes_them(kind):
    draw = random.Random(0)
    for _ in range(20):
        message = filled(kind, draw)
        assert json.dumps(message_content(message)) == json_format.MessageToJson(message, indent=None)


@given(st.floats(width=32, allow_nan=False))
def test_floats_have_the_digits_of_json_format(number):
    message = pb.Label(name="a", confidence=number)
    assert message_content(message) == json_format.MessageToDict(message)


def test_well_known_messages_have_their_own_forms():
    struct = struct_pb2.Struct()
    struct.update({"a": [1, None, {"b": True}]})
    assert message_content(struct) == {"a": [1.0, None, {"b": True}]}
    assert message_content(timestamp_pb2.Timestamp(seconds=1)) == "1970-01-01T00:00:01Z"
