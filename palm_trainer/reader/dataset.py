"""A data set ready for training: tokenized once, collated batch by batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from palm_serve.engine.inputs import pad_batch
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding
from palm_trainer.example import Example
from palm_trainer.reader.target import Target


@dataclass(frozen=True)
class TrainingBatch:
    """Inputs of the model (int64 [B, S] each), targets by task, and the number of examples."""

    inputs: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    size: int


class EncodedDataset:
    """Examples of one data set with their pieces and targets.

    Args:
        examples: what the files held.
        tokenizer: the tokenizer that serving uses too.
        targets: by task, for the tasks that train on this data set.
        input_names: inputs of the model.
        pad_token_id: of the encoder.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: TextTokenizer,
        targets: Mapping[str, Target],
        input_names: Sequence[str],
        pad_token_id: int,
    ) -> None:
        self.encodings = encode_examples(examples, tokenizer)
        self.lengths: npt.NDArray[np.int64] = np.array([len(e) for e in self.encodings], dtype=np.int64)
        self.targets = targets
        self._input_names = tuple(input_names)
        self._pad_token_id = pad_token_id
        self._encoded: dict[str, list[Any]] = {
            task: [target.encode(example, encoding) for example, encoding in zip(examples, self.encodings, strict=True)]
            for task, target in targets.items()
        }

    def __len__(self) -> int:
        return len(self.encodings)

    def piece_ids(self) -> Tensor:
        """Ids of all pieces that occur, padding included, sorted, int64."""
        used = {self._pad_token_id}
        for encoding in self.encodings:
            used.update(encoding.input_ids)
        return torch.tensor(sorted(used), dtype=torch.int64)

    def batch(self, indices: npt.NDArray[np.int64]) -> TrainingBatch:
        """Pads and stacks some examples."""
        rows = indices.tolist()
        padded = pad_batch([self.encodings[i] for i in rows], self._input_names, self._pad_token_id)
        inputs = {name: torch.from_numpy(array) for name, array in padded.arrays.items()}
        length = inputs["input_ids"].shape[1]
        targets = {
            task: self.targets[task].collate([values[i] for i in rows], length)
            for task, values in self._encoded.items()
        }
        return TrainingBatch(inputs, targets, len(rows))


def encode_examples(examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Encoding]:
    """Tokenizes texts, or texts with their pairs."""
    return tokenizer.encode_batch([e.text if e.pair is None else (e.text, e.pair) for e in examples])
