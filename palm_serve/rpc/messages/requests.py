"""Validation of request messages and their conversion to requests of the pipeline."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

from palm_serve.bundle.manifest import Manifest, TaskInfo
from palm_serve.config import Limits
from palm_serve.decoding.fallback_policy import model_thresholds
from palm_serve.errors import InvalidRequest, check_text
from palm_serve.types import Moment, Priority, TextRequest, Thresholds, context_text
from palm_serve.v1 import palm_pb2 as pb

DEFAULT_TOP_K = 3
_QUOTED = 64
_MAX_CONTEXT = 64
"""Limit of the turns of a context, and of its requested slots. Models read a few of them."""
_OFFSET_UNITS = frozenset(pb.OffsetUnit.values())
_PRIORITIES = frozenset(pb.Priority.values())
_INTERACTIVE = pb.Priority.PRIORITY_INTERACTIVE
_NOW = Moment()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_SECOND = int(datetime(2, 1, 1, tzinfo=UTC).timestamp())
_LAST_SECOND = int(datetime(9998, 12, 31, tzinfo=UTC).timestamp())
"""Times of which every zone has a date in the years that Python knows."""


@dataclass(frozen=True, slots=True)
class CheckedRequest:
    """A valid request, and the format of its response: offset unit, length of rankings, fallback thresholds."""

    request: TextRequest
    unit: int
    top_k: int
    thresholds: Thresholds = field(default_factory=Thresholds)


def check_parse_request(
    message: pb.ParseRequest, manifest: Manifest, limits: Limits, deadline: float | None, client: str = ""
) -> CheckedRequest:
    """Check a ParseRequest for the model of `manifest`.

    Args:
        message: the request.
        manifest: manifest of the model that answers.
        limits: limits of one client.
        deadline: in seconds on the clock of `time.monotonic()`. None: no deadline.
        client: name of the client. The clients of a model take turns.

    Raises:
        InvalidRequest: if a field is not valid.
    """
    unit = _offset_unit(message.offset_unit)
    priority = _priority(message.priority)
    check_text(message.text, "text", limits.text_bytes)
    tasks = _single_text_tasks(message.tasks, manifest)
    thresholds = _thresholds(message.thresholds, manifest)
    top_k = message.top_k or DEFAULT_TOP_K
    context = _context(message.context, limits) if message.HasField("context") else ""
    # The fallback compares the first two labels, so the ranking needs at least two.
    request = TextRequest(
        message.text,
        tasks,
        context=context,
        top_k=max(top_k, 2),
        deadline=deadline,
        priority=priority,
        client=client,
        moment=_moment(message),
    )
    return CheckedRequest(request, unit, top_k, thresholds)


def check_predict_request(
    message: pb.PredictRequest, manifest: Manifest, limits: Limits, deadline: float | None, client: str = ""
) -> CheckedRequest:
    """Check a PredictRequest for the model of `manifest`.

    Args:
        message: the request.
        manifest: manifest of the model that answers.
        limits: limits of one client.
        deadline: in seconds on the clock of `time.monotonic()`. None: no deadline.
        client: name of the client. The clients of a model take turns.

    Raises:
        InvalidRequest: if a field is not valid.
    """
    unit = _offset_unit(message.offset_unit)
    priority = _priority(message.priority)
    if not message.task:
        raise InvalidRequest(f"task must not be empty. Use one of {_names(manifest.tasks)}.", "task")
    task = _task(message.task, manifest, "task")
    check_text(message.text, "text", limits.text_bytes)
    if task.pairs:
        check_text(message.text_pair, "text_pair", limits.text_bytes)
    elif message.text_pair:
        raise InvalidRequest(
            f"text_pair must be empty for task '{message.task}', which reads a single text. Remove it.", "text_pair"
        )
    top_k = message.top_k or DEFAULT_TOP_K
    pair = message.text_pair if task.pairs else None
    context = _context(message.context, limits) if message.HasField("context") else ""
    request = TextRequest(
        message.text,
        (message.task,),
        pair=pair,
        context="" if task.pairs else context,
        top_k=top_k,
        deadline=deadline,
        priority=priority,
        client=client,
    )
    return CheckedRequest(request, unit, top_k)


def quoted(value: str) -> str:
    """Quote a client's value for a message, and shorten a long one."""
    return f"'{shortened(value)}'"


def shortened(value: str) -> str:
    """Return a client's value as it is shown in a message."""
    return value if len(value) <= _QUOTED else f"{value[:_QUOTED]}..."


def _names(names: Sequence[str] | dict[str, TaskInfo]) -> str:
    return ", ".join(names) or "none"


