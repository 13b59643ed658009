"""Deadlines and cancellation against a real server whose engine needs a while."""

import hashlib
import re
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
from google.rpc import error_details_pb2, status_pb2
from onnx import TensorProto, helper, numpy_helper

from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

SIZE, PRODUCTS = 512, 40


def make_slow(graph: Path) -> None:
    """Adds products of large matrices that nothing uses and no optimizer can leave out or compute beforehand."""
    model = onnx.load(graph)
    burn = (np.random.default_rng(1).normal(0, 1, (SIZE, SIZE)) / SIZE**0.5).astype(np.float32)
    nodes = [
        helper.make_node("Cast", ["input_ids"], ["burn.ids"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["burn.ids"], ["burn.most"], keepdims=0),
        helper.make_node("Add", ["burn.matrix", "burn.most"], ["burn.0"]),
        *(helper.make_node("MatMul", [f"burn.{i}", "burn.matrix"], [f"burn.{i + 1}"]) for i in range(PRODUCTS)),
        helper.make_node("ReduceMax", [f"burn.{PRODUCTS}"], ["burn.last"], keepdims=0),
        # A finite number is never above infinity, so nothing is added; the optimizer cannot know.
        helper.make_node("Greater", ["burn.last", "burn.infinity"], ["burn.never"]),
        helper.make_node("Cast", ["burn.never"], ["burn.nothing"], to=TensorProto.FLOAT),
    ]
    last = next(node for node in model.graph.node if "intent.logits" in node.output)
    last.output[0] = "intent.plain"
    nodes_after = [helper.make_node("Add", ["intent.plain", "burn.nothing"], ["intent.logits"])]
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(burn, "burn.matrix"),
            numpy_helper.from_array(np.array(np.inf, dtype=np.float32), "burn.infinity"),
        ]
    )
    model.graph.node.extend([*nodes, *nodes_after])
    onnx.save(model, graph)


class SlowServer:
    """A server, its metrics, and about how long one of its batches takes."""

    def __init__(self, target: str, metrics_port: int) -> None:
        self.channel = grpc.insecure_channel(target)
        self.dialogue = stubs.DialogueUnderstandingStub(self.channel)
        self.metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        times = [self.timed() for _ in range(5)]
        self.batch_s = sorted(times)[2]

    def timed(self) -> float:
        begin = time.monotonic()
        self.dialogue.Parse(pb.ParseRequest(text="play a song"))
        return time.monotonic() - begin

    def metric(self, name: str, reason: str = "") -> float:
        text = urllib.request.urlopen(self.metrics).read().decode()
        labels = 'model="tiny",' + (f'reason="{reason}",' if reason else "") + 'version="[0-9a-f]{12}"'
        match = re.search(rf"^{name}{{{labels}}} (\S+)$", text, re.MULTILINE)
        assert match, text
        return float(match[1])


@pytest.fixture(scope="module")
def slow_bundle(
    tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[..., Path], reseal_bundle: Callable[..., Path]
) -> Path:
    bundle = make_tiny_bundle(tmp_path_factory.mktemp("slow") / "tiny")
    make_slow(bundle / "model.onnx")
    return reseal_bundle(bundle)


@pytest.fixture(scope="module")
def slow(slow_bundle: Path, start_shared_server: Callable[..., Any]) -> Iterator[SlowServer]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = start_shared_server(
        slow_bundle, "--port", "0", "--provider", "CPU", "--threads", "1", "--metrics-port", port
    )
    server = SlowServer(process.target(), port)
    yield server
    server.channel.close()


def test_call_cancelled_in_flight_leaves_its_batch(slow: SlowServer) -> None:
    for _ in range(20):
        before = slow.metric("palm_discarded_rows_total", "late")
        running = slow.dialogue.Parse.future(pb.ParseRequest(text="hello"))
        time.sleep(slow.batch_s / 3)
        three = [slow.dialogue.Parse.future(pb.ParseRequest(text=text)) for text in ("hi", "play a song", "rain")]
        running.result()
        time.sleep(slow.batch_s / 3)
        three[1].cancel()
        answers = [three[i].result() for i in (0, 2)]
        assert [answer.intent.name for answer in answers] == ["greeting", "weather"]
        assert three[1].cancelled()
        if all(answer.timings.batch_size == 3 for answer in answers):
            break
    else:
        raise AssertionError("the three never met in one batch")
    assert slow.metric("palm_discarded_rows_total", "late") == before + 1
    assert slow.metric("palm_discarded_rows_total", "wasted") == 0


