"""Starts the processes and puts their samples together."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from palm_serve.bench.load import Load
from palm_serve.bench.report import Report, make_report
from palm_serve.bench.worker import Samples, credentials, work
from palm_serve.client import Client
from palm_serve.errors import Unavailable

_TOGETHER_S = 0.1
_PROBE_S = 10.0


def run_load(load: Load, tell: Callable[[float], None] = lambda begins: None) -> Report:
    """Asks the server once, then puts the load on it. Raises what the client raises for the first request.

    Args:
        tell: gets the moment (`time.monotonic()`) at which the warm-up begins, shortly before it.
    """
    access = load.access
    with Client(
        load.target,
        timeout_s=_PROBE_S,
        credentials=credentials(access),
        token=access.token,
        plain_token=access.plain_token,
    ) as client:
        client.parse(load.texts[0], model=load.model)
    # Not forked: gRPC's threads do not survive it.
    context = multiprocessing.get_context("spawn")
    ours, processes = [], []
    try:
        for number in range(load.processes):
            here, there = context.Pipe()
            processes.append(context.Process(target=work, args=(load, number, there), daemon=True))
            processes[-1].start()
            there.close()
            ours.append(here)
        for pipe in ours:
            _receive(pipe)
        begins = time.monotonic() + _TOGETHER_S
        tell(begins)
        for pipe in ours:
            pipe.send(begins)
        samples: list[Samples] = [_receive(pipe) for pipe in ours]
    finally:
        for process in processes:
            process.kill()
            process.join()
        for pipe in ours:
            pipe.close()
    return make_report(load, samples)


def _receive(pipe: Connection) -> Any:
    try:
        given = pipe.recv()
    except EOFError:
        raise Unavailable("a process of the load generator has ended before its time") from None
    if isinstance(given, Exception):
        raise given
    return given
