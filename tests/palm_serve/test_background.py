"""Background work: its scheduling class, and the time that it waits for a core."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from palm_serve.system import background
from palm_serve.system.background import CoreTimes, core_times, unhindered_clock

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="scheduling classes and their figures are Linux's")

TELL = "import os; print(os.sched_getscheduler(0), os.getpriority(os.PRIO_PROCESS, 0))"
PROGRAM = f"""
import subprocess, sys
from palm_serve.system.background import enter_background
enter_background()
exec("{TELL}", flush := {{}})
sys.stdout.flush()
subprocess.run([sys.executable, "-c", "{TELL}"], check=True)
"""
"""Prints class and niceness of a background process, and of a process that it starts."""

TWO_ON_ONE_CORE = """
import os
parent = os.getpid()
for _ in range(2):
    if not os.fork():
        os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
        while os.getppid() == parent:
            pass
        os._exit(0)
input()
"""


@on_linux
def test_background_process_and_its_children_are_idle_class() -> None:
    told = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    assert told.split("\n")[:2] == [f"{os.SCHED_IDLE} 19"] * 2


@on_linux
def test_background_without_the_idle_class_is_nice() -> None:
    forbidden = PROGRAM.replace("enter_background()\nexec", "os.sched_setscheduler = forbid\nenter_background()\nexec")
    forbid = "import os\ndef forbid(*arguments):\n    raise PermissionError(1, 'a sandbox')\n"
    told = subprocess.run([sys.executable, "-c", forbid + forbidden], capture_output=True, text=True, check=True).stdout
    assert told.split("\n")[0] == f"{os.SCHED_OTHER} 19"


@on_linux
def test_times_count_the_children_of_a_process() -> None:
    """A process that waits for input has two children that share one core."""
    with subprocess.Popen([sys.executable, "-c", TWO_ON_ONE_CORE], stdin=subprocess.PIPE) as process:
        try:
            end = time.monotonic() + 120
            times = CoreTimes(0.0, 0.0)
            while min(times) < 0.5:
                assert time.monotonic() < end, times
                time.sleep(0.1)
                now = core_times(process.pid)
                assert now is not None
                assert now.ran >= times.ran
                assert now.waited >= times.waited
                times = now
        finally:
            process.kill()


def test_times_of_an_unknown_process_are_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_PROCESSES", tmp_path)
    assert core_times(1) is None
    before = time.monotonic()
    assert before <= unhindered_clock() <= time.monotonic()


@on_linux
def test_clock_stands_still_while_the_thread_waits() -> None:
    waited_before_s = time.monotonic() - unhindered_clock()
    began = unhindered_clock()
    time.sleep(0.01)
    assert unhindered_clock() - began >= 0.005, "sleep is no waiting for a core"
    assert time.monotonic() - unhindered_clock() >= waited_before_s
