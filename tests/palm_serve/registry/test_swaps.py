"""Versions that change under real servers while clients call them without a pause."""

import itertools
import shutil
import signal
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as oip_stubs
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

Process = Any  # of conftest.py, which cannot be imported by name
TEXT = "please show me flights from boston to new york on monday"
WATCH = ("--watch-interval", "0.05", "--provider", "CPU", "--drain-grace", "0", "--log-level", "info")


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[..., Path]) -> dict[str, Path]:
    """Three versions of one model, outside of the watched directory."""
    store = tmp_path_factory.mktemp("store")
    return {name: make_tiny_bundle(store / name, name="tiny", max_length=20 + i) for i, name in enumerate("abc")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    directory = tmp_path / "models" / "tiny"
    directory.mkdir(parents=True)
    return directory


def point(place: Path, bundle: Path) -> None:
    """Make a link point to another bundle, atomically."""
    new = place.with_name(f".{place.name}")
    new.symlink_to(bundle)
    new.replace(place)


class Load:
    """Calls of every kind, from several threads, each without a pause, until the end of the block."""

    def __init__(self, target: str) -> None:
        self.failures: list[str] = []
        self.answers: Counter[str] = Counter()
        self._target = target
        self._stop = threading.Event()
        kinds = (self._parse, self._batch, self._stream, self._infer)
        self._threads = [threading.Thread(target=self._run, args=(kind,)) for kind in kinds]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, call: Callable[[grpc.Channel], None]) -> None:
        with grpc.insecure_channel(self._target) as channel:
            while not self._stop.is_set():
                try:
                    call(channel)
                except Exception as error:
                    self.failures.append(repr(error))

    def _parse(self, channel: grpc.Channel) -> None:
        self._take(stubs.DialogueUnderstandingStub(channel).Parse(pb.ParseRequest(text=TEXT), timeout=20))

    def _batch(self, channel: grpc.Channel) -> None:
        # Long enough to be tokenized in a thread, which is where a careless swap would lose it.
        requests = [pb.ParseRequest(text=TEXT * 40)] * 8
        stub = stubs.DialogueUnderstandingStub(channel)
        for item in stub.ParseBatch(pb.ParseBatchRequest(requests=requests), timeout=20).items:
            self._take_item(item)

    def _stream(self, channel: grpc.Channel) -> None:
        stub = stubs.DialogueUnderstandingStub(channel)
        for item in stub.ParseStream(itertools.repeat(pb.ParseRequest(text=TEXT), 20), timeout=20):
            self._take_item(item)

    def _infer(self, channel: grpc.Channel) -> None:
        request = oip.ModelInferRequest(model_name="tiny")
        request.inputs.add(name="text", datatype="BYTES", shape=[3]).contents.bytes_contents.extend([TEXT.encode()] * 3)
        answer = oip_stubs.GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=20)
        (label,) = (output for output in answer.outputs if output.name == "intent.label")
        if list(label.contents.bytes_contents) != [b"flight"] * 3:
            self.failures.append(str(answer))
        self.answers[answer.model_version] += 1

    def _take_item(self, item: pb.ParseItem) -> None:
        if item.HasField("error"):
            self.failures.append(str(item.error))
        else:
            self._take(item.response)

    def _take(self, answer: pb.ParseResponse) -> None:
        if answer.intent.name != "flight":
            self.failures.append(str(answer))
        self.answers[answer.version] += 1


@pytest.fixture
def models() -> Iterator[Callable[[str], stubs.ModelsStub]]:
    """`models(target)`: a stub of the service Models."""
    channels: list[grpc.Channel] = []

    def connect(target: str) -> stubs.ModelsStub:
        channels.append(grpc.insecure_channel(target))
        return stubs.ModelsStub(channels[-1])

    yield connect
    for channel in channels:
        channel.close()


def eventually(condition: Callable[[], object], seconds: float = 240) -> None:
    """Waits for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.01)


def length_of(models: stubs.ModelsStub, version: str = "") -> int:
    """What tells the versions of these tests apart."""
    return models.GetModel(pb.GetModelRequest(name="tiny", version=version)).max_length_tokens


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def metrics(port: int) -> str:
    """What Prometheus would read."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as response:
        return str(response.read().decode())


def count(models: stubs.ModelsStub) -> int:
    return len(models.ListModels(pb.ListModelsRequest()).models)


