"""The count of fields in serialized messages, against protobuf's parser."""

from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_serve.config import Limits
from palm_serve.errors import InvalidRequest
from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.messages.wire import MIN_MAX_FIELDS, check_fields, count_fields, decode, max_fields
from palm_serve.v1 import palm_pb2 as pb

MESSAGE_BYTES = 4 << 20
UNLIMITED = 1 << 30
LIMIT = max_fields(Limits())
tensor = oip.ModelInferRequest.InferInputTensor
TEXTS = st.text(max_size=200)
THRESHOLDS = st.builds(
    pb.Thresholds, intent_confidence=st.none() | st.floats(width=32), out_of_scope=st.floats(width=32)
)
PARSES = st.builds(
    pb.ParseRequest,
    text=TEXTS,
    request_id=TEXTS,
    top_k=st.integers(0, 2**32 - 1),
    tasks=st.lists(TEXTS, max_size=4),
    thresholds=THRESHOLDS,
)
BATCHES = st.builds(pb.ParseBatchRequest, requests=st.lists(PARSES, max_size=6))
PARAMETERS = st.dictionaries(
    TEXTS, st.builds(oip.InferParameter, int64_param=st.integers(-(2**63), 2**63 - 1)), max_size=3
)
CONTENTS = st.builds(
    oip.InferTensorContents,
    bytes_contents=st.lists(st.binary(max_size=300), max_size=4),
    int64_contents=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=9),
    fp64_contents=st.lists(st.floats(), max_size=9),
    bool_contents=st.lists(st.booleans(), max_size=9),
)
TENSORS = st.builds(
    tensor, name=TEXTS, shape=st.lists(st.integers(-1, 2**40), max_size=5), contents=CONTENTS, parameters=PARAMETERS
)
INFERENCES = st.builds(
    oip.ModelInferRequest,
    id=TEXTS,
    inputs=st.lists(TENSORS, max_size=3),
    parameters=PARAMETERS,
    raw_input_contents=st.lists(st.binary(max_size=300), max_size=3),
)


def fields_of(message: Message) -> int:
    """Count the fields of a parsed message as it is serialized: an element of a packed field counts as one, and the field too."""
    count = 0
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for entry in value.values():
                # A serializer writes the key and the value of an entry, also where they are empty.
                count += 3 + (fields_of(entry) if isinstance(entry, Message) else 0)
        elif not field.is_repeated:
            count += 1 + (fields_of(value) if field.message_type is not None else 0)
        elif field.message_type is not None:
            count += sum(1 + fields_of(element) for element in value)
        elif field.type in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            count += len(value)
        else:
            count += 1 + len(value)
    return count


@settings(max_examples=300, deadline=None)
@given(message=st.one_of(PARSES, BATCHES, INFERENCES))
def test_count_equals_the_parsed_fields(message: Any) -> None:
    assert count_fields(message.DESCRIPTOR, message.SerializeToString(), UNLIMITED) == fields_of(message)


@settings(max_examples=500, deadline=None)
@given(message=st.one_of(BATCHES, INFERENCES), data=st.data())
def test_count_is_never_below_what_the_parser_makes(message: Any, data: st.DataObject) -> None:
    """Damaged messages, appended messages, groups and unknown fields: whatever the parser accepts has been counted."""
    raw = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        inserted = data.draw(
            st.binary(max_size=4) | st.sampled_from([b"\x0b\x0a\0\x0c", b"\xa3\x06\xa4\x06", b"\x0a\0" * 9])
        )
        raw[start : start + data.draw(st.integers(0, 2))] = inserted
    counted = count_fields(message.DESCRIPTOR, bytes(raw), UNLIMITED)
    try:
        parsed = type(message).FromString(bytes(raw))
    except (DecodeError, UnicodeDecodeError):
        return
    # Entries of a map with the same key are one entry after parsing, and a parsed entry has always a key and a value.
    missing_entries = 2 * str(parsed).count("parameters")
    assert counted + missing_entries >= fields_of(parsed)


