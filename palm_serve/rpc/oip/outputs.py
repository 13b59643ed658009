"""The output tensors of a model, `<task>.<column>` and `truncated`, and their values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from palm_serve.bundle.manifest import Manifest, TaskInfo
from palm_serve.decoding import OutputColumn, served_kind
from palm_serve.decoding.fallback_policy import judge
from palm_serve.rpc.messages.requests import CheckedRequest
from palm_serve.rpc.oip.tensors import BOOL, BYTES, FP32
from palm_serve.rpc.oip.typed import typed_json
from palm_serve.types import Classification, TaskAnswer

TRUNCATED = "truncated"
"""Output that is true if the model read only the beginning of a text. It belongs to no task."""


@dataclass(slots=True)
class RowAnswers:
    """The answers to one row of the inputs, each with its request."""

    truncated: bool = False
    unknown_language: bool = False
    answers: dict[str, tuple[CheckedRequest, TaskAnswer]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output tensor of shape [n]. `task` is empty for an output that belongs to no task."""

    name: str
    datatype: str
    task: str
    read: Callable[[RowAnswers], bytes | float | bool]


def outputs_of(manifest: Manifest) -> Mapping[str, OutputTensor]:
    """Return all outputs of a model by name, in the order of its tasks."""
    outputs: dict[str, OutputTensor] = {}
    for name, task in manifest.tasks.items():
        for output in _task_outputs(name, task):
            outputs[output.name] = output
    outputs[TRUNCATED] = OutputTensor(TRUNCATED, BOOL, "", attrgetter("truncated"))
    return outputs


def _task_outputs(task: str, info: TaskInfo) -> list[OutputTensor]:
    def column_output(name: str, column: OutputColumn) -> OutputTensor:
        def read(row: RowAnswers) -> bytes | float:
            value = column.read(row.answers[task][1])
            return value.encode() if isinstance(value, str) else value

        return OutputTensor(f"{task}.{name}", BYTES if column.is_text else FP32, task, read)

    def read_fallback(row: RowAnswers) -> bytes:
        checked, answer = row.answers[task]
        assert isinstance(answer, Classification)
        return judge(answer, checked.thresholds, unknown_language=row.unknown_language).name.lower().encode()

    def read_json(row: RowAnswers) -> bytes:
        checked, answer = row.answers[task]
        return typed_json(checked, answer)

    outputs = []
    for name, column in served_kind(info.kind).columns(info).items():
        outputs.append(column_output(name, column))
    if info.role == "intent":
        outputs.append(OutputTensor(f"{task}.fallback", BYTES, task, read_fallback))
    outputs.append(OutputTensor(f"{task}.json", BYTES, task, read_json))
    return outputs