def memory(process: Process) -> int:
    """Resident memory, KiB."""
    status = Path(f"/proc/{process.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def end(process: Process) -> list[str]:
    """Ends a server; what it wrote to its log."""
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0, process.errors
    return [line for line in process.errors if " ERROR " in line or " CRITICAL " in line]


def swap(process: Process, folder: Path, versions: dict[str, Path], models: stubs.ModelsStub, times: int) -> list[int]:
    """Swap to and fro, and return the resident memory after each swap."""
    resident = []
    for length, name in itertools.islice(itertools.cycle(((21, "b"), (20, "a"))), times):
        point(folder / "stable", versions[name])
        eventually(lambda length=length: length_of(models) == length)
        eventually(lambda: count(models) == 1)
        resident.append(memory(process))
    return resident


@pytest.mark.slow
def test_swaps_under_load_lose_no_call(
    start_server: Callable[..., Process],
    folder: Path,
    versions: dict[str, Path],
    models: Callable[[str], stubs.ModelsStub],
) -> None:
    point(folder / "stable", versions["a"])
    process = start_server("--watch", folder.parent, *WATCH)
    target = process.target()
    with Load(target) as load:
        swap(process, folder, versions, models(target), 12)
    assert load.failures == []
    assert len(load.answers) == 2
    assert end(process) == []
    assert "ready; loading took" in " ".join(process.lines)


def test_corrupt_bundle_under_load_changes_nothing(
    start_server: Callable[..., Process],
    folder: Path,
    versions: dict[str, Path],
    models: Callable[[str], stubs.ModelsStub],
) -> None:
    place = folder.parent / "tiny"
    folder.rmdir()
    shutil.copytree(versions["a"], place)
    port = free_port()
    process = start_server("--watch", folder.parent, "--metrics-port", port, *WATCH)
    target = process.target()
    stub = models(target)
    broken = folder.parent / ".broken"
    shutil.copytree(versions["b"], broken)
    graph = bytearray((broken / "model.onnx").read_bytes())
    graph[len(graph) // 2] ^= 1
    (broken / "model.onnx").write_bytes(graph)
    with Load(target) as load, grpc.insecure_channel(target) as channel:
        place.rename(folder.parent / ".good")
        broken.rename(place)
        eventually(lambda: stub.ListModels(pb.ListModelsRequest()).failures)
        (failure,) = stub.ListModels(pb.ListModelsRequest()).failures
        assert (failure.name, failure.label) == ("tiny", "stable")
        assert str(folder.parent) not in failure.message
        health = health_pb2_grpc.HealthStub(channel)
        assert {health.Check(health_pb2.HealthCheckRequest(service=name)).status for name in ("", "tiny")} == {1}
        assert (length_of(stub), count(stub)) == (20, 1)
        assert 'palm_bundle_failing{label="stable",model="tiny"} 1.0' in metrics(port)
        # A directory that is empty for longer is reported, too.
        shutil.copytree(versions["b"], folder.parent / ".whole")
        place.rename(folder.parent / ".broken")
        (folder.parent / ".whole").rename(place)
        eventually(lambda: length_of(stub) == 21)
        assert not stub.ListModels(pb.ListModelsRequest()).failures
    assert load.failures == []
    (line,) = end(process)
    assert "model.onnx was changed or damaged" in line


def test_canary_gets_its_share_until_rollback(
    start_server: Callable[..., Process],
    folder: Path,
    versions: dict[str, Path],
    models: Callable[[str], stubs.ModelsStub],
) -> None:
    point(folder / "stable", versions["a"])
    point(folder / "canary", versions["b"])
    process = start_server("--watch", folder.parent, "--canary", "other=0.9,tiny=0.25", *WATCH)
    target = process.target()
    stub = models(target)
    canary = stub.GetModel(pb.GetModelRequest(version="canary")).version
    with grpc.insecure_channel(target) as channel:
        dialogue = stubs.DialogueUnderstandingStub(channel)

        def answered(**fields: Any) -> list[bool]:
            """For a hundred dialogues: whether the canary answers."""
            return [
                dialogue.Parse(pb.ParseRequest(text="hello", **fields), metadata=(("x-session-id", str(i)),)).version
                == canary
                for i in range(100)
            ]

        few = answered()
        assert 15 <= sum(few) <= 35
        assert few == answered(), "a dialogue stays with its version"
        assert sum(answered(version="stable")) == 0
        assert sum(answered(version="canary")) == sum(answered(version=canary[:8])) == 100
        (folder / "traffic.toml").write_text("canary = 0.5\n")
        eventually(lambda: sum(answered()) > sum(few))
        larger_share = answered()
        assert all(now for before, now in zip(few, larger_share, strict=True) if before), "who had it keeps it"
        point(folder / "stable", versions["b"])
        (folder / "canary").unlink()
        eventually(lambda: count(stub) == 1)
        assert sum(answered()) == 100
        point(folder / "stable", versions["a"])
        eventually(lambda: length_of(stub) == 20)
        assert sum(answered()) == 0
    assert end(process) == []


def test_versions_given_at_the_start_get_labels(
    start_server: Callable[..., Process], versions: dict[str, Path], models: Callable[[str], stubs.ModelsStub]
) -> None:
    port = free_port()
    shares = ("--canary", "0.1", "--shadow", "0.5", "--metrics-port", port)
    process = start_server(*(versions[name] for name in "abc"), *shares, *WATCH)
    target = process.target()
    stub = models(target)
    models_by_label = {tuple(m.labels): m for m in stub.ListModels(pb.ListModelsRequest()).models}
    assert {labels: m.max_length_tokens for labels, m in models_by_label.items()} == {
        ("stable",): 20,
        ("canary",): 21,
        ("shadow",): 22,
    }
    agreed = f'palm_shadow_answers_total{{model="tiny",outcome="agreed",task="slots",version="{models_by_label["shadow",].version[:12]}"}}'
    with grpc.insecure_channel(target) as channel:
        parse = stubs.DialogueUnderstandingStub(channel).Parse

        def shadowed() -> bool:
            answer = parse(pb.ParseRequest(text="fly to boston"))
            assert answer.version != models_by_label["shadow",].version
            return agreed in metrics(port)

        eventually(shadowed)
    assert 'outcome="disagreed"' not in metrics(port)
    assert end(process) == []


def test_load_by_rpc_swaps_the_version(
    start_server: Callable[..., Process],
    folder: Path,
    versions: dict[str, Path],
    models: Callable[[str], stubs.ModelsStub],
) -> None:
    point(folder / "stable", versions["a"])
    process = start_server(versions["a"], "--model-folder", folder.parent, "--allow-model-control", *WATCH)
    target = process.target()
    stub = models(target)
    with Load(target) as load:
        for number in range(4):
            point(folder / "stable", versions["ba"[number % 2]])
            assert stub.LoadModel(pb.LoadModelRequest(name="tiny")).max_length_tokens == 21 - number % 2
        (folder / "stable").unlink()
        shutil.copytree(versions["b"], folder / "stable")
        (folder / "stable" / "model.onnx").write_bytes(b"damaged")
        with pytest.raises(grpc.RpcError, match=r"the bundle 'tiny' cannot be loaded\. See the server's log"):
            stub.LoadModel(pb.LoadModelRequest(name="tiny"))
        assert length_of(stub) == 20
    assert load.failures == []
    errors = end(process)
    assert errors
    assert all("damaged" in line for line in errors)


def test_server_of_an_empty_directory_loads_what_comes(
    start_server: Callable[..., Process], folder: Path, versions: dict[str, Path]
) -> None:
    process = start_server("--watch", folder.parent, *WATCH)
    with grpc.insecure_channel(process.target()) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == 2
        point(folder / "stable", versions["a"])
        eventually(lambda: health.Check(health_pb2.HealthCheckRequest()).status == 1)
    assert end(process) == []


def test_server_without_its_directory_fails_to_start(start_server: Callable[..., Process], tmp_path: Path) -> None:
    process = start_server("--watch", tmp_path / "absent", *WATCH)
    assert process.finish() == 2
    (message,) = process.errors
    assert "absent cannot be watched: no such directory" in message


@pytest.mark.slow
def test_hundred_swaps_under_load_leak_no_memory(
    start_server: Callable[..., Process],
    folder: Path,
    versions: dict[str, Path],
    models: Callable[[str], stubs.ModelsStub],
) -> None:
    """Nothing fails, and memory after a hundred is what it was after two."""
    point(folder / "stable", versions["a"])
    process = start_server("--watch", folder.parent, *WATCH)
    target = process.target()
    with Load(target) as load:
        # Its own buffers and threads are there first, so that only swaps are measured.
        eventually(lambda: sum(load.answers.values()) > 2_000)
        resident = swap(process, folder, versions, models(target), 100)
    print(f"memory after 2, 10, 50, 100 swaps: {[resident[i - 1] // 1024 for i in (2, 10, 50, 100)]} MiB")
    assert load.failures == []
    assert end(process) == []
    assert resident[-1] <= 1.05 * resident[1], resident
