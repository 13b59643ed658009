"""Environment of the training commands, set before torch is imported."""

import os

_SPIN_COUNT = "10000"


def limit_spinning() -> None:
    """Let OpenMP's threads sleep soon while they wait for each other, unless the user set GOMP_SPINCOUNT.

    On a shared machine, or in a container with a CPU quota, the awaited thread may not be running.
    Steps were measured to take ten times as long there. A short spin costs nothing where the cores are free.
    OpenMP reads the variable once, when torch is imported.
    """
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
