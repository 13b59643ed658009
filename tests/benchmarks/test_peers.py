"""The comparison with other servers, without them: its figures are the right way round, and what it gives them answers as the server does."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SERVING = ROOT / "benchmarks" / "serving"

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="what processes use is read from /proc")

HTTP = """
import http.server, json, sys
from shared import Answerer, settings
answer = Answerer(settings())

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        content = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        body = json.dumps(answer([content["text"]])[0]).encode()
        self.send_response(503 if "wrong" in settings().flags else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments):
        pass

http.server.ThreadingHTTPServer(("127.0.0.1", settings().port), Handler).serve_forever()
"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[..., Path]) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


@pytest.fixture
def benchmark(peers: ModuleType, bundle: Path, tmp_path: Path) -> Iterator[Any]:
    arguments = [str(bundle), "--provider", "CPU", "--work", str(tmp_path)]
    with peers.Benchmark(peers.parser().parse_args(arguments)) as found:
        yield found


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    for folder in (SERVING / "peers", SERVING):
        monkeypatch.syspath_prepend(str(folder))
    for path in (*SERVING.glob("*.py"), *(SERVING / "peers").glob("*.py")):
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    import peers

    return peers


def rounds(peers: ModuleType, *points: tuple[int, float, float]) -> dict[int, Any]:
    """One round of (in flight, calls/s, p99)."""
    made = {callers: peers.Point(callers, rate, p99 / 2, p99, 0.5, 0.1, 0) for callers, rate, p99 in points}
    return {0: made}


def test_every_peer_is_pinned_and_has_a_server_and_settings(peers: ModuleType) -> None:
    found = peers.read_peers()
    assert set(found) == {"pytriton", "mosec", "litserve", "bentoml", "mlserver", "ray"}
    for peer in found.values():
        assert peer.server.exists()
        assert all(package.count("==") == 1 for package in peer.packages)
        assert {"onnxruntime", "openvino", "tokenizers", "numpy"} <= {p.partition("==")[0] for p in peer.packages}
        peers.door(peer.door, ("intent",))
        for chosen in peer.grid:
            given = peers.Settings("bundle", "CPU", "fp32", 8001, **chosen)
            assert "{port}" not in " ".join(given.variables().values()).replace(given.variables()["PALM_PEER"], "")


def test_the_engine_is_of_the_versions_that_the_project_is_tested_with(peers: ModuleType) -> None:
    ours = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    engine = {"onnxruntime", "openvino", "tokenizers", "pydantic"}
    for peer in peers.read_peers().values():
        assert {p for p in peer.packages if p.partition("==")[0] in engine} <= set(ours), peer.name


def test_a_package_without_a_version_is_refused(peers: ModuleType, tmp_path: Path) -> None:
    file = tmp_path / "peers.toml"
    file.write_text('[common]\npackages = []\n[peers.x]\ntitle = "X"\ndoor = "parse"\npackages = ["x"]\ngrid = [{}]\n')
    import environments

    with pytest.raises(ValueError, match=r"'x' of x has no version; write NAME==VERSION"):
        environments.read_peers(file)


def test_ratios_say_how_many_times_more(peers: ModuleType) -> None:
    import table

    ours = rounds(peers, (32, 1000.0, 40.0), (64, 1500.0, 60.0), (128, 1800.0, 90.0))
    theirs = rounds(peers, (32, 700.0, 50.0), (64, 750.0, 95.0), (128, 900.0, 200.0))
    found = table.ratios(ours, {"other": theirs}, [64])["other"]
    assert found["64 in flight"].rounds == (2.0,)
    assert found["within its p99 at 64"].rounds == (2.4,)  # ours with 128 in flight
    assert found["within ours at 64"].rounds == (pytest.approx(1500 / 700),)  # theirs with 32
    assert table.best_within(ours[0], 39.0) == 0.0
    told = "\n".join([*table.figures_table({"PALM": ours, "other": theirs}), *table.ratios_table({"other": found})])
    assert "1,500" in told
    assert "2.40" in told
    lines = table.verdicts({"other": found, "Ray Serve": found}, [64], "Ray Serve")
    assert lines == [
        "64 in flight: 2.00 x the best peer, other (goal >= 1.4)",
        "64 in flight: 2.00 x Ray Serve (goal >= 3)",
    ]


def test_only_rounds_that_both_have_are_compared(peers: ModuleType) -> None:
    import table

    ours = {number: rounds(peers, (64, rate, 50.0))[0] for number, rate in enumerate((100.0, 300.0, 500.0))}
    theirs = {number: rounds(peers, (64, 100.0, 50.0))[0] for number in (0, 1)}
    found = table.ratio(ours, theirs, 64)
    assert found.rounds == (1.0, 3.0)
    assert str(found).startswith("2.00 ± ")
    assert str(table.ratio(ours, {}, 64)) == "-"


def test_settings_with_the_most_answers_are_chosen(peers: ModuleType) -> None:
    grid = [
        {"settings": {"rows": 32}, "calls_per_s": [900.0, 900.0]},
        {"settings": {"rows": 64}, "calls_per_s": [800.0, 1200.0]},
        {"settings": {"rows": 128}, "failed": "out of memory"},
    ]
    assert peers.best_of(grid) == {"rows": 64}


