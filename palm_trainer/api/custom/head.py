"""Adapter of a custom head to the engine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from palm_trainer.api.custom.encoder import _name, backbone_outputs
from palm_trainer.api.custom.names import _ENGINE, FEATURES, Attrs, check_attrs
from palm_trainer.api.head.base_head import Head as UserHead
from palm_trainer.api.phase import Phase
from palm_trainer.api.reader.base_reader import Reader, ReaderBatch
from palm_trainer.config.mappings import absent, select_keys
from palm_trainer.errors import WiringError
from palm_trainer.model.encoders import Encoder
from palm_trainer.model.heads import LossSum, TaskHead
from palm_trainer.tensors import (
    to_full_precision,
)

Answer = TypeVar("Answer")


class ReaderArrays(dict[str, Tensor]):
    """Arrays of the reader for a custom head, in the place of the targets of a built-in head."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "ReaderArrays":
        """Return the arrays on another device."""
        return ReaderArrays({name: value.to(device, non_blocking=non_blocking) for name, value in self.items()})


class CustomHead(TaskHead):
    """Runs a custom head as a head of the engine."""

    inputs = ()

    def __init__(self, task: str, user: UserHead) -> None:
        super().__init__()
        self.kind = user.kind  # type: ignore[misc]  # each user's head has its own
        self.user = user
        self._task = task

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]  # differs by phase
        """Outputs of `forward`: in training the backbone's inputs of `build`, which the loss needs; else the outputs."""
        return tuple(self.user.inputs_attrs.get("backbone", {})) if self.training else tuple(self.user.outputs_attr)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the outputs of the head, or in training the inputs of its loss."""
        inputs_attrs = self.user.inputs_attrs
        backbone = {}
        for name in inputs_attrs.get("backbone", {}):
            backbone[name] = features[name if name in features else FEATURES[name].name]
        if self.training:
            return backbone
        reader = {}
        for name in inputs_attrs.get("reader", {}):
            reader[name] = features[_ENGINE.get(name, name)]
        return self._built({"reader": reader, "backbone": backbone}, self.user.outputs_attr)

    def labels(self, targets: Any) -> Tensor:
        """Return the number of rows of the reader's arrays; 1 where the loss takes none."""
        return torch.tensor(max((len(value) for value in targets.values() if value.dim()), default=1))

    def loss(self, outputs: Mapping[str, Tensor], targets: Any) -> LossSum:
        """Return the user's loss times the rows, so that the mean over rows is the loss itself.

        Args:
            outputs: inputs of the head from the backbone.
            targets: ReaderArrays of the batch.

        Raises:
            WiringError: `build` returns no loss.
        """
        built = self._built({"reader": targets, "backbone": outputs}, ("loss",))
        rows = self.labels(targets)
        return LossSum(to_full_precision(built["loss"]).sum() * rows, rows)

    def _built(self, inputs: Mapping[str, Mapping[str, Tensor]], names: Sequence[str] | Attrs) -> dict[str, Tensor]:
        built = self.user.build(inputs, scope_name=f"{self._task}.")
        missing = absent(names, built)
        if missing:
            raise WiringError(
                f"trainer '{self._task}': {type(self.user).__name__}.build must return '{missing[0]}' in phase "
                f"'{self.user.phase}', as its outputs_attr declares, got: {', '.join(built) or 'nothing'}."
            )
        return select_keys(built, names)


def head_arrays(head: UserHead, arrays: ReaderBatch, phase: Phase) -> ReaderArrays:
    """Select the inputs of a head from a batch of a reader.

    Args:
        head: the custom head.
        arrays: batch of the reader.
        phase: phase whose declarations count.
    """
    selected = ReaderArrays()
    for name in in_phase(head, phase, lambda: head.inputs_attrs.get("reader", {})):
        selected[name] = torch.from_numpy(np.ascontiguousarray(arrays[name]))
    return selected


def in_phase(head: UserHead, phase: Phase, ask: Callable[[], Answer]) -> Answer:
    """Read a declaration of a head in a phase, whatever mode the model is in.

    Args:
        head: the custom head.
        phase: phase to read it in.
        ask: reads the declaration.
    """
    mode = head.training
    head.training = phase == "train"
    try:
        return ask()
    finally:
        head.training = mode


def check_custom_head(task: str, head: UserHead, reader: Reader, backbone: Encoder) -> None:
    """Check the declarations of a head in both phases, and register its inputs with the reader.

    Args:
        task: name of the task, for messages.
        head: the custom head.
        reader: reader of the training data.
        backbone: encoder of the task.

    Raises:
        WiringError: reader or backbone lack an input of the head, or the head declares no loss.
    """
    name = f"trainer '{task}': {type(head).__name__}"
    phases: tuple[Phase, ...] = ("train", "predict")
    for phase in phases:
        inputs_attrs = in_phase(head, phase, lambda: head.inputs_attrs)
        unknown = absent(inputs_attrs, ("reader", "backbone"))
        if unknown:
            raise WiringError(f"{name}.inputs_attrs must name 'reader' and 'backbone' only, got '{unknown[0]}'.")
        check_attrs(inputs_attrs.get("backbone", {}), backbone_outputs(backbone), name, f"backbone {_name(backbone)}")
        if phase == "train":
            check_attrs(inputs_attrs.get("reader", {}), reader.outputs_attr, name, f"its {type(reader).__name__}")
            for attr in inputs_attrs.get("reader", {}):
                reader.require_attr(attr)
    if "loss" not in in_phase(head, "train", lambda: head.outputs_attr):
        raise WiringError(f"{name}: its outputs_attr has no 'loss' in phase 'train'. Add it.")
