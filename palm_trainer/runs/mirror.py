"""The mirror of a run on an object store: what a machine that is lost must not take away.

    URL/mirror.json      names, digests and sizes of the files, and the step: written last
    URL/files/SHA256     each file under the digest of its content

The run directory stays the truth. Files are handed over as hard links, and a thread copies them while training goes on.
"""

import hashlib
import json
import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from palm_serve.errors import StorageError, StorageLacks
from palm_serve.storage.remote_folder import RemoteFile, RemoteFolder
from palm_trainer.config.atomic_files import NEW_SUFFIX, new_directory
from palm_trainer.errors import CheckpointError
from palm_trainer.runs.directory import check_output_directory, holds_run
from palm_trainer.runs.file_names import CONFIG, EVENTS

_log = logging.getLogger(__name__)

_INDEX = "mirror.json"
_INDEX_BYTES = 1 << 20
_FILES = "files"
_FILE_BYTES = 1 << 40
_MIRRORED = (CONFIG, EVENTS, "dev_rows.json")
_CHECKPOINTS = ("last", "best")
_WAITS_S = (1.0, 5.0, 15.0, 60.0)
"""Before each retry. The last one is repeated."""
_FOLDER = ".mirror"
MIRROR_END_S = 600.0
"""Seconds that a finished training waits for its mirror."""
MIRROR_STOP_S = 60.0
"""Seconds that a training waits for it which was told to stop: a machine may be gone soon after."""

Index = Mapping[str, Any]


def prepare_mirror(url: str | None, output: Path, resume: bool | Literal["auto"], overwrite: bool) -> None:
    """Take the run of a mirror where it is to be resumed and lost here, and keep another one from being replaced.

    Args:
        url: the mirror. None: there is none.
        output: run directory.
        resume: how the run is resumed.
        overwrite: a run is replaced.

    Raises:
        CheckpointError: the mirror cannot be read, or holds a run that nothing says to resume or to replace.
        OSError: the files cannot be written.
    """
    if url is None or overwrite or holds_run(output):
        return
    if resume == "auto":
        check_output_directory(output, resume=False, overwrite=False)
        if restore_run(url, output):
            _log.warning("%s holds no run; the run of %s is continued there", output, url)
    elif not resume and _read_index(_open(url), url) is not None:
        raise CheckpointError(
            f"train.mirror: {url} holds a run already. Continue it with --resume auto, replace it with --overwrite, or choose another URL."
        )


def restore_run(url: str, run: Path) -> bool:
    """Copy the run of a mirror into a new or empty directory, as a whole. Return False if the mirror holds none.

    Raises:
        CheckpointError: the mirror cannot be read, or a file is not what was written.
        OSError: the files cannot be written.
    """
    remote = _open(url)
    index = _read_index(remote, url)
    if index is None:
        return False
    (run / (CONFIG + NEW_SUFFIX)).unlink(missing_ok=True)  # of a training that was killed when it began
    with new_directory(run) as folder:
        for name, facts in index["files"].items():
            (folder / name).parent.mkdir(exist_ok=True)
            _fetch(remote, f"{_FILES}/{facts['sha256']}", folder / name, facts["sha256"])
    return True


