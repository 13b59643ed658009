"""Metrics and log lines of a real server."""

import json
import re
import shutil
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from palm_serve.client import Client
from palm_serve.errors import NotFound
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

SECRET = "xylophone"


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_slow_and_refused_calls_are_logged(start_server: Callable[..., Any], tiny_bundle: Path) -> None:
    port = free_port()
    process = start_server(
        *(tiny_bundle, "--metrics-port", port, "--log-format", "json", "--slow-ms", "0.001", "--drain-grace", "0"),
        *("--max-rate", "0.001", "--max-burst", "2"),
    )
    with grpc.insecure_channel(process.target()) as channel:
        parse = stubs.DialogueUnderstandingStub(channel).Parse
        version = parse(pb.ParseRequest(text=f"play {SECRET}"), metadata=[("x-request-id", "r1")]).version[:12]
        parse(pb.ParseRequest(text=SECRET, request_id="r2"))
        with pytest.raises(grpc.RpcError, match="Send fewer requests"):
            parse(pb.ParseRequest(text=SECRET), metadata=[("x-request-id", "r3")])

    def scraped() -> str:
        return str(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())

    told = scraped()
    for series, value in (
        ('palm_requests_total{code="OK",door="grpc",method="Parse"}', 2),
        ('palm_requests_total{code="RESOURCE_EXHAUSTED",door="grpc",method="Parse"}', 1),
        ('palm_refused_calls_total{method="Parse",reason="client_rate"}', 1),
        (f'palm_queue_seconds_count{{model="tiny",version="{version}"}}', 2),
        (f'palm_decode_seconds_bucket{{le="10.0",model="tiny",version="{version}"}}', 2),
        (f'palm_engine_failures_total{{model="tiny",version="{version}"}}', 0),
        ("palm_serving", 1),
        ("palm_calls_in_flight", 0),
    ):
        assert re.search(rf"^{re.escape(series)} {value}(\.0)?$", told, re.MULTILINE), series
    for name in ("process_resident_memory_bytes", "process_open_fds", "palm_threads"):
        assert re.search(rf"^{name} [1-9]", told, re.MULTILINE) or not Path("/proc/self/stat").exists(), name
    assert not re.search(r"_created\b", told)  # prometheus_client would add one to every counter
    assert SECRET not in told
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    lines = [json.loads(line) for line in process.errors]
    assert [(line["request_id"], line["code"], line.get("slow"), line.get("reason")) for line in lines] == [
        ("r1", "OK", True, None),
        ("r2", "OK", True, None),
        ("r3", "RESOURCE_EXHAUSTED", True, "client_rate"),
    ]
    assert {line["level"] for line in lines} == {"warning"}
    assert lines[0]["version"] == version
    assert SECRET not in "".join(process.errors)


def test_metrics_are_served_while_draining(start_server: Callable[..., Any], tiny_bundle: Path) -> None:
    port = free_port()
    process = start_server(tiny_bundle, "--metrics-port", port, "--drain-grace", "3")
    process.target()

    def serving() -> str:
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        found = re.search(r"^palm_serving (\S+)$", text, re.MULTILINE)
        return found[1] if found else "not told"

    assert serving() == "1.0"
    process.process.send_signal(signal.SIGTERM)
    end = time.monotonic() + 2.5
    while serving() != "0.0":
        assert time.monotonic() < end
    assert process.finish() == 0


def break_on_hyphens(graph: Path) -> None:
    """Change a graph so that it fails for the last token of the vocabulary, the hyphen."""
    model = onnx.load(graph)
    pieces = next(one for one in model.graph.initializer if one.name == "table").dims[0]
    last = next(node for node in model.graph.node if "intent.logits" in node.output)
    last.output[0] = "intent.plain"
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(pieces - 1, dtype=np.float32), "short.table"))
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["input_ids"], ["short.most"], keepdims=0),
            helper.make_node("Gather", ["short.table", "short.most"], ["short.nothing"]),
            helper.make_node("Add", ["intent.plain", "short.nothing"], ["intent.logits"]),
        ]
    )
    onnx.save(model, graph)


