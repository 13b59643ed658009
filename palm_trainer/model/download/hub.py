"""Downloads from the Hugging Face Hub: pinned to a revision, resumed, retried, and verified.

`huggingface_hub` implements the protocol. Its own downloads discard a partial file when the process
ends (2.4), and do not compare checksums, so the files are received into partial files here, by its
`http_get`.
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
_Result = TypeVar("_Result")

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
"""Weight files in order of preference, with the names of their shards."""
_POOLING = re.compile(r"modules\.json|[^/]*_Pooling/config\.json")
"""Files of sentence-transformers that name the pooling."""
_RECORD = "palm-download.json"
_PARTIAL = ".partial"
_WAITS_S = (1.0, 2.0, 4.0)
"""Before each retry."""
_TRANSIENT_STATUSES = {408, 429, 500, 502, 503, 504}
"""Status codes that may not occur again."""
_TIMEOUT_S = 10.0
_MB = 1e6


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file at a revision.

    `etag` is the SHA-256 of a large file (Git LFS), the Git blob's SHA-1 of a small one.
    """

    name: str
    etag: str
    size: int | None


@dataclass(frozen=True, slots=True)
class DownloadResult:
    """Contents of a model directory; `already_present` if nothing was downloaded."""

    revision: str
    files: tuple[HubFile, ...]
    already_present: bool


