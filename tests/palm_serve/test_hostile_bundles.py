"""Valid bundles whose graph never ends or asks for all memory: they fail, and nothing else does."""

import importlib.util
import json
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import onnx
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from onnx import TensorProto, helper, numpy_helper

from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

Vocabulary = dict[str, int]
Nodes = Callable[[Vocabulary], tuple[list[Any], list[Any]]]

SERVING, NOT_SERVING = 1, 2
TURNS = 2**62
FLOATS = 3_000_000_000
TRAP = "adele"
"""A word of no golden example, whose id is in no batch of the warm-up."""
BOUND_S = 60.0
"""Longest time of a neighbour's call on a machine under load."""


def endless_nodes(vocabulary: Vocabulary) -> tuple[list[Any], list[Any]]:
    """Return nodes and weights of a Loop of TURNS turns around the embedding."""
    state = helper.make_tensor_value_info
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["goes"]), helper.make_node("Add", ["before", "zero"], ["after"])],
        "turn",
        [
            state("turn", TensorProto.INT64, []),
            state("go", TensorProto.BOOL, []),
            state("before", TensorProto.FLOAT, ["batch", "sequence", "width"]),
        ],
        [
            state("goes", TensorProto.BOOL, []),
            state("after", TensorProto.FLOAT, ["batch", "sequence", "width"]),
        ],
        [numpy_helper.from_array(np.float32(0), "zero")],
    )
    weights = [numpy_helper.from_array(np.int64(TURNS), "turns"), numpy_helper.from_array(np.array(True), "always")]
    return [helper.make_node("Loop", ["turns", "always", "words"], ["slow_words"], body=body)], weights


