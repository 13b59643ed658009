"""Control groups of Linux: what they grant this process. Versions 1 and 2, with and without a namespace of the container."""

import math
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_ESCAPE = re.compile(r"\\([0-7]{3})")
_DEFAULT_MOUNT = PurePosixPath("/sys/fs/cgroup")


def granted_cores(root: Path = Path("/")) -> float:
    """Return the processor time that the control groups grant, in cores. Infinity: no limit.

    A group cannot use more than any group above it, so the smallest quota on the way up counts.

    Args:
        root: directory that holds `proc` and `sys`.
    """
    cores = math.inf
    for directory in _directories("cpu", root):
        limit = _read_words(directory / "cpu.max")
        if len(limit) == 2:
            cores = min(cores, _ratio(limit[0], limit[1]))
        quota = _read_words(directory / "cpu.cfs_quota_us")
        period = _read_words(directory / "cpu.cfs_period_us")
        if quota and period:
            cores = min(cores, _ratio(quota[0], period[0]))
    return cores


def available_memory(root: Path = Path("/")) -> float:
    """Return the bytes that this process can still allocate, by the control groups and the machine. Infinity: unknown.

    File contents that the kernel can drop count as available.

    Args:
        root: directory that holds `proc` and `sys`.
    """
    available = math.inf
    for name, words in _read_table(root / "proc/meminfo").items():
        if name == "MemAvailable:":
            available = _number(words) * 1024
    for directory in _directories("memory", root):
        for limit_file, usage_file, droppable_name in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit = _read_words(directory / limit_file)
            usage = _read_words(directory / usage_file)
            if limit and usage and limit[0] != "max":
                droppable = _number(_read_table(directory / "memory.stat").get(droppable_name, "0"))
                available = min(available, _number(limit[0]) - _number(usage[0]) + droppable)
    return max(0.0, available)


def _directories(controller: str, root: Path) -> Iterator[Path]:
    """Yield the directories of this process's groups for a controller, each followed by those above it."""
    groups = _groups(controller, root)
    mounts = list(_mounts(controller, root))
    if not mounts:  # no /proc: the usual places
        for place in (_DEFAULT_MOUNT, _DEFAULT_MOUNT / controller):
            yield root / place.relative_to("/")
    for version, top, mount in mounts:
        group = groups.get(version, top)
        # Without a namespace, the path of the group is that of the host, and the mount shows a part of the hierarchy.
        steps = group.relative_to(top).parts if group.is_relative_to(top) else ()
        if ".." in steps:
            steps = ()
        directory = root / mount.relative_to("/")
        for depth in range(len(steps), -1, -1):
            yield directory.joinpath(*steps[:depth])


def _groups(controller: str, root: Path) -> dict[int, PurePosixPath]:
    """Return the path of this process's group in the hierarchy of each version."""
    groups = {}
    for line in _read_lines(root / "proc/self/cgroup"):
        number, _, remainder = line.partition(":")
        controllers, _, path = remainder.partition(":")
        if number == "0" and not controllers:
            groups[2] = PurePosixPath(path)
        elif controller in controllers.split(","):
            groups[1] = PurePosixPath(path)
    return groups


def _mounts(controller: str, root: Path) -> Iterator[tuple[int, PurePosixPath, PurePosixPath]]:
    """Yield version, top group and mount point of each hierarchy that can hold the controller."""
    for line in _read_lines(root / "proc/self/mountinfo"):
        place, _, source = line.partition(" - ")
        place_fields = place.split()
        source_fields = source.split()
        if len(place_fields) < 5 or len(source_fields) < 3:
            continue
        top = PurePosixPath(_unescape(place_fields[3]))
        mount = PurePosixPath(_unescape(place_fields[4]))
        if source_fields[0] == "cgroup2":
            yield 2, top, mount
        elif source_fields[0] == "cgroup" and controller in source_fields[2].split(","):
            yield 1, top, mount


def _unescape(path: str) -> str:
    """Replace the octal escapes of mountinfo, as `\\040` for a blank."""
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), path)


def _read_lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []


def _read_words(file: Path) -> list[str]:
    """Return the words of the first line. Empty: there is no such file."""
    lines = _read_lines(file)
    return lines[0].split() if lines else []


def _read_table(file: Path) -> dict[str, str]:
    """Return the second word of each line by its first."""
    table = {}
    for line in _read_lines(file):
        words = line.split()
        if len(words) > 1:
            table[words[0]] = words[1]
    return table


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.inf


def _ratio(quota: str, period: str) -> float:
    """Return the cores of a quota. Version 1 writes -1 where version 2 writes max."""
    quota_us = _number(quota)
    period_us = _number(period)
    if quota_us <= 0 or not 0 < period_us < math.inf:
        return math.inf
    return quota_us / period_us