def answers(call: Any, request: pb.ParseRequest, seconds: float) -> Iterator[grpc.StatusCode]:
    """Repeat a call until it succeeds and return its status codes."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        code = call.future(request).code()
        yield code
        if code is grpc.StatusCode.OK:
            return
        time.sleep(0.01)


def test_engine_failure_is_reported_and_recovers(
    start_server: Callable[..., Any],
    make_tiny_bundle: Callable[..., Path],
    reseal_bundle: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """The failure is logged and counted, and the model recovers without a restart."""
    bundle = make_tiny_bundle(tmp_path / "tiny")
    break_on_hyphens(bundle / "model.onnx")
    port = free_port()
    options = ("--provider", "CPU", "--metrics-port", port, "--log-format", "json", "--drain-grace", "0")
    process = start_server(reseal_bundle(bundle), *options)

    def failures() -> int:
        told = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        return int(float(re.search(r"^palm_engine_failures_total{[^}]*} (\S+)$", told, re.MULTILINE)[1]))  # type: ignore[index]

    with grpc.insecure_channel(process.target()) as channel:
        parse = stubs.DialogueUnderstandingStub(channel).Parse
        assert parse(pb.ParseRequest(text="play a song")).intent.name == "music"
        assert failures() == 0
        for number in range(3):
            with pytest.raises(grpc.RpcError) as caught:
                parse(pb.ParseRequest(text=f"{SECRET} -"), metadata=[("x-request-id", f"bad{number}")])
            assert caught.value.code() is grpc.StatusCode.INTERNAL
        # The engine's thread tells of it once the third answer is on its way.
        until = time.monotonic() + 20
        while failures() != 1:
            assert time.monotonic() < until
            time.sleep(0.02)
        codes = list(answers(parse, pb.ParseRequest(text="play a song"), seconds=20))
        assert codes[-1] is grpc.StatusCode.OK
        assert set(codes[:-1]) <= {grpc.StatusCode.UNAVAILABLE}, "another replica can answer meanwhile"
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
    lines = [json.loads(line) for line in process.errors]
    assert [line["code"] for line in lines if line.get("request_id") == "bad0" and "code" in line] == ["INTERNAL"]
    told = " ".join(line["message"] for line in lines)
    assert "3 batches in a row failed; the engine counts as broken" in told
    assert "out of service until its engine works" in told
    assert "the engine works again" in told
    assert SECRET not in "".join(process.errors)


def test_watch_serves_names_of_any_script_and_tells_others(
    start_server: Callable[..., Any], tiny_bundle: Path, tmp_path: Path
) -> None:
    """From the directory through requests, health, metrics and messages; a link that breaks changes nothing but is told."""
    models = tmp_path / "models"
    models.mkdir()
    name = "我的模型"
    shutil.copytree(tiny_bundle, models / name)
    shutil.copytree(tiny_bundle, models / "my model")
    (models / "linked").symlink_to(tiny_bundle)
    port = free_port()
    process = start_server("--watch", models, "--watch-interval", "0.1", "--metrics-port", str(port))

    def metrics() -> str:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
            return str(response.read().decode())

    with Client(process.target()) as client:
        assert client.parse("hello", model=name).intent.name == "greeting"
        with pytest.raises(NotFound, match=name):
            client.parse("hello", model="absent")
        (models / "linked").unlink()
        (models / "linked").symlink_to("/nonexistent")
        failing = 'palm_bundle_failing{label="stable",model="linked"} 1.0'
        end = time.monotonic() + 120
        while failing not in metrics():
            assert time.monotonic() < end
            time.sleep(0.05)
        assert client.parse("hello", model="linked").intent.name == "greeting"
        assert f'model="{name}"' in metrics()
        assert "palm_watch_failing 0.0" in metrics()
    errors = [line for line in process.errors if "ERROR" in line]
    assert len(errors) == 2, errors
    assert "my model must be named with 1 to 100 letters" in errors[0]
    assert "linked is a link to /nonexistent, which cannot be read" in errors[1]