def trap_nodes(vocabulary: Vocabulary) -> tuple[list[Any], list[Any]]:
    """Return nodes and weights of a Loop that never ends for texts with TRAP, and has no turn for others."""
    (loop,), weights = endless_nodes(vocabulary)
    loop.input[0] = "turns_of_text"
    nodes = [
        helper.make_node("Equal", ["input_ids", "trap"], ["is_trap"]),
        helper.make_node("Cast", ["is_trap"], ["trap_numbers"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["trap_numbers"], ["has_trap"], keepdims=0),
        helper.make_node("Mul", ["has_trap", "turns"], ["turns_of_text"]),
        loop,
    ]
    return nodes, [*weights, numpy_helper.from_array(np.int64(vocabulary[TRAP]), "trap")]


def huge_nodes(vocabulary: Vocabulary) -> tuple[list[Any], list[Any]]:
    """Return nodes and weights that add a sum over FLOATS zeros to the embedding. No optimizer can fold them."""
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["shape"]),
        helper.make_node("Gather", ["shape", "first"], ["rows"]),
        helper.make_node("Div", ["rows", "rows"], ["one"]),
        helper.make_node("Mul", ["one", "floats"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
        helper.make_node("ReduceSum", ["zeros"], ["nothing"], keepdims=0),
        helper.make_node("Add", ["words", "nothing"], ["slow_words"]),
    ]
    weights = [
        numpy_helper.from_array(np.array([0], dtype=np.int64), "first"),
        numpy_helper.from_array(np.array([FLOATS], dtype=np.int64), "floats"),
    ]
    return nodes, weights


@pytest.fixture
def make_hostile(tiny_bundle: Path, reseal_bundle: Callable[..., Path]) -> Callable[..., Path]:
    """Return `make_hostile(PLACE, nodes)`, which writes a bundle with further nodes behind the embedding."""

    def make(place: Path, nodes: Nodes) -> Path:
        beside = place.with_name(f".{place.name}")
        shutil.copytree(tiny_bundle, beside)
        model = onnx.load(beside / "model.onnx")
        vocabulary = json.loads((beside / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
        further_nodes, weights = nodes(vocabulary)
        for node in model.graph.node:
            for index, name in enumerate(node.input):
                if name == "words":
                    node.input[index] = "slow_words"
        produced = next(index for index, node in enumerate(model.graph.node) if "words" in node.output)
        for node in reversed(further_nodes):
            model.graph.node.insert(produced + 1, node)
        model.graph.initializer.extend(weights)
        onnx.checker.check_model(model)
        onnx.save(model, beside / "model.onnx")
        reseal_bundle(beside)
        return beside.rename(place)

    return make


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def metrics(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=BOUND_S) as response:
        text: str = response.read().decode()
    return text


def until(condition: Callable[[], bool], seconds: float = 240) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [endless_nodes, huge_nodes])
def test_hostile_bundle_in_watch_fails_alone(
    start_server: Callable[..., Any],
    tiny_bundle: Path,
    make_hostile: Callable[..., Path],
    tmp_path: Path,
    nodes: Nodes,
) -> None:
    """The model beside it answers all the time, the failure is told everywhere, and the server stops as ever."""
    models = tmp_path / "models"
    models.mkdir()
    shutil.copytree(tiny_bundle, models / "good")
    port = free_port()
    options = ("--watch-interval", "0.1", "--load-timeout", "8", "--metrics-port", str(port), "--stop-timeout", "3")
    process = start_server("--watch", models, *options)
    with grpc.insecure_channel(process.target()) as channel:
        dialogue = stubs.DialogueUnderstandingStub(channel)
        make_hostile(models / "bad", nodes)

        def failed() -> bool:
            answer = dialogue.Parse(pb.ParseRequest(text="hello", model="good"), timeout=BOUND_S)
            assert answer.intent.name == "greeting"
            return 'palm_bundle_failing{label="stable",model="bad"} 1.0' in metrics(port)

        until(failed)
        failures = stubs.ModelsStub(channel).ListModels(pb.ListModelsRequest()).failures
        assert [(failure.name, failure.label) for failure in failures] == [("bad", "stable")]
        assert dialogue.Parse(pb.ParseRequest(text="hello"), timeout=BOUND_S).intent.name == "greeting"
        process.process.send_signal(signal.SIGTERM)
        assert process.finish(BOUND_S) == 0
    errors = [line for line in process.errors if "ERROR" in line]
    assert len(errors) == 1, process.errors
    assert str(models / "bad") in errors[0]


def test_stop_during_a_trial_ends_it(
    start_server: Callable[..., Any], tiny_bundle: Path, make_hostile: Callable[..., Path], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copytree(tiny_bundle, models / "good")
    process = start_server("--watch", models, "--watch-interval", "0.1", "--load-timeout", "3600")
    process.target()
    make_hostile(models / "bad", endless_nodes)
    until(lambda: bool(children(process.process.pid)))
    process.process.send_signal(signal.SIGTERM)
    assert process.finish(BOUND_S) == 0
    assert process.errors == []


def test_killed_server_leaves_no_trial_behind(
    start_server: Callable[..., Any], tiny_bundle: Path, make_hostile: Callable[..., Path], tmp_path: Path
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    shutil.copytree(tiny_bundle, models / "good")
    process = start_server("--watch", models, "--watch-interval", "0.1", "--load-timeout", "3600")
    process.target()
    make_hostile(models / "bad", endless_nodes)
    until(lambda: bool(children(process.process.pid)))
    (trial,) = children(process.process.pid)
    process.process.kill()
    until(lambda: not Path(f"/proc/{trial}").exists())


def children(pid: int) -> list[int]:
    """Return the processes that a process has started and that have not ended."""
    numbers = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = file.read_text().rpartition(")")[2].split()[:2]
        except OSError:  # ended
            continue
        if int(parent) == pid and state != "Z":
            numbers.append(int(file.parent.name))
    return numbers


@pytest.mark.slow
@pytest.mark.parametrize("nodes", [endless_nodes, huge_nodes])
@pytest.mark.parametrize("command", ["check", "run"])
def test_hostile_bundle_alone_is_refused(
    make_hostile: Callable[..., Path],
    tmp_path: Path,
    command: str,
    nodes: Nodes,
) -> None:
    bundle = make_hostile(tmp_path / "bad", nodes)
    arguments = [command, str(bundle), "--provider", "CPU", "--load-timeout", "5"]
    if command == "run":
        arguments += ["--port", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "palm_serve.cli", *arguments], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 2, done
    (message,) = done.stderr.splitlines()
    assert str(bundle) in message
    assert ("within 5 s" in message) is (nodes is endless_nodes)


def test_stop_during_an_endless_start_ends_the_process(
    start_server: Callable[..., Any], make_hostile: Callable[..., Path], tmp_path: Path
) -> None:
    bundle = make_hostile(tmp_path / "bad", endless_nodes)
    process = start_server(bundle, "--provider", "CPU", "--stop-timeout", "1", "--load-timeout", "3600")
    process.wait_for("listening")
    time.sleep(3)
    process.process.send_signal(signal.SIGTERM)
    assert process.finish(BOUND_S) in (0, 3)


@pytest.mark.slow
def test_run_that_takes_too_long_is_stopped(
    start_server: Callable[..., Any], tiny_bundle: Path, make_hostile: Callable[..., Path], tmp_path: Path
) -> None:
    """Its caller gets a message, and both models serve again afterwards."""
    bundle = make_hostile(tmp_path / "trap", trap_nodes)
    models = tmp_path / "models"
    models.mkdir()
    shutil.copytree(tiny_bundle, models / "good")
    bundle.rename(models / "trap")
    process = start_server("--watch", models, "--provider", "CPU", "--engine-timeout", "3")
    with grpc.insecure_channel(process.target()) as channel:
        dialogue = stubs.DialogueUnderstandingStub(channel)
        health = health_pb2_grpc.HealthStub(channel)

        def status() -> int:
            return int(health.Check(health_pb2.HealthCheckRequest(), timeout=BOUND_S).status)

        assert dialogue.Parse(pb.ParseRequest(text="hello", model="trap")).intent.name == "greeting"
        pending = dialogue.Parse.future(pb.ParseRequest(text=f"play {TRAP}", model="trap"), timeout=240)
        assert status() == SERVING
        assert pending.code() is grpc.StatusCode.INTERNAL
        assert "took too long" in pending.details()
        until(lambda: status() == SERVING)
        for name in ("good", "trap"):
            assert dialogue.Parse(pb.ParseRequest(text="hello", model=name), timeout=BOUND_S).intent.name == "greeting"
        process.process.send_signal(signal.SIGTERM)
        assert process.finish(BOUND_S) == 0
    assert any("takes longer than 3 s" in line for line in process.errors)


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("openvino") is None, reason="needs a run that cannot be stopped")
@pytest.mark.parametrize("stopped_by", ["watchdog", "signal"])
def test_run_that_cannot_be_stopped_ends_the_process(
    start_server: Callable[..., Any], make_hostile: Callable[..., Path], tmp_path: Path, stopped_by: str
) -> None:
    """OpenVINO does not look at the request for its end within a Loop. Until the process ends, health does not serve."""
    bundle = make_hostile(tmp_path / "trap", trap_nodes)
    limit = "2" if stopped_by == "watchdog" else "3600"
    options = ("--provider", "OpenVINO", "--engine-timeout", limit, "--stop-timeout", "2")
    process = start_server(bundle, *options)
    with grpc.insecure_channel(process.target()) as channel:
        dialogue = stubs.DialogueUnderstandingStub(channel)
        assert dialogue.Parse(pb.ParseRequest(text="hello"), timeout=BOUND_S).intent.name == "greeting"
        pending = dialogue.Parse.future(pb.ParseRequest(text=f"play {TRAP}"), timeout=240)
        if stopped_by == "signal":
            time.sleep(2)
            process.process.send_signal(signal.SIGTERM)
        else:
            health = health_pb2_grpc.HealthStub(channel)
            until(lambda: health.Check(health_pb2.HealthCheckRequest(), timeout=BOUND_S).status == NOT_SERVING)
        assert process.finish(BOUND_S) == 3
        assert pending.code() is not grpc.StatusCode.OK
    assert any("exit code 3" in line for line in process.errors)
