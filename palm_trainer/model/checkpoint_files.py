"""Directories of checkpoints in a run. Commands check them before they load torch, which takes seconds."""

import shutil
from pathlib import Path

from palm_serve.system.files import check_regular_files
from palm_trainer.config.atomic_files import NEW_SUFFIX
from palm_trainer.config.encoder_source import DESCRIPTION, OLD_SUFFIX
from palm_trainer.errors import CheckpointError


def checkpoint_directory(run: Path, name: str = "best") -> Path:
    """Return the directory of a checkpoint, and recover it if a crash fell between its two renames.

    Raises:
        CheckpointError: there is none, or a pipe in the place of a file.
    """
    if run.is_file():
        raise CheckpointError(f"{run} must be a run directory, got a file. Give the directory that holds config.toml.")
    if not run.is_dir():
        raise CheckpointError(f"{run}: no such run directory. Train one with `palm-train run CONFIG --output {run}`.")
    check_regular_files(run, CheckpointError)
    directory = run / name
    old = directory.with_name(name + OLD_SUFFIX)
    if not directory.exists() and old.exists():
        old.rename(directory)
    if not (directory / DESCRIPTION).is_file():
        raise CheckpointError(
            f"{run} holds no '{name}' checkpoint: {directory / DESCRIPTION} is missing. "
            "Was the training stopped before its first evaluation?"
        )
    check_regular_files(directory, CheckpointError)
    return directory


def has_checkpoint(run: Path, name: str) -> bool:
    """Return True if a run has a checkpoint, or a crash left it between its two renames."""
    return any((run / (name + suffix)).exists() for suffix in ("", OLD_SUFFIX))


def remove_checkpoints(run: Path) -> None:
    """Delete `best/` and `last/` of a run, and incomplete copies of them."""
    for name in ("best", "last"):
        for suffix in ("", OLD_SUFFIX, NEW_SUFFIX):
            shutil.rmtree(run / (name + suffix), ignore_errors=True)
