"""Which field of the examples each task learns."""

from collections.abc import Mapping, Sequence

from palm_trainer.config.loader import Config, TaskConfig
from palm_trainer.data.example import Example, FieldValue
from palm_trainer.errors import DataError
from palm_trainer.tasks.registry import task_kind


def resolve_fields(config: Config, examples: Mapping[str, Sequence[Example]]) -> Config:
    """Return the configuration with each task's `field` set.

    Without a `field` it is the one that is named like the task or its role, or the only one that the kind can learn.

    Args:
        config: the configuration.
        examples: training examples by data set.

    Raises:
        DataError: the data has no such field, or several that fit.
    """
    tasks = {}
    for name, task in config.tasks.items():
        fields: dict[str, FieldValue] = {}
        for data in task.data:
            for example in examples[data]:
                for key, value in example.fields.items():
                    if key not in fields or fields[key] == ():
                        fields[key] = value
        tasks[name] = task.model_copy(update={"field": _choose_field(name, task, fields)})
    return config.model_copy(update={"tasks": tasks})


def _choose_field(name: str, task: TaskConfig, fields: Mapping[str, FieldValue]) -> str | None:
    kind = task_kind(task.kind)
    if not kind.is_answered:
        return None
    if task.field is not None:
        if task.field not in fields:
            raise DataError(
                f"tasks.{name}.field: the data has no field '{task.field}'. It has: {', '.join(fields) or 'none'}."
            )
        return task.field
    fitting = kind.fitting_fields(fields, task)
    for preferred in (name, task.role, kind.default_field):
        if preferred in fitting:
            return preferred
    if len(fitting) == 1:
        return fitting[0]
    raise DataError(
        f"tasks.{name}: {len(fitting)} fields of the data suit kind '{task.kind}' ({', '.join(fitting) or 'none'}; all fields: {', '.join(fields) or 'none'}). "
        f'Say which with field = "...".'
    )
