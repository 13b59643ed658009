"""A watched URL: what is pushed is served, and what cannot be read changes nothing. Each poll is a call."""

import asyncio
import json
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from palm_serve.config import ServeOptions
from palm_serve.errors import NotFound, StorageError
from palm_serve.registry import Registry, Watcher
from palm_serve.registry.remote_options import make_watcher


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[..., Path]) -> dict[str, Path]:
    """Build three bundles of one model, outside of the bucket."""
    store = tmp_path_factory.mktemp("store")
    return {name: make_tiny_bundle(store / name, name="tiny", max_length=20 + i) for i, name in enumerate("abc")}


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    folder = tmp_path / "bucket"
    folder.mkdir()
    return folder


def push(bundle: Path, place: Path) -> None:
    """Write the files one by one, the manifest last, as `palm-serve push` does."""
    place.mkdir(parents=True, exist_ok=True)
    for file in sorted(bundle.iterdir(), key=lambda file: file.name == "manifest.json"):
        shutil.copy(file, place / file.name)


def watching(bucket: Path, use: Callable[[Registry, Watcher], Awaitable[None]]) -> None:
    """Run `await use(registry, watcher)`."""

    async def main() -> None:
        options = ServeOptions(watch=Path(f"file://{bucket}"), cache_dir=bucket.parent / "cache", provider="CPU")
        assert options.watch is not None
        registry = Registry(provider="CPU")
        try:
            await use(registry, make_watcher(registry, options.watch, options))
        finally:
            await registry.close()

    asyncio.run(main())


async def poll_twice(watcher: Watcher) -> None:
    """Poll until a change has been unchanged for one interval."""
    await watcher.poll()
    await watcher.poll()


def lengths(registry: Registry) -> dict[str, int]:
    """Return the max_length of each label, by which the versions of these tests are told apart."""
    return {label: model.manifest.max_length for model in registry.list() for label in model.labels}


def test_pushed_bundles_are_served_and_swapped(bucket: Path, versions: dict[str, Path]) -> None:
    push(versions["a"], bucket / "faq" / "stable")
    (bucket / "faq" / "traffic.toml").write_text("canary = 0.25\n", encoding="utf-8")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        assert lengths(registry) == {"stable": 20}
        push(versions["b"], bucket / "faq" / "canary")
        await poll_twice(watcher)
        assert lengths(registry) == {"stable": 20, "canary": 21}
        push(versions["c"], bucket / "faq" / "stable")
        await poll_twice(watcher)
        assert lengths(registry) == {"stable": 22, "canary": 21}
        shutil.rmtree(bucket / "faq" / "canary")
        await poll_twice(watcher)
        assert lengths(registry) == {"stable": 22}
        assert registry.failures == {}
        assert registry.watch_failure == ""

    watching(bucket, use)


def test_name_that_is_gone_is_retired_and_another_comes(bucket: Path, versions: dict[str, Path]) -> None:
    push(versions["a"], bucket / "old")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        push(versions["b"], bucket / "new")
        shutil.rmtree(bucket / "old")
        await poll_twice(watcher)
        assert [model.name for model in registry.list()] == ["new"]

    watching(bucket, use)


def test_changed_object_keeps_the_version_in_service(
    bucket: Path, versions: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    push(versions["a"], bucket / "faq")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        push(versions["b"], bucket / "faq")
        (bucket / "faq" / "tokenizer.json").write_bytes(b"{}")
        with caplog.at_level(logging.ERROR, "palm_serve"):
            await poll_twice(watcher)
            await poll_twice(watcher)
        assert lengths(registry) == {"stable": 20}
        told = [record for record in caplog.records if "tokenizer.json was changed or damaged" in record.getMessage()]
        assert len(told) == 1
        assert ("faq", "stable") in registry.failures
        push(versions["b"], bucket / "faq")
        await poll_twice(watcher)
        assert lengths(registry) == {"stable": 21}
        assert registry.failures == {}

    watching(bucket, use)


def test_bucket_that_is_gone_or_empty_changes_nothing(bucket: Path, versions: dict[str, Path]) -> None:
    push(versions["a"], bucket / "faq")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        aside = bucket.with_name("aside")
        bucket.rename(aside)
        await poll_twice(watcher)
        assert lengths(registry) == {"stable": 20}
        assert "no such object or bucket" in registry.watch_failure
        bucket.mkdir()
        await poll_twice(watcher)
        assert lengths(registry) == {"stable": 20}
        assert "must hold NAME/manifest.json or NAME/LABEL/manifest.json" in registry.watch_failure
        bucket.rmdir()
        aside.rename(bucket)
        await poll_twice(watcher)
        assert registry.watch_failure == ""

    watching(bucket, use)


def test_start_without_the_bucket_serves_what_was_fetched(bucket: Path, versions: dict[str, Path]) -> None:
    push(versions["a"], bucket / "faq")

    async def fetch(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()

    async def start_again(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        assert lengths(registry) == {"stable": 20}
        assert registry.watch_failure

    watching(bucket, fetch)
    shutil.rmtree(bucket)
    watching(bucket, start_again)


def test_start_without_a_bucket_and_without_a_cache_is_refused(bucket: Path) -> None:
    bucket.rmdir()

    async def use(registry: Registry, watcher: Watcher) -> None:
        with pytest.raises(StorageError, match="no such object or bucket"):
            await watcher.start()

    watching(bucket, use)


def test_load_fetches_at_once(bucket: Path, versions: dict[str, Path]) -> None:
    push(versions["a"], bucket / "faq")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        push(versions["b"], bucket / "help")
        model = await watcher.load("help")
        assert model.manifest.max_length == 21
        with pytest.raises(NotFound):
            await watcher.load("absent")

    watching(bucket, use)


def test_names_that_lead_elsewhere_are_passed_over(bucket: Path, versions: dict[str, Path]) -> None:
    push(versions["a"], bucket / "faq")
    push(versions["b"], bucket / ".hidden")
    push(versions["b"], bucket / "faq" / "inner")  # a file of the bundle faq, as that has a manifest
    (bucket / "manifest.json").write_text(json.dumps({}), encoding="utf-8")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await watcher.start()
        assert lengths(registry) == {"stable": 20}

    watching(bucket, use)
