"""Random bytes to any method of any service cause a response or a refusal, never a failure of the server.

Messages are made from the descriptors, so that they get past the parser, or are such messages with bytes changed, cut, doubled or made up.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor, MethodDescriptor
from google.protobuf.message_factory import GetMessageClass
from grpc_channelz.v1 import channelz_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import HealthCheck, find, given, settings
from hypothesis import strategies as st

from palm_serve.oip import inference_pb2 as oip
from palm_serve.v1 import palm_pb2 as pb

Process = Any  # of conftest.py, which cannot be imported by name
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for module in (pb, oip, health_pb2, reflection_pb2, channelz_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
REFUSALS = {
    *("INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED", "UNIMPLEMENTED"),
    *("RESOURCE_EXHAUSTED", "DEADLINE_EXCEEDED"),
}
_INTERNAL = 13
_PATIENCE_S = 5.0
_WATCH_S = 0.05

WORDS = st.sampled_from(
    (
        *(
            "tiny",
            "tiny/stable",
            "stable",
            "intent",
            "slots",
            "sentiment",
            "intent.label",
            "slots.json",
            "text",
            "BYTES",
        ),
        *(
            "please show me flights from boston",
            " ",
            "北京 👩‍👩‍👧",
            "a\u0301" * 40,
            "x" * 300,
            "play a song " * 900,
            "\x00",
        ),
        *("../../etc/passwd", "/etc/passwd", "%2e%2e", "palm_serve.v1.ParseRequest", "priority", "timeout", "top_k"),
    )
)
INTEGERS = {
    FieldDescriptor.CPPTYPE_INT32: st.sampled_from((0, 1, 2, 3, 99, -1, 2**31 - 1, -(2**31))),
    FieldDescriptor.CPPTYPE_INT64: st.sampled_from((0, 1, 2, 3, -1, 2**40, 2**63 - 1, -(2**63))),
    FieldDescriptor.CPPTYPE_UINT32: st.sampled_from((0, 1, 2, 7, 2**16, 2**32 - 1)),
    FieldDescriptor.CPPTYPE_UINT64: st.sampled_from((0, 1, 2, 2**33, 2**64 - 1)),
    FieldDescriptor.CPPTYPE_ENUM: st.sampled_from((0, 1, 2, 3, 77, -1)),
    FieldDescriptor.CPPTYPE_FLOAT: st.floats(width=32),
    FieldDescriptor.CPPTYPE_DOUBLE: st.floats(),
    FieldDescriptor.CPPTYPE_BOOL: st.booleans(),
}


@st.composite
def structures(draw: st.DrawFn, kind: Descriptor, depth: int = 0) -> Any:
    """Generate a message of a class with some of its fields."""
    message = GetMessageClass(kind)()
    for field in kind.fields:
        if depth > 3 or not draw(st.booleans()):
            continue
        count = draw(st.integers(0, 3)) if field.is_repeated else 1
        values = [draw(_value(field, depth)) for _ in range(count)]
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for entry in values:
                if entry.DESCRIPTOR.fields_by_name["value"].message_type is None:
                    getattr(message, field.name)[entry.key] = entry.value
                else:
                    getattr(message, field.name)[entry.key].CopyFrom(entry.value)
        elif field.is_repeated:
            getattr(message, field.name).extend(values)
        elif field.message_type is not None:
            getattr(message, field.name).CopyFrom(values[0])
        else:
            setattr(message, field.name, values[0])
    return message


def _value(field: FieldDescriptor, depth: int) -> st.SearchStrategy[Any]:
    if field.message_type is not None:
        return structures(field.message_type, depth + 1)
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.one_of(WORDS.map(str.encode), st.binary(max_size=40))
    if field.type == FieldDescriptor.TYPE_STRING:
        return st.one_of(WORDS, st.text(st.characters(codec="utf-8"), max_size=40))
    return INTEGERS[field.cpp_type]


TEXTS = oip.InferTensorContents(bytes_contents=[b"play a song", b"hello"])
TENSOR = oip.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[2], contents=TEXTS)
SEEDS = {
    message.DESCRIPTOR.full_name: message
    for message in (
        pb.ParseRequest(text="please show me flights from boston"),
        pb.ParseBatchRequest(requests=[pb.ParseRequest(text="hello"), pb.ParseRequest(text="")]),
        pb.PredictRequest(task="sentiment", text="great"),
        oip.ModelInferRequest(inputs=[TENSOR]),
        pb.GetModelRequest(name="tiny"),
        oip.ModelConfigRequest(name="tiny"),
    )
}
SEEDS_OF = [
    path for path, method in METHODS.items() if method.input_type.full_name in SEEDS and not method.client_streaming
]


@st.composite
def contents(draw: st.DrawFn, kind: Descriptor) -> bytes:
    """Generate the bytes of a message, mostly mutated."""
    data = bytearray()
    if kind.full_name in SEEDS and draw(st.booleans()):
        data += SEEDS[kind.full_name].SerializeToString()
    # Messages one behind the other are one message.
    data += draw(structures(kind)).SerializeToString()
    for _ in range(draw(st.integers(0, 3))):
        place, length = draw(st.integers(0, len(data))), draw(st.integers(0, 8))
        change = draw(st.sampled_from(("flip", "cut", "insert", "double", "drop")))
        if change == "flip" and place < len(data):
            data[place] ^= 1 << draw(st.integers(0, 7))
        elif change == "cut":
            del data[place:]
        elif change == "insert":
            data[place:place] = draw(st.binary(min_size=1, max_size=8))
        elif change == "double":
            data += data[place:]
        elif change == "drop":
            del data[place : place + length]
    return bytes(data)


@pytest.fixture(scope="module")
def server(start_shared_server: Callable[..., Process], tiny_bundle: Path) -> Iterator[Process]:
    """Run a server whose log must stay empty, because a logged error is a failure too."""
    process = start_shared_server(tiny_bundle, "--channelz", "--drain-grace", "0", "--log-level", "error")
    process.target()
    yield process
    process.process.terminate()
    assert process.finish() == 0, process.errors
    assert process.errors == []


@pytest.fixture(scope="module")
def channel(server: Process) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.target()) as opened:
        yield opened


def ask(channel: grpc.Channel, path: str, messages: list[bytes]) -> tuple[str, str, list[bytes]]:
    """Return the code, the details and the responses of a call."""
    method = METHODS[path]
    answers: list[bytes] = []
    try:
        if method.client_streaming:
            answers.extend(channel.stream_stream(path)(iter(messages), timeout=_PATIENCE_S))
        elif method.server_streaming:
            for answer in channel.unary_stream(path)(messages[0], timeout=_WATCH_S):
                answers.append(answer)
        else:
            answers.append(channel.unary_unary(path)(messages[0], timeout=_PATIENCE_S))
    except grpc.RpcError as error:
        return error.code().name, error.details() or "", answers
    return "OK", "", answers


def check(server: Process, channel: grpc.Channel, path: str, messages: list[bytes]) -> None:
    code, details, answers = ask(channel, path, messages)
    assert code in {"OK", *REFUSALS}, f"{path} {messages}: {code} {details}"
    for word in ("Traceback", "File ", ".py", "palm_serve/", str(Path.home())):
        assert word not in details, f"{path} {messages}: {details}"
    for answer in answers:
        reply = GetMessageClass(METHODS[path].output_type).FromString(answer)
        items = [reply] if isinstance(reply, pb.ParseItem) else getattr(reply, "items", ())
        assert all(item.error.code != _INTERNAL for item in items), f"{path} {messages}: {reply}"
        assert "INTERNAL" not in getattr(reply, "error_message", ""), f"{path} {messages}: {reply}"
    assert server.process.poll() is None, f"{path} {messages} ended the server: {server.errors}"
    good = pb.ParseRequest(text="show me flights to boston").SerializeToString()
    told, why, (other,) = ask(channel, "/palm_serve.v1.DialogueUnderstanding/Parse", [good])
    assert (told, pb.ParseResponse.FromString(other).intent.name) == ("OK", "flight"), f"after {path} {messages}: {why}"


CAREFULLY = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], database=None
)


@pytest.mark.parametrize("path", METHODS)
@settings(CAREFULLY, max_examples=25)
@given(data=st.data())
def test_fuzzed_messages(server: Process, channel: grpc.Channel, path: str, data: st.DataObject) -> None:
    kind = METHODS[path].input_type
    check(server, channel, path, data.draw(st.lists(contents(kind), min_size=1, max_size=3)))


@pytest.mark.slow
@pytest.mark.parametrize("path", METHODS)
@settings(CAREFULLY, max_examples=400)
@given(data=st.data())
def test_many_fuzzed_messages(server: Process, channel: grpc.Channel, path: str, data: st.DataObject) -> None:
    kind = METHODS[path].input_type
    check(server, channel, path, data.draw(st.lists(contents(kind), min_size=1, max_size=3)))


@pytest.mark.parametrize("path", SEEDS_OF)
def test_fuzzer_reaches_the_models(channel: grpc.Channel, path: str) -> None:
    """Messages that the parser refuses would prove little. Raises NoSuchExample."""
    kind = METHODS[path].input_type

    def answered(message: bytes) -> bool:
        return message != SEEDS[kind.full_name].SerializeToString() and ask(channel, path, [message])[0] == "OK"

    assert find(contents(kind), answered, settings=settings(CAREFULLY, max_examples=5000)) is not None
