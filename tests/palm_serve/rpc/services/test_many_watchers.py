"""4,000 open health watches on a real server: they cost little, and each is told of a change."""

import asyncio
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from palm_serve.client import Client

Process = Any  # of conftest.py, which cannot be imported by name
WATCHERS = 4000
LIMIT_S = 120.0
KIB_EACH = 60
"""Most memory of a watcher. gRPC takes half of it."""
SERVING, NOT_SERVING = 1, 2

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="what the server spends is read from /proc"),
]


def memory_kib(process: Process) -> int:
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{process.process.pid}/status").read_text())
    assert found is not None
    return int(found[1])


def cpu_ticks(process: Process) -> int:
    fields = Path(f"/proc/{process.process.pid}/stat").read_text().split()
    return int(fields[13]) + int(fields[14])


async def watch_and_stop(process: Process, target: str) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        watch = channel.unary_stream(
            "/grpc.health.v1.Health/Watch",
            request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
            response_deserializer=health_pb2.HealthCheckResponse.FromString,
        )
        memory = memory_kib(process)
        watches = [watch(health_pb2.HealthCheckRequest()) for _ in range(WATCHERS)]
        first = await asyncio.gather(*(call.read() for call in watches))
        assert {answer.status for answer in first} == {SERVING}
        assert memory_kib(process) - memory < WATCHERS * KIB_EACH
        await asyncio.sleep(1)
        ticks = cpu_ticks(process)
        await asyncio.sleep(3)
        assert cpu_ticks(process) - ticks <= 15, "5 % of a core"
        with Client(target, timeout_s=LIMIT_S) as client:
            assert (await asyncio.to_thread(client.parse, "play a song")).intent.name == "music"
        process.process.terminate()
        second = await asyncio.gather(*(call.read() for call in watches))
        assert {answer.status for answer in second} == {NOT_SERVING}


def test_4000_watchers_cost_little_and_are_told(start_server: Callable[..., Process], tiny_bundle: Path) -> None:
    options = ("--max-watches-per-client", WATCHERS, "--max-streams", WATCHERS + 10, "--drain-grace", "5")
    process = start_server(tiny_bundle, *options, "--log-level", "error")
    asyncio.run(asyncio.wait_for(watch_and_stop(process, process.target()), LIMIT_S))
    assert process.finish() == 0
