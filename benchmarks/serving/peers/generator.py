"""The load generator that all servers get: a closed loop in a process of its own, with what both sides compute for it."""

import asyncio
import itertools
import multiprocessing
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection

import numpy as np
from doors import Door

from palm_serve.bench.load import Load
from palm_serve.bench.report import make_report
from palm_serve.bench.worker import Samples

_TICK_S = 0.02
_TOGETHER_S = 0.1
_START_S = 30.0


@dataclass(frozen=True)
class Point:
    """What a server gives with so many calls in flight."""

    callers: int
    rate: float
    """Answers per second."""
    p50_ms: float
    p99_ms: float
    server_cpu_ms: float
    """For each answer."""
    client_cpu_ms: float
    failed: int
    """Calls that were not answered."""
    doubts: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Task:
    door: Door
    port: int
    load: Load


def measure(door: Door, port: int, load: Load, server_cpu_s: Callable[[], float]) -> Point:
    """Puts a load on a server. Raises what the generator met.

    Args:
        server_cpu_s: what the server has computed so far, seconds.
    """
    # Not forked: gRPC's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(_Task(door, port, load), there), daemon=True)
    process.start()
    there.close()
    try:
        _receive(here, _START_S)
        begins = time.monotonic() + _TOGETHER_S
        here.send(begins)
        marks = []
        for moment in (begins + load.warm_up_s, begins + load.warm_up_s + load.duration_s):
            time.sleep(max(0.0, moment - time.monotonic()))
            marks.append(server_cpu_s())
        samples, client_cpu_s = _receive(here, load.deadline_s + _START_S)
    finally:
        process.kill()
        process.join()
        here.close()
    report = make_report(load, [samples])
    answers = report.answered * load.duration_s
    return Point(
        load.concurrency,
        report.answered,
        report.answered_ms.get("p50", 0.0),
        report.answered_ms.get("p99", 0.0),
        1e3 * (marks[1] - marks[0]) / max(1.0, answers),
        1e3 * client_cpu_s / max(1.0, answers),
        sum(count for code, count in report.codes.items() if code != "OK"),
        report.doubts,
    )


def _receive(pipe: Connection, patience_s: float) -> tuple[Samples, float]:
    if not pipe.poll(patience_s):
        raise TimeoutError(f"the load generator said nothing for {patience_s:.0f} s")
    given = pipe.recv()
    if isinstance(given, Exception):
        raise given
    found: tuple[Samples, float] = given
    return found


def _work(task: _Task, pipe: Connection) -> None:
    try:
        pipe.send(asyncio.run(_run(task, pipe)))
    except Exception as error:  # the other process raises it
        pipe.send(RuntimeError(f"{type(error).__name__}: {error}"))


async def _run(task: _Task, pipe: Connection) -> tuple[Samples, float]:
    load, calls, lags, spent = task.load, [], [], []
    draw = np.random.default_rng(load.seed)
    requests = itertools.cycle([task.door.request(load.texts[i]) for i in draw.integers(len(load.texts), size=512)])
    async with task.door.connect(task.port, load.concurrency) as ask:
        pipe.send(None)
        start = pipe.recv()
        counted, end = start + load.warm_up_s, start + load.warm_up_s + load.duration_s
        await asyncio.sleep(start - time.monotonic())

        async def caller() -> None:
            while (begun := time.monotonic()) < end:
                code, _ = await ask(next(requests), load.deadline_s)
                calls.append((begun, time.monotonic() - begun, code))

        async def watch() -> None:
            for moment in (counted, end):
                await asyncio.sleep(max(0.0, moment - time.monotonic()))
                spent.append((time.process_time(), time.monotonic()))

        async def wake() -> None:
            while (now := time.monotonic()) < end:
                await asyncio.sleep(_TICK_S)
                lags.append(time.monotonic() - now - _TICK_S)

        async with asyncio.TaskGroup() as tasks:
            for work in (watch(), wake(), *(caller() for _ in range(load.concurrency))):
                tasks.create_task(work)
    begun, took, code = (np.array([call[i] for call in calls]) for i in range(3))
    cpu_s, seconds = (spent[1][i] - spent[0][i] for i in range(2))
    samples = Samples(begun - start, np.zeros(len(calls)), took, code.astype(np.int64), np.array(lags), cpu_s / seconds)
    return samples, cpu_s
