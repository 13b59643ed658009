"""Servers that are restarted behind a real Envoy, one after the other, under a load over HTTP.

    python benchmarks/serving/envoy_http.py BUNDLE [--restarts 50] [--endpoints 2] [--callers 8] [--work DIR] [--json FILE]

As envoy.py, by the HTTP door: Envoy asks each server for `/v2/health/ready` and divides the calls of a closed loop over HTTP/1.1 among those that are
ready. Nothing is tried again. Printed: answers other than 200, and connections that ended without one.
"""

import asyncio
import threading
import time
from asyncio import IncompleteReadError
from collections import Counter
from pathlib import Path
from typing import Any

from envoy import GRACE_S, Envoy, Servers, envoy, free_ports, install
from http_calls import Connection, parse_requests
from processes import ROOT, chosen_texts, finish, middle, options


def over_http(made: dict[str, Any]) -> None:
    """Change a configuration for gRPC into one for the HTTP door."""
    (listener,), (cluster,) = made["static_resources"]["listeners"], made["static_resources"]["clusters"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    del manager["access_log"]
    (host,) = manager["route_config"]["virtual_hosts"]
    host["routes"] = [{"match": {"prefix": "/"}, "route": {"cluster": cluster["name"], "timeout": "0s"}}]
    (protocol,) = cluster["typed_extension_protocol_options"].values()
    protocol["explicit_http_config"] = {"http_protocol_options": {}}
    (check,) = cluster["health_checks"]
    del check["grpc_health_check"]
    # Envoy's own Host is the name of the cluster, which is no name of the server.
    check["http_health_check"] = {"path": "/v2/health/ready", "host": "localhost"}


class Callers:
    """Callers in a thread, until `stop`. `codes` counts what they got."""

    def __init__(self, front: Envoy, requests: list[bytes], callers: int) -> None:
        self.codes: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._requests = requests
        self._port = int(front.target.rpartition(":")[2])
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run(callers)))
        self._thread.start()

    def stop(self) -> None:
        """Return when the last call has ended."""
        self._stopped.set()
        self._thread.join()

    async def _run(self, callers: int) -> None:
        await asyncio.gather(*(self._caller(number) for number in range(callers)))

    async def _caller(self, number: int) -> None:
        while not self._stopped.is_set():
            try:
                async with Connection("127.0.0.1", self._port) as connection:
                    while not self._stopped.is_set():
                        began = time.monotonic()
                        status, _ = await connection.ask(self._requests[number % len(self._requests)])
                        self.slowest_s = max(self.slowest_s, time.monotonic() - began)
                        self.codes[str(status)] += 1
                        number += 1
            except (ConnectionError, IncompleteReadError) as error:
                self.codes[type(error).__name__] += 1


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = options(__doc__, restarts=50, endpoints=2, callers=8)
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "serving", help="directory for Envoy and its log")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    command = install(arguments.work)
    found = free_ports(2 * arguments.endpoints)
    ports, doors = found[: arguments.endpoints], found[arguments.endpoints :]
    own = ("--provider", arguments.provider, "--drain-grace", str(GRACE_S), "--max-calls-per-client", "100000")
    took: list[float] = []
    requests = parse_requests("localhost", "json", chosen_texts(arguments), "")
    with (
        Servers(arguments.bundle, ports, *own, http_ports=doors) as servers,
        envoy(command, arguments.work, doors, over_http) as front,
    ):
        front.wait_for(set(doors))
        callers = Callers(front, requests, arguments.callers)
        try:
            for number in range(arguments.restarts):
                began = time.monotonic()
                servers.restart(ports[number % len(ports)])
                front.wait_for(set(doors))
                took.append(time.monotonic() - began)
        finally:
            callers.stop()
    failed = sum(count for code, count in callers.codes.items() if code != "200")
    rows = [
        ("calls", f"{sum(callers.codes.values()):,}", ""),
        ("restarts", f"{len(took)}, each {middle(took, 1)} s", ""),
        ("failed calls", ", ".join(f"{name} {n}" for name, n in callers.codes.items() if name != "200") or "0", "0"),
        ("servers that did not drain", f"{sum(servers.exits.values()) - servers.exits[0]}", "0"),
        ("slowest call, ms", f"{1000 * callers.slowest_s:,.0f}", ""),
    ]
    figures = {"codes": callers.codes, "failed": failed, "restart_s": took, "exits": servers.exits}
    finish(arguments, rows, figures)


if __name__ == "__main__":
    main()
