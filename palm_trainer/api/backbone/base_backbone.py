"""Base of custom backbones, which encode the batches of a reader for heads."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from palm_trainer.api.phase import Phase, check_phase


class Backbone(nn.Module):
    """PyTorch module that declares its inputs and outputs by name. They are checked before the first step.

    A custom backbone defines `inputs_attr`, `outputs_attr` and `build`.
    Heads of the package read `encoder_outputs` `[batch, tokens, hidden]` or `sentence_embedding`
    (`sentence_pair_embedding`) `[batch, hidden]`. See docs/how-to/train/custom_parts.md.

    Args:
        phase: `train` or `predict`.

    Raises:
        WiringError: another phase.
    """

    def __init__(self, phase: Phase = "train") -> None:
        super().__init__()
        check_phase(type(self).__name__, phase)
        self.train(phase == "train")

    @property
    def phase(self) -> Phase:
        """`train` while the module is in training mode, else `predict`."""
        return "train" if self.training else "predict"

    @property
    def _phase(self) -> Phase:
        """PALM's name of `phase`."""
        return self.phase

    @property
    def inputs_attr(self) -> dict[str, list[Any]]:
        """Inputs from a reader: name -> [shape, dtype]. -1 is variable."""
        raise NotImplementedError(f"{type(self).__name__} lacks inputs_attr, its inputs from a reader.")

    @property
    def outputs_attr(self) -> dict[str, list[Any]]:
        """Outputs for heads: name -> [shape, dtype]. -1 is variable."""
        raise NotImplementedError(f"{type(self).__name__} lacks outputs_attr, its outputs for heads.")

    def build(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Compute the outputs that `outputs_attr` names from the inputs that `inputs_attr` names."""
        raise NotImplementedError(f"{type(self).__name__} lacks build.")
