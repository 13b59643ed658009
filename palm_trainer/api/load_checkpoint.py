"""Loading of checkpoints into trainers, with checks that both agree."""

from collections.abc import Sequence
from pathlib import Path

from palm_trainer.api.custom.encoder import CustomEncoder
from palm_trainer.api.custom.head import CustomHead
from palm_trainer.api.declarations import Task
from palm_trainer.errors import CheckpointError
from palm_trainer.model.checkpoint import ModelDescription, build_head, build_model, load_trained
from palm_trainer.model.encoders import Encoder
from palm_trainer.model.heads import TaskHead
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel


def load_checkpoint(path: Path, tasks: Sequence[Task]) -> TrainedModel:
    """Load the model of `ckpt.stepN/`, or of `best/` of a run directory.

    Raises:
        CheckpointError: it does not hold every task as its trainer declared it.
    """
    run, checkpoint = (path, "best") if (path / "best").is_dir() else (path.parent, path.name)
    loaded = load_trained(run, checkpoint, lambda description: _build(description, tasks, path))
    for task in tasks:
        if task.name not in loaded.model.heads:
            raise CheckpointError(
                f"{path} has no task '{task.name}'. It has: {', '.join(loaded.model.heads)}. Name the trainer so, or load another."
            )
        _check_declared(task, loaded, path)
    return loaded


def _build(description: ModelDescription, tasks: Sequence[Task], path: Path) -> MultiTaskModel:
    """Build the model of a checkpoint. Custom parts come from the trainers; custom heads without a trainer are left out."""
    if not description.own:
        return build_model(description)
    plain = description.model_copy(update={"own": {}})
    custom_heads = {}
    for task in tasks:
        if task.custom_head is not None:
            custom_heads[task.name] = task.custom_head
    if "backbone" in description.own:
        declared = [task.backbone for task in tasks if isinstance(task.backbone, CustomEncoder)]
        if not declared:
            raise CheckpointError(
                f"{path}: its backbone is your own ({description.own['backbone']}). Declare it first: build_predict_forward(backbone, head)."
            )
        backbone: Encoder = declared[0]
    else:
        backbone = build_model(plain.model_copy(update={"tasks": {}})).backbone
    heads: dict[str, TaskHead] = {}
    for name in description.tasks:
        if f"heads.{name}" not in description.own:
            heads[name] = build_head(description, name, backbone)
    for custom_part in description.own:
        name = custom_part.removeprefix("heads.")
        if name in custom_heads:
            heads[name] = CustomHead(name, custom_heads[name])
    return MultiTaskModel(backbone, heads)


def _check_declared(task: Task, loaded: TrainedModel, path: Path) -> None:
    """Raise CheckpointError when a checkpoint's task is not what the trainer declared."""
    if task.head is None or not task.has_kind:
        return
    info = loaded.tasks[task.name]
    if info.kind != task.head.kind:
        raise CheckpointError(
            f"{path}: task '{task.name}' is of kind '{info.kind}', but the trainer's head of kind '{task.head.kind}'. Declare that head."
        )
    if task.backbone is not None and task.backbone.hidden_size != loaded.encoder.hidden_size:
        raise CheckpointError(
            f"{path}: its encoder has hidden size {loaded.encoder.hidden_size}, but the trainer's backbone {task.backbone.hidden_size}. "
            "Build the backbone from the same configuration."
        )


def take_over(trained: TrainedModel, loaded: TrainedModel) -> None:
    """Copy weights between models of the same tasks. Raises CheckpointError when labels or shapes differ."""
    for name, info in trained.tasks.items():
        if info.labels != loaded.tasks[name].labels:
            raise CheckpointError(
                f"task '{name}': the checkpoint has {len(loaded.tasks[name].labels)} labels and the reader {len(info.labels)}, or in another order. "
                "Give the reader the label map that the checkpoint was trained with."
            )
    loaded_weights = loaded.model.state_dict()
    try:
        trained.model.load_state_dict({name: loaded_weights[name] for name in trained.model.state_dict()})
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"the checkpoint does not fit the trainer's model: {str(error).splitlines()[0]}."
        ) from error
