"""The outputs of a model by name, `<task>.<column>` and `truncated`, and how each is read from an answer."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter

from palm_serve.bundle.manifest import Manifest, TaskInfo
from palm_serve.decoding import OutputColumn, served_kind
from palm_serve.decoding.fallback_policy import judge
from palm_serve.rpc.messages.requests import Asked
from palm_serve.rpc.oip.tensors import BOOL, BYTES, FP32
from palm_serve.rpc.oip.typed import typed_json
from palm_serve.types import Classification, TaskAnswer

TRUNCATED = "truncated"
"""Whether the model saw only the beginning of a text; of no task."""


@dataclass(slots=True)
class Row:
    """The answers to one row of the inputs, each with how it was asked."""

    truncated: bool = False
    answers: dict[str, tuple[Asked, TaskAnswer]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Output:
    """One output tensor, [n]. `task` is the one that it comes from; empty: none, it comes with any."""

    name: str
    datatype: str
    task: str
    read: Callable[[Row], bytes | float | bool]


def outputs_of(manifest: Manifest) -> Mapping[str, Output]:
    """All outputs of a model, in the order of its tasks."""
    found = [output for name, task in manifest.tasks.items() for output in _outputs(name, task)]
    found.append(Output(TRUNCATED, BOOL, "", attrgetter("truncated")))
    return {output.name: output for output in found}


def _outputs(task: str, info: TaskInfo) -> list[Output]:
    def plain(name: str, column: OutputColumn) -> Output:
        def read(row: Row) -> bytes | float:
            value = column.read(row.answers[task][1])
            return value.encode() if isinstance(value, str) else value

        return Output(f"{task}.{name}", BYTES if column.is_text else FP32, task, read)

    def fallback(row: Row) -> bytes:
        asked, answer = row.answers[task]
        assert isinstance(answer, Classification)
        return judge(answer, asked.thresholds).name.lower().encode()

    def typed(row: Row) -> bytes:
        return typed_json(*row.answers[task])

    found = [plain(name, column) for name, column in served_kind(info.kind).columns(info).items()]
    if info.role == "intent":
        found.append(Output(f"{task}.fallback", BYTES, task, fallback))
    return [*found, Output(f"{task}.json", BYTES, task, typed)]
