"""Shadow traffic: what a version in service was asked, asked of a candidate too, and how often both say the same."""

import asyncio
import logging
import time
from collections.abc import Mapping
from dataclasses import replace

from palm_serve.decoding import golden_answer
from palm_serve.errors import DeadlineExceeded, Overloaded, PalmServeError, Unavailable
from palm_serve.registry.loaded_model import LoadedModel
from palm_serve.types import Prediction, Priority, TextRequest

log = logging.getLogger(__name__)

_AT_ONCE = 1
"""Texts that the candidate may work on. It takes the engine for the time of so many, which is what a request can come to wait for it."""
_TIMEOUT_S = 5.0


class ShadowTraffic:
    """A mirror of a model in service.

    The client's answer never waits for it: asked is only after the answer, and only where the engine has nothing to do; what then is left out is
    counted as dropped. Counts go to the candidate's statistics.

    Args:
        candidate: is asked besides.
        share: of the requests, 0 to 1.
    """

    def __init__(self, candidate: LoadedModel, share: float) -> None:
        self._candidate = candidate
        self._share = share
        self._due = 0.0
        self._running: set[asyncio.Task[None]] = set()

    @property
    def of(self) -> tuple[LoadedModel, float]:
        """The candidate and the share."""
        return self._candidate, self._share

    def __call__(self, request: TextRequest, answer: Prediction, kinds: Mapping[str, str]) -> None:
        """Takes what a model was asked and answered; `kinds` are those of its tasks."""
        self._due += self._share
        if self._due < 1:
            return
        self._due -= 1
        tasks = self._candidate.manifest.tasks
        shared = tuple(name for name in answer.answers if name in tasks and tasks[name].kind == kinds[name])
        if not shared:
            return
        if len(self._running) >= _AT_ONCE or not self._candidate.engine_idle:
            self._candidate.statistics.shadowed["dropped"] += 1
            return
        task = asyncio.create_task(self._ask(replace(request, tasks=shared), answer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _ask(self, request: TextRequest, answer: Prediction) -> None:
        statistics = self._candidate.statistics
        request = replace(request, priority=Priority.BATCH, deadline=time.monotonic() + _TIMEOUT_S)
        try:
            with self._candidate as candidate:
                other = await candidate.predict(request)
        except (Overloaded, DeadlineExceeded, Unavailable):
            statistics.shadowed["dropped"] += 1
            return
        except PalmServeError as error:
            log.warning("the shadow %s %s failed: %s", candidate.name, candidate.version[:12], error)
            statistics.shadowed["failed"] += 1
            return
        statistics.shadowed["answered"] += 1
        for task in request.tasks:
            info = candidate.manifest.tasks[task]
            expected = golden_answer(answer.answers[task], info)
            same = expected.agrees(golden_answer(other.answers[task], info))
            statistics.agreement[task, same] += 1
