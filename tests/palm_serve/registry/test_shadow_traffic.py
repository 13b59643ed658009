"""A candidate that is asked besides, and what it costs those who are served."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from palm_serve.registry import SHADOW, STABLE, LoadedModel, Registry, TrafficShares
from palm_serve.types import Prediction, TextRequest

TEXT = "fly to boston"


def shadowed(
    stable: Path,
    candidate: Path,
    use: Callable[[Registry, LoadedModel, LoadedModel], Awaitable[None]],
    share: float = 1,
) -> None:
    async def main() -> None:
        registry = Registry(provider="CPU", default_traffic=lambda name: TrafficShares(shadow=share))
        try:
            served, other = await registry.load(stable), await registry.open(candidate)
            registry.assign(served.name, {STABLE: served, SHADOW: other})
            await use(registry, served, other)
        finally:
            await registry.close()

    asyncio.run(main())


async def one_by_one(model: LoadedModel, texts: list[str]) -> list[Prediction]:
    """Each text after the shadow of the one before is through."""
    answers = []
    for text in texts:
        answers.append(await model.predict(TextRequest(text, ("intent", "slots"))))
        while len(asyncio.all_tasks()) > 1:
            await asyncio.sleep(0.001)
        while not model.engine_idle:
            await asyncio.sleep(0.001)
    return answers


@pytest.fixture(scope="module")
def shorter(tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[..., Path]) -> Path:
    """Sees 16 tokens of a text, eight fewer than the other."""
    return make_tiny_bundle(tmp_path_factory.mktemp("shadow") / "b", max_length=16)


def test_agreement_is_counted_by_task(tiny_bundle: Path, shorter: Path) -> None:
    async def use(registry: Registry, served: LoadedModel, other: LoadedModel) -> None:
        assert other.labels == (SHADOW,)
        # The slots of the last text lie beyond what the shadow sees.
        texts = [TEXT, TEXT, "hi", "fly " + "from " * 16 + "boston"]
        answers = await one_by_one(served, texts)
        assert all(answer.answers["intent"].label.name in ("flight", "greeting") for answer in answers)
        seen = other.statistics
        assert seen.shadowed == {"answered": 4}
        assert seen.agreement == {("intent", True): 4, ("slots", True): 3, ("slots", False): 1}
        assert (served.statistics.texts, other.statistics.texts) == (4, 4)

    shadowed(tiny_bundle, shorter, use)


def test_the_share_is_exact(tiny_bundle: Path, shorter: Path) -> None:
    async def use(registry: Registry, served: LoadedModel, other: LoadedModel) -> None:
        await one_by_one(served, [TEXT] * 12)
        assert other.statistics.shadowed == {"answered": 3}
        registry.assign(served.name, {STABLE: served, SHADOW: other}, traffic=TrafficShares(shadow=0.0))
        await one_by_one(served, [TEXT] * 12)
        assert other.statistics.shadowed == {"answered": 3}

    shadowed(tiny_bundle, shorter, use, share=0.25)


def test_it_is_dropped_where_others_wait(tiny_bundle: Path, shorter: Path) -> None:
    async def use(registry: Registry, served: LoadedModel, other: LoadedModel) -> None:
        answers = await served.predict_many([TextRequest(TEXT, ())] * 200)
        assert all(isinstance(answer, Prediction) for answer in answers)
        counts = other.statistics.shadowed
        assert counts.total() + len(asyncio.all_tasks()) - 1 == 200
        assert counts["dropped"] >= 190

    shadowed(tiny_bundle, shorter, use)


def test_a_shadow_that_fails_is_nobodys_failure(
    tiny_bundle: Path, shorter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(registry: Registry, served: LoadedModel, other: LoadedModel) -> None:
        def broken(*arguments: object) -> None:
            raise RuntimeError("out of memory")

        other._pipeline.engine.run = broken  # type: ignore[method-assign]
        answers = await one_by_one(served, [TEXT] * 3)
        assert len(answers) == 3
        assert served.ready
        assert other.statistics.shadowed["failed"] >= 1
        assert not other.statistics.agreement

    shadowed(tiny_bundle, shorter, use)


def test_requests_to_other_versions_cast_none(tiny_bundle: Path, shorter: Path) -> None:
    async def use(registry: Registry, served: LoadedModel, other: LoadedModel) -> None:
        await one_by_one(other, [TEXT])
        assert not other.statistics.shadowed
        registry.assign(served.name, {STABLE: other})
        await one_by_one(other, [TEXT])
        assert not other.statistics.shadowed
        assert not served.statistics.shadowed

    shadowed(tiny_bundle, shorter, use)


def test_a_candidate_with_other_tasks(tiny_bundle: Path, shorter: Path) -> None:
    async def use(registry: Registry, served: LoadedModel, other: LoadedModel) -> None:
        tasks = {name: task for name, task in other.manifest.tasks.items() if name == "intent"}
        tasks["slots"] = tasks["intent"]  # a task of the same name and another kind
        other.manifest = other.manifest.model_copy(update={"tasks": tasks})
        await one_by_one(served, [TEXT])
        await served.predict(TextRequest(TEXT, ("slots",)))
        assert other.statistics.agreement == {("intent", True): 1}
        assert other.statistics.shadowed == {"answered": 1}

    shadowed(tiny_bundle, shorter, use)
