"""A watched directory of which something cannot be read: nothing goes out of service, and each fault is told once."""

import errno
import logging
import os
import shutil
import unicodedata
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from palm_serve.config.names import is_model_name
from palm_serve.errors import BundleError, NotFound
from palm_serve.registry import Registry, Watcher, model_directory


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory, make_tiny_bundle: Callable[..., Path]) -> dict[str, Path]:
    """Two bundles of one model, outside of the watched directory."""
    store = tmp_path_factory.mktemp("store")
    return {name: make_tiny_bundle(store / name, name="tiny", max_length=20 + i) for i, name in enumerate("ab")}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundles = tmp_path / "models"
    bundles.mkdir()
    return bundles


def watching(folder: Path, use: Callable[[Registry, Watcher], Awaitable[None]]) -> None:
    """Run `await use(registry, watcher)` after the start."""
    import asyncio

    async def main() -> None:
        registry = Registry(provider="CPU")
        try:
            watcher = Watcher(registry, folder)
            await watcher.start()
            await use(registry, watcher)
        finally:
            await registry.close()

    asyncio.run(main())


async def looks(watcher: Watcher, times: int = 4) -> None:
    for _ in range(times):
        await watcher.poll()


def dangle(place: Path, bundle: Path) -> None:
    place.unlink()
    place.symlink_to("/nonexistent/bundle")


def loop(place: Path, bundle: Path) -> None:
    place.unlink()
    place.symlink_to(place.name)


def become_a_file(place: Path, bundle: Path) -> None:
    place.unlink()
    place.write_text("not a directory")


def become_empty(place: Path, bundle: Path) -> None:
    place.unlink()
    place.mkdir()


def lose_a_file(place: Path, bundle: Path) -> None:
    """As a bundle of links whose targets are on another volume."""
    place.unlink()
    shutil.copytree(bundle, place)
    (place / "model.onnx").unlink()
    (place / "model.onnx").symlink_to("/nonexistent/model.onnx")


def lose_the_manifest(place: Path, bundle: Path) -> None:
    place.unlink()
    shutil.copytree(bundle, place)
    (place / "manifest.json").unlink()
    (place / "manifest.json").symlink_to("/nonexistent/manifest.json")


def manifest_is_a_pipe(place: Path, bundle: Path) -> None:
    """Opening it would wait for a writer."""
    place.unlink()
    shutil.copytree(bundle, place)
    (place / "manifest.json").unlink()
    os.mkfifo(place / "manifest.json")


def manifest_is_a_device(place: Path, bundle: Path) -> None:
    place.unlink()
    shutil.copytree(bundle, place)
    (place / "manifest.json").unlink()
    (place / "manifest.json").symlink_to("/dev/zero")


FAULTS = (
    manifest_is_a_pipe,
    manifest_is_a_device,
    dangle,
    loop,
    become_a_file,
    become_empty,
    lose_a_file,
    lose_the_manifest,
)


@pytest.mark.parametrize("break_entry", FAULTS)
def test_name_that_cannot_be_read_stays_in_service(
    folder: Path,
    versions: dict[str, Path],
    caplog: pytest.LogCaptureFixture,
    break_entry: Callable[[Path, Path], None],
) -> None:
    place = folder / "m"
    place.symlink_to(versions["a"])
    shutil.copytree(versions["a"], folder / "other")

    async def use(registry: Registry, watcher: Watcher) -> None:
        served = registry.get("m")
        break_entry(place, versions["a"])
        await looks(watcher)
        assert registry.get("m") is served
        assert served.ready
        assert list(registry.failures) == [("m", "stable")]
        assert str(place) in str(registry.failures["m", "stable"].error)
        errors = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert len(errors) == 1, errors
        if place.is_dir() and not place.is_symlink():
            shutil.rmtree(place)
        else:
            place.unlink()
        place.symlink_to(versions["b"])
        await looks(watcher)
        assert not registry.failures
        assert registry.get("m").manifest.max_length == 21

    watching(folder, use)


@pytest.mark.parametrize("break_entry", [dangle, loop, lose_a_file])
def test_label_that_cannot_be_read_keeps_its_version(
    folder: Path, versions: dict[str, Path], break_entry: Callable[[Path, Path], None]
) -> None:
    (folder / "m").mkdir()
    for label, version in (("stable", "a"), ("canary", "b")):
        (folder / "m" / label).symlink_to(versions[version])

    async def use(registry: Registry, watcher: Watcher) -> None:
        before = {label: registry.get("m", label) for label in ("stable", "canary")}
        for label in before:
            break_entry(folder / "m" / label, versions["a"])
        await looks(watcher)
        assert {label: registry.get("m", label) for label in before} == before
        assert sorted(registry.failures) == [("m", "canary"), ("m", "stable")]

    watching(folder, use)


