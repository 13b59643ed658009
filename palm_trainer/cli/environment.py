"""Environment of the training commands, set before torch is imported."""

import math
import os

from palm_serve.engine.control_groups import granted_cores

_SPIN_COUNT = "10000"


def limit_spinning() -> None:
    """Let OpenMP's threads sleep soon while they wait for each other, unless the user set GOMP_SPINCOUNT.

    On a shared machine, or in a container with a CPU quota, the awaited thread may not be running.
    Steps were measured to take ten times as long there. A short spin costs nothing where the cores are free.
    OpenMP reads the variable once, when torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)


def limit_threads() -> None:
    """Use no more threads than the control groups grant cores, unless the user set OMP_NUM_THREADS.

    torch heeds the affinity mask and no quota. With `--cpus 2` on a machine of 64 cores it would use 64
    threads, which the kernel stops for most of each period.
    """
    cores = granted_cores()
    if cores < len(_cpus()):
        os.environ.setdefault("OMP_NUM_THREADS", str(max(1, math.ceil(cores))))


def _cpus() -> range | set[int]:
    """Return the processors in the affinity mask."""
    try:
        return os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return range(os.cpu_count() or 1)
