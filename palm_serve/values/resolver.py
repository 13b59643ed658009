"""Resolves the values of a prediction. It never fails and changes no span but for its field `resolved`."""

import time
from collections.abc import Mapping
from dataclasses import replace

from palm_serve.bundle.loader import VALUES, Bundle
from palm_serve.bundle.values_file import ValuesFile
from palm_serve.errors import BundleError
from palm_serve.types import Prediction, ResolvedValue, Span, Spans, TaskAnswer, TextRequest
from palm_serve.values.known_values import KnownValues


class ValueResolver:
    """Resolves values with the lists and patterns of a bundle. Safe from any thread.

    Args:
        values: what the bundle knows.

    Raises:
        ValueError: a pattern or a list cannot be used.
    """

    def __init__(self, values: ValuesFile) -> None:
        self._known: dict[str, KnownValues] = {}
        for task, slots in values.tasks.items():
            self._known[task] = KnownValues(slots)

    def resolve(self, request: TextRequest, prediction: Prediction) -> Prediction:
        """Return a prediction with the meanings of its values.

        Args:
            request: the request.
            prediction: its answers.
        """
        began = time.perf_counter_ns()
        answers = self._answers(prediction.answers)
        resolve_us = (time.perf_counter_ns() - began) // 1000
        return replace(prediction, answers=answers, timings=replace(prediction.timings, resolve_us=resolve_us))

    def _answers(self, answers: Mapping[str, TaskAnswer]) -> Mapping[str, TaskAnswer]:
        resolved_answers = dict(answers)
        for task, task_values in self._known.items():
            answer = answers.get(task)
            if isinstance(answer, Spans) and answer.spans:
                spans = tuple(_resolved(span, task_values) for span in answer.spans)
                resolved_answers[task] = replace(answer, spans=spans)
        return resolved_answers


def _resolved(span: Span, task_values: KnownValues) -> Span:
    meaning: ResolvedValue | None = task_values.find(span.name, span.value) or task_values.match(span.name, span.value)
    return span if meaning is None else replace(span, resolved=meaning)


def open_values(bundle: Bundle) -> ValueResolver | None:
    """Return the resolver of a bundle; None if it knows no values.

    Raises:
        BundleError: the values of the bundle cannot be used.
    """
    if bundle.values is None or not bundle.values.tasks:
        return None
    try:
        return ValueResolver(bundle.values)
    except ValueError as error:
        raise BundleError(f"{bundle.path}/{VALUES} cannot be used: {error}; export again") from None
