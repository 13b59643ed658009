"""Choice of the field that each task learns."""

from collections.abc import Mapping, Sequence

from palm_trainer.config.loader import Config, TaskConfig
from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.targets.match import NEGATIVE
from palm_trainer.errors import DataError


def resolve_fields(config: Config, examples: Mapping[str, Sequence[Example]]) -> Config:
    """Set the `field` of each task: as configured, by role, by name, or the only one that fits its kind.

    Raises:
        DataError: a configured field is missing, or no or several fields fit.
    """
    tasks = {}
    for name, task in config.tasks.items():
        samples: dict[str, FieldValue] = {}
        for data in task.data:
            for example in examples[data]:
                for key, value in example.fields.items():
                    if key not in samples or samples[key] == ():
                        samples[key] = value
        tasks[name] = task.model_copy(update={"field": _choose_field(name, task, samples)})
    return config.model_copy(update={"tasks": tasks})


def _choose_field(name: str, task: TaskConfig, samples: Mapping[str, FieldValue]) -> str | None:
    """Return the field of a task. `samples` holds a value of each field, not empty if there is one."""
    if task.kind == "masked_lm":
        return None
    if task.field is not None:
        if task.field not in samples:
            available = ", ".join(samples) or "none"
            raise DataError(f"tasks.{name}.field: the data has no field '{task.field}'. It has: {available}.")
        return task.field
    is_pairwise = task.learning_strategy == "pairwise"
    fitting = []
    for field, value in samples.items():
        if accepts_value(task.kind, value) and (field == NEGATIVE) == is_pairwise:
            fitting.append(field)
    if task.kind == "multi_label":
        fitting = [field for field in fitting if isinstance(samples[field], tuple)] or fitting
    for preferred in (name, task.role, ANSWER if task.kind == "mrc" else ""):
        if preferred in fitting:
            return preferred
    if len(fitting) == 1:
        return fitting[0]
    raise DataError(
        f"tasks.{name}: {len(fitting)} fields of the data suit kind '{task.kind}' "
        f"({', '.join(fitting) or 'none'}; all fields: {', '.join(samples) or 'none'}). "
        f'Say which with field = "...".'
    )


def accepts_value(kind: str, value: FieldValue) -> bool:
    """Return True if a task of this kind can learn the value."""
    is_spans = isinstance(value, tuple) and all(isinstance(item, LabelledSpan) for item in value)
    is_classes = isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    if kind in ("sequence_label", "mrc"):
        return is_spans
    return isinstance(value, str) or (kind == "multi_label" and is_classes)
