"""Resolves the values of a prediction. It never fails and changes no span but for its field `resolved`."""

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime
from typing import TypeAlias

from palm_serve.bundle.loader import VALUES, Bundle
from palm_serve.bundle.values_file import ANY_SLOT, ValuesFile
from palm_serve.errors import BundleError
from palm_serve.types import Moment, Prediction, ResolvedValue, Span, Spans, TaskAnswer, TextRequest
from palm_serve.values.known_values import KnownValues
from palm_serve.values.question import TIMED, Question, Reading
from palm_serve.values.resolver_process import ResolverProcess, Unanswered, check_installed

MAX_ASKED = 100
"""Characters of a value that a resolver reads."""
_CACHED = 4096
"""Answers of resolvers that are kept."""
_MAX_WAITING = 64
"""Texts that may wait for the resolvers of a bundle."""
_Key: TypeAlias = tuple[str, str, float, str]


class ValueResolver:
    """Resolves values with the lists, patterns and resolvers of a bundle. Safe from any thread.

    Args:
        values: what the bundle knows.

    Raises:
        ValueError: a pattern or a list cannot be used.
        BundleError: resolvers are not installed, or cannot be started.
    """

    def __init__(self, values: ValuesFile) -> None:
        self.failures: Counter[str] = Counter()
        """Values that a resolver did not read, by reason: failed, timeout, restarting, busy."""
        self._known: dict[str, KnownValues] = {}
        self._resolvers: dict[tuple[str, str], str] = {}
        for task, slots in values.tasks.items():
            self._known[task] = KnownValues(slots)
            for name, slot in slots.items():
                if slot.resolver:
                    self._resolvers[task, name] = slot.resolver
        self._process: ResolverProcess | None = None
        self._waiting = 0
        self._cache: OrderedDict[_Key, Reading | None] = OrderedDict()
        if self._resolvers:
            check_installed()
            self._process = ResolverProcess()
            self._executor = ThreadPoolExecutor(1, "palm-values")

    def must_ask(self, prediction: Prediction) -> bool:
        """Return True if `resolve` may wait for another process."""
        if self._process is None:
            return False
        for task, slot in self._resolvers:
            answer = prediction.answers.get(task)
            if isinstance(answer, Spans) and any(slot in (span.name, ANY_SLOT) for span in answer.spans):
                return True
        return False

    async def resolve_later(self, request: TextRequest, prediction: Prediction) -> Prediction:
        """Return what `resolve` does, without blocking the event loop. Where too many wait, resolvers are not asked.

        Args:
            request: the request.
            prediction: its answers.
        """
        if not self.must_ask(prediction):
            return self.resolve(request, prediction)
        if self._waiting >= _MAX_WAITING:
            return self.resolve(request, prediction, asks=False)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._executor, self.resolve, request, prediction)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """End the process of the resolvers."""
        if self._process is not None:
            self._process.close()

    def resolve(self, request: TextRequest, prediction: Prediction, *, asks: bool = True) -> Prediction:
        """Return a prediction with the meanings of its values.

        Args:
            request: the request.
            prediction: its answers.
            asks: False leaves the resolvers out.
        """
        began = time.perf_counter_ns()
        answers = self.resolve_answers(prediction.answers, request.moment if asks else None)
        resolve_us = (time.perf_counter_ns() - began) // 1000
        return replace(prediction, answers=answers, timings=replace(prediction.timings, resolve_us=resolve_us))

    def resolve_answers(self, answers: Mapping[str, TaskAnswer], moment: Moment | None) -> Mapping[str, TaskAnswer]:
        """Return answers with the meanings of their values.

        Args:
            answers: answers by task.
            moment: time and place of the user. None leaves the resolvers out.
        """
        resolved_answers = dict(answers)
        for task in self._known:
            answer = answers.get(task)
            if isinstance(answer, Spans) and answer.spans:
                spans = []
                for span in answer.spans:
                    meaning = self._find(task, span, moment)
                    spans.append(span if meaning is None else replace(span, resolved=meaning))
                resolved_answers[task] = replace(answer, spans=tuple(spans))
        return resolved_answers

    def _find(self, task: str, span: Span, moment: Moment | None) -> ResolvedValue | None:
        task_values = self._known[task]
        meaning = task_values.find(span.name, span.value)
        if meaning is None:
            resolver = self._resolver(task, span)
            if resolver and moment is None:
                self.failures["busy"] += 1
            elif resolver and moment is not None:
                meaning = self._ask(resolver, span.value, moment)
        return meaning or task_values.match(span.name, span.value)

    def _resolver(self, task: str, span: Span) -> str:
        return self._resolvers.get((task, span.name), "") or self._resolvers.get((task, ANY_SLOT), "")

    def _ask(self, resolver: str, text: str, moment: Moment) -> ResolvedValue | None:
        """Return the meaning that a resolver reads. None: it reads none, or gave no answer."""
        text = text.strip()
        if self._process is None or not text or len(text) > MAX_ASKED:
            return None
        moment_time = moment.time or datetime.now(UTC)
        zone = getattr(moment.zone, "key", "UTC")
        key = (resolver, text, moment_time.timestamp() if resolver in TIMED else 0.0, zone)
        if key not in self._cache:
            try:
                self._keep(key, self._process.ask(Question(resolver, text, moment_time, zone)))
            except Unanswered as error:
                self.failures[error.reason] += 1
                return None
        reading = self._cache.get(key)
        return None if reading is None else ResolvedValue(reading.canonical, resolver, reading.json)

    def _keep(self, key: _Key, reading: Reading | None) -> None:
        self._cache[key] = reading
        while len(self._cache) > _CACHED:
            self._cache.popitem(last=False)


def open_values(bundle: Bundle) -> ValueResolver | None:
    """Return the resolver of a bundle; None if it knows no values.

    Raises:
        BundleError: the values of the bundle cannot be used, or their resolvers are not installed.
    """
    if bundle.values is None or not bundle.values.tasks:
        return None
    try:
        return ValueResolver(bundle.values)
    except ValueError as error:
        raise BundleError(f"{bundle.path}/{VALUES} cannot be used: {error}; export again") from None
    except BundleError as error:
        raise BundleError(f"{bundle.path}: {error}") from None
