"""One process that asks."""

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
from palm_serve.client.credentials import Headers, headers
from palm_serve.errors import PalmServeError, Unavailable

_CONNECT_S = 20.0
_TICK_S = 0.02
_OPTIONS = (("grpc.max_receive_message_length", -1),)


@dataclass(frozen=True, slots=True)
class Samples:
    """The calls of one process. Times are seconds; `due` counts from the beginning of the warm-up."""

    due: Seconds
    late: Seconds
    """From when a call was to be made until it was."""
    took: Seconds
    """From when it was to be made until it was answered."""
    code: npt.NDArray[np.int64]
    lag: Seconds
    """How late the process woke up, looked at all the time."""
    busy: float
    """Share of the time that the process computed."""


def credentials(access: Access) -> grpc.ChannelCredentials | None:
    """Of TLS, if it is asked for. Raises TlsError."""
    asked = access.over_tls or access.ca or access.certificate or access.key
    return tls(access.ca, access.certificate, access.key) if asked else None


def work(load: Load, process: int, pipe: Connection) -> None:
    """Connects, says so, is told when to begin (on the `time.monotonic()` clock), asks, and sends its samples, or an error."""
    try:
        pipe.send(asyncio.run(_work(load, process, pipe)))
    except PalmServeError as error:
        pipe.send(error)


async def _work(load: Load, process: int, pipe: Connection) -> Samples:
    secret = credentials(load.access)
    sent = headers(load.target, secret, load.access.token, load.access.plain_token)
    requests = prepare(load, process)
    channel = (
        grpc.aio.insecure_channel(load.target, options=_OPTIONS)
        if secret is None
        else grpc.aio.secure_channel(load.target, secret, options=_OPTIONS)
    )
    async with channel:
        try:
            await asyncio.wait_for(channel.channel_ready(), _CONNECT_S)
        except TimeoutError:
            raise Unavailable(f"no connection to {load.target} within {_CONNECT_S:.0f} s") from None
        pipe.send(None)
        return await _Process(load, process, channel.unary_unary(PATHS[load.method]), sent, requests).run(pipe.recv())


class _Process:
    def __init__(
        self, load: Load, process: int, method: grpc.aio.UnaryUnaryMultiCallable, sent: Headers, requests: list[bytes]
    ) -> None:
        self._load = load
        self._process = process
        self._method = method
        self._sent = sent
        self._requests = itertools.cycle(requests)
        self._calls: list[tuple[float, float, float, int]] = []

    async def run(self, start: float) -> Samples:
        await asyncio.sleep(start - time.monotonic())
        computed = time.process_time()
        watching = asyncio.create_task(self._watch(start))
        async with asyncio.TaskGroup() as calls:
            if self._load.rate is None:
                for _ in range(self._load.callers(self._process)):
                    calls.create_task(self._closed(start))
            else:
                for due in start + arrivals(self._load, self._load.rate, self._process):
                    # Also when late: the answers that have come must be seen.
                    await asyncio.sleep(max(0.0, due - time.monotonic()))
                    calls.create_task(self._call(due))
        busy = (time.process_time() - computed) / (time.monotonic() - start)
        begun, late, took, code = (np.array([call[i] for call in self._calls]) for i in range(4))
        return Samples(begun - start, late, took, code.astype(np.int64), np.array(await watching), busy)

    def _end(self, start: float) -> float:
        return start + self._load.warm_up_s + self._load.duration_s

    async def _closed(self, start: float) -> None:
        while (now := time.monotonic()) < self._end(start):
            await self._call(now)

    async def _call(self, due: float) -> None:
        begun = time.monotonic()
        try:
            answer = await self._method(next(self._requests), timeout=self._load.deadline_s, metadata=self._sent)
            code = code_of(self._load.method, answer)
        except grpc.aio.AioRpcError as error:
            code = int(error.code().value[0])
        self._calls.append((due, begun - due, time.monotonic() - due, code))

    async def _watch(self, start: float) -> list[float]:
        lags = []
        while (now := time.monotonic()) < self._end(start):
            await asyncio.sleep(_TICK_S)
            lags.append(time.monotonic() - now - _TICK_S)
        return lags