@pytest.mark.parametrize("code", [errno.EACCES, errno.EIO, errno.ESTALE])
@pytest.mark.parametrize("place", ["m", "m/stable", "m/stable/variants"])
def test_directory_without_permission_keeps_its_version(
    folder: Path, versions: dict[str, Path], monkeypatch: pytest.MonkeyPatch, code: int, place: str
) -> None:
    """The file system answers with an error. As root no permission can be missing, so `scandir` and `stat` are told to."""
    shutil.copytree(versions["a"], folder / "m" / "stable")
    (folder / "m" / "stable" / "variants").mkdir()
    broken = str(folder / place)

    def failing(function: Callable[..., object]) -> Callable[..., object]:
        def call(path: object = ".", *arguments: object, **options: object) -> object:
            name = os.fspath(path) if isinstance(path, str | os.PathLike) else ""
            if name == broken or str(name).startswith(f"{broken}/"):
                raise OSError(code, os.strerror(code), broken)
            return function(path, *arguments, **options)

        return call

    async def use(registry: Registry, watcher: Watcher) -> None:
        served = registry.get("m")
        with monkeypatch.context() as patched:
            for name in ("scandir", "stat", "listdir"):
                patched.setattr(os, name, failing(getattr(os, name)))
            await looks(watcher)
        assert registry.get("m") is served
        assert list(registry.failures) == [("m", "stable")]
        assert os.strerror(code) in str(registry.failures["m", "stable"].error)
        await looks(watcher)
        assert not registry.failures
        assert registry.get("m") is served

    watching(folder, use)