class Mirror:
    """Copies a run to an object store in a thread of its own. It never ends a training, nor lets it wait.

    Args:
        url: where to.
        run: run directory.
    """

    def __init__(self, url: str, run: Path) -> None:
        self._url = url
        self._run = run
        self._changed = threading.Condition()
        self._pending: tuple[Path, int] | None = None
        """Links of what is to be copied next, and its step."""
        self._is_busy = False
        self._is_closing = False
        shutil.rmtree(run / _FOLDER, ignore_errors=True)
        self._thread = threading.Thread(target=self._work, name="palm-mirror", daemon=True)
        self._thread.start()

    def note(self, step: int) -> None:
        """Hand over what the run directory holds now. What was handed over before and has not begun is left out."""
        try:
            folder = self._link_files()
        except OSError as error:
            _log.warning("step %d is not copied to %s: %s", step, self._url, error)
            return
        with self._changed:
            replaced = self._pending
            self._pending = (folder, step)
            self._changed.notify_all()
        if replaced is not None:
            shutil.rmtree(replaced[0], ignore_errors=True)

    def close(self, wait_s: float) -> bool:
        """Wait until all is copied, at most for a while. Return True if it is."""
        with self._changed:
            done = self._changed.wait_for(lambda: self._pending is None and not self._is_busy, wait_s)
            self._is_closing = True
            self._changed.notify_all()
        if done:
            self._thread.join()
        else:
            _log.warning(
                "%s does not hold the end of the run: copying did not end within %g s. %s holds it.",
                self._url,
                wait_s,
                self._run,
            )
        return done

    def _link_files(self) -> Path:
        """Return a folder with links to the files as they are now. The log grows in place, and is copied."""
        (self._run / _FOLDER).mkdir(exist_ok=True)
        folder = Path(tempfile.mkdtemp(dir=self._run / _FOLDER))
        for name in _MIRRORED:
            if (self._run / name).exists():
                shutil.copyfile(self._run / name, folder / name)
        for name in _CHECKPOINTS:
            if not (self._run / name).is_dir():
                continue
            (folder / name).mkdir()
            for file in (self._run / name).iterdir():
                if file.is_file() and not file.name.endswith(NEW_SUFFIX):
                    _link(file, folder / name / file.name)
        return folder

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pending is not None or self._is_closing)
                if self._pending is None:
                    break
                folder, step = self._pending
                self._pending = None
                self._is_busy = True
            self._copy_until_done(folder, step)
            shutil.rmtree(folder, ignore_errors=True)
            with self._changed:
                self._is_busy = False
                self._changed.notify_all()
        shutil.rmtree(self._run / _FOLDER, ignore_errors=True)

    def _copy_until_done(self, folder: Path, step: int) -> None:
        """Copy one state, and try again until it is there, or a newer one has come."""
        for attempt in range(1_000_000):
            try:
                self._copy(folder, step)
            except (StorageError, OSError) as error:
                wait_s = _WAITS_S[min(attempt, len(_WAITS_S) - 1)]
                if attempt < len(_WAITS_S):
                    _log.warning("step %d is not copied yet, the next attempt is in %g s: %s", step, wait_s, error)
                with self._changed:
                    self._changed.wait_for(lambda: self._pending is not None or self._is_closing, wait_s)
                    if self._pending is not None or self._is_closing:
                        return
            else:
                if attempt:
                    _log.warning("step %d is copied to %s now", step, self._url)
                return

    def _copy(self, folder: Path, step: int) -> None:
        """Copy the files whose content the store lacks, then the index, and remove what it does not name any more."""
        remote = RemoteFolder(self._url)
        present = _listed(remote)
        files = {}
        for path in sorted(folder.rglob("*")):
            if not path.is_file():
                continue
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            files[path.relative_to(folder).as_posix()] = {"sha256": digest, "size": path.stat().st_size}
            place = f"{_FILES}/{digest}"
            if place not in present or present[place].size != path.stat().st_size:
                remote.upload(path, place)
        index = {"format": 1, "step": step, "files": files}
        remote.write(_INDEX, json.dumps(index, indent=1).encode())
        named_digests = {facts["sha256"] for facts in files.values()}
        for name in present:
            if name.startswith(f"{_FILES}/") and name.removeprefix(f"{_FILES}/") not in named_digests:
                remote.remove(name)


def _listed(remote: RemoteFolder) -> dict[str, RemoteFile]:
    try:
        return remote.files()
    except StorageLacks:  # nothing was written yet; a bucket that is not there fails at the first write
        return {}


def _open(url: str) -> RemoteFolder:
    try:
        return RemoteFolder(url)
    except StorageError as error:
        raise CheckpointError(f"train.mirror: {error}") from None


def _read_index(remote: RemoteFolder, url: str) -> Index | None:
    try:
        if remote.find(_INDEX) is None:
            return None
        content = remote.read(_INDEX, _INDEX_BYTES)
    except StorageError as error:
        raise CheckpointError(f"train.mirror: {error}") from None
    try:
        index: Index = json.loads(content)
        if index["format"] != 1:
            raise ValueError(f"its format is {index['format']}")
        for name, facts in index["files"].items():
            folder, _, file_name = name.rpartition("/")
            if (
                folder not in ("", *_CHECKPOINTS)
                or file_name in ("", ".", "..")
                or (not folder and file_name not in _MIRRORED)
            ):
                raise ValueError(f"it names '{name}'")
            if len(facts["sha256"]) != 64 or not facts["sha256"].isalnum():
                raise ValueError(f"it has no digest of '{name}'")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(
            f"train.mirror: {url}/{_INDEX} must be the index of a run, and is not: {error}. Choose another URL."
        ) from None
    return index


def _fetch(remote: RemoteFolder, place: str, target: Path, digest: str) -> None:
    try:
        remote.download(place, target, _FILE_BYTES)
    except StorageError as error:
        raise CheckpointError(f"train.mirror: {error}") from None
    with target.open("rb") as stream:
        got = hashlib.file_digest(stream, "sha256").hexdigest()
    if got != digest:
        raise CheckpointError(
            f"train.mirror: {remote.url}/{place} was changed or damaged: its digest is sha256:{got}. Remove the mirror to begin anew."
        )


def _link(source: Path, target: Path) -> None:
    """Link a file, or copy it where the file system has no links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
