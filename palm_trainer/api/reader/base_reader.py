"""The base of all readers: registered attributes, and batches as dicts of arrays. Subclass it to read data of your own."""

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
    """A backbone, as far as a reader is concerned."""

    @property
    def inputs_attr(self) -> Mapping[str, Any]:
        """What it needs, by name."""
        ...


class Reader:
    """Gives batches as dicts of arrays, and says before which there are.

    A reader of your own has `outputs_attr`, `num_examples`, `load_data`, which sets `_batch_size` and `_num_epochs`, and `_iterator`, which
    gives the batches of an epoch or more; see docs/customization.md.

    Args:
        phase: `train`, or `predict`: one pass, in order, labels optional. Raises WiringError for another.
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
        """An empty register."""
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
        """Epochs that `load_data` was told; None: the trainer decides."""
        return self._num_epochs

    @num_epochs.setter
    def num_epochs(self, value: int | None) -> None:
        self._num_epochs = value

    def clone(self, phase: Phase = "train") -> Self:
        """A reader with the same settings and a register of its own, for another phase."""
        twin = copy.copy(self)
        twin.phase, twin._register = phase, set(self._register)
        return twin

    def require_attr(self, name: str) -> None:
        """Adds a name to what the batches hold. Raises WiringError for one that this reader does not give."""
        if name not in self.outputs_attr:
            raise WiringError(
                f"{type(self).__name__} does not give '{name}'. It gives: {', '.join(self.outputs_attr)}."
            )
        self._register.add(name)

    def register_with(self, backbone: _TakesInputs) -> None:
        """Adds all that the backbone takes. Raises WiringError for what this reader does not give."""
        for name in backbone.inputs_attr:
            self.require_attr(name)
        self._registered_backbone = backbone

    def get_registered_backbone(self) -> Any:
        """The backbone of `register_with`, or None."""
        return self._registered_backbone

    def _get_registed_attrs(self, attrs: Mapping[str, Any]) -> dict[str, Any]:
        """Those of `attrs` that are registered. Raises WiringError when a registered one is not among them."""
        missing = sorted(self._register - set(attrs))
        if missing:
            raise WiringError(
                f"{type(self).__name__}: its batch has no '{missing[0]}', which is registered. It has: {', '.join(attrs)}."
            )
        return {name: value for name, value in attrs.items() if name in self._register}

    @property
    def outputs_attr(self) -> dict[str, list[Any]]:
        """What the batches can hold: name -> [shape, dtype]; -1 is variable."""
        raise NotImplementedError(f"{type(self).__name__} lacks outputs_attr: what its batches hold.")

    def load_data(
        self,
        input_file: str | Path,
        batch_size: int,
        num_epochs: int | None = None,
        file_format: str = "tsv",
        shuffle_train: bool = True,
    ) -> None:
        """Reads a file, and sets `_batch_size` and `_num_epochs`."""
        raise NotImplementedError(f"{type(self).__name__} lacks load_data.")

    def _iterator(self) -> Iterator[ReaderBatch]:
        """Batches, each with all registered attributes."""
        raise NotImplementedError(f"{type(self).__name__} lacks _iterator, which gives its batches.")

    def iterate(self) -> Iterator[ReaderBatch]:
        """The batches of `_iterator`; float64 becomes float32."""
        for batch in self._iterator():
            arrays = {name: np.asarray(value) for name, value in batch.items()}
            yield {n: a.astype(np.float32) if a.dtype == np.float64 else a for n, a in arrays.items()}

    def get_epoch_outputs(self) -> dict[str, Any]:
        """What a head's `epoch_postprocess` takes of the whole data, by name (`epoch_inputs_attrs`)."""
        return {}

    @property
    def num_examples(self) -> int:
        """Examples in the data."""
        raise NotImplementedError(f"{type(self).__name__} lacks num_examples.")
