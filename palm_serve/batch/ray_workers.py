"""Actors of a Ray cluster that answer parts. One that dies, alone or with its machine, is replaced, and its part is answered again.

No row passes through Ray: actors read the inputs and write the parts themselves. So all machines must see the same folders.
"""

import hashlib
import logging
import os
import signal
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import ray
from ray.exceptions import RayError, RayTaskError

from palm_serve.batch.files import is_url, shown
from palm_serve.batch.output_folder import WrittenPart
from palm_serve.batch.parts import Part
from palm_serve.batch.workers import Answer, ChooseEngine
from palm_serve.errors import BatchError, ConfigError, PalmServeError, one_line
from palm_serve.system.installation import how_to_install

_MOST_DEATHS = 3
"""Actors that one part may end, and that may end one after the other without an answer, before the run gives up."""
_PATIENCE_S = 120.0
"""Time for which a run that nobody works on waits for a place in the cluster."""
_LOOK_S = 1.0
_RELEASE_S = 15.0
"""Time in which Ray ends the actors of a run that was killed."""
_FREED_S = 3.0
"""Time in which the CPUs of ended actors are free again."""
_ANSWER_S = 10.0
"""Time in which the head of a cluster must answer."""
_NAMESPACE = "palm-serve-batch"
_REASON_CHARACTERS = 500

Task: TypeAlias = tuple[str, tuple[Any, ...]]
"""Name of a task, and the arguments of the function."""


@contextmanager
def ray_crew(address: str | None, output: Path, threads: int, count: int | None) -> Iterator["RayCrew"]:
    """Connect to a cluster, keep other runs off the output, and end the actors and the connection at the end.

    Args:
        address: `HOST:PORT` of the cluster. None: the one that this machine belongs to, or that RAY_ADDRESS names.
        output: folder of the answers.
        threads: threads, and CPUs, of each actor.
        count: number of actors. None: as many as there are free CPUs for.

    Raises:
        ConfigError: there is no such cluster, or one of another version.
        BatchError: another run writes to the output, or the cluster has not enough free CPUs.
    """
    _connect(address)
    try:
        lock = _lock(output)
        try:
            crew = RayCrew(threads, _places(threads, count))
            try:
                yield crew
            finally:
                crew.close()
        finally:
            ray.kill(lock)
    finally:
        ray.shutdown()


@dataclass(slots=True)
class _Actor:
    handle: Any
    task: Task | None = None


class RayCrew:
    """The actors of a run. It is a `workers.Crew`.

    Args:
        threads: CPUs of each.
        count: their number.
    """

    is_this_process = False

    def __init__(self, threads: int, count: int) -> None:
        self.threads: int | None = threads
        self._make = ray.remote(_Worker).options(num_cpus=threads, max_restarts=0, max_task_retries=0)
        self._count = count
        self._idle: list[_Actor] = []
        self._pending: dict[Any, _Actor] = {}
        self._deaths: Counter[str] = Counter()
        self._early_deaths = 0

    def choose_engine(self, choose: ChooseEngine) -> dict[str, Any]:
        """Call a function in an actor."""
        engine: dict[str, Any]
        (engine,) = self._run(choose, [("the bundle", ())])
        return engine

    def answer_parts(self, answer: Answer, input_parts: Sequence[Part]) -> Iterator[WrittenPart]:
        """Yield the parts in the order in which they are written, see `Crew.answer_parts`."""
        return self._run(answer, [(input_part.name, (input_part,)) for input_part in input_parts])

    def _run(self, function: Callable[..., Any], tasks: Sequence[Task]) -> Iterator[Any]:
        """Yield the results of a function, in the order in which they are there.

        Args:
            function: runs in the actors. What it refers to must be installed on all machines.
            tasks: its arguments.

        Raises:
            PalmServeError: raised by the function; or a task has ended several actors, or no actor starts.
            OSError: raised by the function.
        """
        waiting = deque(tasks)
        worked = time.monotonic()
        while waiting or self._busy:
            while len(self._idle) + len(self._pending) < min(self._count, len(waiting) + self._busy):
                handle = self._make.remote()
                self._pending[handle.ready.remote()] = _Actor(handle)
            while waiting and self._idle:
                actor = self._idle.pop()
                actor.task = waiting.popleft()
                self._pending[actor.handle.call.remote(function, *actor.task[1])] = actor
            finished, _ = ray.wait(list(self._pending), num_returns=1, timeout=_LOOK_S)
            if finished or self._busy:
                worked = time.monotonic()
            elif time.monotonic() - worked > _PATIENCE_S:
                raise PalmServeError(
                    f"no worker of the cluster has started within {_PATIENCE_S:g} s. `ray status` says what it waits for. "
                    "Then run the same command again."
                )
            for reference in finished:
                actor = self._pending.pop(reference)
                task = actor.task
                try:
                    result = ray.get(reference)
                except RayTaskError:
                    raise  # a bug, with its stack
                except RayError as error:
                    self._bury(actor, error)
                    if task is not None:
                        waiting.appendleft(task)
                    continue
                actor.task = None
                self._idle.append(actor)
                if task is None:
                    continue
                self._early_deaths = 0
                if isinstance(result, Exception):
                    raise result
                yield result

    def close(self) -> None:
        """End the actors."""
        for actor in (*self._idle, *self._pending.values()):
            ray.kill(actor.handle)

    @property
    def _busy(self) -> int:
        return sum(actor.task is not None for actor in self._pending.values())

    def _bury(self, actor: _Actor, error: RayError) -> None:
        """Count an actor that has died, or that nobody can reach any more. Raises PalmServeError if there were too many."""
        ray.kill(actor.handle)
        reason = one_line(error)[:_REASON_CHARACTERS]
        if actor.task is None:
            self._early_deaths += 1
            if self._early_deaths == _MOST_DEATHS:
                raise PalmServeError(
                    f"{_MOST_DEATHS} workers in a row ended when they started: {reason}. "
                    f"All machines need the extra `ray`: {how_to_install('ray')}"
                )
            return
        name = actor.task[0]
        self._deaths[name] += 1
        if self._deaths[name] == _MOST_DEATHS:
            raise PalmServeError(
                f"{name}: {_MOST_DEATHS} workers in a row ended while they answered it: {reason}. "
                "If memory ran out, give fewer --workers. Then run the same command again."
            )


