"""What a task learns from an example: the interface that the task-input files of this package share."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Encoding
from palm_trainer.example import Example
from palm_trainer.reader.inputs import Inputs


class Target(Protocol):
    """Turns the labels of one field into what a head's loss takes."""

    info: TaskInfo
    field: str
    inputs: Inputs

    def encode(self, example: Example, encoding: Encoding) -> Any:
        """The target of a feature, whose first row is given; IGNORE where it has no label that training knows."""
        ...

    def collate(self, targets: Sequence[Any], length: int) -> Tensor:
        """One tensor for a batch whose inputs are padded to `length` tokens."""
        ...
