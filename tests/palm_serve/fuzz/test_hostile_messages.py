"""Messages of 4 MiB that would take a multiple of it to parse: the server refuses them and does not grow."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from palm_serve.client import Client
from palm_serve.oip import inference_pb2 as oip

Process = Any  # of conftest.py, which cannot be imported by name
MESSAGE_BYTES = (4 << 20) - 64
GROWTH_MIB = 32
PATIENCE_S = 120.0
UNARY, STREAM = "unary", "stream"

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="what the server holds is read from /proc"
)


def repeated(field: bytes) -> bytes:
    return field * (MESSAGE_BYTES // len(field))


def packed_shape() -> bytes:
    tensor = oip.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1] * (MESSAGE_BYTES - 64))
    return oip.ModelInferRequest(inputs=[tensor]).SerializeToString()


HOSTILE = {
    "requests of a batch": ("palm_serve.v1.DialogueUnderstanding/ParseBatch", UNARY, repeated(b"\x0a\0")),
    "tasks": ("palm_serve.v1.DialogueUnderstanding/Parse", UNARY, b"\x0a\x01a" + repeated(b"\x3a\0")),
    "tasks in a stream": (
        "palm_serve.v1.DialogueUnderstanding/ParseStream",
        STREAM,
        b"\x0a\x01a" + repeated(b"\x3a\0"),
    ),
    "thresholds": ("palm_serve.v1.DialogueUnderstanding/Parse", UNARY, repeated(b"\x42\0")),
    "unknown fields": ("palm_serve.v1.Prediction/Predict", UNARY, repeated(b"\x78\x01")),
    "groups": ("palm_serve.v1.Models/GetModel", UNARY, repeated(b"\x7b\x7c")),
    "inputs": ("inference.GRPCInferenceService/ModelInfer", UNARY, repeated(b"\x2a\0")),
    "parameters": ("inference.GRPCInferenceService/ModelInfer", UNARY, repeated(b"\x22\0")),
    "raw contents in a stream": ("inference.GRPCInferenceService/ModelStreamInfer", STREAM, repeated(b"\x3a\0")),
    "packed shape": ("inference.GRPCInferenceService/ModelInfer", UNARY, packed_shape()),
    "health": ("grpc.health.v1.Health/Check", UNARY, repeated(b"\x0a\0")),
    "reflection": ("grpc.reflection.v1.ServerReflection/ServerReflectionInfo", STREAM, repeated(b"\x1a\0")),
}


@pytest.fixture(scope="module")
def server(start_shared_server: Callable[..., Process], tiny_bundle: Path) -> Iterator[Process]:
    process = start_shared_server(tiny_bundle, "--drain-grace", "0", "--log-level", "error")
    with Client(process.target()) as client:
        client.parse("play a song")
    yield process
    process.process.terminate()
    assert process.finish() == 0, process.errors
    assert process.errors == []


def peak_mib(server: Process) -> float:
    found = re.search(r"VmHWM:\s+(\d+)", Path(f"/proc/{server.process.pid}/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def outcome(channel: grpc.Channel, method: str, kind: str, data: bytes) -> str:
    """Return the status of the call, or the text of its first response."""
    if kind == UNARY:
        try:
            return repr(channel.unary_unary(f"/{method}")(data, timeout=PATIENCE_S))
        except grpc.RpcError as error:
            return f"{error.code().name}: {error.details()}"
    try:
        return repr(next(channel.stream_stream(f"/{method}")(iter([data]), timeout=PATIENCE_S)))
    except grpc.RpcError as error:
        return f"{error.code().name}: {error.details()}"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_messages_are_refused_without_growth(server: Process, name: str) -> None:
    """Two at once, whose bytes are held twice, by gRPC and by Python. The peak of the memory counts."""
    method, kind, data = HOSTILE[name]
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5")  # sets the peak to the current value
    before = peak_mib(server)
    with grpc.insecure_channel(server.target()) as channel, ThreadPoolExecutor(2) as pool:
        outcomes = [pool.submit(outcome, channel, method, kind, data) for _ in range(2)]
        with Client(server.target(), timeout_s=PATIENCE_S) as neighbour:
            assert neighbour.parse("play a song").intent.name == "music"
        for finished in outcomes:
            assert "fields, those of inner messages included" in finished.result()
    assert peak_mib(server) - before <= GROWTH_MIB
