"""Module that is exported: the encoder with the heads of some tasks, with positional inputs and outputs."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from palm_serve.engine.padding import ATTENTION_MASK, TOKEN_TYPE_IDS
from palm_trainer.model.multi_task import MultiTaskModel

BATCH = "batch"
SEQUENCE = "sequence"
_EXAMPLE_ROWS = 3
_EXAMPLE_TOKENS = 7


class ExportGraph(nn.Module):
    """The encoder with the heads of `tasks`.

    Args:
        model: the model, in eval mode, on the CPU, in fp32.
        tasks: names of the tasks, in the order of the outputs.
    """

    def __init__(self, model: MultiTaskModel, tasks: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.tasks = tuple(tasks)
        self.input_names = model.input_names
        self.output_names = model.output_names(tasks)
        # A new module is in training mode, and exporters return the whole model to the mode of the module.
        self.eval()

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """Compute the outputs in the order of `output_names`.

        The inputs are int64 `[batch, tokens]` each, in the order of `input_names`.
        """
        named_inputs = dict(zip(self.input_names, inputs, strict=True))
        outputs = self.model(**named_inputs, tasks=self.tasks)
        return tuple(outputs[name] for name in self.output_names)

    def for_tracing(self) -> "ExportGraph":
        """Return the module to trace: this one, or one with heads that compute nothing from weights alone."""
        heads = {task: self.model.head(task) for task in self.tasks}
        exported = {task: head.exported() for task, head in heads.items()}
        if exported == heads:
            return self
        return ExportGraph(MultiTaskModel(self.model.backbone, exported), self.tasks)

    def example_inputs(self, max_length: int) -> tuple[Tensor, ...]:
        """Return inputs to trace with, int64 `[batch, tokens]`.

        The last row is padded, so that the trace includes the attention mask.
        """
        length = min(_EXAMPLE_TOKENS, max_length)
        inputs = {name: torch.ones(_EXAMPLE_ROWS, length, dtype=torch.int64) for name in self.input_names}
        inputs[ATTENTION_MASK][-1, length // 2 + 1 :] = 0
        if TOKEN_TYPE_IDS in inputs:
            inputs[TOKEN_TYPE_IDS].zero_()
        return tuple(inputs.values())

    @torch.no_grad()
    def dynamic_axes(self, max_length: int) -> dict[str, dict[int, str]]:
        """Return the dynamic axes by tensor name.

        They are found by running two shapes, so that a head need not declare them.
        """
        axes = {name: {0: BATCH, 1: SEQUENCE} for name in self.input_names}
        long_inputs = self.example_inputs(max_length)
        short_inputs = tuple(tensor[:, :-1] for tensor in long_inputs)
        outputs = zip(self.output_names, self(*long_inputs), self(*short_inputs), strict=True)
        for name, long_output, short_output in outputs:
            axes[name] = {0: BATCH}
            for axis in range(1, long_output.dim()):
                if long_output.shape[axis] != short_output.shape[axis]:
                    axes[name][axis] = SEQUENCE
        return axes
