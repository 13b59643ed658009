"""What values of spans stand for: kept in the run directory, and written into its bundles."""

from collections.abc import Mapping
from pathlib import Path

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.bundle.values_file import SlotValues, ValuesFile
from palm_trainer.config.atomic_files import write_file
from palm_trainer.config.loader import Config, TaskConfig
from palm_trainer.config.schema import SequenceLabelTask
from palm_trainer.data.found_values import FoundValues
from palm_trainer.data.splits import Splits
from palm_trainer.errors import CheckpointError, DataError
from palm_trainer.runs.file_names import VALUES
from palm_trainer.tasks import task_kind


def record_values(run: Path, config: Config, tasks: Mapping[str, TaskInfo], splits: Splits) -> None:
    """Write what the training data says about values, if it says anything.

    Args:
        run: the run directory.
        config: its configuration.
        tasks: the trained tasks.
        splits: of its data.

    Raises:
        DataError: a wording stands for two values.
    """
    (run / VALUES).unlink(missing_ok=True)
    by_task = {}
    for name, task in config.tasks.items():
        if name in tasks and task_kind(task.kind).learns_tags:
            slots = values_of_task(name, task, tasks[name], splits)
            if slots:
                by_task[name] = slots
    if by_task:
        write_file(run / VALUES, ValuesFile(tasks=by_task).model_dump_json(exclude_defaults=True, indent=1) + "\n")


def values_of_task(name: str, task: TaskConfig, info: TaskInfo, splits: Splits) -> dict[str, SlotValues]:
    """Return what the training data of a task says about the values of its slots.

    Args:
        name: name of the task.
        task: its settings.
        info: its tags.
        splits: of its data.

    Raises:
        DataError: a wording stands for two values, or the configuration names a slot that the data lacks.
    """
    task_values = FoundValues(lambda kind, source: None)
    for data_set in task.data:
        split_values = splits.read(data_set, "train").values
        if split_values is not None:
            task_values.merge(split_values)
    slots: dict[str, None] = {}
    for tag in info.labels:
        if tag.startswith(("B-", "I-")):
            slots[info.span_type(tag).name] = None
    by_slot = task_values.by_slot(slots)
    for slot, resolver in task.values.items() if isinstance(task, SequenceLabelTask) else ():
        if slot not in slots:
            raise DataError(
                f"tasks.{name}.values.{slot} must name a slot of the training data ({', '.join(slots)}), got '{slot}'. "
                "Correct or remove it."
            )
        by_slot[slot] = by_slot.get(slot, SlotValues()).model_copy(update={"resolver": resolver})
    return by_slot


def read_values(run: Path, tasks: Mapping[str, TaskInfo]) -> ValuesFile | None:
    """Return the values of a run for some of its tasks. None: it has none.

    Args:
        run: the run directory.
        tasks: the tasks.

    Raises:
        CheckpointError: the file is damaged.
    """
    path = run / VALUES
    if not path.exists():
        return None
    try:
        values = ValuesFile.model_validate_json(path.read_bytes())
    except ValueError as error:
        raise CheckpointError(f"{path} cannot be read: {error}. Restore the file, or train again.") from None
    kept_tasks = {}
    for name, slots in values.tasks.items():
        if name in tasks:
            kept_tasks[name] = slots
    return ValuesFile(tasks=kept_tasks) if kept_tasks else None
