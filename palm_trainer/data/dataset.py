"""A data set ready for training: tokenized once, collated batch by batch."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from palm_serve.engine.padding import pad_batch
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding
from palm_trainer.data.example import Example
from palm_trainer.data.inputs import Inputs
from palm_trainer.data.substitution import Substitution
from palm_trainer.data.targets.base import Target, collate_soft
from palm_trainer.data.targets.masked_lm import MaskedLMTarget
from palm_trainer.errors import ConfigError
from palm_trainer.tensors import NO_SOFT_TARGET


@dataclass(frozen=True)
class TrainingBatch:
    """Inputs of the model (int64 [B, S] each), targets by task, and the number of features; `soft`: answers of teachers, by the tasks that have some."""

    inputs: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    size: int
    soft: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)


class EncodedDataset:
    """Features of one data set with their pieces and targets. What is drawn, an index, is a feature: an example, or a window of its passage.

    Args:
        examples: what the files held.
        tokenizer: the tokenizer that serving uses too.
        targets: by task, for the tasks that train on this data set.
        input_names: inputs of the model.
        pad_token_id: of the encoder.
        inputs: how the data set is read; None: as its tasks say.
        substitution: changes values of some examples in each epoch; for data sets that are read as single texts or pairs. What would bring in pieces that
            the data set does not have stays as it is.

    Raises ConfigError when the tasks read the data set in different ways.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        tokenizer: TextTokenizer,
        targets: Mapping[str, Target],
        input_names: Sequence[str],
        pad_token_id: int,
        inputs: Inputs | None = None,
        substitution: Substitution | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._substitution = substitution
        self._inputs = inputs or _shared_inputs(targets)
        self._features = self._inputs.features(examples, tokenizer)
        self.lengths: npt.NDArray[np.int64] = np.array(
            [max(map(len, feature.rows)) for feature in self._features], dtype=np.int64
        )
        self.targets = targets
        self._input_names = tuple(input_names)
        self._pad_token_id = pad_token_id
        self._encoded: dict[str, list[Any]] = {
            task: [target.encode(examples[feature.example], feature.rows[0]) for feature in self._features]
            for task, target in targets.items()
        }
        self._soft: dict[str, Sequence[npt.NDArray[np.float32]]] = {}
        self._known = frozenset(self.piece_ids().tolist() if substitution else ())

    def __len__(self) -> int:
        return len(self._features)

    @property
    def encodings(self) -> list[Encoding]:
        """All rows."""
        return [row for feature in self._features for row in feature.rows]

    @property
    def cut(self) -> list[int]:
        """Positions of the examples that are longer than what the model takes."""
        return sorted({f.example for f in self._features if any(row.truncated for row in f.rows)})

    @property
    def inputs(self) -> Inputs:
        """How the data set is read."""
        return self._inputs

    def attach_soft_targets(self, soft: Mapping[str, Sequence[npt.NDArray[np.float32]]]) -> None:
        """Takes answers of teachers by task, a row a feature: [C], or [S, C] by piece. An example that is changed keeps the former and loses the latter."""
        self._soft = dict(soft)

    def piece_ids(self) -> Tensor:
        """Ids of all pieces that occur, padding included, sorted, int64."""
        used = {self._pad_token_id}
        for encoding in self.encodings:
            used.update(encoding.input_ids)
        return torch.tensor(sorted(used), dtype=torch.int64)

    def batch(self, indices: npt.NDArray[np.int64], epoch: int = 0) -> TrainingBatch:
        """Pads and stacks some features; the rows of a feature follow each other. `epoch` decides what is drawn anew in each."""
        chosen = indices.tolist()
        encoded = {task: [values[i] for i in chosen] for task, values in self._encoded.items()}
        encodings = [row for i in chosen for row in self._features[i].rows]
        soft = {task: [rows[i] for i in chosen] for task, rows in self._soft.items()}
        for place, example, row in self._substituted(chosen, epoch):
            for told in soft.values():
                if told[place].ndim == 2:
                    told[place] = np.full_like(told[place][:1], NO_SOFT_TARGET)
            encodings[place] = row
            for task, target in self.targets.items():
                encoded[task][place] = target.encode(example, row)
        for task, target in self.targets.items():
            if isinstance(target, MaskedLMTarget):  # the only task of its data set, see MaskedTexts
                drawn = [
                    target.draw(row, units, epoch, i)
                    for row, units, i in zip(encodings, encoded[task], chosen, strict=True)
                ]
                encodings, encoded[task] = [row for row, _ in drawn], [pieces for _, pieces in drawn]
        padded = pad_batch(encodings, self._input_names, self._pad_token_id)
        inputs = {name: torch.from_numpy(array) for name, array in padded.arrays.items()}
        length = inputs["input_ids"].shape[1]
        targets = {task: self.targets[task].collate(values, length) for task, values in encoded.items()}
        taught = {task: collate_soft(rows, length) for task, rows in soft.items()}
        return TrainingBatch(inputs, targets, len(chosen), soft=taught)

    def _substituted(self, chosen: Sequence[int], epoch: int) -> Iterator[tuple[int, Example, Encoding]]:
        """Those of some features that are changed in this epoch: place among them, example and row."""
        if self._substitution is None:
            return
        drawn = [(place, self._substitution.draw(epoch, self._features[i].example)) for place, i in enumerate(chosen)]
        changed = [(place, example) for place, example in drawn if example is not None]
        rows = self._tokenizer.encode_rows([(example.text, example.pair) for _, example in changed])
        for (place, example), (row,) in zip(changed, rows, strict=True):
            if self._known.issuperset(row.input_ids):  # of others the embedding may not be trained, see ActiveEmbedding
                yield place, example, row


def _shared_inputs(targets: Mapping[str, Target]) -> Inputs:
    """How all tasks read the data set. Raises ConfigError when they differ."""
    (first, one), *others = targets.items()
    for task, other in others:
        if other.inputs != one.inputs:
            raise ConfigError(
                f"tasks.{first} and tasks.{task} share a data set, but '{first}' reads {one.inputs} and '{task}' {other.inputs}. "
                f"Give '{task}' a [data.NAME] of its own; it may name the same files."
            )
    return one.inputs
