"""Files of a model from the Hugging Face Hub into a directory: pinned to one revision, resumed, retried, and checked against the Hub's checksums.

`huggingface_hub` speaks the protocol. Its own downloads throw a partial file away when the process ends (2.4), and do not compare checksums; so
the files are received into partial files of ours, by its `http_get`.
"""

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from huggingface_hub import HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.errors import HTTPError as AnyHTTPError  # type: ignore[attr-defined]  # of httpx or httpx2, by version
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers, disable_progress_bars  # type: ignore[attr-defined]

from palm_trainer.errors import PalmError

_log = logging.getLogger(__name__)
_T = TypeVar("_T")

_TOKENIZER = (
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "special_tokens_map.json",
    "added_tokens.json",
)
_WEIGHTS = (
    ("model.safetensors", None),
    ("model.safetensors.index.json", r"model-\d+-of-\d+\.safetensors"),
    ("pytorch_model.bin", None),
    ("pytorch_model.bin.index.json", r"pytorch_model-\d+-of-\d+\.bin"),
)
"""The first that a repository has, and its parts."""
_RECORD = "palm-download.json"
_PARTIAL = ".partial"
_WAITS_S = (1.0, 2.0, 4.0)
"""Before each further try."""
_PASSING = {408, 429, 500, 502, 503, 504}
"""Status codes of servers that may answer better next time."""
_TIMEOUT_S = 10.0
_MB = 1e6


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file at a revision. `etag` is the SHA-256 of a large file (Git LFS), the Git blob's SHA-1 of a small one."""

    name: str
    etag: str
    size: int | None


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """What a directory holds now; `found` when it did so before."""

    revision: str
    files: tuple[HubFile, ...]
    found: bool


def fetch(repo: str, folder: Path, *, say: Callable[[str], None]) -> DownloadResult:
    """Configuration, tokenizer files and weights (safetensors before pickles) of a Hub id into `folder`.

    Raises:
        PalmError: not on the Hub, closed to this user, no encoder, unreachable, damaged on the way, or no room for it.
    """
    there = _recorded(repo, folder)
    if there is not None:
        return there
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT
    if not sys.stderr.isatty():
        disable_progress_bars("huggingface_hub.http_get")
    with _explained(repo, endpoint):
        revision, files = _look_up(repo, endpoint)
        due = [file for file in files if not _intact(folder / file.name, file)]
        megabytes = sum(file.size or 0 for file in due) / _MB
        say(f"fetching {len(due)} files, {megabytes:.1f} MB, from {endpoint}/{repo}, revision {revision[:12]}")
        _check_room(folder, due)
        for file in due:
            _receive(file, hf_hub_url(repo, file.name, revision=revision, endpoint=endpoint), folder)
    record = {"repo": repo, "revision": revision, "files": [asdict(file) for file in files]}
    (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
    return DownloadResult(revision, tuple(files), found=False)


def _recorded(repo: str, folder: Path) -> DownloadResult | None:
    """What an earlier download left, if it is this repository's and nothing was lost or changed since."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        files = tuple(HubFile(**file) for file in record["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return None  # no download yet, or a record that cannot be trusted: look again
    whole = record["repo"] == repo and all(_intact(folder / file.name, file) for file in files)
    return DownloadResult(record["revision"], files, found=True) if whole else None


def _look_up(repo: str, endpoint: str) -> tuple[str, list[HubFile]]:
    """The commit that `main` is at now, and the files that are needed, as they are at that commit."""
    info = _patiently(lambda: HfApi(endpoint=endpoint).model_info(repo, timeout=_TIMEOUT_S), repo)
    names = [file.rfilename for file in info.siblings or ()]
    return str(info.sha), [_metadata(repo, name, str(info.sha), endpoint) for name in _needed(repo, names)]


def _needed(repo: str, names: list[str]) -> list[str]:
    weights = next((found for found in _WEIGHTS if found[0] in names), None)
    lacking = ["config.json"] if "config.json" not in names else []
    lacking += [] if weights else [" or ".join(name for name, _ in _WEIGHTS[::2])]
    lacking += [] if any(name in names for name in _TOKENIZER if "config" not in name) else ["a tokenizer"]
    if weights is None or lacking:
        raise PalmError(
            f"'{repo}' is no encoder that transformers loads: it lacks {', '.join(lacking)}; it has {_some(names)}. Choose another Hub id."
        )
    index, parts = weights
    shards = [name for name in names if parts and re.fullmatch(parts, name)]
    return ["config.json", *(name for name in _TOKENIZER if name in names), index, *shards]


def _metadata(repo: str, name: str, revision: str, endpoint: str) -> HubFile:
    url = hf_hub_url(repo, name, revision=revision, endpoint=endpoint)
    found = _patiently(lambda: get_hf_file_metadata(url, endpoint=endpoint, timeout=_TIMEOUT_S), name)
    if found.commit_hash is None or found.etag is None:
        raise PalmError(
            f"{url}: the answer has no {'ETag' if found.commit_hash else 'X-Repo-Commit'}, so it is no Hub's. "
            "Is HF_ENDPOINT a mirror of the Hub, and does the network ask for a log-in?"
        )
    return HubFile(name, found.etag, found.size)


def _receive(file: HubFile, url: str, folder: Path) -> None:
    """One file, through a partial one that a later call goes on with."""
    partial = folder / _PARTIAL / f"{file.name}.{file.etag[:16]}"
    partial.parent.mkdir(parents=True, exist_ok=True)
    kept = partial.stat().st_size if partial.exists() else 0
    if kept and (file.size is None or kept > file.size):  # no telling where to go on
        partial.unlink()
        kept = 0

    def go_on() -> None:
        with partial.open("ab") as target:
            have = target.tell()
            http_get(url, target, resume_size=have, headers=build_hf_headers(), expected_size=file.size)

    _patiently(go_on, file.name)
    fault = _fault(partial, file)
    if fault is None:
        partial.replace(folder / file.name)
        return
    partial.unlink()
    if kept:
        _log.warning("%s: what an earlier download left does not fit; from the start", file.name)
        _receive(file, url, folder)
        return
    raise PalmError(
        f"{url}: {fault}. It was damaged on the way or at its source, and is removed; try again, or another HF_ENDPOINT."
    )


def _intact(path: Path, file: HubFile) -> bool:
    return path.is_file() and _fault(path, file) is None


def _fault(path: Path, file: HubFile) -> str | None:
    """Why a file is not the Hub's, or None. An ETag that is no checksum (some mirrors') leaves the size, and that JSON is JSON."""
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"{size} bytes, but {file.size} were announced"
    if re.fullmatch(r"[0-9a-f]{64}", file.etag):
        digest = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", file.etag):
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    else:
        return _fault_of_json(path, file.name)
    with path.open("rb") as opened:
        while block := opened.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != file.etag:
        return f"wrong checksum ({digest.name} {digest.hexdigest()[:12]}..., but {file.etag[:12]}... was announced)"
    return None


def _fault_of_json(path: Path, name: str) -> str | None:
    if not name.endswith(".json"):
        return None
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return f"no JSON; it starts with {path.read_bytes()[:30]!r}"
    return None


def _check_room(folder: Path, due: Iterable[HubFile]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    needed, free = sum(file.size or 0 for file in due), shutil.disk_usage(folder).free
    if needed > free:
        raise PalmError(
            f"{folder}: {needed / _MB:.0f} MB are needed, but {free / _MB:.0f} MB are free. Free some space or choose another path."
        )


def _patiently(call: Callable[[], _T], what: str) -> _T:
    """The call's result; tried again after a while when a server is busy, or the connection fails or times out."""
    for wait in _WAITS_S:
        try:
            return call()
        except (AnyHTTPError, OSError) as error:
            if not _passes(error):
                raise
            _log.warning("%s: %s; trying again in %g s", what, _first_line(error), wait)
            time.sleep(wait)
    return call()


