"""Niceness of threads: what computes gives way to what answers."""

import asyncio
import os
import sys
import threading

import pytest

from palm_serve.batching.thread_priority import lower_thread_priority
from palm_serve.registry import Registry
from palm_serve.types import TextRequest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="niceness is a thread's own on Linux only")


def niceness() -> dict[str, int]:
    """Of each thread of this process that Python started, by name."""
    return {t.name: os.getpriority(os.PRIO_PROCESS, t.native_id) for t in threading.enumerate() if t.native_id}


def test_a_thread_gives_way_and_so_do_those_that_it_starts():
    found = []

    def look():
        found.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    def work():
        lower_thread_priority(7)
        look()
        lower_thread_priority(3)  # nicer already: stays
        look()
        child = threading.Thread(target=look)
        child.start()
        child.join()

    own = os.getpriority(os.PRIO_PROCESS, os.getpid())
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [min(own + 7, 19)] * 3
    look()
    assert found[-1] == own


@pytest.mark.parametrize("nice", [0, 5])
def test_the_engine_gives_way_to_the_loop_and_to_decoding(tiny_bundle, nice):
    own, before = os.getpriority(os.PRIO_PROCESS, os.getpid()), set(os.listdir("/proc/self/task"))

    async def use():
        registry = Registry(provider="CPU", threads=2, nice=nice)
        try:
            model = await registry.load(tiny_bundle)
            await model.predict(TextRequest("fly to boston", ()))
            names = niceness()
            assert names["palm-engine"] == names["palm-open_0"] == own + nice
            assert names["palm-decode"] == names["MainThread"] == own
            python = {thread.native_id for thread in threading.enumerate()}
            others = {int(thread) for thread in os.listdir("/proc/self/task") if thread not in before} - python
            assert others  # ONNX Runtime's own
            assert {os.getpriority(os.PRIO_PROCESS, thread) for thread in others} == {own + nice}
        finally:
            await registry.close()

    asyncio.run(use())
