"""Adapter of a custom reader to the engine."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from palm_trainer.api.custom.encoder import CustomEncoder, inputs_of
from palm_trainer.api.custom.head import head_arrays
from palm_trainer.api.head.base_head import Head as UserHead
from palm_trainer.api.reader.base_reader import Reader, ReaderBatch
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.data.dataset import EncodedDataset, TrainingBatch
from palm_trainer.data.sampler import LengthBucketedSampler
from palm_trainer.errors import WiringError
from palm_trainer.model.encoders import Encoder
from palm_trainer.training.processes import Processes
from palm_trainer.training.source import Source


@dataclass(frozen=True)
class ReaderContent(TrainingBatch):
    """Batch of a custom reader with its original arrays."""

    arrays: ReaderBatch


class _Position:
    """Counts the batches of a custom reader, in the place of a sampler. The reader decides their order."""

    def __init__(self, batches_per_epoch: int, draw: Callable[[], object]) -> None:
        self.batches_per_epoch = batches_per_epoch
        self.epoch = 0
        self.position = 0
        self._draw = draw

    def step(self) -> None:
        """Count one batch."""
        if self.position == self.batches_per_epoch:
            self.epoch, self.position = self.epoch + 1, 0
        self.position += 1

    def state_dict(self) -> dict[str, int]:
        """Return the position in the data."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Draw the batches up to a position again."""
        while (self.epoch, self.position) < (state["epoch"], state["position"]):
            self._draw()


class CompletedSource(Source):
    """Data set of the package whose batches also hold the inputs of custom heads and a custom encoder.

    Args:
        reader: reader of the data set.
        dataset: rows of the data set with their targets.
        sampler: order of the batches.
        heads: the custom head of each task, None for heads of the package.
        backbone: the encoder.
    """

    def __init__(
        self,
        reader: TextReader,
        dataset: EncodedDataset,
        sampler: LengthBucketedSampler,
        heads: Mapping[str, UserHead | None],
        backbone: Encoder,
    ) -> None:
        super().__init__(dataset, sampler)
        self.tasks = tuple(heads)
        self._reader = reader
        self._heads = heads
        self._backbone = backbone

    def _cut(self, indices: npt.NDArray[np.int64], accumulate: int, processes: Processes) -> list[TrainingBatch]:
        return list(map(self._completed, super()._cut(indices, accumulate, processes)))

    def _completed(self, content: TrainingBatch) -> TrainingBatch:
        targets: dict[str, Any] = dict(content.targets)
        for task, head in self._heads.items():
            if head is not None:
                labels = {task: content.targets[task]} if task in content.targets else {}
                arrays = self._reader.attrs_of(replace(content, targets=labels))
                targets[task] = head_arrays(head, arrays, "train")
        inputs = content.inputs
        if isinstance(self._backbone, CustomEncoder):
            inputs = inputs_of(self._reader.attrs_of(content), self._backbone)
        return replace(content, inputs=inputs, targets=targets)


class CustomSource(Source):
    """Endless batches of a custom reader: a new iterator follows each that ends."""

    def __init__(self, reader: Reader, heads: Mapping[str, UserHead | None], backbone: Encoder) -> None:
        if reader.batch_size < 1:
            raise WiringError(
                f"{type(reader).__name__}.batch_size must be at least 1, got {reader.batch_size}. Set self._batch_size in load_data."
            )
        self._reader, self._heads, self._backbone = reader, heads, backbone
        self.tasks = tuple(heads)
        self._position = _Position(-(-reader.num_examples // reader.batch_size), self.next)
        self.sampler = self._position  # type: ignore[assignment]  # counts batches only
        self._batches = reader.iterate()
        self._first: ReaderContent | None = self._read()  # checked before the first step

    @property
    def rows(self) -> int:
        """Examples of the reader."""
        return self._reader.num_examples

    def digest(self) -> str:
        """Return nothing: the batches of a custom reader are not known before they are drawn."""
        return ""

    def next(self) -> TrainingBatch:
        """Return the next batch."""
        self._position.step()
        content = self._first or self._read()
        self._first = None
        return content

    def micro_batches(self, accumulate: int, processes: Processes) -> list[TrainingBatch]:
        """Return the next batch, which cannot be cut."""
        return [self.next()]

    def draw(self, accumulate: int, processes: Processes) -> tuple[TrainingBatch, list[TrainingBatch]]:
        """Return the next batch, which cannot be cut, twice."""
        content = self.next()
        return content, [content]

    def _read(self) -> ReaderContent:
        arrays = next(self._batches, None)
        if arrays is None:
            self._batches = self._reader.iterate()
            arrays = next(self._batches, None)
        if arrays is None:
            raise WiringError(f"{type(self._reader).__name__}: its _iterator must yield a batch, got none.")
        check_batch(self._reader, arrays)
        return custom_content(arrays, self._heads, self._backbone)


def custom_content(arrays: ReaderBatch, heads: Mapping[str, UserHead | None], backbone: Encoder) -> ReaderContent:
    """Convert the arrays of a batch for the engine. The targets of a built-in classifier are `label_ids`.

    Args:
        arrays: batch of the reader.
        heads: custom head of each task, None for a head of the package.
        backbone: the encoder.
    """
    inputs = inputs_of(arrays, backbone)
    targets: dict[str, Any] = {}
    for task, head in heads.items():
        if head is not None:
            targets[task] = head_arrays(head, arrays, "train")
        elif "label_ids" in arrays:
            targets[task] = torch.from_numpy(arrays["label_ids"]).long().flatten()
    rows = max((len(array) for array in arrays.values() if array.ndim), default=1)
    return ReaderContent(inputs, targets, rows, arrays)


def is_custom_reader(reader: Reader) -> bool:
    """Return True for a reader whose batches do not come from TextReader."""
    return not isinstance(reader, TextReader) or type(reader)._iterator is not TextReader._iterator


def check_batch(reader: Reader, arrays: ReaderBatch) -> None:
    """Check a batch of a custom reader.

    Raises:
        WiringError: a registered array is missing, or an array differs from `outputs_attr`.
    """
    name, declared = type(reader).__name__, reader.outputs_attr
    missing = sorted(reader._register - set(arrays))
    if missing:
        raise WiringError(f"{name}: its batch has no '{missing[0]}', which is registered. It has: {', '.join(arrays)}.")
    for attr, value in arrays.items():
        if attr not in declared:
            raise WiringError(f"{name}: its batch has '{attr}', which outputs_attr does not declare.")
        shape, dtype = declared[attr]
        shapes_match = len(shape) == value.ndim and all(
            declared_size in (-1, size) for declared_size, size in zip(shape, value.shape, strict=True)
        )
        if not shapes_match or ("float" in str(dtype)) != (value.dtype.kind == "f"):
            raise WiringError(
                f"{name}: '{attr}' is {value.dtype} of shape {list(value.shape)}, but outputs_attr declares {dtype} of shape {list(shape)}."
            )
