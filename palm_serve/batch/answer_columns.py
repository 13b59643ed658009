"""Columns of answers: their Arrow types, and their values from the response messages of a model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from palm_serve.bundle.manifest import Manifest, TaskInfo
from palm_serve.decoding import served_kind
from palm_serve.errors import BatchError
from palm_serve.types import Answer, Classification, Match, Spans
from palm_serve.v1 import palm_pb2 as pb

ERROR, VERSION = "error", "version"

Response: TypeAlias = pb.ParseResponse | pb.PredictResponse
Read: TypeAlias = Callable[[Response], Any]

_SPAN = pa.struct(
    [
        ("name", pa.string()),
        ("value", pa.string()),
        ("start", pa.int32()),
        ("end", pa.int32()),
        ("confidence", pa.float32()),
    ]
)
_SPAN_WITH_ROLE = pa.struct([*_SPAN, ("role", pa.string()), ("group", pa.string())])
_LABEL = pa.struct([("name", pa.string()), ("confidence", pa.float32())])


@dataclass(frozen=True, slots=True)
class AnswerColumn:
    """A column of answers. `task` names the task whose response holds its values."""

    name: str
    type: pa.DataType
    task: str
    read: Read


def answer_columns(manifest: Manifest, tasks: Sequence[str]) -> list[AnswerColumn]:
    """Return the columns of some tasks: `intent`, `confidence` and `slots` of the roles, one struct of each further task.

    Args:
        manifest: manifest of the bundle.
        tasks: names of the tasks, in the order of the columns.

    Raises:
        BatchError: two columns would have one name, or a task is of a kind whose answers are unknown.
    """
    columns: list[AnswerColumn] = []
    for name in tasks:
        columns += _columns_of(name, manifest.tasks[name])
    names = [column.name for column in columns]
    for position, column in enumerate(columns):
        if column.name in (ERROR, VERSION, *names[:position]):
            raise BatchError(
                f"tasks must not have the name of another column, got '{column.name}'. Leave one of them out with --tasks."
            )
    return columns


def _columns_of(name: str, task: TaskInfo) -> list[AnswerColumn]:
    kind = served_kind(task.kind)
    answer_type = kind.answer_type
    if task.role == "intent" and answer_type is Classification:
        columns = [
            AnswerColumn("intent", pa.string(), name, lambda response: response.intent.name),
            AnswerColumn("confidence", pa.float32(), name, lambda response: response.intent.confidence),
        ]
        if kind.several_labels:
            columns.append(
                AnswerColumn("intents", pa.list_(_LABEL), name, lambda response: _label_values(response.intents))
            )
        return columns
    if task.role == "slots" and answer_type is Spans:
        span, has_roles = _span_type(task)
        return [
            AnswerColumn(
                "slots", pa.list_(span), name, lambda response: _span_values(response.slots, has_roles=has_roles)
            )
        ]
    struct, read = _struct(name, task)
    return [AnswerColumn(name, struct, name, lambda response: read(_result(response, name)))]


def _result(response: Response, task: str) -> pb.TaskResult:
    """Return the result of a task without a role."""
    if isinstance(response, pb.PredictResponse):
        predicted: pb.TaskResult = response.result
        return predicted
    by_task: dict[str, pb.TaskResult] = {result.task: result for result in response.results}
    return by_task[task]


def _struct(name: str, task: TaskInfo) -> tuple[pa.DataType, Callable[[pb.TaskResult], dict[str, Any]]]:
    """Return the type of the struct of one task, and the function that reads it from a result."""
    kind = served_kind(task.kind)
    label: list[tuple[str, pa.DataType]] = [("label", pa.string()), ("confidence", pa.float32())]
    if kind.answer_type is Classification:
        if kind.several_labels:
            return pa.struct([*label, ("labels", pa.list_(_LABEL))]), _several_values
        return pa.struct(label), _class_values
    if kind.answer_type is Spans:
        span, has_roles = _span_type(task)
        return pa.struct([("spans", pa.list_(span))]), lambda result: {
            "spans": _span_values(result.spans.spans, has_roles=has_roles)
        }
    if kind.answer_type is Match:
        score = ("score", pa.float32())
        if task.labels:
            return pa.struct([*label, score]), lambda result: {
                **_named(result.match.label),
                "score": result.match.score,
            }
        return pa.struct([score]), lambda result: {"score": result.match.score}
    if kind.answer_type is Answer:
        text = [("text", pa.string()), ("start", pa.int32()), ("end", pa.int32()), ("confidence", pa.float32())]
        return pa.struct([*text, ("no_answer", pa.bool_())]), _passage_values
    raise BatchError(f"the kind of task '{name}' must name its answers, as in ServedKind[Match], got '{task.kind}'.")


def _span_type(task: TaskInfo) -> tuple[pa.DataType, bool]:
    """Return the type of the spans of a task, and whether they have roles and groups."""
    for span_type in task.decode.span_types.values():
        if span_type.role or span_type.group:
            return _SPAN_WITH_ROLE, True
    return _SPAN, False


def _named(label: pb.Label) -> dict[str, Any]:
    return {"label": label.name, "confidence": label.confidence}


def _class_values(result: pb.TaskResult) -> dict[str, Any]:
    return _named(result.classification.label)


def _several_values(result: pb.TaskResult) -> dict[str, Any]:
    answer = result.classification
    return {**_named(answer.label), "labels": _label_values(answer.labels)}


def _label_values(labels: Sequence[pb.Label]) -> list[dict[str, Any]]:
    return [{"name": label.name, "confidence": label.confidence} for label in labels]


def _passage_values(result: pb.TaskResult) -> dict[str, Any]:
    answer = result.answer
    return {
        "text": answer.text,
        "start": answer.start,
        "end": answer.end,
        "confidence": answer.confidence,
        "no_answer": answer.no_answer,
    }


def _span_values(spans: Sequence[pb.Span], *, has_roles: bool) -> list[dict[str, Any]]:
    values = []
    for span in spans:
        value = {
            "name": span.name,
            "value": span.value,
            "start": span.start,
            "end": span.end,
            "confidence": span.confidence,
        }
        if has_roles:
            value.update(role=span.role, group=span.group)
        values.append(value)
    return values
