"""Memory limits for bundles that are tried or loaded."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from palm_serve.bundle.loader import split_pin
from palm_serve.engine.control_groups import available_memory
from palm_serve.engine.cores import usable_cores

_BASE_BYTES = 2**30
_BYTES_PER_FILE_BYTE = 8
"""A graph is parsed, optimized and packed for the kernels. Several variants may be open while they are timed."""
_AVAILABLE_SHARE = 0.9
_BYTES_PER_CORE = 2**26
"""Stacks and heaps of the threads of the runtimes. Most of it is never touched."""


def bundle_memory(path: Path) -> int:
    """Return the bytes that a bundle may use: 1 GiB and 8 times its files, and 0.9 of what is available at most."""
    size = 0
    for directory, _, names in os.walk(split_pin(path)[0]):
        for name in names:
            try:
                size += (Path(directory) / name).stat().st_size
            except OSError:  # vanished; what is missing is reported when the bundle is loaded
                continue
    return int(min(_BASE_BYTES + _BYTES_PER_FILE_BYTE * size, _AVAILABLE_SHARE * available_memory()))


@contextmanager
def limited_memory(size: int) -> Iterator[None]:
    """Let the process allocate `size` bytes more than it has, in the block. Only on Linux, elsewhere there is no limit."""
    if sys.platform != "linux":
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = float(_data_bytes() + size + _BYTES_PER_CORE * usable_cores())
    for former in (soft, hard):
        limit = min(limit, math.inf if former == resource.RLIM_INFINITY else former)
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    """Return the writable private memory of the process, which RLIMIT_DATA limits."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
