"""Training with several processes (torchrun): ranks, and the collective operations that training needs.

Each process holds the whole model, the data and the samplers, takes its share of each batch, and
gradients are summed. These are plain collectives and not DistributedDataParallel, which would not
make exact steps:

* A head without a label in any share must have no gradient, or the optimizer would change it by
  decay and momentum. DDP gives unused parameters zeros, and walks the graph to find them.
* DDP averages over processes. Here losses are divided by the label counts of the whole step before
  the sum.
* A step may have several backward passes (accumulation, adversarial noise, a pass for each task),
  or none if the share is empty. DDP expects one.

The cost is that communication does not overlap with the backward pass.
"""

import atexit
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from palm_trainer.config.section import MAX_COUNT
from palm_trainer.errors import PalmError
from palm_trainer.training import DEFAULT_PATIENCE
from palm_trainer.training.peers import PeerLost, Peers, meet

_TIMEOUT = timedelta(days=7)
"""Maximum time of an operation: rank 0 evaluates while the others wait.

A process that exits is noticed at once, a silent one by `Peers`.
"""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Processes:
    """One of the processes of a training.

    All processes must call the collective methods in the same order.

    Args:
        rank: rank of this process. Rank 0 evaluates, saves and logs.
        size: number of processes.
        local_rank: rank among the processes of the same machine, which selects the GPU.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        """True for rank 0, which evaluates, saves and logs."""
        return self.rank == 0

    def device(self, configured: str) -> str:
        """Return the device of this process for a configured `train.device`.

        Raises:
            PalmError: the processes would have to share one device.
        """
        if self.size == 1:
            return configured
        if configured == "auto":
            configured = "cuda" if torch.cuda.is_available() else "cpu"
        if configured not in ("cuda", "cpu"):
            raise PalmError(
                f"train.device: '{configured}' is one device, but {self.size} processes train. "
                "Write cuda (each takes a GPU of its own), cpu or auto."
            )
        return f"cuda:{self.local_rank}" if configured == "cuda" else configured

    def sum(self, values: Sequence[float]) -> list[float]:
        """Sum values over the processes, exactly for counts."""
        if self.size == 1:
            return list(values)
        total = torch.tensor(values, dtype=torch.float64)
        with _communication():
            dist.all_reduce(total)
        return [float(value) for value in total]

    def any(self, flag: bool) -> bool:
        """Return True if the flag is True on any process."""
        return self.sum([float(flag)])[0] > 0

    def run_on_first(self, make: Callable[[], Value]) -> Value:
        """Call a function on rank 0 and return its result on all processes."""
        if self.size == 1:
            return make()
        return self._broadcast(make() if self.is_first else None, 0)  # type: ignore[return-value]

    def gather(self, value: Value) -> list[Value]:
        """Return the values of all processes, by rank."""
        if self.size == 1:
            return [value]
        return [self._broadcast(value, rank) for rank in range(self.size)]

    def _broadcast(self, value: Value, source_rank: int) -> Value:
        """Return the value of one process on all of them."""
        buffer: list[Any] = [value]
        with _communication():
            dist.broadcast_object_list(buffer, src=source_rank, device=torch.device("cpu"))
        received: Value = buffer[0]
        return received

    @torch.no_grad()
    def broadcast_weights(self, model: nn.Module) -> None:
        """Copy the parameters and buffers of rank 0 to all processes."""
        if self.size == 1:
            return
        for tensor in (*model.parameters(), *model.buffers()):
            with _communication():
                dist.broadcast(tensor, src=0)
                _finish(tensor)

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Sum each `grad` over the processes. It stays None if it is None on all processes."""
        if self.size == 1:
            return
        trainable = [parameter for parameter in parameters if parameter.requires_grad]
        counts = self.sum([float(parameter.grad is not None) for parameter in trainable])
        by_dtype: dict[torch.dtype, list[nn.Parameter]] = {}
        for parameter, count in zip(trainable, counts, strict=True):
            if count:
                by_dtype.setdefault(parameter.dtype, []).append(parameter)
        for same_dtype in by_dtype.values():
            gradients: list[Tensor] = []
            for parameter in same_dtype:
                if parameter.grad is None:
                    parameter.grad = torch.zeros_like(parameter)
                gradients.append(parameter.grad)
            flat = torch.cat([gradient.flatten() for gradient in gradients])
            with _communication():
                dist.all_reduce(flat)
                _finish(flat)
            sizes = [gradient.numel() for gradient in gradients]
            for gradient, summed in zip(gradients, flat.split(sizes), strict=True):
                gradient.copy_(summed.view_as(gradient))

    def seed_other_ranks(self, seed: int) -> None:
        """Seed torch's generator on all ranks but 0, so that dropout differs between the shares of a batch."""
        if not self.is_first:
            torch.manual_seed((seed << 16) + self.rank)


SINGLE_PROCESS = Processes()
"""Training without other processes."""