def test_calls_cancelled_in_the_queue_are_not_run(slow: SlowServer) -> None:
    for _ in range(20):
        rows, dropped = slow.metric("palm_batch_rows_sum"), slow.metric("palm_dropped_total", "cancelled")
        running = slow.dialogue.Parse.future(pb.ParseRequest(text="hello"))
        time.sleep(slow.batch_s / 4)
        waiting = [slow.dialogue.Parse.future(pb.ParseRequest(text="hi")) for _ in range(8)]
        time.sleep(slow.batch_s / 4)
        for call in waiting[:7]:
            call.cancel()
        running.result()
        answer = waiting[7].result()
        counts = slow.metric("palm_batch_rows_sum") - rows, slow.metric("palm_dropped_total", "cancelled") - dropped
        # On a busy machine the batch before may end before the cancellations come; then rows are run, and counted.
        assert counts[0] + counts[1] <= 9
        if counts == (2, 7):
            assert answer.timings.batch_size == 1
            break
    else:
        raise AssertionError("the cancellations never came in time")


def test_metrics_show_waiting_and_running_requests(slow: SlowServer) -> None:
    def gauges() -> dict[str, float]:
        text = urllib.request.urlopen(slow.metrics).read().decode()
        return {
            name: float(value)
            for name, value in re.findall(
                r'^palm_((?:queue_requests|queue_tokens){[^}]*priority="\w+"|rows_in_flight){?[^}]*} (\S+)$',
                text,
                re.MULTILINE,
            )
        }

    for _ in range(20):
        running = slow.dialogue.Parse.future(pb.ParseRequest(text="hello"))
        time.sleep(slow.batch_s / 4)
        waiting = [slow.dialogue.Parse.future(pb.ParseRequest(text="hi")) for _ in range(3)]
        waiting += [slow.dialogue.Parse.future(pb.ParseRequest(text="hi", priority=pb.Priority.PRIORITY_BATCH))]
        time.sleep(slow.batch_s / 4)
        gauges_at_work = {re.sub(r"{.*priority=", " ", name): value for name, value in gauges().items()}
        for call in (running, *waiting):
            call.result()
        if gauges_at_work == {
            "rows_in_flight": 1,
            'queue_requests "interactive"': 3,
            'queue_tokens "interactive"': 9,
            'queue_requests "batch"': 1,
            'queue_tokens "batch"': 3,
        }:
            break
    else:
        raise AssertionError(f"never seen at work: {gauges_at_work}")
    assert set(gauges().values()) == {0}


def test_deadline_of_a_millisecond_runs_no_row(slow: SlowServer) -> None:
    rows = slow.metric("palm_batch_rows_sum")
    for _ in range(20):
        with pytest.raises(grpc.RpcError) as refused:
            slow.dialogue.Parse(pb.ParseRequest(text="play a song"), timeout=0.001)
        assert refused.value.code().name in ("DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED")
    assert slow.timed() > 0
    assert slow.metric("palm_batch_rows_sum") == rows + 1


def test_deadline_shorter_than_the_engine_is_refused(slow: SlowServer) -> None:
    rows, dropped = slow.metric("palm_batch_rows_sum"), slow.metric("palm_dropped_total", "unmeetable")
    begin = time.monotonic()
    with pytest.raises(grpc.RpcError, match="one such request takes up to") as refused:
        slow.dialogue.Parse(pb.ParseRequest(text="play a song"), timeout=slow.batch_s / 2)
    assert time.monotonic() - begin < slow.batch_s / 2
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    raw = next(value for key, value in refused.value.trailing_metadata() if key == "grpc-status-details-bin")
    retry = error_details_pb2.RetryInfo()
    assert status_pb2.Status.FromString(raw).details[0].Unpack(retry)
    assert retry.retry_delay.ToTimedelta().total_seconds() > 0
    assert slow.metric("palm_batch_rows_sum") == rows
    assert slow.metric("palm_dropped_total", "unmeetable") == dropped + 1


def test_flood_of_one_client_does_not_delay_another(
    slow_bundle: Path, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    """Three calls one after the other, each behind the thousand of another client, are answered long before those."""
    tokens = tmp_path / "tokens.toml"
    entries = []
    for name in ("web", "other"):
        digest = hashlib.sha256(name.encode()).hexdigest()
        entries.append(f'[tokens.{name}]\nsha256 = "{digest}"\nscopes = ["parse"]\n')
    tokens.write_text("\n".join(entries), encoding="utf-8")
    process = start_server(slow_bundle, "--provider", "CPU", "--threads", "1", "--tokens", tokens)
    target = process.target()
    options = (("grpc.use_local_subchannel_pool", 1),)
    with grpc.insecure_channel(target, options) as web, grpc.insecure_channel(target, options) as other:
        parse = stubs.DialogueUnderstandingStub(web).Parse
        metadata = (("authorization", "Bearer web"),)
        flood = [parse.future(pb.ParseRequest(text="hello"), metadata=metadata) for _ in range(1000)]
        while not any(call.done() for call in flood):
            time.sleep(0.001)
        for _ in range(3):
            answer = stubs.DialogueUnderstandingStub(other).Parse(
                pb.ParseRequest(text="hi"), metadata=(("authorization", "Bearer other"),), timeout=600
            )
            assert answer.intent.name == "greeting"
        waiting = sum(not call.done() for call in flood)
        assert waiting > 100, "in order of arrival, none of them would wait any more"
        assert all(call.result().intent.name == "greeting" for call in flood), "and none of them is lost"
