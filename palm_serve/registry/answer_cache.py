"""Answers of one version that need no run of the engine: those that it gave lately, and that which an equal request waits for right now."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from palm_serve.errors import DeadlineExceeded, Unmeetable
from palm_serve.registry.statistics import ModelStatistics
from palm_serve.types import Prediction, Priority, TextRequest, Timings

_Key: TypeAlias = tuple[str, str | None, tuple[str, ...], int]
"""What the answer depends on."""
_Place: TypeAlias = tuple[_Key, Priority]

_NO_RUN = Timings()


@dataclass(slots=True, eq=False)
class _Run:
    """One request that is computed, and those who wait for it."""

    place: _Place
    task: "asyncio.Task[Prediction]"
    waiting: int = 0


class AnswerCache:
    """Belongs to one version, so that no other's answer can come out of it, and to one event loop.

    Args:
        kept: answers that are kept, those asked for longest ago go first; 0: none.
        shared: whether equal requests in flight share one run.
        statistics: counts what was told without a run.
    """

    def __init__(self, kept: int, shared: bool, statistics: ModelStatistics) -> None:
        self._limit = kept
        self._shared = shared
        self._statistics = statistics
        self._kept: OrderedDict[_Key, Prediction] = OrderedDict()
        self._running: dict[_Place, _Run] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def find(self, request: TextRequest) -> Prediction | None:
        """A kept answer, without timings; None: there is none."""
        key = _key(request)
        answer = self._kept.get(key)
        if answer is not None:
            self._kept.move_to_end(key)
            self._statistics.repeated["kept"] += 1
        return answer

    async def ask(self, request: TextRequest, compute: Callable[[], Coroutine[Any, Any, Prediction]]) -> Prediction:
        """What `compute` answers, or an equal request's run of it.

        Raises what the run raises. But one whose own time is not up does not fail for the deadline of another: it asks again. Cancelling a caller,
        or the passing of its deadline, leaves the others alone; the run is cancelled when nobody waits for it any more.
        """
        if not self._shared:
            return self._keep(_key(request), await compute())
        place = _key(request), request.priority
        while (run := self._running.get(place)) is not None:
            try:
                answer = await self._wait(run, request.deadline)
            except (DeadlineExceeded, Unmeetable):
                if _is_up(request.deadline):
                    raise
            else:
                self._statistics.repeated["shared"] += 1
                return answer
        run = self._running[place] = _Run(place, asyncio.create_task(compute()))
        run.task.add_done_callback(lambda task: self._ended(run))
        # Its own deadline is the run's.
        return await self._wait(run, None)

    async def _wait(self, run: _Run, deadline: float | None) -> Prediction:
        run.waiting += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(run.task)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while an equal request was answered") from None
        finally:
            run.waiting -= 1
            if not run.waiting and not run.task.done():
                self._leave(run)  # at once: nobody may join it any more
                run.task.cancel()

    def _ended(self, run: _Run) -> None:
        self._leave(run)
        if not run.task.cancelled() and run.task.exception() is None:
            self._keep(run.place[0], run.task.result())

    def _leave(self, run: _Run) -> None:
        if self._running.get(run.place) is run:
            del self._running[run.place]

    def _keep(self, key: _Key, answer: Prediction) -> Prediction:
        if self._limit:
            self._kept[key] = replace(answer, timings=_NO_RUN)
            self._kept.move_to_end(key)
            if len(self._kept) > self._limit:
                self._kept.popitem(last=False)
        return answer


def _key(request: TextRequest) -> _Key:
    return request.text, request.pair, request.tasks, request.top_k


def _is_up(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