def test_the_engine_part_says_what_the_server_says_and_the_generator_measures_both(
    peers: ModuleType, benchmark: Any, tmp_path: Path
) -> None:
    """A server of the standard library stands for a peer."""
    file = tmp_path / "server.py"
    file.write_text(HTTP)
    benchmark.learn()
    assert (benchmark.settings.provider, benchmark.settings.precision) == ("CPU", "fp32")
    assert any(said["slots"] for said in benchmark.said)
    about = {"name": "x", "title": "Other", "door": "post /", "packages": (), "environment": {}}

    class Here(peers.Peer):
        server = file

    peer = Here(grid=({}, {"flags": ["wrong"]}), **about)
    with benchmark.peer(peer, Path(sys.executable), {}) as server:
        benchmark.check(server)
        point = benchmark.point(server, 4, 0.4)
        before = server.processes()
    assert point.rate > 0
    assert point.failed == 0
    assert 0 < point.p50_ms <= point.p99_ms
    assert point.server_cpu_ms > 0
    assert before
    assert not server.processes()
    benchmark.said[0] = {"intent": "other", "slots": []}
    with (
        benchmark.peer(peer, Path(sys.executable), {}) as server,
        pytest.raises(peers.NotToBeHadError, match=r"Other answers 1 of \d+ texts otherwise: of '.+' it says"),
    ):
        benchmark.check(server)


def test_a_server_that_does_not_start_is_told_with_its_reason(peers: ModuleType, benchmark: Any) -> None:
    server = benchmark._server(
        "Other", [sys.executable, "-c", "raise SystemExit('no licence')"], benchmark.settings, {}, "parse"
    )
    with pytest.raises(peers.NotToBeHadError, match=r"Other ended with exit code 1 before it was ready: no licence"):
        server.__enter__()


@pytest.fixture
def ctrl_c_interrupts() -> Iterator[None]:
    """Handle Ctrl-C as a shell's foreground program does. A suite that runs in the background starts with it ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ctrl_c_interrupts")
def test_a_signal_waits_until_a_server_is_known(peers: ModuleType) -> None:
    import servers

    done = []

    def begin() -> None:
        with servers.uninterrupted():
            signal.raise_signal(signal.SIGINT)
            done.append("known")

    with pytest.raises(KeyboardInterrupt):
        begin()
    assert done == ["known"]
    with pytest.raises(KeyboardInterrupt):  # and then they come at once again
        signal.raise_signal(signal.SIGINT)


@pytest.mark.slow
def test_a_run_that_is_ended_leaves_no_server_and_tells_what_it_has(
    start_process: Callable[..., "subprocess.Popen[str]"], process_limit_s: float, bundle: Path, tmp_path: Path
) -> None:
    figures = tmp_path / "figures.json"
    script = [sys.executable, SERVING / "peers.py", bundle, "--provider", "CPU", "--work", tmp_path / "work"]
    how = ["--peers", "--rounds", 50, "--seconds", 0.2, "--callers", 4, "--beside", "--json", figures]
    run = start_process(list(map(str, [*script, *how])), env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert run.stderr is not None
    assert run.stdout is not None
    said = ""
    end = time.monotonic() + process_limit_s
    while "round 1: control" not in said and time.monotonic() < end and run.poll() is None:
        said += run.stderr.readline()
    run.terminate()
    told = run.stdout.read()
    run.stderr.close()
    run.stdout.close()
    assert run.wait(process_limit_s) == 128 + 15, said
    found = json.loads(figures.read_text(encoding="utf-8"))
    assert len(found["ratios"]["control (PALM)"]["4 in flight"]["rounds"]) >= 1
    assert "control (PALM)" in told
    marked = [p for p in Path("/proc").glob("[0-9]*/environ") if str(bundle).encode() in _environ(p)]
    assert not marked


def _environ(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_a_connection_that_closes_and_an_answer_without_length_are_failures(peers: ModuleType) -> None:
    async def serve(answer: bytes) -> tuple[int, bytes]:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"}")
            writer.write(answer)
            await writer.drain()
            writer.close()

        door = peers.door("post /", ())
        server = await asyncio.start_server(handle, "127.0.0.1", 0)
        async with server, door.connect(server.sockets[0].getsockname()[1], 1) as ask:
            return await ask(door.request("hello"), 5.0)

    ok = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
    assert asyncio.run(serve(ok)) == (0, b"{}")
    assert asyncio.run(serve(ok.replace(b"200 OK", b"429 Too Many Requests")))[0] == 8
    assert asyncio.run(serve(b"HTTP/1.1 200 OK\r\n\r\n{}")) == (14, b"an answer without Content-Length")
    assert asyncio.run(serve(b"")) == (14, b"the server has closed the connection")


def test_an_unknown_door_is_refused(peers: ModuleType) -> None:
    with pytest.raises(ValueError, match=r"door 'soap' is unknown; there are: parse, infer SHAPE"):
        peers.door("soap", ())


def test_settings_alone_are_told_and_written(
    peers: ModuleType, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As of a run without rounds, whose settings a later one takes."""
    file = tmp_path / "settings.json"
    arguments = peers.parser().parse_args([str(bundle), "--work", str(tmp_path), "--rounds", "0", "--json", str(file)])
    about = {"settings": {"rows": 64}, "grid": [], "packages": ("other==1",)}
    facts = {"bundle": "b", "engine": "e", "machine": "m", "commit": "c", "other_load_before": 0.0, "seconds": 1.0}
    peers.tell(facts | {"texts": 3, "peers": {"Other": about}, "not_measured": {"X": "no wheel"}}, {}, arguments)
    told = capsys.readouterr().out
    assert "nothing was measured\n" in told
    assert "Other: other==1, {'rows': 64}\nnot measured: X: no wheel" in told
    assert json.loads(file.read_text(encoding="utf-8"))["peers"]["Other"]["settings"] == {"rows": 64}
