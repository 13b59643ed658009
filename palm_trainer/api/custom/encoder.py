"""Adapter of a custom backbone to the engine."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from palm_serve.bundle.manifest import EncoderInfo
from palm_trainer.api.backbone.base_backbone import Backbone as UserBackbone
from palm_trainer.api.custom.names import _ENGINE, FEATURES
from palm_trainer.api.reader.base_reader import ReaderBatch
from palm_trainer.config.mappings import absent
from palm_trainer.errors import WiringError
from palm_trainer.model.encoders import Encoder
from palm_trainer.tensors import (
    PALM_NAMES,
    TensorSpec,
)


class CustomEncoder(Encoder):
    """Runs a custom backbone as an encoder of the engine."""

    def __init__(self, user: UserBackbone) -> None:
        nn.Module.__init__(self)
        self.encoder = user
        self.pooling = "cls"
        inputs = []
        for name, (_, dtype) in user.inputs_attr.items():
            inputs.append(TensorSpec(_ENGINE.get(name, name), "float32" if "float" in str(dtype) else "int64", ()))
        self.inputs = tuple(inputs)
        self.outputs = tuple(dict.fromkeys(FEATURES[name] for name in user.outputs_attr if name in FEATURES))

    @property
    def hidden_size(self) -> int:
        """Last dimension of its first output for heads of the package; 0 without such an output."""
        for name, (shape, _) in self.outputs_attr.items():
            if name in FEATURES:
                return int(shape[-1])
        return 0

    @property
    def max_length(self) -> int | None:
        """None: the custom backbone sets its own limit."""
        return None

    @property
    def inputs_attr(self) -> dict[str, list[Any]]:
        """Inputs that the user declares."""
        return self._user.inputs_attr

    @property
    def outputs_attr(self) -> dict[str, list[Any]]:
        """Outputs that the user declares."""
        return self._user.outputs_attr

    @property
    def embedding_table(self) -> Tensor:
        """Empty table [0, hidden size]: a custom backbone shares none."""
        return torch.empty(0, self.hidden_size)

    @property
    def _user(self) -> UserBackbone:
        assert isinstance(self.encoder, UserBackbone)
        return self.encoder

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # the user declares the inputs
        """Return the outputs of the user's `build` under PALM's names and the engine's."""
        palm_inputs = {}
        for name, value in inputs.items():
            palm_inputs[PALM_NAMES.get(name, name)] = value
        built = self._user.build(palm_inputs)
        missing = absent(self.outputs_attr, built)
        if missing:
            raise WiringError(
                f"{type(self._user).__name__}.build must return '{missing[0]}', which its outputs_attr declares, got: {', '.join(built)}."
            )
        features = {}
        for name, value in built.items():
            if name in FEATURES:
                features[FEATURES[name].name] = value
        return {**built, **features}


def inputs_of(arrays: ReaderBatch, backbone: Encoder) -> dict[str, Tensor]:
    """Select the inputs of a backbone from a batch of a reader.

    PALM's float mask `[batch, tokens, 1]` becomes the int64 mask `[batch, tokens]` of the engine.
    """
    inputs = {}
    for spec in backbone.inputs:
        value = torch.from_numpy(np.ascontiguousarray(arrays[PALM_NAMES.get(spec.name, spec.name)]))
        if spec.name in PALM_NAMES and not isinstance(backbone, CustomEncoder):
            value = value.reshape(value.shape[:2]).long()
        inputs[spec.name] = value
    return inputs


def engine_backbone(backbone: Encoder | UserBackbone) -> Encoder:
    """Return a backbone as an encoder of the engine."""
    return CustomEncoder(backbone) if isinstance(backbone, UserBackbone) else backbone


def describe_custom_encoder(backbone: CustomEncoder, vocab_size: int, pad_token_id: int) -> EncoderInfo:
    """Describe a custom backbone for the manifest.

    Args:
        backbone: the adapted backbone.
        vocab_size: vocabulary size of the readers; 1 where no reader has a vocabulary.
        pad_token_id: id of the padding token.
    """
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
    """Return the outputs of a backbone for heads, as PALM declares them."""
    if isinstance(backbone, CustomEncoder):
        return dict(backbone.outputs_attr)
    return {**backbone.outputs_attr, "embedding_table": [list(backbone.embedding_table.shape), "float32"]}


def _name(backbone: Encoder) -> str:
    return type(backbone.encoder if isinstance(backbone, CustomEncoder) else backbone).__name__
