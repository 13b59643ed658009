"""A server and all processes that it starts: ready when entered, gone when left, and what they compute."""

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from doors import Door, Said
from environments import HERE, NotToBeHadError, last_lines
from shared import Settings, free_port

_TICKS = os.sysconf("SC_CLK_TCK")
_READY_S = 180.0
_LOOK_S = 0.25
_PATIENT_S = 30.0
_STOP_S = 15.0


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait until the block ends: a process that was just born is known by then, one that is being ended has ended.

    Only the main thread gets signals; in another nothing is to be held.
    """
    came: list[int] = []
    mine = threading.current_thread() is threading.main_thread()
    held = (signal.SIGINT, signal.SIGTERM) if mine else ()
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in held}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


class Server:
    """A server on a port of its own.

    Its processes are told from all others by a variable in their environment, which children inherit: some peers start a dozen, and not all of
    them are children of the first.

    Args:
        name: for what is said about it.
        command: starts it; `{port}` stands for the port.
        root: where `palm_serve` is.
        log: gets what it prints.
        first: a text that it answers when it is ready.
        runner: asks; the same for all servers, as gRPC does not like an event loop to follow another.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str | Path],
        settings: Settings,
        environment: Mapping[str, str],
        root: Path,
        log: Path,
        door: Door,
        first: str,
        runner: asyncio.Runner,
    ) -> None:
        self.name = name
        self._runner = runner
        self.door = door
        self._settings = dataclasses.replace(settings, token=uuid.uuid4().hex)
        self._command = command
        self._environment = {**os.environ, **environment, "PYTHONPATH": os.pathsep.join(map(str, (root, HERE)))}
        self._log = log
        self._first = first
        self.port = 0

    def __enter__(self) -> "Server":
        self.port = free_port()
        given = dataclasses.replace(self._settings, port=self.port)
        command = [str(part).format(port=self.port) for part in self._command]
        with ExitStack() as undo:
            with self._log.open("w", encoding="utf-8") as log, uninterrupted():
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=self._environment | given.variables(),
                    start_new_session=True,
                )
                undo.callback(self._end)
            self._wait()
            undo.pop_all()
        return self

    def _wait(self) -> None:
        end = time.monotonic() + _READY_S
        why = "nobody listens"
        while time.monotonic() < end:
            if self._process.poll() is not None:
                raise NotToBeHadError(
                    f"{self.name} ended with exit code {self._process.returncode} before it was ready: {self._said()}"
                )
            try:
                self.ask([self._first])
            except (OSError, TimeoutError, RuntimeError) as error:
                why = str(error) or type(error).__name__
                time.sleep(_LOOK_S)
            else:
                return
        raise NotToBeHadError(f"{self.name} was not ready within {_READY_S:.0f} s ({why}): {self._said()}")

    def _said(self) -> str:
        return last_lines(self._log.read_text(encoding="utf-8", errors="replace"))

    def ask(self, texts: Sequence[str]) -> list[Said]:
        """What it answers, one text at a time. Raises RuntimeError where it does not answer, OSError or TimeoutError where it is not there."""
        return self._runner.run(self._ask(texts))

    async def _ask(self, texts: Sequence[str]) -> list[Said]:
        found = []
        async with self.door.connect(self.port, 1) as ask:
            for text in texts:
                code, answer = await ask(self.door.request(text), _PATIENT_S)
                if code:
                    raise RuntimeError(f"{self.name} answered with code {code}: {answer[:300]!r}")
                found.append(self.door.said(answer))
        return found

    def processes(self) -> "list[_Stat]":
        """All its processes that run now."""
        everyone = list(_everyone())
        mark = self._settings.token.encode()
        found = {stat.pid for stat in everyone if stat.session == self._process.pid or _marked(stat.pid, mark)}
        count = -1
        while count < len(found):  # and their children, some of which hide their environment
            count = len(found)
            found |= {stat.pid for stat in everyone if stat.parent in found}
        return [stat for stat in everyone if stat.pid in found]

    def cpu_s(self) -> float:
        """What they have computed."""
        return sum(stat.cpu_s for stat in self.processes())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    @uninterrupted()
    def _end(self) -> None:
        born = {stat.pid: stat.started for stat in self.processes()}
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in self._left(born):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            end = time.monotonic() + _STOP_S / 3
            while (self._process.poll() is None or self._left(born)) and time.monotonic() < end:
                time.sleep(_LOOK_S / 5)
        if left := self._left(born):
            print(f"{self.name} left processes behind: {left}", file=sys.stderr)

    def _left(self, born: Mapping[int, int]) -> list[int]:
        """Those of its processes, known before or found now, that still run."""
        known = {stat.pid for stat in _everyone() if born.get(stat.pid) == stat.started and stat.state != "Z"}
        return sorted(known | {stat.pid for stat in self.processes() if stat.state != "Z"})


class _Stat(NamedTuple):
    pid: int
    state: str
    parent: int
    session: int
    cpu_s: float
    started: int


def _everyone() -> Iterator[_Stat]:
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                # Behind the name, which may hold spaces.
                fields = (place / "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it has ended
                continue
            cpu_s = (int(fields[11]) + int(fields[12])) / _TICKS
            yield _Stat(int(place.name), fields[0], int(fields[1]), int(fields[3]), cpu_s, int(fields[19]))


def _marked(pid: int, mark: bytes) -> bool:
    try:
        return mark in Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:  # it has ended, or belongs to another user
        return False
