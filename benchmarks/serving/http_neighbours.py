"""Hostile peers of the HTTP door, and what a neighbour who asks for Parse over HTTP notices of each.

    python benchmarks/serving/http_neighbours.py BUNDLE [--seconds 10] [--peers 32] [--json FILE]

Each attack runs for `--seconds` beside a neighbour, after as long a time in which the neighbour is alone. Printed is the neighbour's p99 in ms, and
its ratio to that of the quiet time before. The goal is 1.5. The attackers are a process of their own, at another address, and each of their
connections makes ten requests a second: a flood that takes the cores would show what the machine can bear, not the server.
"""

import asyncio
import multiprocessing
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

from http_calls import PARSE, Connection, parse_requests, request
from processes import Door, chosen_texts, finish, options

from palm_serve.client import Client

_HEAD = f"POST {PARSE} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n".encode()
_PAUSE_S = 0.02
_TRICKLE_S = 0.2
_EACH_S = 0.1
"""Pause of an attacker's connection after a request."""
_PIPELINED = 10
_ATTACKER = "127.0.0.2"
_BEGUN_S = 1.0
"""Time after which an attack counts as begun."""

Attack = Callable[[Connection], Awaitable[None]]


async def _slow_head(connection: Connection) -> None:
    connection.send(_HEAD)
    while True:
        await asyncio.sleep(_TRICKLE_S)
        connection.send(b"X: a\r\n")
        await connection.flush()


async def _slow_body(connection: Connection) -> None:
    connection.send(_HEAD + b"Content-Length: 100000\r\n\r\n")
    while True:
        await asyncio.sleep(_TRICKLE_S)
        connection.send(b" ")
        await connection.flush()


async def _large_head(connection: Connection) -> None:
    connection.send(_HEAD + b"X-Large: " + b"a" * 2**20)
    await connection.flush()
    await connection.receive()


async def _pipelined(connection: Connection) -> None:
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
    while True:
        connection.send(one * _PIPELINED)
        for _ in range(_PIPELINED):
            await connection.receive()
        await asyncio.sleep(_PIPELINED * _EACH_S)


async def _smuggled(connection: Connection) -> None:
    body = b"0\r\n\r\nGET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"
    lengths = b"Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n" % len(body)
    await connection.ask(_HEAD + lengths + body)


async def _foreign_host(connection: Connection) -> None:
    while True:
        await connection.ask(request("evil.example", PARSE, b'{"text": "a"}', "application/json"))
        await asyncio.sleep(_EACH_S)


async def _preflight(connection: Connection) -> None:
    asked = "Origin: https://evil.example\r\nAccess-Control-Request-Method: POST\r\n"
    while True:
        await connection.ask(f"OPTIONS {PARSE} HTTP/1.1\r\nHost: localhost\r\n{asked}\r\n".encode())
        await asyncio.sleep(_EACH_S)


async def _cross_site(connection: Connection) -> None:
    while True:
        await connection.ask(
            request("localhost", PARSE, b'{"text": "a"}', "text/plain", "Origin: https://evil.example\r\n")
        )
        await asyncio.sleep(_EACH_S)


async def _deep_json(connection: Connection) -> None:
    while True:
        await connection.ask(request("localhost", PARSE, b"[" * 200_000, "application/json"))
        await asyncio.sleep(_EACH_S)


ATTACKS: dict[str, Attack] = {
    "slow heads": _slow_head,
    "slow bodies": _slow_body,
    "heads of 1 MiB": _large_head,
    "pipelining": _pipelined,
    "Content-Length and Transfer-Encoding": _smuggled,
    "foreign Host": _foreign_host,
    "CORS preflight": _preflight,
    "posts of another site": _cross_site,
    "deep JSON": _deep_json,
}


async def attack(port: int, one: Attack, peers: int, seconds: float) -> None:
    """Attack from many connections. One that the server closes is opened again.

    Args:
        port: where the server listens for HTTP.
        one: what each connection does.
        peers: number of connections.
        seconds: duration.
    """

    async def peer() -> None:
        await asyncio.sleep(random.uniform(0, _BEGUN_S))
        while True:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                async with Connection("127.0.0.1", port, source=_ATTACKER) as connection:
                    await one(connection)
            await asyncio.sleep(_EACH_S)

    tasks = [asyncio.create_task(peer()) for _ in range(peers)]
    await asyncio.sleep(seconds)
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(*tasks, return_exceptions=True):
        assert isinstance(ended, asyncio.CancelledError), ended


def run_attack(port: int, name: str, peers: int, seconds: float) -> None:
    """Attack, in a process of its own. The arguments are those of `attack`, with the name of the attack."""
    asyncio.run(attack(port, ATTACKS[name], peers, seconds))


async def neighbour(port: int, requests: list[bytes], seconds: float) -> float:
    """Return the p99 of a neighbour's calls in ms. All must be answered."""
    took = []
    end = time.monotonic() + seconds
    async with Connection("127.0.0.1", port) as connection:
        while time.monotonic() < end:
            began = time.perf_counter()
            status, body = await connection.ask(requests[len(took) % len(requests)])
            took.append(time.perf_counter() - began)
            assert status == 200, body
            await asyncio.sleep(_PAUSE_S)
    return 1000 * statistics.quantiles(took, n=100)[98]


def run(port: int, requests: list[bytes], peers: int, seconds: float) -> dict[str, tuple[float, float]]:
    """Return the neighbour's p99 in ms before and beside each attack.

    Args:
        port: where the server listens for HTTP.
        requests: the requests of the neighbour.
        peers: connections of an attack.
        seconds: duration of each of both.
    """
    found = {}
    processes = multiprocessing.get_context("spawn")
    for name in ATTACKS:
        quiet = asyncio.run(neighbour(port, requests, seconds))
        attacker = processes.Process(target=run_attack, args=(port, name, peers, seconds + 3 * _BEGUN_S))
        attacker.start()
        time.sleep(2 * _BEGUN_S)
        found[name] = quiet, asyncio.run(neighbour(port, requests, seconds))
        attacker.join()
        assert attacker.exitcode == 0, name
    return found


def main() -> None:
    """Prints the table; `--json` also writes it."""
    arguments = options(__doc__, seconds=10.0, peers=32).parse_args()
    with Door(arguments.bundle, "--provider", arguments.provider) as server:
        with Client(server.target) as client:
            model = client.models()[0].name
        requests = parse_requests("localhost", "proto", chosen_texts(arguments), model)
        found = run(server.http_port, requests, arguments.peers, arguments.seconds)
        usage = server.usage()
    rows = []
    for name, (quiet, beside) in found.items():
        rows.append((name, f"{beside:.1f} ms, {beside / quiet:.2f} of the quiet {quiet:.1f} ms", "<= 1.5"))
    rows.append(("memory after all, MiB", f"{usage.memory_mib:.0f}", ""))
    finish(arguments, rows, {"p99_ms": found, "memory_mib": usage.memory_mib})


if __name__ == "__main__":
    main()
