"""The other processes of a training: how a new group of them meets, and whether they live.

They use the store of torchrun, or that of the first process, which may still hold keys of a former group: torchrun
keeps its store when it starts the processes again. Its restart count cannot tell the groups apart. It counts failures
of one machine, so that it differs between machines (torch 2.13, `local_elastic_agent.py`).
"""

import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import NoReturn
from uuid import uuid4

from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but not in the list of exports
from torch.distributed.distributed_c10d import PrefixStore, Store

from palm_serve.system.plain_text import plain_message
from palm_trainer.errors import PalmError

_LONGEST_INTERVAL = 10.0
"""Seconds between two signs of life at most."""
_INTERVALS = 10
"""Signs of life that have to be missed before a process counts as silent."""
_FIRST = "palm/first"
"""Key of the name of the newest group, which its first process writes."""
_FAILURES = "failures"
_FAILURE = "failure"
"""Keys of the number of processes that stopped with an error, and of what the first of them says."""


class PeerLost(PalmError):
    """Another process of the training has ended or is silent."""


def meet(store: Store, rank: int, size: int, patience: float) -> str:
    """Meet the other processes of a new group. All of them call it.

    The first process writes a new name, the others answer with a word of their own, and the first lists the words. Who
    finds its word in the list of a name is a member of that group. A name that a former group has left has a list
    without the word.

    Args:
        store: that all share, with whatever former groups left in it.
        rank: of this process.
        size: number of processes.
        patience: seconds to wait for the others.

    Returns:
        The name of the group, for the prefix of its keys.

    Raises:
        PeerLost: a process has not come in time.
    """
    word = uuid4().hex
    if rank == 0:
        _invite(store, word, size, patience)
        return word
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        if store.check([_FIRST]):
            group = store.get(_FIRST).decode()
            store.set(f"palm/{group}/word/{rank}", word)
            members = f"palm/{group}/members"
            if store.check([members]) and word in store.get(members).decode().split():
                return group
        time.sleep(0.05)
    raise PeerLost(
        f"process {rank} of {size} has waited {patience:g} s (--patience) for process 0, which has not come. "
        "Start all processes, and look for what kept it."
    )


def _invite(store: Store, group: str, size: int, patience: float) -> None:
    """Start a group as its first process."""
    keys = []
    for rank in range(1, size):
        keys.append(f"palm/{group}/word/{rank}")
    store.set(_FIRST, group)
    try:
        store.wait(keys, timedelta(seconds=patience))
    except RuntimeError as error:
        missing = []
        for rank, key in enumerate(keys, start=1):
            if not store.check([key]):
                missing.append(str(rank))
        raise PeerLost(
            f"process 0 of {size} has waited {patience:g} s (--patience) for process {', '.join(missing)}, which has not come. "
            "Start all processes, and look for what kept it."
        ) from error
    words = []
    for key in keys:
        words.append(store.get(key).decode())
    store.set(f"palm/{group}/members", " ".join(words))


