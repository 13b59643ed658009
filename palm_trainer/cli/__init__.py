"""The commands: parse, build, call, print."""

import os

# OpenMP's threads spin while they wait for each other. On a machine that is shared, or in a container with a CPU quota, the one that is waited for
# may not be running: steps were seen to take ten times as long. Sleeping costs little. It must be said before torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
