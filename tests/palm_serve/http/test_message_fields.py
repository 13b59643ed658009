"""A JSON body that is no message is refused with the field at fault; whatever is accepted, protobuf reads."""

import json

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.errors import InvalidRequest
from palm_serve.http.json_body import parse_body
from palm_serve.http.message_fields import check_message
from palm_serve.v1 import palm_pb2 as pb

MANY = 1_000_000


def fault(content, message_class=pb.ParseRequest):
    with pytest.raises(InvalidRequest) as caught:
        check_message(content, message_class.DESCRIPTOR)
    return caught.value


@pytest.mark.parametrize(
    ("content", "field", "words"),
    [
        ([], "", "the body must be an object, got a list"),
        ("text", "", "the body must be an object, got 'text'"),
        (None, "", "the body must be an object, got null"),
        ({"text": 5}, "text", "text must be a string, got 5"),
        ({"text": ["a"]}, "text", "text must be a string, got a list"),
        ({"text": "\ud800"}, "text", "text must be valid Unicode"),
        ({"text": "a", "tasks": "intent"}, "tasks", "tasks must be a list, got 'intent'"),
        ({"text": "a", "tasks": [None]}, "tasks.0", "tasks.0 must be a string, got null"),
        (
            {"text": "a", "offset_unit": "UTF16"},
            "offset_unit",
            "one of OFFSET_UNIT_UNSPECIFIED, OFFSET_UNIT_CODE_POINT",
        ),
        ({"text": "a", "offsetUnit": 9}, "offsetUnit", "OFFSET_UNIT_UTF8_BYTE, got 9"),
        ({"text": "a", "priority": "urgent"}, "priority", "PRIORITY_BATCH, got 'urgent'"),
        ({"text": "a", "priority": True}, "priority", "got true"),
        ({"text": "a", "top_k": -1}, "top_k", "top_k must be a whole number from 0 to 4,294,967,295, got -1"),
        ({"text": "a", "topK": 99999999999}, "topK", "got 99,999,999,999"),
        ({"text": "a", "topK": 1.5}, "topK", "topK must be a whole number, got 1.5"),
        ({"text": "a", "topK": 10**5000}, "topK", "got a number of more than 64 bits"),
        ({"text": "a", "context": "b"}, "context", "context must be an object, got 'b'"),
    ],
)
def test_the_message_names_the_field(content, field, words):
    error = fault(content)
    assert error.field == field
    assert words in str(error)
    assert str(error).endswith("Correct it.")


def test_places_in_a_batch():
    error = fault({"requests": [{"text": "a"}, {"text": 3}]}, pb.ParseBatchRequest)
    assert error.field == "requests.1.text"
    assert fault({"requests": ["a"]}, pb.ParseBatchRequest).field == "requests.0"
    assert fault({"requests": {"text": "a"}}, pb.ParseBatchRequest).field == "requests"


def test_names_that_are_not_known_are_passed_over():
    check_message({"text": "a", "new": {"x": [1]}, "x" * 1000: None, "priority": None}, pb.ParseRequest.DESCRIPTOR)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"{", "line 1 column 2"),
        (b'{"text": "a", "text": "b"}', "the key 'text' stands twice"),
        (b'{"top_k": NaN}', "NaN is no number of JSON"),
        (b"\xff", "UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"top_k": ' + b"9" * 10_000 + b"}", "more than 4,000 digits"),
        (b"", "line 1 column 1"),
    ],
)
def test_bodies_that_are_no_json(body, words):
    with pytest.raises(InvalidRequest, match="must") as caught:
        parse_body(body, MANY)
    assert words in str(caught.value)


requests = st.builds(
    pb.ParseRequest,
    text=st.text(),
    tasks=st.lists(st.text(), max_size=3),
    offset_unit=st.sampled_from(pb.OffsetUnit.values()),
    priority=st.sampled_from(pb.Priority.values()),
    top_k=st.integers(0, 2**32 - 1),
)


@given(st.lists(requests, max_size=3), st.booleans(), st.booleans())
def test_what_protobuf_writes_is_accepted(items, keep_names, numbers):
    message = pb.ParseBatchRequest(requests=items)
    content = json_format.MessageToDict(message, preserving_proto_field_name=keep_names, use_integers_for_enums=numbers)
    check_message(content, pb.ParseBatchRequest.DESCRIPTOR)


scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=8)
)
names = st.sampled_from([field.name for field in pb.ParseRequest.DESCRIPTOR.fields])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


@given(st.dictionaries(names, values))
def test_what_is_accepted_protobuf_reads(content):
    try:
        check_message(content, pb.ParseRequest.DESCRIPTOR)
    except InvalidRequest:
        return
    json_format.ParseDict(content, pb.ParseRequest(), ignore_unknown_fields=True)


@given(st.binary(max_size=200) | values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_end_in_one_message(body):
    message = ""
    try:
        check_message(parse_body(body, MANY), pb.ParseRequest.DESCRIPTOR)
    except InvalidRequest as error:
        message = str(error)
    assert message == "" or " must " in message