class Peers:
    """The other processes of a group: it tells them that this one lives, and ends it if it waits for a silent one.

    A process is silent when its signs of life have not come for `patience` seconds: it is stopped, or its machine or the
    network is gone. One that evaluates or saves gives signs of life. Time is counted in intervals of this process,
    so that one that was stopped itself does not take the others for silent.

    A collective operation that waits for a silent process cannot be ended, neither by an exception nor at the exit of the
    interpreter. So the message is printed here, and the process ends at once.

    Args:
        address: host and port of the store.
        group: name of the group, from `meet`.
        rank: of this process.
        size: number of processes.
        patience: seconds.
    """

    def __init__(self, address: tuple[str, int], group: str, rank: int, size: int, patience: float) -> None:
        self._address = address
        self._rank = rank
        self._size = size
        self._patience = patience
        self._interval = min(_LONGEST_INTERVAL, patience / _INTERVALS)
        # A client of its own: one that waits for an answer keeps all threads of the process from using it.
        client = TCPStore(*address, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=patience))
        self._store = PrefixStore(f"palm/{group}/peers", client)
        self._beats: dict[int, bytes] = {}
        self._silent_seconds = dict.fromkeys(range(size), 0.0)
        self._unanswered_seconds = 0.0
        self._waits = False
        self._left = threading.Event()
        self._threads = [
            threading.Thread(target=self._give_signs, name="signs of life", daemon=True),
            threading.Thread(target=self._watch_store, name="watch", daemon=True),
        ]

    def start(self) -> None:
        """Give signs of life from here on."""
        for thread in self._threads:
            thread.start()

    def leave(self) -> None:
        """Give no more signs of life."""
        self._left.set()
        for thread in self._threads:
            thread.join(timeout=self._interval)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for the others inside the block, no longer than they live."""
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def report(self, error: Exception) -> Exception | None:
        """Tell the others that this process stops with an error.

        Returns:
            The error to print, or None where another process of the machine has printed it. On another machine than
            the one that failed first, it is what that one says.
        """
        try:
            with self.waiting():
                return self._report(error)
        except RuntimeError:
            # The store ended with its process, which may have told. What only this process knows is told here.
            return error if isinstance(error, PeerLost) else None

    def _report(self, error: Exception) -> Exception | None:
        is_first = self._store.add(_FAILURES, 1) == 1
        if is_first:
            self._store.set(_FAILURE, f"process {self._rank} of {self._size} has stopped: {error}")
        machine = os.environ.get("GROUP_RANK", "0")
        if self._store.add(f"{_FAILURES}/{machine}", 1) > 1:
            return None
        if is_first or not isinstance(error, PeerLost):
            return error
        return PeerLost(self._store.get(_FAILURE).decode())

    def _give_signs(self) -> None:
        """Give signs of life and look for those of the others, until this process leaves or the store is gone."""
        number = 0
        while not self._left.is_set():
            number += 1
            try:
                self._store.set(f"beat/{self._rank}", str(number))
                self._hear_others()
                silent = self._find_silent()
                if silent is not None and self._waits and not self._left.is_set():
                    self._end(self.report(silent))
            except RuntimeError:  # `_watch_store` counts the seconds from here
                return
            self._unanswered_seconds = 0.0
            self._left.wait(self._interval)

    def _hear_others(self) -> None:
        """Count for how long each of the others has been silent."""
        for rank in self._silent_seconds:
            key = f"beat/{rank}"
            beat = self._store.get(key) if self._store.check([key]) else b""
            if rank == self._rank or beat != self._beats.get(rank):
                self._silent_seconds[rank] = 0.0
            else:
                self._silent_seconds[rank] += self._interval
            self._beats[rank] = beat

    def _find_silent(self) -> PeerLost | None:
        """Return the error that names the silent processes, if there are some."""
        ranks = []
        for rank, seconds in self._silent_seconds.items():
            if seconds >= self._patience:
                ranks.append(str(rank))
        return self._silence(f"process {', '.join(ranks)} of {self._size}") if ranks else None

    def _watch_store(self) -> None:
        """End this process when it waits and the store has been silent for too long."""
        while not self._left.wait(self._interval):
            self._unanswered_seconds += self._interval
            if self._unanswered_seconds > self._patience + self._interval and self._waits:
                self._end(self._silence(self._keeper()))

    def _keeper(self) -> str:
        """Name who keeps the store."""
        if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
            return f"process 0 of {self._size}"
        host, port = self._address
        return f"torchrun at {host}:{port}, where the processes meet,"

    def _silence(self, silent: str) -> PeerLost:
        return PeerLost(
            f"{silent} has been silent for {self._patience:g} s (--patience). It is stopped, or its machine or the network is gone. "
            "Start it again, and continue with --resume auto."
        )

    def _end(self, error: Exception | None) -> NoReturn:
        """Print the error and end the process without the interpreter's exit, which would wait for the silent process."""
        if error is not None:
            sys.stderr.write(plain_message(f"error: {error}", keep="\n") + "\n")
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(2)
