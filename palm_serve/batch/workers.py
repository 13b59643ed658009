"""Processes that answer parts. One that is killed is replaced, and its part is answered again.

`concurrent.futures` gives up all its processes when one of them is killed, and leaves them waiting when their parent is.
"""

import multiprocessing
import os
import signal
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Protocol

from palm_serve.batch.output_folder import WrittenPart
from palm_serve.batch.parts import Part
from palm_serve.engine.cores import usable_cores
from palm_serve.errors import PalmServeError

_MOST_DEATHS = 3
"""Processes that one part may end before the run gives up."""

Answer = Callable[[Part], WrittenPart]
ChooseEngine = Callable[[], dict[str, Any]]


class Crew(Protocol):
    """Those who answer the parts of a run."""

    threads: int | None
    """Threads of the engine of each. None: all cores."""
    is_this_process: bool
    """True: a bundle that `choose_engine` opens is the one that answers."""

    def choose_engine(self, choose: ChooseEngine) -> dict[str, Any]:
        """Call a function where parts are answered, and return its result."""
        ...

    def answer_parts(self, answer: Answer, input_parts: Sequence[Part]) -> Iterator[WrittenPart]:
        """Yield the parts in the order in which they are written.

        Args:
            answer: answers and writes a part.
            input_parts: the parts.

        Raises:
            PalmServeError: the error of a part, or a part has ended several processes.
            OSError: a part cannot be read or written.
        """
        ...


class LocalCrew:
    """Processes of this machine.

    Args:
        count: their number. With 1 this process answers.
        threads: threads of each. None: they share the cores.
    """

    def __init__(self, count: int, threads: int | None) -> None:
        self._count = count
        self.threads = threads
        if threads is None and count > 1:
            self.threads = max(1, usable_cores() // count)
        self.is_this_process = count == 1

    def choose_engine(self, choose: ChooseEngine) -> dict[str, Any]:
        """Call a function in this process."""
        return choose()

    def answer_parts(self, answer: Answer, input_parts: Sequence[Part]) -> Iterator[WrittenPart]:
        """Yield the parts in the order in which they are written, see `Crew.answer_parts`."""
        if self.is_this_process:
            return map(answer, input_parts)
        return answer_parts(answer, input_parts, self._count)


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    task: Part | None = None


def answer_parts(answer: Answer, input_parts: Sequence[Part], count: int) -> Iterator[WrittenPart]:
    """Yield the parts in the order in which they are written, by several processes.

    Args:
        answer: answers and writes a part. It is pickled once for each process.
        input_parts: the parts.
        count: number of processes.

    Raises:
        PalmServeError: the error of a part, or a part has ended several processes.
        OSError: a part cannot be read or written.
    """
    waiting = deque(input_parts)
    deaths: Counter[str] = Counter()
    workers: list[_Worker] = []
    try:
        while waiting or any(worker.task for worker in workers):
            while len(workers) < min(count, len(waiting) + sum(worker.task is not None for worker in workers)):
                workers.append(_start(answer))
            for worker in workers:
                if worker.task is None and waiting:
                    worker.task = waiting.popleft()
                    with suppress(BrokenPipeError):  # its end is noticed below
                        worker.connection.send(worker.task)
            busy = {worker.connection: worker for worker in workers if worker.task is not None}
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                try:
                    outcome = worker.connection.recv()
                except (EOFError, ConnectionResetError):
                    workers.remove(worker)
                    waiting.appendleft(_survive(worker, deaths))
                    continue
                worker.task = None
                if isinstance(outcome, Exception):
                    raise outcome
                yield outcome
    finally:
        for worker in workers:
            _end(worker)


def _survive(worker: _Worker, deaths: Counter[str]) -> Part:
    """Return the part of a process that has ended. Raises PalmServeError if it has ended too many."""
    input_part = worker.task
    assert input_part is not None
    _end(worker)
    deaths[input_part.name] += 1
    if deaths[input_part.name] == _MOST_DEATHS:
        code = worker.process.exitcode or 0
        reason = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        raise PalmServeError(
            f"{input_part.name}: {_MOST_DEATHS} processes in a row ended while they answered it, the last by {reason}. "
            "If memory ran out, give fewer --workers. Then run the same command again."
        )
    return input_part


def _start(answer: Answer) -> _Worker:
    # Threads of an engine do not survive a fork.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(answer, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _end(worker: _Worker) -> None:
    worker.process.kill()
    worker.process.join()
    worker.connection.close()


def _work(answer: Answer, connection: Connection) -> None:
    """Answer the parts that the parent sends, until it closes the connection or ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    threading.Thread(target=_end_with_parent, daemon=True).start()
    with suppress(EOFError, ConnectionError):
        while True:
            input_part = connection.recv()
            try:
                connection.send(answer(input_part))
            except (PalmServeError, OSError) as error:
                if isinstance(error, ConnectionError):
                    raise
                connection.send(error)


def _end_with_parent() -> None:
    """End this process when its parent has ended: the next run on the same output may have other options."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
