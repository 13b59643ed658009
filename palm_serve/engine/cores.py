"""Number of cores that this process may use."""

import math
import os
from pathlib import Path


def usable_cores(root: Path = Path("/")) -> int:
    """Return the physical cores in the affinity mask of the process, up to the quota of its control group.

    Two threads of one core share its vector units. Counting both would only slow down matrix multiplications.
    """
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:  # not Linux
        return max(1, os.cpu_count() or 1)
    cores = {_siblings(root, cpu) for cpu in cpus}
    return max(1, min(len(cores), _quota(root)))


def _siblings(root: Path, cpu: int) -> str:
    """Return a name of the physical core that `cpu` is a thread of."""
    try:
        return (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota(root: Path) -> int:
    """Return the cores that the control group (version 2) grants, rounded up."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
    except (OSError, ValueError):
        return os.cpu_count() or 1
    return os.cpu_count() or 1 if quota == "max" else math.ceil(int(quota) / int(period))
