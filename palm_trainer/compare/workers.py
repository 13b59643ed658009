"""Parallel trainings of a comparison, each in a process of its own."""

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.synchronize import Event as StopFlag

import torch

from palm_serve.engine.cores import usable_cores
from palm_trainer.compare.trainings import VariantTraining, run_training
from palm_trainer.compare.variants import ComparisonPlan
from palm_trainer.errors import PalmError
from palm_trainer.runs.events import Finished

_POLL_SECONDS = 0.2
_stop_flags: list[StopFlag] = []
"""In a worker process: the flag that the parent process sets to stop it."""


def run_trainings(
    trainings: Sequence[VariantTraining], plan: ComparisonPlan, jobs: int, stop: Callable[[], bool]
) -> Iterator[VariantTraining]:
    """Run up to `jobs` trainings at a time and yield each one when it is finished.

    Once `stop` returns True, the running trainings save their state and end, and no more are
    yielded. The first error of a training is raised after the others have saved and ended.

    Args:
        trainings: the trainings to run.
        plan: the comparison.
        jobs: number of processes.
        stop: called several times a second. True stops all trainings.

    Raises:
        PalmError: a process was killed, or what a training raises.
    """
    if stop():
        return
    context = multiprocessing.get_context("spawn")
    stop_flag = context.Event()
    threads = max(1, usable_cores() // jobs)
    with ProcessPoolExecutor(jobs, context, _start_worker, (stop_flag, threads)) as pool:
        running: dict[Future[bool], VariantTraining] = {}
        for training in trainings:
            running[pool.submit(_run_in_worker, training, plan)] = training
        try:
            while running:
                if stop():
                    stop_flag.set()
                done, _ = wait(running, _POLL_SECONDS, FIRST_COMPLETED)
                for future in done:
                    training = running.pop(future)
                    if future.result():
                        yield training
        except BrokenProcessPool:
            if not stop():
                raise PalmError(
                    "a process of --jobs exited unexpectedly (killed or out of memory?). "
                    "The same command goes on. Try a lower --jobs."
                ) from None
        finally:
            stop_flag.set()


def _start_worker(stop_flag: StopFlag, threads: int) -> None:
    """Set up a worker. It ignores the signals that a whole group of processes gets: the parent process decides."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(threads)
    _stop_flags.append(stop_flag)


def _run_in_worker(training: VariantTraining, plan: ComparisonPlan) -> bool:
    """Run one training. Return True if it was finished."""
    stop_flag = _stop_flags[0]
    if stop_flag.is_set():
        return False
    finished = True
    for event in run_training(training, plan, stop_flag.is_set):
        finished = not (isinstance(event, Finished) and event.interrupted)
    return finished
