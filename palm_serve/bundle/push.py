"""Copies bundles to object stores and to the Hub."""

from collections.abc import Callable
from pathlib import Path

from palm_serve.bundle.files import MANIFEST, SIGNATURE
from palm_serve.bundle.loader import Bundle
from palm_serve.storage.hub import commit_folder
from palm_serve.storage.remote_folder import RemoteFolder


def push_bundle(bundle: Bundle, url: str, report: Callable[[str], None]) -> None:
    """Copy a verified bundle to a URL. Its manifest comes last, and the Hub gets all files in one commit.

    Whoever fetches meanwhile gets the bundle of before, or an error. Objects that the manifest does not list are left alone.

    Args:
        bundle: the bundle.
        url: the folder that becomes the bundle.
        report: called with a line for each file.

    Raises:
        StorageError: the files cannot be written.
    """
    names = sorted(bundle.manifest.files)
    if (bundle.path / SIGNATURE).exists():
        names.append(SIGNATURE)
    names.append(MANIFEST)
    if url.startswith("hf://"):
        report(f"{len(names)} files in one commit")
        commit_folder(
            bundle.path, names, url, f"Push {bundle.manifest.name} {bundle.manifest.version[:12]} with palm-serve"
        )
        return
    remote = RemoteFolder(url)
    for name in names:
        report(f"{name}, {_size(bundle.path / name)}")
        remote.upload(bundle.path / name, name)


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 1e6:.1f} MB"
