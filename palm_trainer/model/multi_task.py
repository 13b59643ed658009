"""MultiTaskModel: one backbone, a head per task; any subset of tasks in one encoder pass. TrainedModel: that, with all that using it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from palm_serve.bundle.manifest import EncoderInfo, TaskInfo
from palm_trainer.model.encoders import Encoder
from palm_trainer.model.heads import Head
from palm_trainer.tensors import check_fit


class MultiTaskModel(nn.Module):
    """The shared encoder with its heads by task name. Raises WiringError when a head needs what the backbone does not give."""

    def __init__(self, backbone: Encoder, heads: Mapping[str, Head]) -> None:
        super().__init__()
        for name, head in heads.items():
            check_fit(head.inputs, backbone.outputs, f"head '{name}' ({head.kind})", "the backbone")
        self.backbone = backbone
        self.heads = nn.ModuleDict(heads)

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the graph's inputs, in order."""
        return tuple(spec.name for spec in self.backbone.inputs)

    def head(self, task: str) -> Head:
        """The head of a task."""
        head = self.heads[task]
        assert isinstance(head, Head)
        return head

    def output_names(self, tasks: Sequence[str] | None = None) -> tuple[str, ...]:
        """Names of the outputs (`intent.logits`) for some tasks, in order."""
        chosen = list(self.heads) if tasks is None else tasks
        return tuple(f"{task}.{tensor}" for task in chosen for tensor in self.head(task).tensors)

    def forward(self, *, tasks: Sequence[str] | None = None, **inputs: Tensor) -> dict[str, Tensor]:
        """int64 [B, S] inputs by name -> outputs by name (`intent.logits` [B, C], `slots.logits` [B, S, T]) of `tasks` (None: all), one encoder pass.

        Heads may read the inputs too, and further ones that the backbone does not take.
        """
        features = {**inputs, **self.backbone(**{name: inputs[name] for name in self.input_names if name in inputs})}
        outputs = {}
        for task in self.heads if tasks is None else tasks:
            for tensor, value in self.head(task)(features).items():
                outputs[f"{task}.{tensor}"] = value
        return outputs


@dataclass(frozen=True)
class TrainedModel:
    """A model with all that evaluation, export and prediction need beside it.

    `tasks` are manifest entries of all tasks, those of `auxiliary` included; `arrays` is what decode.npz will hold.
    """

    model: MultiTaskModel
    tokenizer_json: str
    max_length: int
    tasks: dict[str, TaskInfo]
    encoder: EncoderInfo
    auxiliary: frozenset[str] = field(default_factory=frozenset)

    @property
    def arrays(self) -> dict[str, npt.NDArray[np.float32]]:
        """Arrays that decoding needs beside the graph, by the names that the tasks' `decode.arrays` give."""
        found = {}
        for name, info in self.tasks.items():
            values = self.model.head(name).decode_arrays()
            found.update({stored: values[role] for role, stored in info.decode.arrays.items()})
        return found


def describe_encoder(backbone: Encoder, name: str, pad_token_id: int) -> EncoderInfo:
    """Facts about an encoder, as the manifest holds them."""
    settings = backbone.encoder.config
    return EncoderInfo(
        family=str(settings.model_type),  # type: ignore[union-attr]
        name=name,
        layers=int(settings.num_hidden_layers),  # type: ignore[union-attr,arg-type]
        hidden_size=backbone.hidden_size,
        vocab_size=int(settings.vocab_size),  # type: ignore[union-attr,arg-type]
        parameters=sum(p.numel() for p in backbone.parameters()),
        pad_token_id=pad_token_id,
    )
