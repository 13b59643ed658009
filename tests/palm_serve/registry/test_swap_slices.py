"""A version that is opened beside others: what it does in slices, so that requests wait for one slice only."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from palm_serve.batching import BatchLimits, EngineThread, Scheduler
from palm_serve.pipeline import Pipeline
from palm_serve.registry import Registry
from palm_serve.registry.bundle_opener import _Pauses
from palm_serve.types import TextRequest


@pytest.fixture
def held_engine() -> Iterator[tuple[EngineThread, threading.Event, Callable[[], None]]]:
    """An engine thread, an event that ends its batch, and a function that begins the batch and waits until it runs."""
    engine_thread = EngineThread()
    release = threading.Event()
    runs = threading.Event()
    loop = asyncio.new_event_loop()
    loop_thread = threading.Thread(target=loop.run_forever)
    loop_thread.start()

    def run(payloads: list[int]) -> list[int]:
        runs.set()
        assert release.wait(60)
        return payloads

    async def open_model() -> Scheduler[int, list[int], int]:
        return Scheduler(engine_thread, run, lambda payloads, values, waits: values, BatchLimits())

    scheduler = asyncio.run_coroutine_threadsafe(open_model(), loop).result(60)

    def begin() -> None:
        asyncio.run_coroutine_threadsafe(scheduler.submit(1, 1), loop)
        assert runs.wait(60)

    yield engine_thread, release, begin
    release.set()
    asyncio.run_coroutine_threadsafe(scheduler.close(), loop).result(60)
    loop.call_soon_threadsafe(loop.stop)
    loop_thread.join()
    loop.close()


def test_pause_lasts_until_the_engine_is_idle(
    held_engine: tuple[EngineThread, threading.Event, Callable[[], None]], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine_thread, release, begin = held_engine
    naps = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 3:
            release.set()
            while not engine_thread.idle:
                pass

    monkeypatch.setattr("palm_serve.registry.bundle_opener._LONGEST_PAUSE_S", 60.0)
    monkeypatch.setattr("palm_serve.registry.bundle_opener._PAUSES_S", 60.0)
    monkeypatch.setattr("palm_serve.registry.bundle_opener.time.sleep", nap)
    pauses = _Pauses(engine_thread)
    pauses()
    assert not naps, "nothing runs"
    begin()
    pauses()
    assert len(naps) == 3
    pauses()
    assert len(naps) == 3


def test_pauses_end_although_the_engine_never_rests(
    held_engine: tuple[EngineThread, threading.Event, Callable[[], None]],
) -> None:
    engine_thread, _, begin = held_engine
    begin()
    pauses = _Pauses(engine_thread)
    while pauses.left_s > 0:
        pauses()
    assert not engine_thread.idle
    pauses()  # returns at once


def test_version_beside_others_is_read_and_warmed_up_in_slices(
    tiny_bundle: Path, make_tiny_bundle: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call of the engine thread runs one batch of the warm-up, and each slice of the graph is followed by a pause."""
    newer = make_tiny_bundle(tmp_path / "newer", max_length=20)
    slices = -(-(newer / "model.onnx").stat().st_size // 1000)
    events: list[str] = []

    def record(owner: type, name: str) -> None:
        method = getattr(owner, name)

        def recorded(self: object, *arguments: object) -> object:
            events.append(name)
            return method(self, *arguments)

        monkeypatch.setattr(owner, name, recorded)

    async def main() -> None:
        registry = Registry(provider="CPU")
        try:
            await registry.load(tiny_bundle)
            monkeypatch.setattr("palm_serve.bundle.files._SLICE_BYTES", 1000)
            for owner, name in ((Pipeline, "run_once"), (EngineThread, "call"), (_Pauses, "__call__")):
                record(owner, name)
            model = await registry.load(newer)
            assert (await model.predict(TextRequest("fly to denver", ()))).answers["intent"].label.name == "flight"
        finally:
            await registry.close()

    asyncio.run(main())
    assert events.count("__call__") == slices
    runs = [event for event in events if event != "__call__"]
    assert runs == ["call", "run_once"] * (len(runs) // 2)
    assert len(runs) >= 4
