"""The commands: parse, build, call, print."""

import os

# OpenMP's threads spin while they wait for each other. On a machine that is shared, or in a container with a CPU quota, the one that is waited for
# may not be running: steps were seen to take ten times as long. A short spin costs nothing where the cores are free. To be said before torch loads.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
