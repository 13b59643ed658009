"""A bundle is written as a whole or not at all, and nothing else is changed."""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from palm_trainer.errors import ExportError
from palm_trainer.export.bundle_writer import choose_bundle_name, staged_bundle, to_npz_bytes


@contextmanager
def full_disk() -> Iterator[None]:
    """Make the operating system refuse files of more than 1000 bytes.

    Use it within a test only, because the test runner may write to a file, too.
    """
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


def test_bundle_appears_as_a_whole_at_the_end(tmp_path: Path) -> None:
    output = tmp_path / "a" / "b"
    with staged_bundle(output) as writer:
        writer.write("manifest.json", b"new")
        assert not output.exists()
    assert everything(tmp_path) == {"a", "a/b", "a/b/manifest.json"}
    assert (output / "manifest.json").read_bytes() == b"new"


def test_bundle_directory_has_default_permissions(tmp_path: Path) -> None:
    write_bundle(tmp_path / "out")
    (tmp_path / "usual").mkdir()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failed_bundle_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with staged_bundle(tmp_path / "a" / "b" / "c") as writer:
            writer.write("manifest.json", b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert everything(tmp_path) == set()


def test_failed_bundle_keeps_other_bundles(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    write_bundle(tmp_path / "a" / "other")
    with pytest.raises(RuntimeError), staged_bundle(tmp_path / "a" / "b"):
        raise RuntimeError
    assert everything(tmp_path) == {"a", "a/other", "a/other/manifest.json"}


def test_existing_bundle_is_rejected_without_overwrite(tmp_path: Path) -> None:
    write_bundle(tmp_path / "out")
    with (
        pytest.raises(ExportError, match=r"out exists. Replace it with --overwrite, or choose another --output"),
        staged_bundle(tmp_path / "out"),
    ):
        pytest.fail("must not get here")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == b"old"


def test_overwrite_replaces_the_bundle_at_the_end(tmp_path: Path) -> None:
    write_bundle(tmp_path / "out")
    with staged_bundle(tmp_path / "out", overwrite=True) as writer:
        writer.write("manifest.json", b"new")
        assert (tmp_path / "out" / "manifest.json").read_bytes() == b"old"
    assert everything(tmp_path) == {"out", "out/manifest.json"}
    assert (tmp_path / "out" / "manifest.json").read_bytes() == b"new"


def test_overwrite_of_a_link_replaces_its_target(tmp_path: Path) -> None:
    write_bundle(tmp_path / "v1")
    (tmp_path / "current").symlink_to("v1")
    with staged_bundle(tmp_path / "current", overwrite=True) as writer:
        writer.write("manifest.json", b"new")
    assert (tmp_path / "current").is_symlink()
    assert (tmp_path / "v1" / "manifest.json").read_bytes() == b"new"


@pytest.mark.parametrize("failing", [1, 2])
def test_failed_overwrite_keeps_the_old_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int) -> None:
    write_bundle(tmp_path / "out")
    original_rename = Path.rename
    calls = []

    def rename(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == failing:
            raise OSError(5, "Input/output error")
        return original_rename(self, target)

    monkeypatch.setattr(Path, "rename", rename)
    with (
        pytest.raises(ExportError, match=r"could not be written: Input/output error"),
        staged_bundle(tmp_path / "out", overwrite=True) as writer,
    ):
        writer.write("manifest.json", b"new")
    assert everything(tmp_path) == {"out", "out/manifest.json"}
    assert (tmp_path / "out" / "manifest.json").read_bytes() == b"old"


def test_overwrite_rejects_a_directory_without_bundle(tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter").write_text("dear", encoding="utf-8")
    with (
        pytest.raises(
            ExportError,
            match=r"thesis must be empty or a bundle to be replaced, but it has no manifest\.json",
        ),
        staged_bundle(tmp_path / "thesis", overwrite=True),
    ):
        pytest.fail("must not get here")
    assert everything(tmp_path) == {"thesis", "thesis/chapter"}


def test_output_that_is_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x", encoding="utf-8")
    with (
        pytest.raises(ExportError, match=r"--output must be a directory, got the file .*out\. Choose another --output"),
        staged_bundle(tmp_path / "out", overwrite=True),
    ):
        pytest.fail("must not get here")


def test_output_below_a_file_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with (
        pytest.raises(ExportError, match=r"could not be written: (Not a directory|File exists)"),
        staged_bundle(tmp_path / "file" / "out"),
    ):
        pytest.fail("must not get here")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is unwritable for root")
def test_output_below_a_read_only_directory_is_rejected(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(ExportError, match=r"could not be written: Permission denied"), staged_bundle(tmp_path / "out"):
        pytest.fail("must not get here")


def test_full_disk_is_reported_and_leaves_nothing(tmp_path: Path) -> None:
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
def test_bundle_name_comes_from_the_directory(path: str, name: str) -> None:
    assert choose_bundle_name(None, Path(path)) == name


def test_bundle_name_comes_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "flights").mkdir()
    monkeypatch.chdir(tmp_path / "flights")
    assert choose_bundle_name(None, Path(".")) == "flights"


@pytest.mark.parametrize("name", ["", "two words", "_x", "a/b", "x" * 101, "é"])
def test_invalid_bundle_name_is_rejected(name: str) -> None:
    with pytest.raises(ExportError, match=r"--name must be 1 to 100 letters, digits"):
        choose_bundle_name(name, Path("out"))


def test_npz_bytes_do_not_depend_on_the_order() -> None:
    ones = np.ones(2, np.float32)
    zeros = np.zeros((2, 2), np.float32)
    assert to_npz_bytes({"a.x": ones, "b.y": zeros}) == to_npz_bytes({"b.y": zeros, "a.x": ones})
