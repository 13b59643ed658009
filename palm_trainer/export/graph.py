"""What is exported: one module with the chosen heads on one encoder, positional in and out, as exporters want it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from palm_serve.engine.padding import ATTENTION_MASK, TOKEN_TYPE_IDS
from palm_trainer.model.multi_task import MultiTaskModel

BATCH, SEQUENCE = "batch", "sequence"
_EXAMPLE_ROWS, _EXAMPLE_TOKENS = 3, 7


class ExportGraph(nn.Module):
    """The encoder with the heads of `tasks`.

    Args:
        model: in eval mode, on the CPU, in fp32.
        tasks: names of the tasks, in the order of the outputs.
    """

    def __init__(self, model: MultiTaskModel, tasks: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.tasks = tuple(tasks)
        self.input_names = model.input_names
        self.output_names = model.output_names(tasks)
        self.eval()  # a new module is in training mode, and exporters put all of it back into the mode that they found

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """int64 [B, S] each, in the order of `input_names` -> outputs in the order of `output_names`."""
        outputs = self.model(**dict(zip(self.input_names, inputs, strict=True)), tasks=self.tasks)
        return tuple(outputs[name] for name in self.output_names)

    def example_inputs(self, max_length: int) -> tuple[Tensor, ...]:
        """Inputs to trace with, int64 [B, S]; the last row is padded, so that no path without a mask is taken."""
        length = min(_EXAMPLE_TOKENS, max_length)
        inputs = {name: torch.ones(_EXAMPLE_ROWS, length, dtype=torch.int64) for name in self.input_names}
        inputs[ATTENTION_MASK][-1, length // 2 + 1 :] = 0
        if TOKEN_TYPE_IDS in inputs:
            inputs[TOKEN_TYPE_IDS].zero_()
        return tuple(inputs.values())

    @torch.no_grad()
    def dynamic_axes(self, max_length: int) -> dict[str, dict[int, str]]:
        """Axes that vary, by tensor name. Found by running two shapes, so that a head need not declare them."""
        axes = {name: {0: BATCH, 1: SEQUENCE} for name in self.input_names}
        shorter = tuple(tensor[:, :-1] for tensor in self.example_inputs(max_length))
        for name, long, short in zip(
            self.output_names, self(*self.example_inputs(max_length)), self(*shorter), strict=True
        ):
            varying = {axis: SEQUENCE for axis in range(1, long.dim()) if long.shape[axis] != short.shape[axis]}
            axes[name] = {0: BATCH, **varying}
        return axes
