"""Weights that are divided into several files, with an index."""

import json
from pathlib import Path

from palm_trainer.errors import PalmError


def shard_files(index: Path) -> list[Path]:
    """Return the files that an index names, each in the index's own directory.

    Args:
        index: `model.safetensors.index.json`, or the like of another format.

    Raises:
        PalmError: the index is damaged, or names a file elsewhere or one that is missing.
    """
    try:
        weight_map = json.loads(index.read_text(encoding="utf-8-sig"))["weight_map"]
        names = sorted({str(name) for name in weight_map.values()})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise PalmError(f"{index}: cannot be read: {type(error).__name__}: {error}. Download it again.") from error
    files = []
    for name in names:
        if Path(name).name != name:
            raise PalmError(f"{index} must name files of its own directory, got '{name}'. Take another encoder.")
        if not (index.parent / name).is_file():
            raise PalmError(f"{index.parent}: {name} is missing, which {index.name} names. Download it again.")
        files.append(index.parent / name)
    return files
