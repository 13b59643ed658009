"""Where a data set's splits are: by the names in a directory, beside a file, or inside a file that holds them all."""

from collections.abc import Iterable
from pathlib import Path

from palm_trainer.data.formats import clinc
from palm_trainer.data.formats.detect import Detection, detect_format
from palm_trainer.data.formats.joint import FILES
from palm_trainer.errors import DataError

_WORDS = {"train": ("train", "trial"), "dev": ("dev", "valid", "val"), "test": ("test",)}
_NO_DATA = {".md", ".py", ".intent", ".toml"}
_NO_DATA_NAMES = ("license", "licence", "readme", "intent_label.txt", "slot_label.txt", "label_map.json")

Splits = dict[str, list[Path]]


def find_splits(data: Path) -> tuple[Splits, list[str]]:
    """Files (or directories, or `FILE#SPLIT`) of train, dev and test, as far as found, and remarks on how they were chosen.

    Raises:
        DataError: nothing there, no data file in a directory, or several and nothing that tells which.
    """
    if not data.exists() and "#" not in data.name:
        raise DataError(f"{data}: no such file or directory. Give the data's directory or its training file.")
    data = data.resolve()
    if not data.is_dir():
        return _splits_beside(data)
    if (whole := _recognised(data)) is not None:
        return _splits_inside(data, whole)
    entries = _entries(data)
    found = {split: path for split in _WORDS if (path := _named(entries, split))}
    if not found:
        return _only_file(data, entries)
    files = {split: [_file_in(path)] for split, path in found.items()}
    if "train" in files:
        return files, []
    largest = max(files, key=lambda split: _size(files[split][0]))
    return {"train": files.pop(largest), **files}, [f"no train split found: {largest}, the largest, is used to train"]


def _splits_beside(file: Path) -> tuple[Splits, list[str]]:
    if file.exists() and (inside := _splits_inside(file, detect_format(file)))[0] != {"train": [file]}:
        return inside
    siblings = [path for path in _entries(file.parent) if path.suffix == file.suffix and path != file]
    found = {"train": [file]}
    if "train" in file.name.lower():
        found |= {split: [path] for split in ("dev", "test") if (path := _named(siblings, split))}
    return found, []


def _splits_inside(path: Path, found: Detection) -> tuple[Splits, list[str]]:
    """Splits that one file holds, all that end so (`train`, `oos_train`), or the Parquet files of a directory by their names."""
    if found.format == "parquet" and path.is_dir():
        files = {split: [f for f in _entries(path) if _named([f], split)] for split in _WORDS}
        return {split: held for split, held in files.items() if held} if files["train"] else {"train": [path]}, []
    if found.format != "clinc":
        return {"train": [path]}, []
    names = clinc.splits(path)
    held = {split: [path.with_name(f"{path.name}#{n}") for n in names if n.endswith(_WORDS[split])] for split in _WORDS}
    held = {split: paths for split, paths in held.items() if paths}
    if "train" not in held:
        raise DataError(f"{path}: no split called train (it holds: {', '.join(names)}); name one: {path.name}#SPLIT")
    return held, []


def _only_file(folder: Path, entries: Iterable[Path]) -> tuple[Splits, list[str]]:
    kinds = [(path, found) for path in entries if path.is_file() and (found := _recognised(path)) is not None]
    kinds = [(path, found) for path, found in kinds if found.format != "text"] or kinds
    if len(kinds) == 1:
        return _splits_inside(*kinds[0])
    held = ", ".join(f"{path.name} ({found.format})" for path, found in kinds[:6])
    below = ", ".join(path.name for path in entries if path.is_dir())
    what = f"several data files ({held})" if kinds else "no data file of a known format"
    raise DataError(
        f"{folder}: {what}{f', and directories ({below})' if below else ''}, none called train, dev or test "
        f"(a joint directory has {', '.join(FILES)}); name a file or directory in it"
    )


def _file_in(path: Path) -> Path:
    """A split's file: the path itself, or the only data file of a directory that is not itself of a format."""
    if not path.is_dir() or _recognised(path) is not None:
        return path
    files = [entry for entry in _entries(path) if entry.is_file()]
    if len(files) != 1:
        raise DataError(f"{path}: {len(files)} data files, not one; name a file in it")
    return files[0]


def _recognised(path: Path) -> Detection | None:
    try:
        return detect_format(path)
    except DataError:
        return None


def _entries(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.iterdir()
        if not path.name.startswith(".")
        and path.suffix not in _NO_DATA
        and not path.name.lower().startswith(_NO_DATA_NAMES)
    )


def _named(paths: Iterable[Path], split: str) -> Path | None:
    return next((path for word in _WORDS[split] for path in paths if word in path.name.lower()), None)


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
