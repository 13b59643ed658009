"""The peers: what peers.toml says of each, and an environment of its own for each, with exactly the packages that it names."""

import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
PINS = HERE / "peers.toml"

_INSTALL_S = 900
_STAMP = "installed.txt"
_TOLD = 6


class NotToBeHadError(Exception):
    """A peer that cannot be installed or started, with the reason."""


@dataclass(frozen=True)
class Peer:
    """One peer, as peers.toml has it."""

    name: str
    title: str
    door: str
    packages: tuple[str, ...]
    grid: tuple[dict[str, Any], ...]
    """Settings to choose from: fields of `shared.Settings`."""
    environment: dict[str, str]
    """Variables of the server."""

    @property
    def server(self) -> Path:
        """Its file."""
        return HERE / f"{self.name}_server.py"


def read_peers(path: Path = PINS) -> dict[str, Peer]:
    """By name. Raises ValueError for a package that is not pinned, or a peer without settings."""
    content = tomllib.loads(path.read_text(encoding="utf-8"))
    common = content["common"]["packages"]
    peers = {}
    for name, about in content["peers"].items():
        own = {_name(package) for package in about["packages"]}
        packages = (*about["packages"], *(package for package in common if _name(package) not in own))
        for package in packages:
            if "==" not in package:
                raise ValueError(f"{path.name}: '{package}' of {name} has no version; write NAME==VERSION")
        if not about["grid"]:
            raise ValueError(f"{path.name}: {name} has no settings; its grid needs at least one")
        peers[name] = Peer(
            name, about["title"], about["door"], packages, tuple(about["grid"]), about.get("environment", {})
        )
    return peers


def _name(package: str) -> str:
    return package.partition("==")[0].partition("[")[0].lower()


def install(peer: Peer, folder: Path) -> Path:
    """The interpreter of the peer's environment, made where it is not there or holds other packages. Raises NotToBeHadError."""
    place = folder / peer.name
    interpreter, stamp, wanted = place / "bin" / "python", place / _STAMP, "\n".join(peer.packages)
    if stamp.exists() and stamp.read_text(encoding="utf-8") == wanted:
        return interpreter
    print(f"installing {peer.title}", file=sys.stderr)
    shutil.rmtree(place, ignore_errors=True)
    _run(peer, sys.executable, "-m", "venv", place)
    _run(peer, interpreter, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *peer.packages)
    stamp.write_text(wanted, encoding="utf-8")
    return interpreter


def _run(peer: Peer, *command: str | Path) -> None:
    try:
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=_INSTALL_S, check=False)
    except subprocess.TimeoutExpired:
        raise NotToBeHadError(f"{peer.title} was not installed within {_INSTALL_S} s") from None
    if done.returncode:
        raise NotToBeHadError(f"{peer.title} cannot be installed: {last_lines(done.stderr)}")


def last_lines(text: str) -> str:
    """The end of what a program said, without warnings."""
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("WARNING")]
    return " | ".join(lines[-_TOLD:]) or "it said nothing"
