"""Messages -> what the pipeline takes, checked. Everything that a client can get wrong is found here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from palm_serve.bundle.manifest import Manifest, TaskInfo
from palm_serve.config import Limits
from palm_serve.errors import InvalidRequest
from palm_serve.types import Priority, TextRequest, Thresholds
from palm_serve.v1 import palm_pb2 as pb

DEFAULT_TOP_K = 3
_QUOTED = 64
_OFFSET_UNITS, _PRIORITIES = (frozenset(enum.values()) for enum in (pb.OffsetUnit, pb.Priority))
_INTERACTIVE = pb.Priority.PRIORITY_INTERACTIVE


@dataclass(frozen=True, slots=True)
class Asked:
    """One checked request, and how its answer is to be told: offset unit, length of rankings, fallback limits."""

    request: TextRequest
    unit: int
    top_k: int
    thresholds: Thresholds = field(default_factory=Thresholds)


def parse_request(message: pb.ParseRequest, manifest: Manifest, limits: Limits, deadline: float | None) -> Asked:
    """Checks a ParseRequest for the model of `manifest`. Raises InvalidRequest."""
    unit, priority = _offset_unit(message.offset_unit), _priority(message.priority)
    check_text(message.text, "text", limits)
    tasks = _single_text_tasks(message.tasks, manifest)
    thresholds = _thresholds(message.thresholds, manifest)
    top_k = message.top_k or DEFAULT_TOP_K
    # The fallback compares the first two, whatever the client wants to see.
    request = TextRequest(message.text, tasks, top_k=max(top_k, 2), deadline=deadline, priority=priority)
    return Asked(request, unit, top_k, thresholds)


def predict_request(message: pb.PredictRequest, manifest: Manifest, limits: Limits, deadline: float | None) -> Asked:
    """Checks a PredictRequest for the model of `manifest`. Raises InvalidRequest."""
    unit, priority = _offset_unit(message.offset_unit), _priority(message.priority)
    if not message.task:
        raise InvalidRequest(f"task is empty: name one of {_names(manifest.tasks)}", "task")
    task = _task(message.task, manifest, "task")
    check_text(message.text, "text", limits)
    if task.pairs:
        check_text(message.text_pair, "text_pair", limits)
    elif message.text_pair:
        raise InvalidRequest(f"task '{message.task}' reads a single text: leave text_pair empty", "text_pair")
    top_k = message.top_k or DEFAULT_TOP_K
    pair = message.text_pair if task.pairs else None
    request = TextRequest(message.text, (message.task,), pair=pair, top_k=top_k, deadline=deadline, priority=priority)
    return Asked(request, unit, top_k)


def check_text(text: str, field: str, limits: Limits) -> None:
    """Raises InvalidRequest for a text that is empty, blank or too long."""
    if not text or text.isspace():
        raise InvalidRequest(
            f"{field} is {'blank' if text else 'empty'}: it needs at least one visible character", field
        )
    size = len(text.encode())
    if size > limits.text_bytes:
        raise InvalidRequest(
            f"{field} has {size:,} bytes; the limit is {limits.text_bytes:,}: shorten it or split it", field
        )


def quoted(value: str) -> str:
    """A client's value for a message: in quotes, cut where it is long."""
    return f"'{value}'" if len(value) <= _QUOTED else f"'{value[:_QUOTED]}...'"


def _names(names: Sequence[str] | dict[str, TaskInfo]) -> str:
    return ", ".join(names) or "none"


def _task(name: str, manifest: Manifest, field: str) -> TaskInfo:
    task = manifest.tasks.get(name)
    if task is None:
        raise InvalidRequest(
            f"unknown task {quoted(name)}: model '{manifest.name}' has {_names(manifest.tasks)}", field
        )
    return task


def _single_text_tasks(wanted: Sequence[str], manifest: Manifest) -> tuple[str, ...]:
    for name in wanted:
        if _task(name, manifest, "tasks").pairs:
            raise InvalidRequest(f"task '{name}' reads a pair of texts, which Parse has not: use Predict", "tasks")
    chosen = tuple(dict.fromkeys(wanted)) or tuple(name for name, task in manifest.tasks.items() if not task.pairs)
    if not chosen:
        raise InvalidRequest(
            f"model '{manifest.name}' reads pairs of texts only: use Predict with one of {_names(manifest.tasks)}",
            "model",
        )
    return chosen


def _thresholds(given: pb.Thresholds, manifest: Manifest) -> Thresholds:
    """The bundle's thresholds with the request's in their place."""
    intent = manifest.task_with_role("intent")
    own = manifest.tasks[intent].thresholds if intent else None
    chosen: dict[str, float | None] = {}
    for name in ("intent_confidence", "ambiguity_margin", "out_of_scope"):
        value = getattr(given, name) if given.HasField(name) else None
        if value is not None:
            _check_threshold(name, value)
        chosen[name] = value if value is not None else getattr(own, name, None)
    return Thresholds(**chosen)


def _check_threshold(name: str, value: float) -> None:
    field = f"thresholds.{name}"
    if math.isnan(value):
        raise InvalidRequest(f"{field} is not a number", field)
    if name != "out_of_scope" and not 0 <= value <= 1:
        raise InvalidRequest(f"{field} is {value:g}; confidences lie between 0 and 1, and so must it", field)


def _offset_unit(value: int) -> int:
    if value not in _OFFSET_UNITS:
        raise InvalidRequest(
            f"offset_unit {value} is unknown: this server knows {_enum_names(pb.OffsetUnit)}", "offset_unit"
        )
    return value


def _priority(value: int) -> Priority:
    if value not in _PRIORITIES:
        raise InvalidRequest(f"priority {value} is unknown: this server knows {_enum_names(pb.Priority)}", "priority")
    return Priority(value or _INTERACTIVE)


def _enum_names(enum: type[pb.OffsetUnit] | type[pb.Priority]) -> str:
    return ", ".join(f"{name} = {number}" for name, number in enum.items())
