"""Which field of the examples each task learns."""

from collections.abc import Mapping, Sequence

from palm_trainer.config.loader import Config, TaskConfig
from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.targets.match import NEGATIVE
from palm_trainer.errors import DataError


def resolve_fields(config: Config, examples: Mapping[str, Sequence[Example]]) -> Config:
    """The configuration with each task's `field` set: as given, or by role, by name, or the only one of its kind. Raises DataError."""
    tasks = {}
    for name, task in config.tasks.items():
        found: dict[str, FieldValue] = {}
        for data in task.data:
            for example in examples[data]:
                for key, value in example.fields.items():
                    if key not in found or found[key] == ():
                        found[key] = value
        tasks[name] = task.model_copy(update={"field": _choose_field(name, task, found)})
    return config.model_copy(update={"tasks": tasks})


def _choose_field(name: str, task: TaskConfig, found: Mapping[str, FieldValue]) -> str | None:
    if task.kind == "masked_lm":
        return None
    if task.field is not None:
        if task.field not in found:
            raise DataError(
                f"tasks.{name}.field: the data has no field '{task.field}'. It has: {', '.join(found) or 'none'}."
            )
        return task.field
    ranks = task.learning_strategy == "pairwise"
    fitting = [key for key, value in found.items() if accepts_value(task.kind, value) and (key == NEGATIVE) == ranks]
    if task.kind == "multi_label":
        fitting = [key for key in fitting if isinstance(found[key], tuple)] or fitting
    for wanted in (name, task.role, ANSWER if task.kind == "mrc" else ""):
        if wanted in fitting:
            return wanted
    if len(fitting) == 1:
        return fitting[0]
    raise DataError(
        f"tasks.{name}: {len(fitting)} fields of the data suit kind '{task.kind}' ({', '.join(fitting) or 'none'}; all fields: {', '.join(found) or 'none'}). "
        f'Say which with field = "...".'
    )


def accepts_value(kind: str, value: FieldValue) -> bool:
    """Whether a task of this kind can learn such a value."""
    is_spans = isinstance(value, tuple) and all(isinstance(item, LabelledSpan) for item in value)
    is_classes = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if kind in ("sequence_label", "mrc"):
        return is_spans
    return isinstance(value, str) or (kind == "multi_label" and is_classes)