def _task(name: str, manifest: Manifest, field: str) -> TaskInfo:
    task = manifest.tasks.get(name)
    if task is None:
        raise InvalidRequest(
            f"unknown task {quoted(name)}. Model '{manifest.name}' has {_names(manifest.tasks)}.", field
        )
    return task


def _single_text_tasks(names: Sequence[str], manifest: Manifest) -> tuple[str, ...]:
    if len(names) > len(manifest.tasks):
        raise InvalidRequest(
            f"tasks must have at most {len(manifest.tasks):,} names, as many as model '{manifest.name}' has tasks, "
            f"got {len(names):,}. Name each task once.",
            "tasks",
        )
    for name in names:
        if _task(name, manifest, "tasks").pairs:
            raise InvalidRequest(
                f"task '{name}' reads a pair of texts, and Parse has only one. "
                f"Call Predict (palm-serve call TEXT --task {name} --pair TEXT).",
                "tasks",
            )
    if names:
        return tuple(dict.fromkeys(names))
    tasks = manifest.tasks_reading(pairs=False)
    if not tasks:
        raise InvalidRequest(
            f"model '{manifest.name}' reads only pairs of texts, and Parse has only one. "
            f"Call Predict (palm-serve call TEXT --task NAME --pair TEXT) with one of {_names(manifest.tasks)}.",
            "model",
        )
    return tasks


def _thresholds(overrides: pb.Thresholds, manifest: Manifest) -> Thresholds:
    """Return the thresholds of the bundle, replaced by those of the request where it has any."""
    intent = manifest.task_with_role("intent")
    defaults = model_thresholds(manifest.tasks[intent].thresholds) if intent else Thresholds()
    values: dict[str, float | None] = {}
    for name in ("intent_confidence", "ambiguity_margin", "out_of_scope"):
        if overrides.HasField(name):
            value = getattr(overrides, name)
            _check_threshold(name, value)
            values[name] = value
        else:
            values[name] = getattr(defaults, name)
    return Thresholds(**values)


def _check_threshold(name: str, value: float) -> None:
    field = f"thresholds.{name}"
    if math.isnan(value):
        raise InvalidRequest(f"{field} must be a number, got NaN. Remove or correct it.", field)
    if name != "out_of_scope" and not 0 <= value <= 1:
        raise InvalidRequest(f"{field} must be between 0 and 1, got {value:g}. Remove or correct it.", field)


def _moment(message: pb.ParseRequest) -> Moment:
    """Return the time and the zone of a request. Raises InvalidRequest."""
    has_time = message.HasField("reference_time")
    if not has_time and not message.time_zone:
        return _NOW
    zone = _time_zone(message.time_zone) if message.time_zone else UTC
    time = None
    if has_time:
        seconds, nanos = message.reference_time.seconds, message.reference_time.nanos
        if not _FIRST_SECOND <= seconds <= _LAST_SECOND or not 0 <= nanos < 1_000_000_000:
            raise InvalidRequest(
                f"reference_time must be a time of the years 2 to 9998, got {seconds} s and {nanos} ns since 1970. "
                "Correct or remove it.",
                "reference_time",
            )
        time = _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)
    return Moment(time, zone)


def _time_zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # unknown, no plain name, a folder of names
        raise InvalidRequest(
            f"time_zone must be a name of the IANA time zone database (Europe/Berlin), got {quoted(name)}. Correct or remove it.",
            "time_zone",
        ) from None


def _context(message: pb.Context, limits: Limits) -> str:
    """Return the context as the model reads it."""
    size = 0
    for name in ("turns", "requested_slots"):
        texts = getattr(message, name)
        if len(texts) > _MAX_CONTEXT:
            raise InvalidRequest(
                f"context.{name} must have at most {_MAX_CONTEXT}, got {len(texts):,}. Send the newest.",
                f"context.{name}",
            )
        for text in texts:
            size += len(text.encode())
    if size > limits.text_bytes:
        raise InvalidRequest(
            f"context must have at most {limits.text_bytes:,} bytes, got {size:,}. Send fewer or shorter turns.",
            "context",
        )
    return context_text(message.turns, message.requested_slots)


def _offset_unit(value: int) -> int:
    if value not in _OFFSET_UNITS:
        raise InvalidRequest(
            f"offset_unit must be one of {_enum_names(pb.OffsetUnit)}, got {value}. Use one of these.", "offset_unit"
        )
    return value


def _priority(value: int) -> Priority:
    if value not in _PRIORITIES:
        raise InvalidRequest(
            f"priority must be one of {_enum_names(pb.Priority)}, got {value}. Use one of these.", "priority"
        )
    return Priority(value or _INTERACTIVE)


def _enum_names(enum: type[pb.OffsetUnit] | type[pb.Priority]) -> str:
    return ", ".join(f"{name} = {number}" for name, number in enum.items())
