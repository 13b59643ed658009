"""A directory of bundles and the models that come of it; no process, no timer: each look is a call."""

import asyncio
import logging
import os
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from palm_serve.bundle.loader import Bundle
from palm_serve.errors import BundleError, NotFound
from palm_serve.pipeline import Pipeline
from palm_serve.registry import Registry, TrafficShares, Watcher
from palm_serve.types import TextRequest


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[..., Path]) -> dict[str, Path]:
    """Three bundles of one model, outside of the watched directory."""
    store = tmp_path_factory.mktemp("store")
    return {name: make_tiny_bundle(store / name, name="tiny", max_length=20 + i) for i, name in enumerate("abc")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundles = tmp_path / "models"
    bundles.mkdir()
    return bundles


def put(bundle: Path, place: Path) -> None:
    """As a careful operator does it: copy beside, rename."""
    place.parent.mkdir(exist_ok=True)
    beside = place.with_name(f".{place.name}.new")
    shutil.copytree(bundle, beside)
    if place.is_dir():
        shutil.rmtree(place)
    beside.rename(place)


def damage(place: Path) -> None:
    graph = place / "model.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)


def watching(folder: Path, use: Callable[[Registry, Watcher], Awaitable[None]], **options: object) -> None:
    """Runs `await use(registry, watcher)`."""

    async def main() -> None:
        registry = Registry(provider="CPU", **options)  # type: ignore[arg-type]
        try:
            await use(registry, Watcher(registry, folder))
        finally:
            await registry.close()

    asyncio.run(main())


async def looks(watcher: Watcher, times: int = 2) -> None:
    """The first look sees a change, the second that it is over."""
    for _ in range(times):
        await watcher.poll()


def short(registry: Registry) -> dict[str, int]:
    """Label -> max_length, by which the versions of these tests are told apart."""
    return {label: model.manifest.max_length for model in registry.list() for label in model.labels}


def test_watcher_loads_what_is_there_at_the_start(folder: Path, versions: dict[str, Path]) -> None:
    put(versions["a"], folder / "faq")
    put(versions["a"], folder / "support" / "stable")
    put(versions["b"], folder / "support" / "canary")

    async def use(registry: Registry, watcher: Watcher) -> None:
        models = await watcher.start()
        assert [(m.name, m.labels, m.manifest.max_length) for m in models] == [
            ("faq", ("stable",), 20),
            ("support", ("canary",), 21),
            ("support", ("stable",), 20),
        ]
        assert (await registry.get("support").predict(TextRequest("hi", ()))).answers["intent"].label.name == "greeting"
        assert not registry.failures

    watching(folder, use)


def test_watcher_waits_until_files_are_unchanged(folder: Path, versions: dict[str, Path]) -> None:
    place = folder / "tiny"
    put(versions["a"], place)

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        old = registry.get("tiny")
        put(versions["b"], place)
        await watcher.poll()
        assert registry.get("tiny") is old
        os.utime(place / "README.md")
        await watcher.poll()
        assert registry.get("tiny") is old, "it changed since the last look"
        await watcher.poll()
        new = registry.get("tiny")
        assert (new.manifest.max_length, new.labels) == (21, ("stable",))
        await asyncio.sleep(0)
        assert registry.list() == [new]
        before = registry.loads.total()
        await looks(watcher, 3)
        assert registry.get("tiny") is new
        assert registry.loads.total() == before, "what has not changed is not loaded again"

    watching(folder, use)


def test_watcher_never_swaps_in_a_corrupt_bundle(
    folder: Path, versions: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    place = folder / "tiny"
    put(versions["a"], place)

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        good = registry.get("tiny")
        put(versions["b"], folder / ".b")
        damage(folder / ".b")
        shutil.rmtree(place)
        (folder / ".b").rename(place)
        await looks(watcher, 5)
        assert registry.get("tiny") is good
        assert good.ready
        assert "model.onnx was changed or damaged" in str(registry.failures["tiny", "stable"].error)
        assert [record.levelno for record in caplog.records].count(logging.ERROR) == 1, "tried once, not at every look"
        assert registry.loads["tiny", False] == 1
        shutil.copy(versions["b"] / "model.onnx", place / "model.onnx")
        await looks(watcher)
        assert not registry.failures
        assert short(registry) == {"stable": 21}

    watching(folder, use)


def test_watcher_ignores_an_incomplete_bundle(folder: Path, versions: dict[str, Path]) -> None:
    place = folder / "tiny"
    put(versions["a"], place)

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        good = registry.get("tiny")
        shutil.rmtree(place)
        place.mkdir()
        for name in ("model.onnx", "tokenizer.json"):
            shutil.copy(versions["b"] / name, place)
            await looks(watcher)
            assert registry.get("tiny") is good
        assert not registry.failures, "without a manifest there is nothing to be tried"
        shutil.copytree(versions["b"], place, dirs_exist_ok=True)
        await looks(watcher)
        assert short(registry) == {"stable": 21}

    watching(folder, use)


def test_watcher_follows_links_through_a_rollout(folder: Path, versions: dict[str, Path]) -> None:
    def point(label: str, version: str) -> None:
        new = folder / "tiny" / f".{label}"
        new.symlink_to(versions[version])
        new.replace(folder / "tiny" / label)

    (folder / "tiny").mkdir()
    point("stable", "a")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        point("canary", "b")
        (folder / "tiny" / "traffic.toml").write_text("canary = 0.5\n")
        await looks(watcher)
        assert short(registry) == {"stable": 20, "canary": 21}
        answered = {registry.route("tiny", "", str(i)).manifest.max_length for i in range(50)}
        assert answered == {20, 21}
        canary = registry.get("tiny", "canary")
        opened = registry.loads.total()
        point("stable", "b")
        (folder / "tiny" / "canary").unlink()
        await looks(watcher)
        assert registry.get("tiny") is canary, "promoted without loading it again"
        assert registry.loads.total() == opened
        assert short(registry) == {"stable": 21}
        point("stable", "a")
        await looks(watcher)
        assert short(registry) == {"stable": 20}

    watching(folder, use)


def test_watcher_serves_the_highest_number(folder: Path, versions: dict[str, Path]) -> None:
    put(versions["a"], folder / "tiny" / "9")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        put(versions["b"], folder / "tiny" / "10")
        put(versions["c"], folder / "tiny" / "11")
        damage(folder / "tiny" / "11")
        await looks(watcher)
        assert short(registry) == {"9": 20, "10": 21, "stable": 21}
        assert list(registry.failures) == [("tiny", "11")]
        shutil.rmtree(folder / "tiny" / "11")
        shutil.rmtree(folder / "tiny" / "10")
        await looks(watcher)
        assert short(registry) == {"9": 20, "stable": 20}
        assert not registry.failures

    watching(folder, use)


def test_watcher_updates_shares_and_ignores_invalid_ones(folder: Path, versions: dict[str, Path]) -> None:
    put(versions["a"], folder / "tiny" / "stable")
    file = folder / "tiny" / "traffic.toml"

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        shares = []
        for text in (None, "canary = 0.1", "canary = 5", "canary = 0.2", None):
            file.unlink(missing_ok=True)
            if text:
                file.write_text(text)
            await looks(watcher)
            shares.append((registry.shares()["tiny"].canary, len(registry.failures)))
        assert shares == [(0.7, 0), (0.1, 0), (0.1, 1), (0.2, 0), (0.7, 0)]

    watching(folder, use, default_traffic=lambda name: TrafficShares(canary=0.7))


def test_watcher_retires_bundles_but_not_all_at_once(
    folder: Path, versions: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    put(versions["a"], folder / "one")
    put(versions["b"], folder / "two" / "stable")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        shutil.rmtree(folder / "two" / "stable")
        await looks(watcher)
        assert registry.get("two").ready, "the last version stays while its name is there"
        folder.rename(folder.with_name("unmounted"))
        await looks(watcher, 3)
        assert len(registry.list()) == 2
        assert caplog.text.count("what is in service stays") == 1
        folder.with_name("unmounted").rename(folder)
        (folder / "two").rmdir()
        await watcher.poll()
        assert len(registry.list()) == 2
        await looks(watcher)
        assert [model.name for model in registry.list()] == ["one"]

    watching(folder, use)


def test_watcher_without_a_directory_raises(tmp_path: Path) -> None:
    async def use(registry: Registry, watcher: Watcher) -> None:
        with pytest.raises(BundleError, match="absent cannot be watched: no such directory"):
            await watcher.start()

    watching(tmp_path / "absent", use)


def test_watcher_of_an_empty_directory_waits(folder: Path, versions: dict[str, Path]) -> None:
    async def use(registry: Registry, watcher: Watcher) -> None:
        assert await watcher.start() == []
        put(versions["a"], folder / "tiny")
        await looks(watcher)
        assert registry.get().name == "tiny"

    watching(folder, use)


def test_watcher_load_by_name_returns_the_stable_version(folder: Path, versions: dict[str, Path]) -> None:
    put(versions["a"], folder / "tiny")

    async def use(registry: Registry, watcher: Watcher) -> None:
        with pytest.raises(NotFound, match="no bundle 'absent' in the server's model folder"):
            await watcher.load("absent")
        first = await watcher.load("tiny")
        assert await watcher.load("tiny") is first, "nothing has changed"
        put(versions["b"], folder / "tiny")
        assert (await watcher.load("tiny")).manifest.max_length == 21
        damage(folder / "tiny")
        for _ in range(2):  # asked, it tries again
            with pytest.raises(BundleError, match="damaged"):
                await watcher.load("tiny")
        assert registry.loads["tiny", False] == 2
        assert short(registry) == {"stable": 21}
        put(versions["b"], folder / "tiny")
        await registry.unload("tiny")
        await looks(watcher)
        assert short(registry) == {"stable": 21}, "its files changed"
        await registry.unload("tiny")
        await looks(watcher, 3)
        assert registry.list() == [], "what was unloaded stays out while its files are the same"
        await watcher.load("tiny")
        assert short(registry) == {"stable": 21}

    watching(folder, use)


def test_watcher_opens_a_bundle_with_two_labels_once(folder: Path, versions: dict[str, Path]) -> None:
    put(versions["a"], folder / "tiny" / "stable")
    put(versions["a"], folder / "tiny" / "canary")

    async def use(registry: Registry, watcher: Watcher) -> None:
        (model,) = await watcher.start()
        assert sorted(model.labels) == ["canary", "stable"]

    watching(folder, use)


def test_watcher_takes_over_a_name_loaded_before(folder: Path, versions: dict[str, Path]) -> None:
    async def use(registry: Registry, watcher: Watcher) -> None:
        await registry.load(versions["a"])
        await watcher.start()
        put(versions["b"], folder / "tiny")
        damage(folder / "tiny")
        await looks(watcher)
        assert short(registry) == {"stable": 20}
        put(versions["b"], folder / "tiny")
        await looks(watcher)
        assert [model.manifest.max_length for model in registry.list()] == [21]

    watching(folder, use)


def test_watcher_records_unexpected_errors_as_failures(
    folder: Path, versions: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    put(versions["a"], folder / "one")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()

        def crash(bundle: object) -> None:
            raise MemoryError("no room")

        with monkeypatch.context() as patched:
            patched.setattr(registry._opener, "_make_pipeline", crash)
            put(versions["b"], folder / "one")
            put(versions["c"], folder / "two")
            await looks(watcher)
        assert {name for name, _ in registry.failures} == {"one", "two"}
        assert "MemoryError: no room" in str(registry.failures["one", "stable"].error)
        assert short(registry) == {"stable": 20}
        assert (await watcher.load("two")).manifest.max_length == 22

    watching(folder, use)


def test_watcher_records_an_engine_that_cannot_run(folder: Path, versions: dict[str, Path]) -> None:
    put(versions["a"], folder / "tiny")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        make_pipeline = registry._opener._make_pipeline

        def broken(bundle: Bundle) -> Pipeline:
            def run(*arguments: object) -> None:
                raise RuntimeError("out of memory")

            pipeline = make_pipeline(bundle)
            pipeline.engine.run = run  # type: ignore[method-assign]
            return pipeline

        registry._opener._make_pipeline = broken  # type: ignore[method-assign]
        put(versions["b"], folder / "tiny")
        await looks(watcher)
        assert "cannot be run: the model failed" in str(registry.failures["tiny", "stable"].error)
        answer = await registry.get("tiny").predict(TextRequest("hi", ()))
        assert answer.answers["intent"].label.name == "greeting"
        assert short(registry) == {"stable": 20}

    watching(folder, use)


def test_watcher_rejects_a_bundle_that_changes_on_load(folder: Path, versions: dict[str, Path]) -> None:
    put(versions["a"], folder / "tiny")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        put(versions["b"], folder / "tiny")
        await watcher.poll()
        opened = registry.open

        async def meddle(*arguments: object) -> object:
            model = await opened(*arguments)  # type: ignore[arg-type]
            (folder / "tiny" / "README.md").write_text("another")
            registry.open = opened  # type: ignore[method-assign]
            return model

        registry.open = meddle  # type: ignore[assignment, method-assign]
        await watcher.poll()
        assert short(registry) == {"stable": 20}
        assert "changed while it was loaded" in str(registry.failures["tiny", "stable"].error)
        put(versions["b"], folder / "tiny")
        await looks(watcher)
        assert short(registry) == {"stable": 21}

    watching(folder, use)
