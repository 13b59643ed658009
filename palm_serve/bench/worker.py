"""One process of the load generator."""

import asyncio
import itertools
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection

import grpc
import numpy as np
import numpy.typing as npt

from palm_serve.bench.load import Access, Load
from palm_serve.bench.requests import PATHS, Seconds, arrivals, code_of, prepare
from palm_serve.client import tls
from palm_serve.client.channel import channel_options, open_channel
from palm_serve.client.credentials import Headers, headers
from palm_serve.errors import PalmServeError, Unavailable

_CONNECT_TIMEOUT_S = 20.0
_TICK_S = 0.02
"""Interval at which the delay of the process is measured."""


@dataclass(frozen=True, slots=True)
class Samples:
    """The calls of one process. Times are seconds. `due` counts from the beginning of the warm-up."""

    due: Seconds
    late: Seconds
    """From the intended to the actual start of a call."""
    took: Seconds
    """From the intended start of a call to its response."""
    code: npt.NDArray[np.int64]
    lag: Seconds
    """Delays of timers, measured throughout the load."""
    busy: float
    """Share of the time in which the process used the CPU, 0 to 1."""


def credentials(access: Access) -> grpc.ChannelCredentials | None:
    """Return the TLS credentials, or None for plain text.

    Raises:
        TlsError: if a file cannot be read.
    """
    if access.over_tls or access.ca or access.certificate or access.key:
        return tls(access.ca, access.certificate, access.key)
    return None


def work(load: Load, process: int, pipe: Connection) -> None:
    """Run one process of the generator.

    The process connects, sends None, receives the start of the warm-up, runs its calls, and sends its `Samples` or an error.

    Args:
        load: the load.
        process: index of the process.
        pipe: connection to the parent process.
    """
    try:
        pipe.send(asyncio.run(_work(load, process, pipe)))
    except PalmServeError as error:
        pipe.send(error)


async def _work(load: Load, process: int, pipe: Connection) -> Samples:
    channel_credentials = credentials(load.access)
    metadata = headers(load.target, channel_credentials, load.access.token, load.access.plain_token)
    requests = prepare(load, process)
    async with open_channel(grpc.aio, load.target, channel_credentials, channel_options(load.target)) as channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), _CONNECT_TIMEOUT_S)
        except TimeoutError:
            raise Unavailable(f"no connection to {load.target} within {_CONNECT_TIMEOUT_S:.0f} s") from None
        pipe.send(None)
        method = channel.unary_unary(PATHS[load.method])
        return await _Worker(load, process, method, metadata, requests).run(pipe.recv())


class _Worker:
    def __init__(
        self,
        load: Load,
        process: int,
        method: grpc.aio.UnaryUnaryMultiCallable,
        metadata: Headers,
        requests: list[bytes],
    ) -> None:
        self._load = load
        self._process = process
        self._method = method
        self._metadata = metadata
        self._requests = itertools.cycle(requests)
        self._timeout_s = load.deadline_s if load.told_deadline_s is None else load.told_deadline_s
        self._calls: list[tuple[float, float, float, int]] = []
        """Intended start, delay, latency and status code of each call."""

    async def run(self, start: float) -> Samples:
        await asyncio.sleep(start - time.monotonic())
        cpu_start = time.process_time()
        lags = asyncio.create_task(self._measure_lag(start))
        async with asyncio.TaskGroup() as calls:
            if self._load.rate is None:
                for _ in range(self._load.callers(self._process)):
                    calls.create_task(self._call_repeatedly(start))
            else:
                for due in start + arrivals(self._load, self._load.rate, self._process):
                    # Sleeps for 0 s when late, so that pending responses are received.
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    calls.create_task(self._call(due))
        busy = (time.process_time() - cpu_start) / (time.monotonic() - start)
        columns = np.array(self._calls, dtype=np.float64).reshape(-1, 4).T
        due, late, took, code = columns
        return Samples(due - start, late, took, code.astype(np.int64), np.array(await lags), busy)

    def _end(self, start: float) -> float:
        return start + self._load.warm_up_s + self._load.duration_s

    async def _call_repeatedly(self, start: float) -> None:
        while (now := time.monotonic()) < self._end(start):
            await self._call(now)

    async def _call(self, due: float) -> None:
        started = time.monotonic()
        try:
            response = await self._method(next(self._requests), timeout=self._timeout_s, metadata=self._metadata)
            code = code_of(self._load.method, response)
        except grpc.aio.AioRpcError as error:
            code = int(error.code().value[0])
        self._calls.append((due, started - due, time.monotonic() - due, code))

    async def _measure_lag(self, start: float) -> list[float]:
        lags: list[float] = []
        while (now := time.monotonic()) < self._end(start):
            await asyncio.sleep(_TICK_S)
            lags.append(time.monotonic() - now - _TICK_S)
        return lags
