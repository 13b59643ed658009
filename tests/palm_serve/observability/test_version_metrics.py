"""Metrics of model versions that are loaded and replaced."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from palm_serve.errors import BundleError
from palm_serve.observability.version_metrics import VERSION_CHARACTERS, VersionMetrics
from palm_serve.registry import CANARY, SHADOW, STABLE, Registry, TrafficShares
from palm_serve.types import TextRequest


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[..., Path]) -> Path:
    return make_tiny_bundle(tmp_path_factory.mktemp("newer") / "tiny", max_length=20)


def test_versions_in_service_and_replaced_are_published(tiny_bundle: Path, newer: Path, tmp_path: Path) -> None:
    prometheus = CollectorRegistry()

    def value(name: str, **labels: str) -> float | None:
        return prometheus.get_sample_value(name, {"model": "tiny", **labels})

    async def main() -> None:
        registry = Registry(provider="CPU", default_traffic=lambda name: TrafficShares(canary=0.1))
        prometheus.register(VersionMetrics(registry))
        old = await registry.load(tiny_bundle)
        first = old.version[:VERSION_CHARACTERS]
        await old.predict_many([TextRequest("hi", ())] * 3)
        assert value("palm_version_seconds_count", version=first) == 3
        assert value("palm_version_seconds_sum", version=first) > value("palm_version_queue_seconds_sum", version=first)
        on = {"provider": "CPU", "precision": "fp32"}
        assert value("palm_version_ready", version=first, label=STABLE, **on) == 1
        assert value("palm_traffic_share", label=CANARY) == 0.1
        with pytest.raises(BundleError):
            await registry.load(tmp_path / "tiny")
        assert value("palm_bundle_loads_total", outcome="failed") == 1
        new = await registry.open(newer)
        registry.assign("tiny", {STABLE: new})
        await registry.retire(old)
        assert value("palm_version_ready", version=first, label=STABLE, **on) is None
        assert value("palm_version_seconds_count", version=first) == 3, "what it did is still told"
        again = await registry.open(tiny_bundle)
        registry.assign("tiny", {STABLE: again, SHADOW: new})
        again.statistics.shadowed["dropped"] += 2
        again.statistics.agreement["intent", True] += 1
        again.statistics.unresolved["timeout"] += 3
        await again.predict(TextRequest("hi", ()))
        assert value("palm_version_seconds_count", version=first) == 4, "and goes on when it comes back"
        assert value("palm_shadow_texts_total", version=first, outcome="dropped") == 2
        assert value("palm_values_unresolved_total", version=first, reason="timeout") == 3
        assert value("palm_shadow_answers_total", version=first, task="intent", outcome="agreed") == 1
        assert value("palm_bundle_loads_total", outcome="loaded") == 3
        await registry.close()

    asyncio.run(main())


def test_replaced_versions_are_forgotten_in_time(tiny_bundle: Path, newer: Path) -> None:
    async def main() -> None:
        registry = Registry(provider="CPU")
        await registry.load(newer, name="kept")
        for number in range(20):
            await registry.load(tiny_bundle, name=f"m{number}")
            await registry.unload(f"m{number}")
        names = [name for name, _ in registry.statistics()]
        assert names == ["kept", *(f"m{number}" for number in range(4, 20))]
        await registry.close()

    asyncio.run(main())
