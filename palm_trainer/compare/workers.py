"""Several cells at a time, each in a process of its own."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing.synchronize import Event as Flag

import torch

from palm_trainer.compare.trainings import Cell, run_cell
from palm_trainer.compare.variants import Plan
from palm_trainer.runs.events import Finished

_POLL_SECONDS = 0.2
_stop: list[Flag] = []
"""In a worker: what its parent raises to stop it."""


def run_cells(cells: Sequence[Cell], plan: Plan, jobs: int, stop: Callable[[], bool]) -> Iterator[Cell]:
    """Runs `jobs` cells at a time; each as it is finished. When `stop` says so the others save and end, and so does this.

    Raises the first error of a cell, after the others have saved and ended.
    """
    if stop():
        return
    context = multiprocessing.get_context("spawn")
    flag = context.Event()
    threads = max(1, (os.cpu_count() or 1) // jobs)
    with ProcessPoolExecutor(jobs, context, _start, (flag, threads)) as pool:
        running: dict[Future[bool], Cell] = {pool.submit(_run, cell, plan): cell for cell in cells}
        try:
            while running:
                if stop():
                    flag.set()
                done, _ = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
                for future in done:
                    cell = running.pop(future)
                    if future.result():
                        yield cell
        finally:
            flag.set()


def _start(flag: Flag, threads: int) -> None:
    """Ctrl-C reaches all processes of a terminal; the parent decides what it means."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _stop.append(flag)


def _run(cell: Cell, plan: Plan) -> bool:
    """Whether the cell was finished."""
    flag = _stop[0]
    if flag.is_set():
        return False
    finished = True
    for event in run_cell(cell, plan, flag.is_set):
        finished = not (isinstance(event, Finished) and event.interrupted)
    return finished
