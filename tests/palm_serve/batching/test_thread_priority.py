"""Niceness of threads: computing has a lower priority than answering."""

import asyncio
import ctypes
import os
import platform
import struct
import sys
import threading

import pytest

from palm_serve.batching.thread_priority import lower_thread_priority, shorten_slices
from palm_serve.registry import Registry
from palm_serve.types import TextRequest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="niceness is per thread on Linux only")


def niceness() -> dict[str, int]:
    """Return the niceness of each thread that Python started, by name."""
    return {t.name: os.getpriority(os.PRIO_PROCESS, t.native_id) for t in threading.enumerate() if t.native_id}


def test_thread_and_its_children_get_the_lower_priority():
    niceness_values = []

    def record():
        niceness_values.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def work():
        lower_thread_priority(7)
        record()
        lower_thread_priority(3)  # nicer already: stays
        record()
        child = threading.Thread(target=record)
        child.start()
        child.join()

    process_niceness = os.getpriority(os.PRIO_PROCESS, os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert niceness_values == [min(process_niceness + 7, 19)] * 3
    record()
    assert niceness_values[-1] == process_niceness


@pytest.mark.parametrize("nice", [0, 5])
def test_engine_has_a_lower_priority_than_the_event_loop(tiny_bundle, nice):
    process_niceness, before = os.getpriority(os.PRIO_PROCESS, os.getpid()), set(os.listdir("/proc/self/task"))

    async def use():
        registry = Registry(provider="CPU", threads=2, nice=nice)
        try:
            model = await registry.load(tiny_bundle)
            await model.predict(TextRequest("fly to boston", ()))
            names = niceness()
            assert names["palm-engine"] == names["palm-open_0"] == process_niceness + nice
            assert names["palm-decode"] == names["MainThread"] == process_niceness
            python = {thread.native_id for thread in threading.enumerate()}
            engine_threads = {int(thread) for thread in os.listdir("/proc/self/task") if thread not in before} - python
            assert engine_threads  # those of ONNX Runtime
            assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in engine_threads} == {process_niceness + nice}
        finally:
            await registry.close()

    asyncio.run(use())


def slice_ns():
    """Return the slice that Linux has noted for the calling thread. Zero: it is too old to have one."""
    attributes = ctypes.create_string_buffer(48)
    number = {"x86_64": 315, "aarch64": 275}[platform.machine()]
    assert ctypes.CDLL(None).syscall(number, 0, attributes, len(attributes), 0) == 0
    return struct.unpack("=IIQiIQQQ", attributes.raw)[5]


@pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason="the numbers of the system calls are known of these"
)
def test_event_loop_has_short_slices_and_the_engine_does_not():
    slices = []

    def work():
        slices.append(slice_ns())
        shorten_slices()
        slices.append(slice_ns())
        engine = threading.Thread(target=compute)
        engine.start()
        engine.join()
        slices.append(slice_ns())

    def compute():
        lower_thread_priority(5)
        slices.append(slice_ns())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    before, short, of_engine, after = slices
    if not before:
        pytest.skip("this Linux has no slices to set")
    assert short == after == 100_000
    assert of_engine == before > short