class _Worker:
    """What an actor runs."""

    def ready(self) -> None:
        """Return when the actor has its place and its process."""

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Return the result of a function, or its error if that is one for the user."""
        try:
            return function(*arguments)
        except (PalmServeError, OSError) as error:
            return error


class _Lock:
    """Holds the name of an output while its run lives."""


def _connect(address: str | None) -> None:
    """Connect this process to a cluster. Raises ConfigError."""
    address = address or os.environ.get("RAY_ADDRESS")
    if address is not None:
        _check_address(address)
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address or "auto", namespace=_NAMESPACE, logging_level=logging.WARNING)
    except (ConnectionError, RuntimeError, ValueError) as error:
        reason = one_line(error)[:_REASON_CHARACTERS]
        if "Version mismatch" in reason:
            raise ConfigError(f"the cluster must have the Ray and the Python of this machine: {reason}") from None
        raise _no_cluster(address, reason) from None
    finally:
        signal.signal(signal.SIGTERM, handler)  # Ray's own ends the process with another exit code


def _check_address(address: str) -> None:
    """Check that somebody listens at an address: Ray would try for minutes. Raises ConfigError."""
    host, _, port = address.rpartition(":")
    if not host or "://" in address or not (port.isascii() and port.isdecimal() and len(port) <= 5):
        raise ConfigError(
            f"--address must be HOST:PORT of a cluster that this machine belongs to, got {address}. With ray:// use `ray job submit`."
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise _no_cluster(address, one_line(error)) from None


def _no_cluster(address: str | None, reason: str) -> ConfigError:
    place = "on this machine" if address is None else f"at {address}"
    return ConfigError(
        f"--engine ray needs a cluster, got none {place}: {reason}. Start one with `ray start`, or correct --address."
    )


def _lock(output: Path) -> Any:
    """Take the name of an output in the cluster. Raises BatchError if another run has it."""
    place = shown(output if is_url(output) else output.resolve())
    name = hashlib.sha256(place.encode()).hexdigest()
    actor = ray.remote(_Lock).options(name=name, namespace=_NAMESPACE, num_cpus=0)
    end = time.monotonic() + _RELEASE_S
    while True:
        try:
            return actor.remote()
        except ValueError:  # the name is taken
            if time.monotonic() > end:
                raise BatchError(
                    f"the output {shown(output)} must be written by one run, got a second in this cluster. Wait for the other, "
                    "or choose another folder."
                ) from None
        time.sleep(_LOOK_S)


def _places(threads: int, count: int | None) -> int:
    """Return the number of actors to start. Raises BatchError if the cluster has no free CPUs for them."""
    required = count or 1
    end = time.monotonic() + _FREED_S
    while True:
        free = ray.available_resources().get("CPU", 0.0)
        places = int(free / threads + 1e-6)
        if places >= required:
            return count or places
        if time.monotonic() > end:
            all_cpus = ray.cluster_resources().get("CPU", 0.0)
            raise BatchError(
                f"the cluster must have {required * threads} free CPUs for {required} workers of {threads}, got {free:g} free of "
                f"{all_cpus:g}. Wait until others end, add machines, or give fewer --workers or --threads."
            )
        time.sleep(_LOOK_S / 4)