def fetch(repo: str, folder: Path, *, report: Callable[[str], None]) -> DownloadResult:
    """Download configuration, tokenizer files and weights (safetensors rather than pickles) of a Hub id.

    Args:
        repo: Hub id.
        folder: directory of the files.
        report: called with a line on what is downloaded.

    Raises:
        PalmError: the model is not on the Hub, gated, or no encoder; the Hub is unreachable; a file
            is damaged; or the disk is full.
    """
    recorded = _recorded(repo, folder)
    if recorded is not None:
        return recorded
    endpoint = os.environ.get("HF_ENDPOINT", "").rstrip("/") or constants.ENDPOINT
    if not sys.stderr.isatty():
        disable_progress_bars("huggingface_hub.http_get")
    with _explained_errors(repo, endpoint):
        revision, files = _look_up(repo, endpoint)
        missing = [file for file in files if not _is_intact(folder / file.name, file)]
        megabytes = sum(file.size or 0 for file in missing) / _MB
        report(f"fetching {len(missing)} files, {megabytes:.1f} MB, from {endpoint}/{repo}, revision {revision[:12]}")
        _check_space(folder, missing)
        for file in missing:
            _receive(file, hf_hub_url(repo, file.name, revision=revision, endpoint=endpoint), folder)
    record = {"repo": repo, "revision": revision, "files": [asdict(file) for file in files]}
    (folder / _RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    shutil.rmtree(folder / _PARTIAL, ignore_errors=True)
    return DownloadResult(revision, tuple(files), already_present=False)


def _recorded(repo: str, folder: Path) -> DownloadResult | None:
    """Return the result of an earlier download, if it is of this repository and its files are unchanged."""
    try:
        record = json.loads((folder / _RECORD).read_text(encoding="utf-8"))
        files = tuple(HubFile(**file) for file in record["files"])
    except (OSError, ValueError, TypeError, KeyError):
        return None  # no download yet, or a record that cannot be trusted
    if record["repo"] != repo or not all(_is_intact(folder / file.name, file) for file in files):
        return None
    return DownloadResult(record["revision"], files, already_present=True)


def _look_up(repo: str, endpoint: str) -> tuple[str, list[HubFile]]:
    """Return the current commit of `main`, and the required files at that commit."""
    info = _with_retries(lambda: HfApi(endpoint=endpoint).model_info(repo, timeout=_TIMEOUT_S), repo)
    names = [file.rfilename for file in info.siblings or ()]
    revision = str(info.sha)
    return revision, [_metadata(repo, name, revision, endpoint) for name in _required_files(repo, names)]


def _required_files(repo: str, names: list[str]) -> list[str]:
    """Select the files of an encoder. Raises PalmError if some are missing."""
    tokenizer_files = [name for name in _TOKENIZER if name in names]
    weights = _weights_of(names)
    missing = []
    if "config.json" not in names:
        missing.append("config.json")
    if weights is None:
        missing.append(" or ".join(name for name, _ in _WEIGHTS[::2]))
    if all("config" in name for name in tokenizer_files):
        missing.append("a tokenizer")
    if weights is None or missing:
        raise PalmError(
            f"'{repo}' is no encoder that transformers loads: it lacks {', '.join(missing)}; it has {_listed(names)}. "
            "Choose another Hub id."
        )
    index, pattern = weights
    shards = [name for name in names if pattern and re.fullmatch(pattern, name)]
    pooling = sorted(filter(_POOLING.fullmatch, names))
    return ["config.json", *tokenizer_files, *pooling, index, *shards]


def _weights_of(names: list[str]) -> tuple[str, str | None] | None:
    """Return the first kind of weights in a repository; None if it has none that transformers loads."""
    for candidate in _WEIGHTS:
        if candidate[0] in names:
            return candidate
    return None


def _metadata(repo: str, name: str, revision: str, endpoint: str) -> HubFile:
    """Return size and checksum of a file."""
    url = hf_hub_url(repo, name, revision=revision, endpoint=endpoint)
    metadata = _with_retries(lambda: get_hf_file_metadata(url, endpoint=endpoint, timeout=_TIMEOUT_S), name)
    if metadata.commit_hash is None or metadata.etag is None:
        missing = "ETag" if metadata.commit_hash else "X-Repo-Commit"
        raise PalmError(
            f"{url}: the answer has no {missing}, so it does not come from a Hub. "
            "Is HF_ENDPOINT a mirror of the Hub, and does the network ask for a log-in?"
        )
    return HubFile(name, metadata.etag, metadata.size)


def _receive(file: HubFile, url: str, folder: Path) -> None:
    """Download one file through a partial file, which a later call continues."""
    partial = folder / _PARTIAL / f"{file.name}.{file.etag[:16]}"
    partial.parent.mkdir(parents=True, exist_ok=True)
    resumed_bytes = partial.stat().st_size if partial.exists() else 0
    if resumed_bytes and (file.size is None or resumed_bytes > file.size):  # unknown where to continue
        partial.unlink()
        resumed_bytes = 0

    def download() -> None:
        with partial.open("ab") as target:
            position = target.tell()
            http_get(url, target, resume_size=position, headers=build_hf_headers(), expected_size=file.size)

    _with_retries(download, file.name)
    fault = _fault(partial, file)
    if fault is None:
        (folder / file.name).parent.mkdir(exist_ok=True)
        partial.replace(folder / file.name)
        return
    partial.unlink()
    if resumed_bytes:
        _log.warning("%s: the partial file of an earlier download does not fit; starting again", file.name)
        _receive(file, url, folder)
        return
    raise PalmError(
        f"{url}: {fault}. It was damaged on the way or at its source, and is removed; "
        "try again, or another HF_ENDPOINT."
    )


def _is_intact(path: Path, file: HubFile) -> bool:
    return path.is_file() and _fault(path, file) is None


def _fault(path: Path, file: HubFile) -> str | None:
    """Return the difference of a file from the Hub's, or None.

    If the ETag is no checksum (on some mirrors), the size and the syntax of JSON files are checked.
    """
    size = path.stat().st_size
    if file.size is not None and size != file.size:
        return f"{size} bytes, but {file.size} were announced"
    if re.fullmatch(r"[0-9a-f]{64}", file.etag):
        digest = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", file.etag):
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
    else:
        return _json_fault(path, file.name)
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    if digest.hexdigest() != file.etag:
        return f"wrong checksum ({digest.name} {digest.hexdigest()[:12]}..., but {file.etag[:12]}... was announced)"
    return None


def _json_fault(path: Path, name: str) -> str | None:
    if not name.endswith(".json"):
        return None
    try:
        json.loads(path.read_bytes())
    except ValueError:
        return f"no JSON; it starts with {path.read_bytes()[:30]!r}"
    return None


def _check_space(folder: Path, files: Iterable[HubFile]) -> None:
    """Check that the disk has space for some files."""
    folder.mkdir(parents=True, exist_ok=True)
    needed_bytes = sum(file.size or 0 for file in files)
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        raise PalmError(
            f"{folder}: {needed_bytes / _MB:.0f} MB are needed, but {free_bytes / _MB:.0f} MB are free. "
            "Free some space or choose another path."
        )


def _with_retries(call: Callable[[], _Result], name: str) -> _Result:
    """Call a function, and retry it after a wait if a server is busy, or the connection fails or times out."""
    for wait in _WAITS_S:
        try:
            return call()
        except (AnyHTTPError, OSError) as error:
            if not _is_transient(error):
                raise
            _log.warning("%s: %s; trying again in %g s", name, _first_line(error), wait)
            time.sleep(wait)
    return call()


def _is_transient(error: Exception) -> bool:
    """Return True if a retry may succeed."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in _TRANSIENT_STATUSES
    if isinstance(error, OfflineModeIsEnabled):
        return False
    # httpx raises HTTP errors for connections; the library raises OSError without a number for a short answer.
    return isinstance(error, AnyHTTPError) or (isinstance(error, OSError) and error.errno is None)


@contextmanager
def _explained_errors(repo: str, endpoint: str) -> Iterator[None]:
    """Convert errors to messages for the user."""
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise PalmError(
            f"'{repo}' is not downloaded yet, and HF_HUB_OFFLINE forbids it. "
            "Unset HF_HUB_OFFLINE, or give a directory that has the model."
        ) from error
    except GatedRepoError as error:
        raise PalmError(
            f"'{repo}' is gated: accept its terms at {endpoint}/{repo}, then set HF_TOKEN to a token of yours."
        ) from error
    except RepositoryNotFoundError as error:
        raise PalmError(
            f"'{repo}' is not on {endpoint} (HTTP {error.response.status_code}), or private: "
            "check the id; for a private one set HF_TOKEN."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        later = "Try again later" if status in _TRANSIENT_STATUSES else "Check the id"
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


def _listed(names: list[str]) -> str:
    """List the first six names and count the others."""
    if not names:
        return "no files"
    listed = ", ".join(names[:6])
    return f"{listed} and {len(names) - 6} more" if len(names) > 6 else listed
