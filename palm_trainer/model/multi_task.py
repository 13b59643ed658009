"""The multi-task model: one encoder and a head for each task.

Any subset of tasks takes one encoder pass.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from palm_serve.bundle.manifest import EncoderInfo, TaskInfo
from palm_trainer.model.encoders import Encoder
from palm_trainer.model.heads import TaskHead
from palm_trainer.tensors import check_fit


class MultiTaskModel(nn.Module):
    """The shared encoder with its heads by task name.

    Raises:
        WiringError: a head needs a tensor that the encoder does not have.
    """

    def __init__(self, backbone: Encoder, heads: Mapping[str, TaskHead]) -> None:
        super().__init__()
        for name, head in heads.items():
            check_fit(head.inputs, backbone.outputs, f"head '{name}' ({head.kind})", "the backbone")
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in order."""
        return tuple(spec.name for spec in self.backbone.inputs)

    def head(self, task: str) -> TaskHead:
        """Return the head of a task."""
        head = self.heads[task]
        assert isinstance(head, TaskHead)
        return head

    def output_names(self, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
        """List the names of the outputs (`intent.logits`) of some tasks (None: all), in order."""
        names: list[str] = []
        for task in self.heads if tasks is None else tasks:
            names += [f"{task}.{tensor}" for tensor in self.head(task).tensors]
        return tuple(names)

    def head_outputs(self, task: str, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Select the outputs of the head of a task, by the names that the head gives them."""
        head_outputs = {}
        for name in self.head(task).tensors:
            head_outputs[name] = outputs[f"{task}.{name}"]
        return head_outputs

    def forward(self, *, tasks: Sequence[str] | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """Run the encoder once and the heads of some tasks.

        Args:
            tasks: names of the tasks. None: all.
            inputs: int64 [batch, tokens] by name.

        Returns:
            Outputs by name, such as `intent.logits` [batch, labels] and `slots.logits` [batch,
            tokens, tags].
        """
        return self.answer(self.encode(inputs), tasks)

    def encode(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Run the encoder.

        Args:
            inputs: int64 [batch, tokens] by name.

        Returns:
            What heads may read, by name: the features, and the inputs, also those that the encoder
            does not take.
        """
        encoder_inputs = {}
        for name in self.input_names:
            if name in inputs:
                encoder_inputs[name] = inputs[name]
        return {**inputs, **self.backbone(**encoder_inputs)}

    def answer(self, features: Mapping[str, Tensor], tasks: Sequence[str] | None = None) -> dict[str, Tensor]:
        """Run the heads of some tasks on the result of `encode`, and return their outputs by name."""
        outputs = {}
        for task in self.heads if tasks is None else tasks:
            for tensor, value in self.head(task)(features).items():
                outputs[f"{task}.{tensor}"] = value
        return outputs


@dataclass(frozen=True)
class TrainedModel:
    """A model with everything that evaluation, export and prediction need.

    Args:
        model: the model.
        tokenizer_json: contents of `tokenizer.json`.
        max_length: maximum number of tokens.
        tasks: manifest entries of all tasks, auxiliary ones included.
        encoder: manifest entry of the encoder.
        auxiliary: names of the auxiliary tasks.
    """

    model: MultiTaskModel
    tokenizer_json: str
    max_length: int
    tasks: dict[str, TaskInfo]
    encoder: EncoderInfo
    auxiliary: frozenset[str] = field(default_factory=frozenset)

    @property
    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Contents of decode.npz: arrays that decoding needs, by the names in the tasks' `decode.arrays`."""
        arrays = {}
        for task, info in self.tasks.items():
            head_arrays = self.model.head(task).decode_arrays()
            for role, name in info.decode.arrays.items():
                arrays[name] = head_arrays[role]
        return arrays


def describe_encoder(backbone: Encoder, name: str, pad_token_id: int) -> EncoderInfo:
    """Return the manifest entry of an encoder.

    Args:
        backbone: the encoder.
        name: its name.
        pad_token_id: padding token of its tokenizer.
    """
    settings = backbone.encoder.config
    return EncoderInfo(
        family=str(settings.model_type),  # type: ignore[union-attr]
        name=name,
        layers=int(settings.num_hidden_layers),  # type: ignore[union-attr,arg-type]
        hidden_size=backbone.hidden_size,
        vocab_size=int(settings.vocab_size),  # type: ignore[union-attr,arg-type]
        parameters=sum(parameter.numel() for parameter in backbone.parameters()),
        pad_token_id=pad_token_id,
    )