def test_directory_that_became_empty_leaves_everything_in_service(
    folder: Path, versions: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    """As a volume that was unmounted."""
    shutil.copytree(versions["a"], folder / "m")
    (folder / "README").write_text("a file is no model")

    async def use(registry: Registry, watcher: Watcher) -> None:
        served = registry.get("m")
        (folder / "m").rename(folder.with_name("away"))
        await looks(watcher)
        assert registry.list() == [served]
        assert registry.watch_failure == "is empty (not mounted?)"
        (error,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert error.getMessage() == f"{folder} is empty (not mounted?); what is in service stays"
        folder.with_name("away").rename(folder / "m")
        await looks(watcher)
        assert registry.watch_failure == ""
        assert registry.list() == [served]

    watching(folder, use)


def test_name_that_is_gone_is_retired_with_a_warning(
    folder: Path, versions: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):
        shutil.copytree(versions["a"], folder / name)

    async def use(registry: Registry, watcher: Watcher) -> None:
        shutil.rmtree(folder / "two")
        await looks(watcher)
        assert [model.name for model in registry.list()] == ["one"]
        (warning,) = [record for record in caplog.records if record.levelno >= logging.WARNING]
        assert warning.levelname == "WARNING"
        assert warning.getMessage() == f"two is gone from {folder} and is taken out of service"

    watching(folder, use)


def test_one_broken_bundle_does_not_stop_the_others(folder: Path, versions: dict[str, Path]) -> None:
    (folder / "bad").symlink_to("bad")

    async def use(registry: Registry, watcher: Watcher) -> None:
        shutil.copytree(versions["a"], folder / "good")
        await looks(watcher)
        assert registry.get("good").ready
        with pytest.raises(BundleError, match="link"):
            await watcher.load("bad")
        with pytest.raises(NotFound):
            await watcher.load("absent")

    watching(folder, use)


def test_links_of_kubernetes_are_swapped_at_once(folder: Path, versions: dict[str, Path]) -> None:
    """`NAME -> ..data/NAME` and `..data -> ..TIME`, which is renamed over."""
    for time, version in (("..2026_1", "a"), ("..2026_2", "b")):
        (folder / time).mkdir()
        shutil.copytree(versions[version], folder / time / "m")
    (folder / "..data").symlink_to("..2026_1")
    (folder / "m").symlink_to("..data/m")

    async def use(registry: Registry, watcher: Watcher) -> None:
        assert registry.get("m").manifest.max_length == 20
        (folder / "..data_tmp").symlink_to("..2026_2")
        (folder / "..data_tmp").rename(folder / "..data")
        shutil.rmtree(folder / "..2026_1")
        await looks(watcher)
        assert [model.manifest.max_length for model in registry.list()] == [21]
        assert not registry.failures

    watching(folder, use)


@pytest.mark.parametrize("name", ["我的模型", "Ünïcode", "हिन्दी", "v1.2_a-b", "7"])
def test_name_of_any_script_is_served(folder: Path, versions: dict[str, Path], name: str) -> None:
    """Also where the file system holds it with separate accents."""
    shutil.copytree(versions["a"], folder / unicodedata.normalize("NFD", name))

    async def use(registry: Registry, watcher: Watcher) -> None:
        assert registry.get(unicodedata.normalize("NFC", name)).ready
        assert await watcher.load(unicodedata.normalize("NFD", name)) is registry.get()

    watching(folder, use)


def test_name_that_cannot_be_served_is_told_once(
    folder: Path, versions: dict[str, Path], caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copytree(versions["a"], folder / "my model")
    shutil.copytree(versions["a"], folder / "m" / "stable")
    shutil.copytree(versions["b"], folder / "m" / "first try")
    shutil.copytree(versions["a"], folder / unicodedata.normalize("NFC", "modèle"))
    shutil.copytree(versions["b"], folder / unicodedata.normalize("NFD", "modèle"))
    for harmless in ("lost+found", "my notes", ".hidden"):
        (folder / harmless).mkdir()

    async def use(registry: Registry, watcher: Watcher) -> None:
        await looks(watcher)
        assert sorted(registry.failures) == [
            ("m", "first try"),
            (unicodedata.normalize("NFD", "modèle"), "stable"),
            ("my model", "stable"),
        ]
        assert "letters, digits" in str(registry.failures["my model", "stable"].error)
        assert sorted(model.name for model in registry.list()) == ["m", unicodedata.normalize("NFC", "modèle")]
        assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 3
        (folder / "my model").rename(folder / "my-model")
        await looks(watcher)
        assert registry.get("my-model").ready
        assert ("my model", "stable") not in registry.failures

    watching(folder, use)


@pytest.mark.parametrize("spoil", [manifest_is_a_pipe, manifest_is_a_device])
def test_new_manifest_that_is_no_file_is_told_once(
    folder: Path, versions: dict[str, Path], caplog: pytest.LogCaptureFixture, spoil: Callable[[Path, Path], None]
) -> None:
    (folder / "odd").symlink_to(versions["a"])
    spoil(folder / "odd", versions["a"])
    shutil.copytree(versions["a"], folder / "good")

    async def use(registry: Registry, watcher: Watcher) -> None:
        await looks(watcher)
        assert [model.name for model in registry.list()] == ["good"]
        assert "must be a regular file" in str(registry.failures["odd", "stable"].error)
        told = [record for record in caplog.records if "must be a regular file" in record.getMessage()]
        assert len(told) == 1

    watching(folder, use)


def test_name_of_other_bytes_than_utf_8_is_told_as_text(folder: Path, versions: dict[str, Path]) -> None:
    """Neither gRPC nor Prometheus could carry it as the file system gives it."""
    shutil.copytree(versions["a"], folder / "good")
    shutil.copytree(versions["a"], Path(os.fsdecode(os.fsencode(folder) + b"/bad\xff")))

    async def use(registry: Registry, watcher: Watcher) -> None:
        await looks(watcher)
        assert sorted(registry.failures) == [("bad\\udcff", "stable")]
        for name, label in registry.failures:
            failure = registry.failures[name, label]
            f"{name} {label} {failure.error}".encode()  # raises for half a pair

    watching(folder, use)


def test_names_differ_by_case(folder: Path, versions: dict[str, Path]) -> None:
    shutil.copytree(versions["a"], folder / "faq")
    shutil.copytree(versions["b"], folder / "FAQ")

    async def use(registry: Registry, watcher: Watcher) -> None:
        assert registry.get("faq").manifest.max_length == 20
        assert registry.get("FAQ").manifest.max_length == 21

    watching(folder, use)


@pytest.mark.parametrize("name", ["", " ", "a b", "-a", ".a", "a/b", "a\n", "a\0", "x" * 101, "a:b", "😀"])
def test_is_model_name_refuses(name: str) -> None:
    assert not is_model_name(name)
    assert model_directory.find_model(Path("/proc"), name) == model_directory.ABSENT
