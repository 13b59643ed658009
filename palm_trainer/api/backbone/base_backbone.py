"""The base of backbones that users write. A backbone turns what a reader gives into what heads read."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from palm_trainer.api.phase import Phase, check_phase


class Backbone(nn.Module):
    """A PyTorch module with PALM's contract: what it takes and gives is declared by name, and checked before the first step.

    A backbone of your own has `inputs_attr`, `outputs_attr` and `build`. Heads of the package read `encoder_outputs` [B, T, H] or
    `sentence_embedding` (`sentence_pair_embedding`) [B, H]. See docs/customization.md.

    Args:
        phase: what it is made for. Raises WiringError for another than `train` and `predict`.
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
        """What it takes of a reader: name -> [shape, dtype]; -1 is variable."""
        raise NotImplementedError(f"{type(self).__name__} lacks inputs_attr: what it takes of a reader.")

    @property
    def outputs_attr(self) -> dict[str, list[Any]]:
        """What it gives to heads: name -> [shape, dtype]; -1 is variable."""
        raise NotImplementedError(f"{type(self).__name__} lacks outputs_attr: what it gives to heads.")

    def build(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The forward pass: what `inputs_attr` names -> what `outputs_attr` names."""
        raise NotImplementedError(f"{type(self).__name__} lacks build.")
