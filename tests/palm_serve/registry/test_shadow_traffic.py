"""A candidate that is asked besides, and what it costs those who are served."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from palm_serve.registry import SHADOW, STABLE, LoadedModel, Registry, TrafficShares
from palm_serve.types import Prediction, TextRequest

TEXT = "fly to boston"


def shadowed(
    stable_path: Path,
    candidate_path: Path,
    use: Callable[[Registry, LoadedModel, LoadedModel], Awaitable[None]],
    share: float = 1,
) -> None:
    async def main() -> None:
        registry = Registry(provider="CPU", default_traffic=lambda name: TrafficShares(shadow=share))
        try:
            served, candidate = await registry.load(stable_path), await registry.open(candidate_path)
            registry.assign(served.name, {STABLE: served, SHADOW: candidate})
            await use(registry, served, candidate)
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


def test_shadow_counts_agreement_by_task(tiny_bundle: Path, shorter: Path) -> None:
    async def use(registry: Registry, served: LoadedModel, candidate: LoadedModel) -> None:
        assert candidate.labels == (SHADOW,)
        # The slots of the last text lie beyond what the shadow sees.
        texts = [TEXT, TEXT, "hi", "fly " + "from " * 16 + "boston"]
        answers = await one_by_one(served, texts)
        assert all(answer.answers["intent"].label.name in ("flight", "greeting") for answer in answers)
        statistics = candidate.statistics
        assert statistics.shadowed == {"answered": 4}
        assert statistics.agreement == {("intent", True): 4, ("slots", True): 3, ("slots", False): 1}
        assert (served.statistics.texts, candidate.statistics.texts) == (4, 4)

    shadowed(tiny_bundle, shorter, use)


def test_shadow_gets_exactly_its_share(tiny_bundle: Path, shorter: Path) -> None:
    async def use(registry: Registry, served: LoadedModel, candidate: LoadedModel) -> None:
        await one_by_one(served, [TEXT] * 12)
        assert candidate.statistics.shadowed == {"answered": 3}
        registry.assign(served.name, {STABLE: served, SHADOW: candidate}, traffic=TrafficShares(shadow=0.0))
        await one_by_one(served, [TEXT] * 12)
        assert candidate.statistics.shadowed == {"answered": 3}

    shadowed(tiny_bundle, shorter, use, share=0.25)


def test_shadow_is_dropped_while_requests_wait(tiny_bundle: Path, shorter: Path) -> None:
    async def use(registry: Registry, served: LoadedModel, candidate: LoadedModel) -> None:
        answers = await served.predict_many([TextRequest(TEXT, ())] * 200)
        assert all(isinstance(answer, Prediction) for answer in answers)
        counts = candidate.statistics.shadowed
        assert counts.total() + len(asyncio.all_tasks()) - 1 == 200
        assert counts["dropped"] >= 190

    shadowed(tiny_bundle, shorter, use)


def test_shadow_that_fails_does_not_fail_the_request(
    tiny_bundle: Path, shorter: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def use(registry: Registry, served: LoadedModel, candidate: LoadedModel) -> None:
        def broken(*arguments: object) -> None:
            raise RuntimeError("out of memory")

        candidate._pipeline.engine.run = broken  # type: ignore[method-assign]
        answers = await one_by_one(served, [TEXT] * 3)
        assert len(answers) == 3
        assert served.ready
        assert candidate.statistics.shadowed["failed"] >= 1
        assert not candidate.statistics.agreement

    shadowed(tiny_bundle, shorter, use)


def test_shadow_ignores_requests_to_other_versions(tiny_bundle: Path, shorter: Path) -> None:
    async def use(registry: Registry, served: LoadedModel, candidate: LoadedModel) -> None:
        await one_by_one(candidate, [TEXT])
        assert not candidate.statistics.shadowed
        registry.assign(served.name, {STABLE: candidate})
        await one_by_one(candidate, [TEXT])
        assert not candidate.statistics.shadowed
        assert not served.statistics.shadowed

    shadowed(tiny_bundle, shorter, use)


def test_shadow_with_other_tasks_compares_shared_ones(tiny_bundle: Path, shorter: Path) -> None:
    async def use(registry: Registry, served: LoadedModel, candidate: LoadedModel) -> None:
        tasks = {name: task for name, task in candidate.manifest.tasks.items() if name == "intent"}
        tasks["slots"] = tasks["intent"]  # a task of the same name and another kind
        candidate.manifest = candidate.manifest.model_copy(update={"tasks": tasks})
        await one_by_one(served, [TEXT])
        await served.predict(TextRequest(TEXT, ("slots",)))
        assert candidate.statistics.agreement == {("intent", True): 1}
        assert candidate.statistics.shadowed == {"answered": 1}

    shadowed(tiny_bundle, shorter, use)
