"""Backbones that users write, as encoders of the engine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palm_serve.bundle.manifest import EncoderInfo
from palm_trainer.api.backbone.base_backbone import Backbone as UserBackbone
from palm_trainer.api.custom.names import _ENGINE, FEATURES
from palm_trainer.api.reader.base_reader import ReaderBatch
from palm_trainer.errors import WiringError
from palm_trainer.model.encoders import Encoder
from palm_trainer.tensors import (
    PALM_NAMES,
    TensorSpec,
)


class CustomEncoder(Encoder):
    """The engine's side of a backbone that the user wrote."""

    def __init__(self, user: UserBackbone) -> None:
        nn.Module.__init__(self)
        self.encoder = user
        self.pooling = "cls"
        self.inputs = tuple(
            TensorSpec(_ENGINE.get(name, name), "float32" if "float" in str(dtype) else "int64", ())
            for name, (_, dtype) in user.inputs_attr.items()
        )
        self.outputs = tuple(dict.fromkeys(FEATURES[name] for name in user.outputs_attr if name in FEATURES))

    @property
    def hidden_size(self) -> int:
        """Last dimension of its first output for heads of the package; 0 when it gives none."""
        return next((int(shape[-1]) for name, (shape, _) in self.outputs_attr.items() if name in FEATURES), 0)

    @property
    def max_length(self) -> int | None:
        """Its own business."""
        return None

    @property
    def inputs_attr(self) -> dict[str, list[Any]]:
        """As the user declares it."""
        return self._user.inputs_attr

    @property
    def outputs_attr(self) -> dict[str, list[Any]]:
        """As the user declares it."""
        return self._user.outputs_attr

    @property
    def embedding_table(self) -> Tensor:
        """None that could be shared: no rows."""
        return torch.empty(0, self.hidden_size)

    @property
    def _user(self) -> UserBackbone:
        assert isinstance(self.encoder, UserBackbone)
        return self.encoder

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # what it takes is declared, not fixed
        """What the user's `build` gives, under PALM's names and the engine's."""
        built = self._user.build({PALM_NAMES.get(name, name): value for name, value in inputs.items()})
        missing = [name for name in self.outputs_attr if name not in built]
        if missing:
            raise WiringError(
                f"{type(self._user).__name__}.build gave no '{missing[0]}', which its outputs_attr declares. It gave: {', '.join(built)}."
            )
        return {**built, **{FEATURES[name].name: built[name] for name in built if name in FEATURES}}


def inputs_of(arrays: ReaderBatch, backbone: Encoder) -> dict[str, Tensor]:
    """What a backbone takes of a reader's batch. PALM's float mask [B, S, 1] becomes the engine's, int64 [B, S]."""
    inputs = {}
    for spec in backbone.inputs:
        value = torch.from_numpy(np.ascontiguousarray(arrays[PALM_NAMES.get(spec.name, spec.name)]))
        if spec.name in PALM_NAMES and not isinstance(backbone, CustomEncoder):
            value = value.reshape(value.shape[:2]).long()
        inputs[spec.name] = value
    return inputs


def engine_backbone(given: Encoder | UserBackbone) -> Encoder:
    """The engine's side of a backbone."""
    return CustomEncoder(given) if isinstance(given, UserBackbone) else given


def describe_custom_encoder(backbone: CustomEncoder, vocab_size: int, pad_token_id: int) -> EncoderInfo:
    """What can be said of a backbone that the user wrote. `vocab_size` is the readers'; 1 where none of them has a vocabulary."""
    return EncoderInfo(
        family="custom",
        name=type(backbone.encoder).__name__,
        layers=0,
        hidden_size=max(1, backbone.hidden_size),
        vocab_size=vocab_size,
        parameters=max(1, sum(p.numel() for p in backbone.parameters())),
        pad_token_id=pad_token_id,
    )


def backbone_outputs(backbone: Encoder) -> dict[str, Sequence[Any]]:
    """What a backbone gives to heads, as PALM declares it."""
    if isinstance(backbone, CustomEncoder):
        return dict(backbone.outputs_attr)
    return {**backbone.outputs_attr, "embedding_table": [list(backbone.embedding_table.shape), "float32"]}


def _name(backbone: Encoder) -> str:
    return type(backbone.encoder if isinstance(backbone, CustomEncoder) else backbone).__name__
