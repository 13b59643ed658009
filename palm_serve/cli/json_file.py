"""The file that `--json FILE` names."""

import json
import os
from pathlib import Path
from typing import Any

from palm_serve.errors import ConfigError


def check_json_file(path: Path) -> None:
    """Check that a file can be written at a path, before the work whose result it shall hold.

    Raises:
        ConfigError: it is a directory, its directory could not be made, or nothing may be written there.
    """
    if path.is_dir():
        raise ConfigError(f"--json must be a file, got the directory {path}. Choose another file.")
    folder = next(place for place in path.absolute().parents if place.exists())
    if not folder.is_dir():
        raise ConfigError(f"--json must be in a directory, got {path}, and {folder} is a file. Choose another file.")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ConfigError(f"--json must be in a directory that may be written to, got {path}. Choose another file.")


def write_json_file(path: Path, content: dict[str, Any]) -> None:
    """Write the file, and the directories above it.

    Raises:
        ConfigError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
