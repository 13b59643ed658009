"""Base of all readers: registered attributes, and batches as dicts of arrays."""

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np
import numpy.typing as npt

from palm_trainer.api.phase import Phase, check_phase
from palm_trainer.errors import WiringError

ReaderBatch = dict[str, npt.NDArray[Any]]


class _TakesInputs(Protocol):
    """The part of a backbone that a reader uses."""

    @property
    def inputs_attr(self) -> Mapping[str, Any]:
        """Inputs of the backbone by name."""
        ...


class Reader:
    """Reads batches as dicts of arrays, and declares the arrays beforehand.

    A custom reader defines `outputs_attr`, `num_examples`, `load_data` and `_iterator`.
    `load_data` sets `_batch_size` and `_num_epochs`. `_iterator` yields the batches of one epoch or more.
    See docs/how-to/train/custom_parts.md.

    Args:
        phase: `train`, or `predict`: one pass in order, labels optional.

    Raises:
        WiringError: another phase.
    """

    def __init__(self, phase: Phase = "train") -> None:
        check_phase(type(self).__name__, phase)
        self.phase: Phase = phase
        self.seed = 0
        self._batch_size = 0
        self._num_epochs: int | None = 1
        self._register = self.create_register()
        self._registered_backbone: Any = None

    @classmethod
    def create_register(cls) -> set[str]:
        """Return an empty register."""
        return set()

    @property
    def _phase(self) -> Phase:
        """PALM's name of `phase`."""
        return self.phase

    @property
    def batch_size(self) -> int:
        """Examples in a batch."""
        return self._batch_size

    @property
    def num_epochs(self) -> int | None:
        """Epochs that `load_data` was called with. None: the trainer decides."""
        return self._num_epochs

    @num_epochs.setter
    def num_epochs(self, value: int | None) -> None:
        self._num_epochs = value

    def clone(self, phase: Phase = "train") -> Self:
        """Return a reader with the same settings and its own register, for another phase."""
        twin = copy.copy(self)
        twin.phase, twin._register = phase, set(self._register)
        return twin

    def require_attr(self, name: str) -> None:
        """Add a name to the arrays of the batches. Raises WiringError for a name that `outputs_attr` lacks."""
        if name not in self.outputs_attr:
            raise WiringError(
                f"{type(self).__name__} does not give '{name}'. It gives: {', '.join(self.outputs_attr)}."
            )
        self._register.add(name)

    def register_with(self, backbone: _TakesInputs) -> None:
        """Add all inputs of the backbone. Raises WiringError for an input that `outputs_attr` lacks."""
        for name in backbone.inputs_attr:
            self.require_attr(name)
        self._registered_backbone = backbone

    def get_registered_backbone(self) -> Any:
        """Return the backbone of `register_with`, or None."""
        return self._registered_backbone

    def _get_registed_attrs(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the registered entries of `attrs`. Raises WiringError when a registered one is missing."""
        missing = sorted(self._register - set(attrs))
        if missing:
            raise WiringError(
                f"{type(self).__name__}: its batch has no '{missing[0]}', which is registered. It has: {', '.join(attrs)}."
            )
        return {name: value for name, value in attrs.items() if name in self._register}

    @property
    def outputs_attr(self) -> dict[str, list[Any]]:
        """Arrays that the batches can hold: name -> [shape, dtype]. -1 is variable."""
        raise NotImplementedError(f"{type(self).__name__} lacks outputs_attr, the arrays of its batches.")

    def load_data(
        self,
        input_file: str | Path,
        batch_size: int,
        num_epochs: int | None = None,
        file_format: str = "tsv",
        shuffle_train: bool = True,
    ) -> None:
        """Read a file, and set `_batch_size` and `_num_epochs`.

        Args:
            input_file: file to read.
            batch_size: examples in a batch.
            num_epochs: epochs of the training. None: the trainer decides.
            file_format: format of the file.
            shuffle_train: shuffle the examples while training.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks load_data.")

    def _iterator(self) -> Iterator[ReaderBatch]:
        """Yield batches, each with all registered attributes."""
        raise NotImplementedError(f"{type(self).__name__} lacks _iterator, which gives its batches.")

    def iterate(self) -> Iterator[ReaderBatch]:
        """Yield the batches of `_iterator`, with float32 in the place of float64."""
        for batch in self._iterator():
            arrays: ReaderBatch = {}
            for name, value in batch.items():
                array = np.asarray(value)
                arrays[name] = array.astype(np.float32) if array.dtype == np.float64 else array
            yield arrays

    def get_epoch_outputs(self) -> dict[str, Any]:
        """Return values of the whole data for `epoch_postprocess` of a head, by name (`epoch_inputs_attrs`)."""
        return {}

    @property
    def num_examples(self) -> int:
        """Examples in the data."""
        raise NotImplementedError(f"{type(self).__name__} lacks num_examples.")
