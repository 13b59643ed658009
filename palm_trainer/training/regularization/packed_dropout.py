"""Dropout on the CPU at a fifth of its cost: four positions share one random number of the generator, where torch draws one for each."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

_STEPS = 1 << 16
_LEAST = 1 / 512
"""Below it, a probability in steps of 2^-16 could be off by more than 0.4 %."""


class PackedDropout(TorchFunctionMode):
    """While it is active, `dropout` of what lies on the CPU is `packed_dropout`: in every encoder, be it a module or a call within attention."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Any = None
    ) -> Any:
        """Calls `func`, or what stands in for it."""
        return (packed_dropout if func is F.dropout else func)(*args, **(kwargs or {}))


def packed_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:  # noqa: A002
    """`torch.nn.functional.dropout`, with masks that are another function of torch's seeded generator; `p` is rounded to 2^-16."""
    dropped = round(p * _STEPS)
    if not training or inplace or input.device.type != "cpu" or p < _LEAST or dropped >= _STEPS:
        return F.dropout(input, p, training, inplace)
    count = input.numel()
    numbers = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None)  # all 64 bits
    kept = numbers.view(torch.int16)[:count].view(input.shape).ge_(dropped - _STEPS // 2)
    return input * kept.to(input.dtype).mul_(_STEPS / (_STEPS - dropped))
