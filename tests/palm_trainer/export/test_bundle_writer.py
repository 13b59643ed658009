"""A bundle is there whole or not at all, and nothing else is touched."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from palm_trainer.errors import ExportError
from palm_trainer.export.bundle_writer import bundle_name, npz_bytes, staged_bundle


@contextmanager
def full_disk() -> Iterator[None]:
    """Writes over 1000 bytes in a file fail, as the operating system itself refuses them. Within a test only: the test runner may write to a file, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def write_bundle(path: Path, content: bytes = b"old") -> None:
    with staged_bundle(path) as writer:
        writer.write("manifest.json", content)


def everything(path: Path) -> set[str]:
    return {p.relative_to(path).as_posix() for p in path.rglob("*")}


def test_appears_whole_at_the_end(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"
    with staged_bundle(output) as writer:
        writer.write("manifest.json", b"new")
        assert not output.exists()
    assert everything(tmp_path) == {"a", "a/b", "a/b/manifest.json"}
    assert (output / "manifest.json").read_bytes() == b"new"


def test_directory_has_the_usual_permissions(tmp_path: Path) -> None:
    write_bundle(tmp_path / "out")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with staged_bundle(tmp_path / "a" / "b" / "c") as writer:
            writer.write("manifest.json", b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert everything(tmp_path) == set()


def test_failure_keeps_the_neighbours(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_bundle(tmp_path / "a" / "other")
    with pytest.raises(RuntimeError), staged_bundle(tmp_path / "a" / "b"):
        raise RuntimeError
    assert everything(tmp_path) == {"a", "a/other", "a/other/manifest.json"}


def test_existing_bundle_is_refused(tmp_path: Path) -> None:
    write_bundle(tmp_path / "out")
    with (
        pytest.raises(ExportError, match=r"out exists. Replace it with --overwrite, or choose another --output"),
        staged_bundle(tmp_path / "out"),
    ):
        pytest.fail("must not get here")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == b"old"


def test_overwrite(tmp_path: Path) -> None:
    write_bundle(tmp_path / "out")
    with staged_bundle(tmp_path / "out", overwrite=True) as writer:
        writer.write("manifest.json", b"new")
        assert (tmp_path / "out" / "manifest.json").read_bytes() == b"old"
    assert everything(tmp_path) == {"out", "out/manifest.json"}
    assert (tmp_path / "out" / "manifest.json").read_bytes() == b"new"


def test_overwrite_through_a_link_replaces_what_it_points_to(tmp_path: Path) -> None:
    write_bundle(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    with staged_bundle(tmp_path / "current", overwrite=True) as writer:
        writer.write("manifest.json", b"new")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "manifest.json").read_bytes() == b"new"


@pytest.mark.parametrize("failing", [1, 2])
def test_overwrite_that_fails_keeps_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    write_bundle(tmp_path / "out")
    true, calls = Path.rename, []

    def rename(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        return true(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(ExportError, match=r"could not be written: Input/output error"),
        staged_bundle(tmp_path / "out", overwrite=True) as writer,
    ):
        writer.write("manifest.json", b"new")
    assert everything(tmp_path) == {"out", "out/manifest.json"}
    assert (tmp_path / "out" / "manifest.json").read_bytes() == b"old"


def test_overwrite_replaces_bundles_only(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("dear", encoding="utf-8")
    with (
        pytest.raises(
            ExportError,
            match=r"thesis is not empty and holds no bundle \(manifest.json is missing\), so it is not replaced",
        ),
        staged_bundle(tmp_path / "thesis", overwrite=True),
    ):
        pytest.fail("must not get here")
    assert everything(tmp_path) == {"thesis", "thesis/chapter"}


def test_output_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x", encoding="utf-8")
    with (
        pytest.raises(ExportError, match=r"out is a file. Choose another --output"),
        staged_bundle(tmp_path / "out", overwrite=True),
    ):
        pytest.fail("must not get here")


def test_parent_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with (
        pytest.raises(ExportError, match=r"could not be written: (Not a directory|File exists)"),
        staged_bundle(tmp_path / "file" / "out"),
    ):
        pytest.fail("must not get here")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_parent_is_not_writable(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match=r"could not be written: Permission denied"), staged_bundle(tmp_path / "out"):
        pytest.fail("must not get here")


def test_disk_refuses(tmp_path: Path) -> None:
    with (
        full_disk(),
        pytest.raises(
            ExportError, match=r"new/out could not be written: File too large. Free space, check the permissions"
        ),
        staged_bundle(tmp_path / "new" / "out") as writer,
    ):
        writer.write("model.onnx", b"x" * 2000)
    assert everything(tmp_path) == set()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("bundles/atis", "atis"),
        ("my model (1)", "my-model-1-"),
        ("_private", "private"),
        ("航班", "model"),
        ("v1.2", "v1.2"),
        ("x" * 200, "x" * 100),
    ],
)
def test_name_from_the_directory(path: str, name: str) -> None:
    assert bundle_name(None, Path(path)) == name


def test_name_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flights").mkdir()
    monkeypatch.chdir(tmp_path / "flights")
    assert bundle_name(None, Path(".")) == "flights"


@pytest.mark.parametrize("name", ["", "two words", "_x", "a/b", "x" * 101, "é"])
def test_name_that_is_none(name: str) -> None:
    with pytest.raises(ExportError, match=r"a name is 1 to 100 letters, digits"):
        bundle_name(name, Path("out"))


def test_arrays_give_the_same_bytes_in_any_order() -> None:
    one, two = np.ones(2, np.float32), np.zeros((2, 2), np.float32)
    assert npz_bytes({"a.x": one, "b.y": two}) == npz_bytes({"b.y": two, "a.x": one})
