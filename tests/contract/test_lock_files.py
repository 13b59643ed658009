"""The lock files: every package of an installation, in the version of constraints.txt, by its SHA-256."""

import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
EXTRAS = {
    "serve": ("serve", "otel"),
    "serve-gpu": ("serve-gpu", "otel"),
    "train": ("train", "serve"),
    "e5-small-zh": ("e5-small-zh",),
}


def read_lock(name: str) -> dict[str, tuple[str, list[str]]]:
    """Return the packages of a lock file: name -> (version, SHA-256 of each file)."""
    text = (ROOT / "requirements" / f"{name}.lock").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    locked = {}
    for line in text.splitlines():
        requirement, *hashes = re.split(r"\s+--hash=sha256:", line.strip())
        parsed = Requirement(requirement)
        [specifier] = parsed.specifier
        assert specifier.operator == "==", line
        locked[_normalized(parsed.name)] = (specifier.version, hashes)
    return locked


def _normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pinned_versions() -> dict[str, str]:
    """Return the versions of constraints.txt by name."""
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            name, version = line.split("==")
            pinned[_normalized(name)] = version
    return pinned


def installed_closure(extras: Iterable[str]) -> set[str]:
    """Return the packages that this environment installs for some extras, with all that they need here."""
    found: set[str] = set()
    waiting = [("palm-nlu", extra) for extra in extras]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            requirements = distribution(name).requires or []
        except PackageNotFoundError:
            continue  # not for this machine, such as the packages of a GPU
        for requirement in map(Requirement, requirements):
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
                continue
            needed = _normalized(requirement.name)
            found.add(needed)
            for part in ("", *requirement.extras):
                item = (needed, part)
                if item not in seen:
                    seen.add(item)
                    waiting.append(item)
    return found - {"palm-nlu"}


@pytest.mark.parametrize("name", ["build", *EXTRAS])
def test_every_package_has_hashes_and_the_pinned_version(name: str) -> None:
    """A pin that a lock file contradicts would make `pip install -c constraints.txt` impossible from the index alone."""
    pinned = pinned_versions()
    locked = read_lock(name)
    assert locked
    for package, (version, hashes) in locked.items():
        assert hashes, package
        assert all(re.fullmatch(r"[0-9a-f]{64}", digest) for digest in hashes), package
        assert version == pinned.get(package, version), f"{package}: run `make lock`"


@pytest.mark.parametrize("name", ["serve", "train"])
def test_a_lock_file_names_all_that_its_extras_need(name: str) -> None:
    assert installed_closure(EXTRAS[name]) <= read_lock(name).keys(), "run `make lock`"


def test_the_serving_locks_have_no_torch() -> None:
    for name in ("serve", "serve-gpu"):
        assert not read_lock(name).keys() & {"torch", "transformers"}


def test_the_image_installs_by_hash_on_a_base_by_digest() -> None:
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8").replace("\\\n", " ")
    installs = re.findall(r"/pip install ([^&\n]*)", text)
    assert len(installs) == 5
    for arguments in installs:
        assert "--require-hashes" in arguments or ("--no-deps" in arguments and "--no-index" in arguments), arguments
    assert re.search(r"^ARG BASE=\S+@sha256:[0-9a-f]{64}$", text, flags=re.MULTILINE)
    bases = re.findall(r"^FROM (\S+)", text, flags=re.MULTILINE)
    assert set(bases) == {"${BASE}", "build", "runtime"}
