"""Real server processes with a real bundle."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

TEXT = "please show me flights from boston to new york on monday"
SLOTS = [("city", "boston"), ("city", "new york"), ("day", "monday")]
SERVING, NOT_SERVING = 1, 2
ROOT = Path(__file__).parents[2]


Process = Any  # of conftest.py, which cannot be imported by name


@pytest.fixture(scope="module")
def channel(tiny_server: str) -> Iterator[grpc.Channel]:
    """Connect to the shared server."""
    with grpc.insecure_channel(tiny_server) as opened:
        yield opened


def test_server_answers_parse(channel: grpc.Channel) -> None:
    answer = stubs.DialogueUnderstandingStub(channel).Parse(pb.ParseRequest(text=TEXT))
    assert answer.intent.name == "flight"
    assert [(slot.name, slot.value) for slot in answer.slots] == SLOTS
    assert all(slot.value == TEXT[slot.start : slot.end] for slot in answer.slots)
    assert [(r.task, r.classification.label.name) for r in answer.results] == [("sentiment", "positive")]
    assert [label.confidence for label in answer.ranking] == sorted(
        (r.confidence for r in answer.ranking), reverse=True
    )
    assert answer.timings.batch_size == 1
    assert len(answer.version) == 64
    assert not answer.truncated


def test_long_text_is_truncated_not_refused(channel: grpc.Channel) -> None:
    text = "fly to 北京 " * 40
    answer = stubs.DialogueUnderstandingStub(channel).Parse(
        pb.ParseRequest(text=text, offset_unit=pb.OffsetUnit.OFFSET_UNIT_UTF8_BYTE)
    )
    assert answer.truncated
    seen = text.encode()[: answer.seen].decode()
    assert text.startswith(seen)
    assert all(text.encode()[s.start : s.end].decode() == s.value for s in answer.slots)
    assert max(slot.end for slot in answer.slots) <= answer.seen < len(text)


def test_server_answers_batch_and_stream(channel: grpc.Channel) -> None:
    dialogue = stubs.DialogueUnderstandingStub(channel)
    texts = ["play a song", "", "hello", "x" * 10_001, "is the weather awful in 北京?"]
    requests = [pb.ParseRequest(text=text, request_id=str(i)) for i, text in enumerate(texts)]
    items = dialogue.ParseBatch(pb.ParseBatchRequest(requests=requests)).items
    expected = ["music", 3, "greeting", 3, "weather"]
    assert [item.response.intent.name or item.error.code for item in items] == expected
    streamed = {item.request_id: item for item in dialogue.ParseStream(iter(requests))}
    assert [streamed[str(i)].response.intent.name or streamed[str(i)].error.code for i in range(5)] == expected
    assert "must have at most 10,000 bytes, got 10,001" in streamed["3"].error.message


def test_server_answers_predict_and_models(channel: grpc.Channel) -> None:
    answer = stubs.PredictionStub(channel).Predict(pb.PredictRequest(task="sentiment", text="awful rain"))
    assert answer.result.classification.label.name == "negative"
    models = stubs.ModelsStub(channel)
    (model,) = models.ListModels(pb.ListModelsRequest()).models
    assert (model.name, model.ready, list(model.labels), model.max_text_bytes) == ("tiny", True, ["stable"], 10_000)
    assert {task.name: list(task.labels) for task in model.tasks}["slots"] == ["city", "day", "artist"]
    assert models.GetModel(pb.GetModelRequest(version=model.version[:8])) == model


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"\x0a\x02\xc3\x28", "with UTF-8 strings, got 4 other bytes"),
        (bytes(range(256)), "got 256 other bytes"),
        (pb.ParseRequest(text="hi", offset_unit=9).SerializeToString(), "offset_unit must be .* got 9"),
        (pb.ParseRequest(text="x" * 3_000_000).SerializeToString(), "must have at most 10,000 bytes, got 3,000,000"),
    ],
)
def test_invalid_bytes_are_refused(channel: grpc.Channel, data: bytes, match: str) -> None:
    with pytest.raises(grpc.RpcError, match=match) as caught:
        channel.unary_unary("/palm_serve.v1.DialogueUnderstanding/Parse")(data)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_disconnect_does_not_disturb_other_clients(channel: grpc.Channel) -> None:
    dialogue = stubs.DialogueUnderstandingStub(channel)
    # Work that keeps the engine busy, so that the three wait together behind it.
    ballast = dialogue.ParseBatch.future(pb.ParseBatchRequest(requests=[pb.ParseRequest(text=TEXT)] * 1024))
    calls = [dialogue.Parse.future(pb.ParseRequest(text=f"{TEXT} {i}")) for i in range(3)]
    calls[1].cancel()
    assert [calls[i].result(20).intent.name for i in (0, 2)] == ["flight", "flight"]
    assert {item.response.intent.name for item in ballast.result(20).items} == {"flight"}
    with pytest.raises(grpc.FutureCancelledError):
        calls[1].result(1)


def test_server_answers_health(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", "tiny"):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == SERVING
    with pytest.raises(grpc.RpcError, match="no model 'nope'"):
        health.Check(health_pb2.HealthCheckRequest(service="nope"))


def test_client_without_proto_uses_reflection(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    assert {"palm_serve.v1.DialogueUnderstanding", "grpc.health.v1.Health"} <= set(database.get_services())
    pool = DescriptorPool(database)
    method = pool.FindServiceByName("palm_serve.v1.DialogueUnderstanding").FindMethodByName("Parse")
    request = message_factory.GetMessageClass(method.input_type)(text=TEXT)
    call = channel.unary_unary(
        "/palm_serve.v1.DialogueUnderstanding/Parse",
        request_serializer=type(request).SerializeToString,
        response_deserializer=message_factory.GetMessageClass(method.output_type).FromString,
    )
    assert [(slot.name, slot.value) for slot in call(request).slots] == SLOTS


def test_server_answers_reflection_v1(channel: grpc.Channel) -> None:
    call = channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    assert "palm_serve.v1.Models" in {service.name for service in answer.list_services_response.service}


def test_drain_finishes_running_calls(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    process = start_server(tiny_bundle, "--max-queue", "20000", "--drain-grace", "1")
    with grpc.insecure_channel(process.target()) as channel:
        dialogue, health = stubs.DialogueUnderstandingStub(channel), health_pb2_grpc.HealthStub(channel)
        watched = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == SERVING
        idle_stream = dialogue.ParseStream(_one_and_wait())
        assert next(idle_stream).request_id == "first"
        large = pb.ParseBatchRequest(requests=[pb.ParseRequest(text=TEXT)] * 1024)
        calls = [dialogue.ParseBatch.future(large, timeout=30) for _ in range(3)]
        process.process.send_signal(signal.SIGTERM)
        assert next(watched).status == NOT_SERVING  # first of all ...
        assert not all(call.done() for call in calls)
        assert dialogue.Parse(pb.ParseRequest(text="hello")).intent.name == "greeting"  # ... then still answering
        for call in calls:
            assert {item.response.intent.name for item in call.result().items} == {"flight"}
        with pytest.raises(grpc.RpcError) as caught:
            next(idle_stream)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert process.finish() == 0
    assert process.errors == []


def _one_and_wait() -> Iterator[pb.ParseRequest]:
    yield pb.ParseRequest(text="hello", request_id="first")
    time.sleep(3)


def test_stop_while_loading(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    process = start_server(*[tiny_bundle])
    process.wait_for("listening on")
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    assert process.errors == []


def test_port_in_use(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        process = start_server(tiny_bundle, "--port", str(port))
        assert process.finish() == 2
    (message,) = process.errors
    assert f"cannot listen on 127.0.0.1:{port}: the port is in use" in message


def newer_format(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "format_version": 2}))


def changed_byte(bundle: Path) -> None:
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (bundle / "model.onnx").write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (newer_format, "format"),
        (changed_byte, "model.onnx"),
        (lambda bundle: (bundle / "tokenizer.json").unlink(), "tokenizer.json"),
        (shutil.rmtree, "bundle"),
    ],
    ids=["newer format", "changed byte", "missing file", "missing bundle"],
)
def test_invalid_bundles_end_the_start(
    start_server: Callable[..., Process],
    make_tiny_bundle: Callable[..., Path],
    tmp_path: Path,
    damage: Callable[[Path], Any],
    match: str,
) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    damage(bundle)
    process = start_server(bundle)
    assert process.finish() == 2
    (message,) = process.errors
    assert message.startswith("palm-serve: ")
    assert match in message


def test_server_with_two_models_control_and_metrics(
    start_server: Callable[..., Process], tiny_bundle: Path, make_tiny_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    make_tiny_bundle(tmp_path / "third", name="third")
    second = make_tiny_bundle(tmp_path / "second", name="second", max_length=16)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        metrics_port = free.getsockname()[1]
    process = start_server(
        *(tiny_bundle, second, "--allow-model-control", "--model-folder", tmp_path, "--metrics-port", str(metrics_port))
    )
    with grpc.insecure_channel(process.target()) as channel:
        dialogue, models = stubs.DialogueUnderstandingStub(channel), stubs.ModelsStub(channel)
        assert dialogue.Parse(pb.ParseRequest(text="hello")).model == "tiny"
        assert dialogue.Parse(pb.ParseRequest(text="hello", model="second")).model == "second"
        loaded = models.LoadModel(pb.LoadModelRequest(name="third"))
        assert dialogue.Parse(pb.ParseRequest(text="hello", model="third")).version == loaded.version
        models.UnloadModel(pb.UnloadModelRequest(name="third"))
        with pytest.raises(grpc.RpcError, match="no model 'third'"):
            dialogue.Parse(pb.ParseRequest(text="hello", model="third"))
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics") as response:
        assert 'palm_requests_total{code="OK",door="grpc",method="Parse"} 3.0' in response.read().decode()
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0


def test_exposed_server_prints_warning(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    process = start_server(tiny_bundle, "--host", "0.0.0.0")
    process.wait_for("ready;")
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    assert "0.0.0.0 is reachable from other machines" in process.errors[0]


def test_package_import_loads_no_dependencies() -> None:
    heavy = ("grpc", "google.protobuf", "onnxruntime", "numpy", "pydantic", "tokenizers", "typer", "torch")
    code = f"import sys, palm_serve; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "[]"
