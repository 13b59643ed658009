"""Shadow traffic: mirrors requests of the stable version to a candidate, and counts how often both agree."""

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

_TEXTS_IN_FLIGHT = 1
"""Texts that the candidate may work on. A request of a client can come to wait for that many."""
_TIMEOUT_S = 5.0


class ShadowTraffic:
    """Mirrors a share of the requests of the stable version.

    A request is mirrored only after its answer, and only while the engine is idle. So no client waits for the candidate.
    Requests that are not mirrored for that reason are counted as dropped. The candidate's statistics hold the counts.

    Args:
        candidate: version that the requests are mirrored to.
        traffic_share: share of the requests, 0 to 1.
    """

    def __init__(self, candidate: LoadedModel, traffic_share: float) -> None:
        self._candidate = candidate
        self._share = traffic_share
        self._due = 0.0
        self._running: set[asyncio.Task[None]] = set()

    def mirrors_to(self, candidate: LoadedModel, traffic_share: float) -> bool:
        """Return True if this mirrors the same share to the same candidate."""
        return self._candidate is candidate and self._share == traffic_share

    def __call__(self, request: TextRequest, answer: Prediction, kinds: Mapping[str, str]) -> None:
        """Mirror a request, if it is its turn.

        Args:
            request: request that the stable version has answered.
            answer: answer of the stable version.
            kinds: kind of each task of the stable version.
        """
        self._due += self._share
        if self._due < 1:
            return
        self._due -= 1
        tasks = self._candidate.manifest.tasks
        shared_tasks = []
        for name in answer.answers:
            if name in tasks and tasks[name].kind == kinds[name]:
                shared_tasks.append(name)
        if not shared_tasks:
            return
        if len(self._running) >= _TEXTS_IN_FLIGHT or not self._candidate.engine_idle:
            self._candidate.statistics.shadowed["dropped"] += 1
            return
        mirrored_request = replace(
            request, tasks=tuple(shared_tasks), priority=Priority.BATCH, deadline=time.monotonic() + _TIMEOUT_S
        )
        task = asyncio.create_task(self._compare(mirrored_request, answer))
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _compare(self, request: TextRequest, answer: Prediction) -> None:
        """Let the candidate answer a request, and count where it agrees with the stable version."""
        statistics = self._candidate.statistics
        try:
            with self._candidate as candidate:
                candidate_answer = await candidate.predict(request)
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
            agrees = expected.agrees(golden_answer(candidate_answer.answers[task], info))
            statistics.agreement[task, agrees] += 1
