"""Run a load: start the processes of the generator and combine their samples."""

import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from palm_serve.bench.load import Load
from palm_serve.bench.report import LoadReport, make_report
from palm_serve.bench.worker import Samples, credentials, work
from palm_serve.client import Client
from palm_serve.errors import Unavailable

_START_DELAY_S = 0.1
"""Time between the start message and the start, so that all processes start together."""
_PROBE_TIMEOUT_S = 10.0


def run_load(load: Load, on_start: Callable[[float], None] = lambda start: None) -> LoadReport:
    """Send one request to check the server, then run the load.

    Args:
        load: the load to run.
        on_start: called with the start of the warm-up (`time.monotonic()`), shortly before it.

    Raises:
        PalmServeError: if the first request fails, or a process of the generator cannot connect.
    """
    access = load.access
    with Client(
        load.target,
        timeout_s=_PROBE_TIMEOUT_S,
        credentials=credentials(access),
        token=access.token,
        plain_token=access.plain_token,
    ) as client:
        client.parse(load.texts[0], model=load.model)
    # Spawned, because gRPC does not survive a fork.
    context = multiprocessing.get_context("spawn")
    pipes: list[Connection] = []
    processes = []
    try:
        for number in range(load.processes):
            pipe, worker_pipe = context.Pipe()
            process = context.Process(target=work, args=(load, number, worker_pipe), daemon=True)
            processes.append(process)
            process.start()
            worker_pipe.close()
            pipes.append(pipe)
        for pipe in pipes:
            _receive(pipe)  # the process is connected
        start = time.monotonic() + _START_DELAY_S
        on_start(start)
        for pipe in pipes:
            pipe.send(start)
        samples: list[Samples] = [_receive(pipe) for pipe in pipes]
    finally:
        for process in processes:
            process.kill()
            process.join()
        for pipe in pipes:
            pipe.close()
    return make_report(load, samples)


def _receive(pipe: Connection) -> Any:
    try:
        message = pipe.recv()
    except EOFError:
        raise Unavailable("a process of the load generator exited unexpectedly") from None
    if isinstance(message, Exception):
        raise message
    return message
