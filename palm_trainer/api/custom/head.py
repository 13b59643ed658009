"""Heads that users write, as heads of the engine."""

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
from palm_trainer.errors import WiringError
from palm_trainer.model.encoders import Encoder
from palm_trainer.model.heads import LossSum, TaskHead
from palm_trainer.tensors import (
    to_full_precision,
)

Answer = TypeVar("Answer")


class ReaderArrays(dict[str, Tensor]):
    """What a head of the user takes of the reader, in the place of a built-in head's targets."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "ReaderArrays":
        """The same on another device."""
        return ReaderArrays({name: value.to(device, non_blocking=non_blocking) for name, value in self.items()})


class CustomHead(TaskHead):
    """The engine's side of a head that the user wrote."""

    inputs = ()

    def __init__(self, task: str, user: UserHead) -> None:
        super().__init__()
        self.kind = user.kind  # type: ignore[misc]  # each user's head has its own
        self.user = user
        self._task = task

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]  # differs by phase
        """While training what `build` takes of the backbone, since only the loss has the reader's part; else what it gives."""
        return tuple(self.user.inputs_attrs.get("backbone", {})) if self.training else tuple(self.user.outputs_attr)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The user's outputs when predicting; while training what the loss will need."""
        wanted = self.user.inputs_attrs
        backbone = {
            name: features[name if name in features else FEATURES[name].name] for name in wanted.get("backbone", {})
        }
        if self.training:
            return backbone
        reader = {name: features[_ENGINE.get(name, name)] for name in wanted.get("reader", {})}
        return self._built({"reader": reader, "backbone": backbone}, self.user.outputs_attr)

    def labels(self, targets: Any) -> Tensor:
        """Rows of the reader's arrays; 1 where the loss takes none."""
        return torch.tensor(max((len(value) for value in targets.values() if value.dim()), default=1))

    def loss(self, outputs: Mapping[str, Tensor], targets: Any) -> LossSum:
        """The user's loss, once a row, so that it is a mean again in the end; targets are ReaderArrays. Raises WiringError where `build` gives none."""
        built = self._built({"reader": targets, "backbone": outputs}, ("loss",))
        rows = self.labels(targets)
        return LossSum(to_full_precision(built["loss"]).sum() * rows, rows)

    def _built(self, given: Mapping[str, Mapping[str, Tensor]], wanted: Sequence[str] | Attrs) -> dict[str, Tensor]:
        built = self.user.build(given, scope_name=f"{self._task}.")
        missing = [name for name in wanted if name not in built]
        if missing:
            raise WiringError(
                f"trainer '{self._task}': {type(self.user).__name__}.build gave no '{missing[0]}' in phase '{self.user.phase}', which its outputs_attr "
                f"declares. It gave: {', '.join(built) or 'nothing'}."
            )
        return {name: built[name] for name in wanted}


def head_arrays(head: UserHead, arrays: ReaderBatch, phase: Phase) -> ReaderArrays:
    """What a head takes of a reader's batch in a phase."""
    wanted = in_phase(head, phase, lambda: head.inputs_attrs.get("reader", {}))
    return ReaderArrays({name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in wanted})


def in_phase(head: UserHead, phase: Phase, ask: Callable[[], Answer]) -> Answer:
    """What a head declares in a phase, whatever mode the model is in."""
    mode = head.training
    head.training = phase == "train"
    try:
        return ask()
    finally:
        head.training = mode


def check_custom_head(task: str, head: UserHead, reader: Reader, backbone: Encoder) -> None:
    """Raises WiringError unless reader and backbone give what the head declares in both phases; registers it with the reader."""
    name = f"trainer '{task}': {type(head).__name__}"
    phases: tuple[Phase, ...] = ("train", "predict")
    for phase in phases:
        wanted = in_phase(head, phase, lambda: head.inputs_attrs)
        unknown = [part for part in wanted if part not in ("reader", "backbone")]
        if unknown:
            raise WiringError(f"{name}.inputs_attrs has '{unknown[0]}', but takes of 'reader' and 'backbone' only.")
        check_attrs(wanted.get("backbone", {}), backbone_outputs(backbone), name, f"backbone {_name(backbone)}")
        if phase == "train":
            check_attrs(wanted.get("reader", {}), reader.outputs_attr, name, f"its {type(reader).__name__}")
            for attr in wanted.get("reader", {}):
                reader.require_attr(attr)
    if "loss" not in in_phase(head, "train", lambda: head.outputs_attr):
        raise WiringError(f"{name}: its outputs_attr has no 'loss' in phase 'train'. Add it.")
