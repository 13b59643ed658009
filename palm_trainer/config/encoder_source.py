"""Directories for `encoder.model` that PALM wrote: runs, their checkpoints, and encoders of `palm-train models export`."""

import json
from pathlib import Path

DESCRIPTION = "model.json"
"""File of a checkpoint that describes the model."""
EXPORT_RECORD = "palm-export.json"
"""File of an exported encoder with what Hugging Face's files do not hold."""
BEST = "best"
OLD_SUFFIX = ".old"
"""Suffix of a checkpoint while a new one takes its place."""


def find_checkpoint(path: Path) -> Path | None:
    """Return the checkpoint that a directory stands for, None where it stands for none.

    Args:
        path: a checkpoint (`RUN/best`, `RUN/last`, `RUN/best-TASK`), or a run, which stands for its best one.
    """
    if (path / "config.json").is_file():
        return None
    for folder in (path, path / BEST, path / (BEST + OLD_SUFFIX)):
        if (folder / DESCRIPTION).is_file():
            return folder
    return None


def stored_max_length(path: Path) -> int | None:
    """Return the `max_length` of a run or of an exported encoder, None for other directories.

    A damaged file counts as none: loading the encoder names it.
    """
    checkpoint = find_checkpoint(path)
    record = path / EXPORT_RECORD if checkpoint is None else checkpoint / DESCRIPTION
    if not record.is_file():
        return None
    try:
        max_length = json.loads(record.read_bytes())["max_length"]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return max_length if type(max_length) is int else None
