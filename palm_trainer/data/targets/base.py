"""The interface of all targets, and how their rows become one tensor."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Encoding
from palm_trainer.data.example import Example
from palm_trainer.data.inputs import Inputs
from palm_trainer.tensors import IGNORE, NO_SOFT_TARGET

if TYPE_CHECKING:  # commands that only read data need no torch, which takes seconds to load
    from torch import Tensor


class Target(Protocol):
    """Turns the labels of one field into what a head's loss takes."""

    info: TaskInfo
    field: str
    inputs: Inputs

    def encode(self, example: Example, encoding: Encoding) -> Any:
        """Return the target of a feature, given its first row. IGNORE stands for a missing or unknown label."""
        ...

    def collate(self, targets: Sequence[Any], length: int) -> "Tensor":
        """Return one tensor for a batch whose inputs are padded to `length` tokens."""
        ...


def collate_indices(targets: Sequence[int] | Sequence[Sequence[int]]) -> "Tensor":
    """Return the indices of a batch, int64 [B], or [B, N] for N indices a row."""
    import torch

    return torch.tensor(targets, dtype=torch.int64)


def collate_rows(targets: Sequence[Sequence[int]], length: int) -> "Tensor":
    """Return targets of tokens, int64 [B, S], IGNORE beyond a row's end."""
    import torch

    out = np.full((len(targets), length), IGNORE, dtype=np.int64)
    for row, target in enumerate(targets):
        out[row, : len(target)] = target
    return torch.from_numpy(out)


def collate_soft(rows: Sequence[npt.NDArray[np.float32]], length: int) -> "Tensor":
    """Return probabilities for a batch: rows [C] stacked, rows [S, C] of tokens padded with NO_SOFT_TARGET."""
    import torch

    if rows[0].ndim == 1:
        return torch.from_numpy(np.stack(rows))
    out = np.full((len(rows), length, rows[0].shape[1]), NO_SOFT_TARGET, dtype=np.float32)
    for row, probabilities in enumerate(rows):
        out[row, : len(probabilities)] = probabilities
    return torch.from_numpy(out)