@given(data=st.binary(max_size=100), limit=st.integers(1, 20))
def test_any_bytes_are_counted_without_error(data: bytes, limit: int) -> None:
    for message_class in (pb.ParseBatchRequest, oip.ModelInferRequest, reflection_pb2.ServerReflectionRequest):
        assert count_fields(message_class.DESCRIPTOR, data, limit) >= 0


HOSTILE: dict[str, tuple[type[Message], bytes]] = {
    "requests": (pb.ParseBatchRequest, b"\x0a\0" * (MESSAGE_BYTES // 2)),
    "tasks": (pb.ParseRequest, b"\x0a\x01a" + b"\x3a\0" * (MESSAGE_BYTES // 2)),
    "tasks within a batch": (pb.ParseBatchRequest, b"\x0a\xfe\xff\xff\x01" + b"\x3a\0" * (MESSAGE_BYTES // 2 - 1)),
    "thresholds": (pb.ParseRequest, b"\x42\0" * (MESSAGE_BYTES // 2)),
    "one field again and again": (pb.PredictRequest, b"\x30\x01" * (MESSAGE_BYTES // 2)),
    "unknown fields": (pb.GetModelRequest, b"\x78\x01" * (MESSAGE_BYTES // 2)),
    "groups": (pb.LoadModelRequest, b"\x7b\x7c" * (MESSAGE_BYTES // 2)),
    "health": (health_pb2.HealthCheckRequest, b"\x0a\0" * (MESSAGE_BYTES // 2)),
    "reflection": (reflection_pb2.ServerReflectionRequest, b"\x1a\0" * (MESSAGE_BYTES // 2)),
    "inputs": (oip.ModelInferRequest, b"\x2a\0" * (MESSAGE_BYTES // 2)),
    "parameters": (oip.ModelInferRequest, b"\x22\0" * (MESSAGE_BYTES // 2)),
    "raw contents": (oip.ModelInferRequest, b"\x3a\0" * (MESSAGE_BYTES // 2)),
    "packed shape": (
        oip.ModelInferRequest,
        oip.ModelInferRequest(inputs=[tensor(shape=[1] * (MESSAGE_BYTES - 20))]).SerializeToString(),
    ),
    "packed numbers": (
        oip.ModelInferRequest,
        oip.ModelInferRequest(
            inputs=[tensor(contents=oip.InferTensorContents(fp32_contents=[0.0] * (MESSAGE_BYTES // 4 - 9)))]
        ).SerializeToString(),
    ),
    "model parameters": (oip.RepositoryModelLoadRequest, b"\x1a\0" * (MESSAGE_BYTES // 2)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_message_is_refused_before_it_is_parsed(name: str) -> None:
    message_class, data = HOSTILE[name]

    class Unparsed:
        """The message class without its parser."""

        DESCRIPTOR = message_class.DESCRIPTOR

    with pytest.raises(InvalidRequest, match=f"at most {LIMIT:,} fields"):
        decode(Unparsed, data, LIMIT)  # type: ignore[type-var]


def test_largest_valid_batch_is_accepted() -> None:
    """A batch at its limits with every field of its requests passes, and the limit grows with --max-batch-items."""
    thresholds = pb.Thresholds(intent_confidence=0.5, ambiguity_margin=0.5, out_of_scope=0.5)
    request = pb.ParseRequest(
        text="x" * 2000,
        model="m",
        version="v",
        request_id="r",
        top_k=2,
        offset_unit=2,
        tasks=["t"] * 10,
        thresholds=thresholds,
        priority=1,
    )
    batch = pb.ParseBatchRequest(requests=[request] * 1024)
    check_fields(batch.DESCRIPTOR, batch.SerializeToString(), max_fields(Limits()))
    assert max_fields(Limits(batch_items=10_000)) > 10_000 * 20
    assert max_fields(Limits(batch_items=1)) == MIN_MAX_FIELDS
