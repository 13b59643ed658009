"""Encoded data sets: tokenized once, then padded and stacked batch by batch."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from operator import is_
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from palm_serve.engine.padding import pad_batch
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding
from palm_trainer.data.example import Example
from palm_trainer.data.inputs import Feature, Inputs, iterate_features
from palm_trainer.data.packed_features import PackedFeatures
from palm_trainer.data.pause_collection import pause_collection
from palm_trainer.data.substitution import Substitution
from palm_trainer.data.targets.base import Target, collate_soft
from palm_trainer.data.targets.masked_lm import MaskedLMTarget
from palm_trainer.errors import ConfigError
from palm_trainer.tensors import NO_SOFT_TARGET

Value = TypeVar("Value")
SoftTargetsByTask = Mapping[str, Sequence[npt.NDArray[np.float32]]]
"""Probabilities of teachers by task, one array for each feature: [classes], or [tokens, classes]."""


@dataclass(frozen=True)
class TrainingBatch:
    """A batch of one data set.

    Args:
        inputs: inputs of the model by name, int64 [batch, tokens].
        targets: targets by task.
        size: number of features.
        soft: soft targets by task, for tasks that have a teacher.
    """

    inputs: Mapping[str, Tensor]
    targets: Mapping[str, Tensor]
    size: int
    soft: Mapping[str, Tensor] = field(default_factory=dict, kw_only=True)


class EncodedDataset:
    """Encoder rows and targets of one data set.

    Indices count features: an example, or a window of its passage.

    Args:
        examples: the parsed examples.
        tokenizer: the tokenizer that serving uses too.
        targets: by task, for the tasks that train on this data set.
        input_names: inputs of the model.
        pad_token_id: padding token of the encoder.
        inputs: input layout. None: the layout of the tasks.
        substitution: changes slot values of some examples in each epoch. Only for layouts of single
            texts or pairs. An example that would bring in tokens that are new to the data set stays
            unchanged.

    Raises:
        ConfigError: the tasks need different input layouts.
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
        self._examples = examples
        self._tokenizer = tokenizer
        self._substitution = substitution
        self._inputs = inputs or _shared_inputs(targets)
        self.targets = targets
        self._input_names = tuple(input_names)
        self._pad_token_id = pad_token_id
        self._encoded: dict[str, list[Any]] = {task: [] for task in targets}
        with pause_collection():
            self._features = PackedFeatures(self._encode())
        self.lengths: npt.NDArray[np.int64] = self._features.row_lengths.max(axis=1, initial=0)
        self._soft: SoftTargetsByTask = {}
        self._token_ids = frozenset(self.piece_ids().tolist() if substitution else ())

    def _encode(self) -> Iterator[Feature]:
        """Tokenize the examples and encode their targets. Yield the features."""
        for feature in iterate_features(self._inputs, self._examples, self._tokenizer):
            example = self._examples[feature.example]
            for task, target in self.targets.items():
                self._encoded[task].append(target.encode(example, feature.rows[0]))
            yield feature

    def __len__(self) -> int:
        return len(self._features)

    @property
    def substitution(self) -> Substitution | None:
        """Replacement of values of some examples in each epoch. None: there is none."""
        return self._substitution

    @property
    def cut(self) -> list[int]:
        """Indices of the examples that were truncated to the maximum length of the model."""
        return self._features.truncated_examples

    def begins_with(self, examples: Sequence[Example], max_length: int) -> bool:
        """Return True if these examples, cut to `max_length` tokens, are the first ones of the data set."""
        is_cut_alike = self._tokenizer.max_length == max_length
        return is_cut_alike and len(examples) <= len(self._examples) and all(map(is_, examples, self._examples))

    def iterate_lengths(self, examples: int) -> Iterator[int]:
        """Yield the tokens of each feature of the first examples."""
        for feature, length in zip(self._features.examples, self.lengths.tolist(), strict=True):
            if feature < examples:
                yield length

    @property
    def inputs(self) -> Inputs:
        """Input layout of the data set."""
        return self._inputs

    def digest(self) -> str:
        """Return the SHA-256 of all rows, targets and listed values, to compare the data of several processes."""
        digest = hashlib.sha256(self._features.row_lengths.tobytes())
        digest.update(self._features.token_ids.tobytes())
        for task, targets in self._encoded.items():
            digest.update(task.encode())
            for target in targets:
                digest.update(f" {target}".encode())
        if self._substitution is not None and any(self._substitution.listed.values()):
            digest.update(f"listed: {self._substitution.listed}".encode())
        return digest.hexdigest()

    def attach_soft_targets(self, soft: SoftTargetsByTask) -> None:
        """Attach the probabilities of teachers.

        An example that substitution changes keeps soft targets for the text, and loses those for
        its tokens.
        """
        self._soft = dict(soft)

    def piece_ids(self) -> Tensor:
        """Collect the ids of all tokens in the data set, of values that substitution adds, and the padding token.

        Returns:
            Sorted ids, int64 [ids].
        """
        more_ids = {self._pad_token_id}
        if self._substitution is not None:
            listed = [*chain.from_iterable(self._substitution.listed.values())]
            for encoding in self._tokenizer.encode_batch(listed):
                more_ids.update(encoding.input_ids)
        token_ids = np.union1d(self._features.token_ids, sorted(more_ids))
        return torch.from_numpy(token_ids.astype(np.int64))

    def batch(self, indices: npt.NDArray[np.int64], epoch: int = 0) -> TrainingBatch:
        """Pad and stack some features. The rows of a feature follow each other.

        Args:
            indices: features of the batch.
            epoch: number of the epoch, which decides substitutions and masks.
        """
        features = indices.tolist()
        encoded = {task: _select(values, features) for task, values in self._encoded.items()}
        rows: list[Encoding] = []
        for index in features:
            rows.extend(self._features[index].rows)
        soft = {task: _select(values, features) for task, values in self._soft.items()}
        self._apply_substitutions(features, epoch, rows, encoded, soft)
        for task, target in self.targets.items():
            if isinstance(target, MaskedLMTarget):  # the only task of its data set, see MaskedTexts
                rows, encoded[task] = _mask(target, rows, encoded[task], features, epoch)
        padded = pad_batch(rows, self._input_names, self._pad_token_id)
        inputs = {name: torch.from_numpy(array) for name, array in padded.arrays.items()}
        length = inputs["input_ids"].shape[1]
        targets = {task: self.targets[task].collate(values, length) for task, values in encoded.items()}
        soft_targets = {task: collate_soft(values, length) for task, values in soft.items()}
        return TrainingBatch(inputs, targets, len(features), soft=soft_targets)

    def _apply_substitutions(
        self,
        features: Sequence[int],
        epoch: int,
        rows: list[Encoding],
        encoded: Mapping[str, list[Any]],
        soft: Mapping[str, list[npt.NDArray[np.float32]]],
    ) -> None:
        """Replace rows, targets and soft targets of the features that substitution changes in this epoch."""
        for position, example, row in self._substituted(features, epoch):
            for values in soft.values():
                if values[position].ndim == 2:
                    values[position] = np.full_like(values[position][:1], NO_SOFT_TARGET)
            rows[position] = row
            for task, target in self.targets.items():
                encoded[task][position] = target.encode(example, row)

    def _substituted(self, features: Sequence[int], epoch: int) -> Iterator[tuple[int, Example, Encoding]]:
        """Yield position in the batch, example and row of each feature that is changed in this epoch."""
        if self._substitution is None:
            return
        changed: list[tuple[int, Example]] = []
        for position, index in enumerate(features):
            example = self._substitution.draw(epoch, self._features[index].example)
            if example is not None:
                changed.append((position, example))
        encoded = self._tokenizer.encode_rows([example.inputs for _, example in changed])
        for (position, example), (row,) in zip(changed, encoded, strict=True):
            # Embeddings of other tokens may not be trained, see ActiveEmbedding.
            if self._token_ids.issuperset(row.input_ids):
                yield position, example, row


def _select(values: Sequence[Value], indices: Sequence[int]) -> list[Value]:
    return [values[index] for index in indices]


def _mask(
    target: MaskedLMTarget, rows: Sequence[Encoding], units: Sequence[Any], features: Sequence[int], epoch: int
) -> tuple[list[Encoding], list[Any]]:
    """Draw the masked tokens of each row for this epoch; return masked rows and their targets."""
    masked_rows: list[Encoding] = []
    targets: list[Any] = []
    for row, row_units, index in zip(rows, units, features, strict=True):
        masked_row, row_targets = target.draw(row, row_units, epoch, index)
        masked_rows.append(masked_row)
        targets.append(row_targets)
    return masked_rows, targets


def _shared_inputs(targets: Mapping[str, Target]) -> Inputs:
    """Return the input layout of all tasks. Raises ConfigError if they differ."""
    (first_task, first_target), *other_targets = targets.items()
    for task, target in other_targets:
        if target.inputs != first_target.inputs:
            raise ConfigError(
                f"tasks.{first_task} and tasks.{task} share a data set, "
                f"but '{first_task}' reads {first_target.inputs} and '{task}' {target.inputs}. "
                f"Give '{task}' a [data.NAME] of its own; it may name the same files."
            )
    return first_target.inputs
