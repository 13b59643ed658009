"""An overloaded model says so before a message is read, and counts what it refuses."""

import asyncio
import threading
from pathlib import Path

import pytest

from palm_serve.batching import BatchLimits
from palm_serve.errors import Overloaded
from palm_serve.registry import Registry
from palm_serve.types import Priority, TextRequest


def test_overload_is_refused_early_for_the_client_that_caused_it(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palm_serve.batching.scheduler._OVERLOAD_S", 60.0)

    async def main() -> None:
        registry = Registry(provider="CPU", threads=1, limits=BatchLimits(max_waiting=2))
        entered = threading.Event()
        held = threading.Event()

        def hold() -> None:
            entered.set()
            held.wait(60)

        try:
            model = await registry.load(tiny_bundle)
            assert registry.early_refusal(None, "flood") is None
            calls = [asyncio.wrap_future(registry._engine_thread.call(hold))]
            await asyncio.to_thread(entered.wait, 60)
            for priority in Priority:
                for text in ("fly", "to", "boston"):
                    request = TextRequest(text, (), priority=priority, client="flood")
                    calls.append(asyncio.ensure_future(model.predict(request)))
            outcomes = asyncio.gather(*calls, return_exceptions=True)
            while sum(call.done() for call in calls) < 2:
                await asyncio.sleep(0.01)
            before = model.statistics.failure.count
            error = registry.early_refusal(None, "flood")
            assert isinstance(error, Overloaded)
            assert model.statistics.failure.count == before + 1
            assert registry.early_refusal(None, "light") is None, "it gets the place of one that has two"
            held.set()
            refused = [isinstance(outcome, Overloaded) for outcome in await outcomes]
            assert refused == [False] + 2 * [False, False, True]
            assert registry.early_refusal(None, "flood") is None
        finally:
            held.set()
            await registry.close()

    asyncio.run(asyncio.wait_for(main(), 60))


def test_registry_without_a_model_says_nothing() -> None:
    async def main() -> None:
        registry = Registry(provider="CPU", threads=1)
        assert registry.early_refusal(0.0, "") is None
        await registry.close()

    asyncio.run(main())
