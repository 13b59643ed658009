"""Answer cache of one version: answers without a run of the engine, from earlier requests or from an equal request in flight."""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from palm_serve.errors import DeadlineExceeded, Unmeetable
from palm_serve.registry.statistics import ModelStatistics
from palm_serve.types import InputTexts, Prediction, Priority, TextRequest, Timings

_Key: TypeAlias = tuple[InputTexts, tuple[str, ...], int]
"""Everything that the answer depends on."""
_RunKey: TypeAlias = tuple[_Key, Priority]

_NO_RUN = Timings()


@dataclass(slots=True, eq=False)
class _Run:
    """A request that is being answered, and the number of callers that wait for it."""

    key: _RunKey
    task: "asyncio.Task[Prediction]"
    callers: int = 0


class AnswerCache:
    """Caches answers and shares runs. Belongs to one version and to one event loop.

    Each version has its own cache, so an answer never comes from another version.

    Args:
        size: answers to keep. The least recently used are removed first. Zero: none.
        share_runs: let equal requests in flight share one run.
        statistics: counts the answers without a run.
    """

    def __init__(self, size: int, share_runs: bool, statistics: ModelStatistics) -> None:
        self._size = size
        self._share_runs = share_runs
        self._statistics = statistics
        self._answers: OrderedDict[_Key, Prediction] = OrderedDict()
        self._runs: dict[_RunKey, _Run] = {}

    def __len__(self) -> int:
        return len(self._answers)

    def find(self, request: TextRequest) -> Prediction | None:
        """Return a cached answer, without timings. None: there is none."""
        key = _key(request)
        answer = self._answers.get(key)
        if answer is not None:
            self._answers.move_to_end(key)
            self._statistics.repeated["kept"] += 1
        return answer

    async def get_or_compute(
        self, request: TextRequest, compute: Callable[[], Coroutine[Any, Any, Prediction]]
    ) -> Prediction:
        """Return the answer of an equal request in flight, or else that of `compute`.

        A request does not fail because of the shorter deadline of another: it runs again. A caller that is cancelled or
        expires does not disturb the others. The run is cancelled once no caller waits for it.

        Raises:
            PalmServeError: the error of the run.
            DeadlineExceeded: the deadline of this request has passed.
        """
        if not self._share_runs:
            return self._store(_key(request), await compute())
        key = _key(request), request.priority
        while (run := self._runs.get(key)) is not None:
            try:
                answer = await self._wait(run, request.deadline)
            except (DeadlineExceeded, Unmeetable):
                if _has_passed(request.deadline):
                    raise
            else:
                self._statistics.repeated["shared"] += 1
                return answer
        run = _Run(key, asyncio.create_task(compute()))
        self._runs[key] = run
        run.task.add_done_callback(lambda task: self._finish(run))
        # The run has the deadline of this request already.
        return await self._wait(run, None)

    async def _wait(self, run: _Run, deadline: float | None) -> Prediction:
        run.callers += 1
        try:
            async with asyncio.timeout_at(deadline):
                return await asyncio.shield(run.task)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed while an equal request was answered") from None
        finally:
            run.callers -= 1
            if not run.callers and not run.task.done():
                # Removed at once, so that no further request joins a run that is being cancelled.
                self._remove(run)
                run.task.cancel()

    def _finish(self, run: _Run) -> None:
        self._remove(run)
        if not run.task.cancelled() and run.task.exception() is None:
            self._store(run.key[0], run.task.result())

    def _remove(self, run: _Run) -> None:
        if self._runs.get(run.key) is run:
            del self._runs[run.key]

    def _store(self, key: _Key, answer: Prediction) -> Prediction:
        if self._size:
            self._answers[key] = replace(answer, timings=_NO_RUN)
            self._answers.move_to_end(key)
            if len(self._answers) > self._size:
                self._answers.popitem(last=False)
        return answer


def _key(request: TextRequest) -> _Key:
    return request.inputs, request.tasks, request.top_k


def _has_passed(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline
