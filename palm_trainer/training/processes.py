"""Several processes that train one model (torchrun): who they are, and the few things that they say to each other.

Each holds the whole model, the data and the samplers, takes its share of each step's batch, and the gradients are summed. These are plain
collectives and not DistributedDataParallel, because a step is exact only so:

* A head that no process's share has a label for must have no gradient at all, or the optimizer would move it by decay and momentum. DDP
  gives unused parameters zeros, and walks the graph to find them.
* DDP averages over processes; here losses are divided by the true counts of the whole step before the sum.
* A step may run several backward passes (accumulation, adversarial noise, a pass a task), or none where the share is empty. DDP expects one.

What it costs: the exchange does not overlap with the backward pass.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from palm_trainer.errors import PalmError

_PATIENCE = timedelta(days=7)
"""How long a process waits for the others; the first evaluates alone. One that died is noticed at once."""
_TOLD = "palm/told"

Made = TypeVar("Made")


@dataclass(frozen=True)
class Processes:
    """One process among those of a training. What they exchange is exchanged by all, in the same order.

    Args:
        rank: from 0; the first evaluates, saves and speaks.
        size: how many there are.
        local_rank: among those of its machine: which GPU is its own.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """Whether it evaluates, saves and speaks."""
        return self.rank == 0

    def device(self, asked: str) -> str:
        """`train.device` of this process. Raises PalmError for one device that all would have to share."""
        if self.size == 1:
            return asked
        if asked == "auto":
            asked = "cuda" if torch.cuda.is_available() else "cpu"
        if asked not in ("cuda", "cpu"):
            raise PalmError(
                f"train.device: '{asked}' is one device, but {self.size} processes train. Write cuda (each takes a GPU of its own), cpu or auto."
            )
        return f"cuda:{self.local_rank}" if asked == "cuda" else asked

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sums over the processes, exact for counts."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _talk():
            dist.all_reduce(total)
        return [float(value) for value in total]

    def any(self, said: bool) -> bool:
        """Whether one of them says so."""
        return self.sum([float(said)])[0] > 0

    def run_on_first(self, make: Callable[[], Made]) -> Made:
        """What `make` gives on the first process, on all of them; the others wait for it."""
        if self.size == 1:
            return make()
        box: list[Any] = [make() if self.is_first else None]
        with _talk():
            dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        made: Made = box[0]
        return made

    def gather(self, value: Made) -> list[Made]:
        """The value of each process, by rank."""
        if self.size == 1:
            return [value]
        return [self._from(rank, value) for rank in range(self.size)]

    def _from(self, rank: int, value: Made) -> Made:
        box: list[Any] = [value]
        with _talk():
            dist.broadcast_object_list(box, src=rank, device=torch.device("cpu"))
        sent: Made = box[0]
        return sent

    @torch.no_grad()
    def broadcast_weights(self, model: nn.Module) -> None:
        """Gives all the first one's parameters and buffers."""
        for tensor in (*model.parameters(), *model.buffers()) if self.size > 1 else ():
            with _talk():
                dist.broadcast(tensor, src=0)

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Puts the sum over the processes into each `grad`; None stays where no process has one."""
        if self.size == 1:
            return
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        held = self.sum([float(parameter.grad is not None) for parameter in trained])
        some = [parameter for parameter, count in zip(trained, held, strict=True) if count]
        for dtype in dict.fromkeys(parameter.dtype for parameter in some):
            own = [parameter for parameter in some if parameter.dtype == dtype]
            for parameter in own:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
            gradients: list[Tensor] = [parameter.grad for parameter in own if parameter.grad is not None]
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            with _talk():
                dist.all_reduce(flat)
            for gradient, summed in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def seed_other_ranks(self, seed: int) -> None:
        """Gives each process but the first a stream of random numbers of its own: dropout must not repeat across the shares of a batch."""
        if not self.is_first:
            torch.manual_seed((seed << 16) + self.rank)


SINGLE_PROCESS = Processes()
"""The only process."""


@contextmanager
def process_group() -> Iterator[Processes]:
    """The processes that torchrun started (or whatever sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT), else this one alone.

    They leave together. Of the errors that end them one is raised, in the process that met it first; the others leave with SystemExit.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield SINGLE_PROCESS
        return
    rank, local = int(os.environ["RANK"]), int(os.environ.get("LOCAL_RANK", os.environ["RANK"]))
    store, _, _ = next(rendezvous("env://", rank, size, timeout=_PATIENCE))
    gpus = torch.cuda.is_available()
    if gpus:
        torch.cuda.set_device(local % torch.cuda.device_count())
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if gpus else "gloo",
        store=PrefixStore("palm", store),
        rank=rank,
        world_size=size,
        timeout=_PATIENCE,
    )
    processes = Processes(rank, size, local)
    try:
        yield processes
        processes.any(
            False
        )  # nobody leaves before the first has said all: torchrun ends them all when one has ended badly
    except Exception as error:
        if _is_told(store):
            raise SystemExit(2 if isinstance(error, PalmError) else 1) from None
        raise
    dist.destroy_process_group()


def _is_told(store: Store) -> bool:
    """Whether another process has told why they end, or cannot be asked because it is gone."""
    try:
        return int(store.add(_TOLD, 1)) > 1
    except RuntimeError:
        return True


@contextmanager
def _talk() -> Iterator[None]:
    """Says what a failed exchange means."""
    try:
        yield
    except RuntimeError as error:
        raise PalmError(
            f"another process of this training ended without a word (killed? out of memory?): {str(error).splitlines()[0]}. "
            "Continue with --resume from what was saved last."
        ) from error
