"""Quotas of control groups: both versions, at every level, in a made-up /proc and /sys and in those of this machine."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from palm_serve.engine.control_groups import available_memory, granted_cores
from palm_serve.engine.cores import usable_cores

V1 = Path("/sys/fs/cgroup/cpu")
MOUNT_V1 = "32 31 0:29 {top} {mount} rw,relatime - cgroup cgroup rw,{controllers}"
MOUNT_V2 = "41 31 0:38 {top} {mount} rw,relatime shared:9 - cgroup2 cgroup2 rw"


def put(root: Path, files: dict[str, str]) -> Path:
    """Write files below a made-up root."""
    for name, content in files.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content + "\n", encoding="utf-8")
    return root


def v1(top: str = "/", mount: str = "/sys/fs/cgroup/cpu", controllers: str = "cpu") -> str:
    return MOUNT_V1.format(top=top, mount=mount, controllers=controllers)


def v2(top: str = "/", mount: str = "/sys/fs/cgroup") -> str:
    return MOUNT_V2.format(top=top, mount=mount)


def quota(directory: str, cores: float) -> dict[str, str]:
    return {f"{directory}/cpu.cfs_quota_us": f"{cores * 1e5:.0f}", f"{directory}/cpu.cfs_period_us": "100000"}


CASES = {
    "version 1": ({"proc/self/cgroup": "1:cpu:/", "proc/self/mountinfo": v1(), **quota("sys/fs/cgroup/cpu", 2)}, 2),
    "version 1, no quota": (
        {
            "proc/self/cgroup": "1:cpu:/",
            "proc/self/mountinfo": v1(),
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        },
        math.inf,
    ),
    "version 1, controllers together, nested": (
        {
            "proc/self/cgroup": "4:memory:/other\n3:cpu,cpuacct:/a/b",
            "proc/self/mountinfo": v1(mount="/sys/fs/cgroup/cpu,cpuacct", controllers="cpu,cpuacct"),
            **quota("sys/fs/cgroup/cpu,cpuacct/a/b", 6),
            **quota("sys/fs/cgroup/cpu,cpuacct/a", 1.5),
        },
        1.5,
    ),
    "version 1, path of the host in a container": (
        {
            "proc/self/cgroup": "1:cpu:/docker/7f",
            "proc/self/mountinfo": v1(top="/docker/7f"),
            **quota("sys/fs/cgroup/cpu", 0.5),
        },
        0.5,
    ),
    "version 2": (
        {"proc/self/cgroup": "0::/", "proc/self/mountinfo": v2(), "sys/fs/cgroup/cpu.max": "150000 100000"},
        1.5,
    ),
    "version 2, the smallest on the way up": (
        {
            "proc/self/cgroup": "0::/pods/one/container",
            "proc/self/mountinfo": v2(),
            "sys/fs/cgroup/pods/one/container/cpu.max": "max 100000",
            "sys/fs/cgroup/pods/one/cpu.max": "100000 50000",
            "sys/fs/cgroup/pods/cpu.max": "800000 100000",
        },
        2,
    ),
    "version 2 beside version 1": (
        {
            "proc/self/cgroup": "1:cpu:/x\n0::/",
            "proc/self/mountinfo": f"{v1()}\n{v2(mount='/sys/fs/cgroup/unified')}",
            **quota("sys/fs/cgroup/cpu/x", 3),
        },
        3,
    ),
    "a mount point with a blank": (
        {
            "proc/self/cgroup": "0::/",
            "proc/self/mountinfo": v2(mount="/my\\040groups"),
            "my groups/cpu.max": "100000 100000",
        },
        1,
    ),
    "a group outside of the namespace": (
        {"proc/self/cgroup": "0::/../..", "proc/self/mountinfo": v2(), "sys/fs/cgroup/cpu.max": "100000 100000"},
        1,
    ),
    "damaged files": (
        {
            "proc/self/cgroup": "0::/\nnonsense",
            "proc/self/mountinfo": f"short\n{v2()}",
            "sys/fs/cgroup/cpu.max": "many few",
        },
        math.inf,
    ),
    "nothing": ({}, math.inf),
}


@pytest.mark.parametrize(("files", "cores"), CASES.values(), ids=CASES.keys())
def test_granted_cores_by_layout(tmp_path: Path, files: dict[str, str], cores: float) -> None:
    assert granted_cores(put(tmp_path, files)) == cores


def test_available_memory_is_the_least_of_all_levels(tmp_path: Path) -> None:
    gib = 2**30
    put(tmp_path, {"proc/meminfo": "MemTotal: 99 kB\nMemAvailable:   16777216 kB"})
    assert available_memory(tmp_path) == 16 * gib
    put(tmp_path, {"proc/self/cgroup": "0::/a", "proc/self/mountinfo": v2()})
    put(
        tmp_path,
        {
            "sys/fs/cgroup/a/memory.max": "max",
            "sys/fs/cgroup/memory.max": str(4 * gib),
            "sys/fs/cgroup/memory.current": str(3 * gib),
            "sys/fs/cgroup/memory.stat": f"anon 5\ninactive_file {gib}",
        },
    )
    assert available_memory(tmp_path) == 2 * gib
    assert available_memory(tmp_path / "nothing") == math.inf


@pytest.mark.skipif(not os.access(V1, os.W_OK), reason="needs a writable control group of version 1")
def test_usable_cores_in_a_real_group_of_one_core(tmp_path: Path) -> None:
    group = V1 / f"palm-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no group can be made: {error}")
    try:
        (group / "cpu.cfs_period_us").write_text("100000")
        (group / "cpu.cfs_quota_us").write_text("100000")
        code = (
            f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))\n"
            "from palm_serve.engine.cores import usable_cores\nprint(usable_cores())\n"
            "from palm_trainer.cli.environment import limit_threads\nlimit_threads()\n"
            "print(os.environ.get('OMP_NUM_THREADS'))"
        )
        environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
        command = [sys.executable, "-c", code]
        output = subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout.split()
        cores = len(os.sched_getaffinity(0))
        assert output == ["1", "1" if cores > 1 else "None"]
    finally:
        group.rmdir()
    assert usable_cores(tmp_path) == len(os.sched_getaffinity(0)), "nothing is known there: the affinity mask counts"