def launched_processes() -> Processes:
    """Return this process among those that torchrun started, without communication.

    Whatever sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT serves as well.

    Raises:
        PalmError: one of them is missing or no such number.
    """
    size = _variable("WORLD_SIZE", range(1, MAX_COUNT + 1), "1")
    if size == 1:
        return SINGLE_PROCESS
    rank = _variable("RANK", range(size))
    return Processes(rank, size, _variable("LOCAL_RANK", range(size), str(rank)))


def _variable(name: str, allowed: range, default: str | None = None) -> int:
    """Return the number in an environment variable.

    Args:
        name: of the variable.
        allowed: its values.
        default: value where it is not set. None: it must be set.

    Raises:
        PalmError: it is missing, or holds another value.
    """
    text = os.environ.get(name, default)
    if text is None or not (text.isascii() and text.isdecimal() and len(text) < 10 and int(text) in allowed):
        raise PalmError(
            f"the environment variable {name} must be a whole number from {allowed[0]} to {allowed[-1]}, got "
            f"{'none' if text is None else repr(text)}. torchrun sets it; unset WORLD_SIZE to train in one process."
        )
    return int(text)


_joined: list[Peers] = []
"""The other processes, once this one has joined them. torch too has one group for the whole process."""


def join_processes() -> Processes:
    """Join the processes that torchrun started, until this one exits. Later calls return the same.

    Raises:
        PalmError: the others have not come, or a variable that names them is wrong.
    """
    processes = launched_processes()
    if processes.size > 1 and not dist.is_initialized():
        _join(processes, DEFAULT_PATIENCE)
        atexit.register(_leave)
    return processes


@contextmanager
def process_group(patience: float = DEFAULT_PATIENCE) -> Iterator[Processes]:
    """Join the processes that torchrun started (or whatever sets RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT).

    All processes leave together. Of those of a machine, only the first that fails raises an error; the others
    raise SystemExit.

    Args:
        patience: seconds of silence after which a process counts as lost. Those that wait for it print
            a message and exit with 2.

    Yields:
        This process among the others, or `SINGLE_PROCESS`.

    Raises:
        PalmError: the others have not come, or one of them has ended.
    """
    processes = launched_processes()
    if processes.size == 1:
        yield SINGLE_PROCESS
        return
    peers = _join(processes, patience)
    try:
        yield processes
        # Wait for rank 0 to finish: torchrun stops all processes once one of them has failed.
        processes.any(False)
        dist.destroy_process_group()
    except Exception as error:
        reported = peers.report(error)
        if reported is None:
            raise SystemExit(2 if isinstance(error, PalmError) else 1) from None
        if reported is error:
            raise
        raise reported from error
    finally:
        _leave_peers()


def _join(processes: Processes, patience: float) -> Peers:
    """Connect with the other processes."""
    rank, size = processes.rank, processes.size
    address = (os.environ.get("MASTER_ADDR", ""), _variable("MASTER_PORT", range(1, 65_536)))
    if not address[0]:
        raise PalmError(
            "the environment variable MASTER_ADDR must be the address of the first process, got none. Set it."
        )
    try:
        store, _, _ = next(rendezvous("env://", rank, size, timeout=timedelta(seconds=patience)))
        group = meet(store, rank, size, patience)
        peers = Peers(address, group, rank, size, patience)
    except RuntimeError as error:
        raise PeerLost(
            f"process {rank} of {size} could not meet the others at {address[0]}:{address[1]}: {str(error).splitlines()[0]}. "
            "Start all processes within --patience, and check the address."
        ) from error
    peers.start()
    _joined.append(peers)
    has_gpus = torch.cuda.is_available()
    if has_gpus:
        torch.cuda.set_device(processes.local_rank % torch.cuda.device_count())
    with _communication():
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if has_gpus else "gloo",
            store=PrefixStore(f"palm/{group}", store),
            rank=rank,
            world_size=size,
            timeout=_TIMEOUT,
        )
    return peers


def _leave() -> None:
    """Leave the other processes."""
    _leave_peers()
    if dist.is_initialized():
        dist.destroy_process_group()


def _leave_peers() -> None:
    """Give no more signs of life."""
    for peers in _joined:
        peers.leave()
    _joined.clear()


def _finish(tensor: Tensor) -> None:
    """Wait for an operation on a GPU, which is only queued: later, nobody would notice that it waits for a silent process."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)


@contextmanager
def _communication() -> Iterator[None]:
    """Explain a failed collective operation. One that waits for a silent process ends this one."""
    with ExitStack() as stack:
        for peers in _joined:
            stack.enter_context(peers.waiting())
        try:
            yield
        except RuntimeError as error:
            raise PeerLost(
                "another training process exited unexpectedly (killed or out of memory?): "
                f"{str(error).splitlines()[0]}. Continue with --resume from the last checkpoint."
            ) from error
