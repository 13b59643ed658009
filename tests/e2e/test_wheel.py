"""The built wheel works outside the checkout, and serving needs nothing of torch."""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email import message_from_bytes
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

IMPORT_ALL = """
import importlib, pkgutil, palm_serve
extras = {"opentelemetry", "pyarrow", "ray", "starlette", "uvicorn"}
for module in pkgutil.walk_packages(palm_serve.__path__, "palm_serve."):
    try:
        importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        if error.name.partition(".")[0] not in extras:
            raise
print(palm_serve.__file__)
"""
"""Imports every module. Those of the extras otel, parquet, ray and http may lack their packages, and nothing else."""


def _run(*command: str | Path, cwd: Path) -> str:
    """Standard output of a command that must succeed; it sees nothing of the checkout through the environment."""
    environment = {key: value for key, value in os.environ.items() if key not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout, built from a copy: it holds no leftover of an earlier build and leaves none."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    names = ("pyproject.toml", "README.md", "LICENSE", "palm_serve", "palm_trainer")
    listed = _run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", *names, cwd=ROOT)
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", target)
    _run(sys.executable, "-m", "pip", "wheel", *options, source, cwd=source)
    [built] = target.glob("*.whl")
    return built


def _new_venv(folder: Path) -> tuple[Path, Path]:
    """Its folder of programs and its site-packages."""
    venv.create(folder, with_pip=False)
    paths = {"base": str(folder), "platbase": str(folder)}
    scheme = "venv" if "venv" in sysconfig.get_scheme_names() else None
    return (
        Path(sysconfig.get_path("scripts", scheme, vars=paths)),
        Path(sysconfig.get_path("purelib", scheme, vars=paths)),
    )


def test_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    listed = _run(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", "palm_serve", "palm_trainer", cwd=ROOT
    )
    assert packed == {name for name in listed.splitlines() if (ROOT / name).is_file()}


def test_wheel_describes_the_project(wheel: Path) -> None:
    """Its page on an index is README, with the version and the Pythons of the project."""
    archive = zipfile.ZipFile(wheel)
    [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
    metadata = message_from_bytes(archive.read(name))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert metadata["Version"] == project["version"]
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert metadata.get_all("Classifier") == project["classifiers"]
    description = metadata.get_payload(decode=True)
    assert isinstance(description, bytes)
    assert description.decode().strip() == (ROOT / "README.md").read_text(encoding="utf-8").strip()


def test_wheel_works_outside_the_checkout(wheel: Path, tmp_path: Path) -> None:
    """Installed in a new environment that borrows only the dependencies of this one."""
    scripts, packages = _new_venv(tmp_path / "venv")
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python", "install", "--quiet")
    _run(*pip, "--no-deps", "--no-index", "--no-compile", wheel, cwd=tmp_path)
    # A .pth file adds the folder alone: the editable install of the checkout, a .pth file there, is not followed.
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")
    found = _run(scripts / "python", "-c", IMPORT_ALL, cwd=tmp_path)
    assert Path(found.strip()).parents[1] == packages
    for program in ("palm-train", "palm-export", "palm-serve"):
        assert "Usage:" in _run(scripts / program, "--help", cwd=tmp_path)


@pytest.mark.slow
def test_serving_install_has_no_torch(wheel: Path, tmp_path: Path) -> None:
    """The serving image's packages, from the registry, each by its SHA-256."""
    scripts, _ = _new_venv(tmp_path / "venv")
    pip = (sys.executable, "-m", "pip", "--python", scripts / "python")
    lock = ROOT / "requirements" / "serve.lock"
    _run(*pip, "install", "-qq", "--no-compile", "--require-hashes", "-r", lock, cwd=tmp_path)
    _run(*pip, "install", "-qq", "--no-compile", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    assert "No broken requirements found" in _run(*pip, "check", cwd=tmp_path)
    installed = _run(*pip, "list", "--format=freeze", cwd=tmp_path).lower()
    assert "torch" not in installed
    assert "transformers" not in installed
    assert _run(scripts / "python", "-W", "error", "-c", IMPORT_ALL, cwd=tmp_path)
    assert "Usage:" in _run(scripts / "palm-serve", "--help", cwd=tmp_path)


@pytest.mark.slow
def test_a_package_that_was_changed_is_not_installed(tmp_path: Path) -> None:
    """pip refuses a file whose SHA-256 the lock file does not name."""
    scripts, _ = _new_venv(tmp_path / "venv")
    lock = (ROOT / "requirements" / "build.lock").read_text(encoding="utf-8")
    changed = tmp_path / "changed.lock"
    changed.write_text(re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", lock), encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        scripts / "python",
        "install",
        "--require-hashes",
        "-r",
        changed,
    ]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode != 0
    assert "DO NOT MATCH THE HASHES" in result.stderr
