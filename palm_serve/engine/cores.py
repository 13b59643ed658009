"""Number of cores that this process may use."""

import math
import os
from pathlib import Path

from palm_serve.engine.control_groups import granted_cores


def usable_cores(root: Path = Path("/")) -> int:
    """Return the physical cores in the affinity mask of the process, up to the quota of its control groups.

    Two threads of one core share its vector units. Counting both would only slow down matrix multiplications.

    Args:
        root: directory that holds `proc` and `sys`.
    """
    try:
        cpus = os.sched_getaffinity(0)  # heeds cpusets, too
    except AttributeError:  # not Linux
        return max(1, os.cpu_count() or 1)
    cores = {_siblings(root, cpu) for cpu in cpus}
    quota = granted_cores(root)
    return max(1, len(cores) if math.isinf(quota) else min(len(cores), math.ceil(quota)))


def _siblings(root: Path, cpu: int) -> str:
    """Return a name of the physical core that `cpu` is a thread of."""
    try:
        return (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)