def _passes(error: Exception) -> bool:
    """Whether it may go better next time."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _PASSING
    if isinstance(error, OfflineModeIsEnabled):
        return False
    # Of the others: what httpx raises for connections, and the library's OSError without a number for a short answer.
    return isinstance(error, AnyHTTPError) or (isinstance(error, OSError) and error.errno is None)


@contextmanager
def _explained(repo: str, endpoint: str) -> Iterator[None]:
    """Turns what can go wrong into a message for the user."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise PalmError(
            f"'{repo}' is not downloaded yet, and HF_HUB_OFFLINE forbids it. Unset HF_HUB_OFFLINE, or give a directory that has the model."
        ) from error
    except GatedRepoError as error:
        raise PalmError(
            f"'{repo}' is gated: accept its terms at {endpoint}/{repo}, then set HF_TOKEN to a token of yours."
        ) from error
    except RepositoryNotFoundError as error:
        raise PalmError(
            f"'{repo}' is not on {endpoint} (HTTP {error.response.status_code}), or private: check the id; for a private one set HF_TOKEN."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        later = "Try again later" if status in _PASSING else "Check the id"
        raise PalmError(
            f"{endpoint}: HTTP {status} for '{repo}': {_first_line(error)} {later}, or set HF_ENDPOINT to a mirror."
        ) from error
    except AnyHTTPError as error:
        raise PalmError(
            f"{endpoint} cannot be reached for '{repo}': {_first_line(error)}. Check the network, set HF_ENDPOINT to a mirror, "
            "or copy the model's directory from a machine that has it. What was received is kept."
        ) from error
    except HFValidationError as error:
        raise PalmError(f"'{repo}' is no Hub id: {_first_line(error)} Write org/name.") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise PalmError(
                f"no space left for '{repo}'. Free some, or choose another path; what was received is kept."
            ) from error
        if error.errno is not None:
            raise
        raise PalmError(f"'{repo}': {_first_line(error)} Run it again: it goes on where it stopped.") from error
    except ValueError as error:
        raise PalmError(
            f"{endpoint} did not answer with JSON for '{repo}': {_first_line(error)}. "
            "Is HF_ENDPOINT a mirror of the Hub, and does the network ask for a log-in?"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).strip().splitlines()[0]


def _some(names: list[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "") if names else "no files"
