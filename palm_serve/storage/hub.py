"""Commits to repositories of the Hugging Face Hub."""

import os
from collections.abc import Sequence
from pathlib import Path

from palm_serve.errors import StorageError
from palm_serve.storage.remote_folder import REQUEST_S, call_library
from palm_serve.system.installation import how_to_install


def commit_folder(folder: Path, names: Sequence[str], url: str, message: str) -> None:
    """Commit some files to a repository, which is made if it is not there, as a private one.

    Args:
        folder: folder of the files.
        names: their names there.
        url: `hf://OWNER/NAME`, or `hf://OWNER/NAME@REVISION/FOLDER`.
        message: subject of the commit.

    Raises:
        StorageError: the Hub refuses it or does not answer, or the URL names no repository.
    """
    # Read once, when the library is imported.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    try:
        from huggingface_hub import CommitOperationAdd, HfApi
        from huggingface_hub.utils import disable_progress_bars  # type: ignore[attr-defined]
    except ImportError:
        raise StorageError(
            f"{url} needs huggingface_hub, which is not installed. To install it, {how_to_install('hub')}"
        ) from None
    repository, revision, prefix = split_repository(url)

    def commit() -> None:
        disable_progress_bars()
        api = HfApi()
        api.create_repo(repository, private=True, exist_ok=True)
        operations = []
        for name in names:
            operations.append(CommitOperationAdd(f"{prefix}{name}", str(folder / name)))
        api.create_commit(repository, operations, commit_message=message, revision=revision)

    call_library(url, "written", lambda heart: commit(), REQUEST_S)


def split_repository(url: str) -> tuple[str, str | None, str]:
    """Return the repository of a URL of the Hub, its revision (None: the main branch), and the folder with a slash.

    Raises:
        StorageError: it names no repository.
    """
    owner, _, path = url.removeprefix("hf://").strip("/").partition("/")
    name, _, folder = path.partition("/")
    name, _, revision = name.partition("@")
    if not owner or not name:
        raise StorageError(f"{url} must name a repository, as in hf://OWNER/NAME. Add its name.")
    return f"{owner}/{name}", revision or None, f"{folder}/" if folder else ""
