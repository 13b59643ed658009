"""Search for the splits of a data set: files of a directory, files beside a file, or splits inside one file."""

from collections.abc import Iterable
from operator import attrgetter
from pathlib import Path

from palm_trainer.data.formats import clinc
from palm_trainer.data.formats.detect import Detection, detect_format
from palm_trainer.data.formats.joint import FILES
from palm_trainer.data.formats.rasa import holds_examples
from palm_trainer.errors import DataError

_WORDS = {"train": ("train", "trial"), "dev": ("dev", "valid", "val"), "test": ("test",)}
_NO_DATA = {".md", ".py", ".intent", ".toml"}
_NO_DATA_NAMES = ("license", "licence", "readme", "intent_label.txt", "slot_label.txt", "label_map.json")

Splits = dict[str, list[Path]]


def find_splits(data: Path) -> tuple[Splits, list[str]]:
    """Find the files (or directories, or `FILE#SPLIT`) of train, dev and test.

    Returns:
        Paths by split, and remarks on how they were chosen.

    Raises:
        DataError: nothing is there, a directory has no data file, or it is unclear which of several
            files is meant.
    """
    if not data.exists() and "#" not in data.name:
        raise DataError(f"{data}: no such file or directory. Give the data's directory or its training file.")
    data = data.resolve()
    if not data.is_dir():
        return _splits_beside(data), []
    detection = _try_detect(data)
    if detection is not None:
        return _splits_inside(data, detection), []
    entries = _entries(data)
    entry_by_split = _named_splits(entries)
    if not entry_by_split:
        return _only_file(data, entries), []
    files = {}
    for split, path in entry_by_split.items():
        files[split] = [_file_in(path)]
    if "train" in files:
        return files, []
    largest = max(files, key=lambda split: _size(files[split][0]))
    return {"train": files.pop(largest), **files}, [f"no train split found: {largest}, the largest, is used to train"]


def _splits_beside(file: Path) -> Splits:
    """Return the splits inside a training file, or the dev and test files beside it."""
    if file.exists():
        inside = _splits_inside(file, detect_format(file))
        if inside != {"train": [file]}:
            return inside
    splits = {"train": [file]}
    if "train" in file.name.lower():
        siblings = []
        for path in _entries(file.parent):
            if path.suffix == file.suffix and path != file:
                siblings.append(path)
        for split in ("dev", "test"):
            sibling = _named(siblings, split)
            if sibling is not None:
                splits[split] = [sibling]
    return splits


def _splits_inside(path: Path, detection: Detection) -> Splits:
    """Return the splits of a CLINC file (`train`, `oos_train`), or the Parquet files of a directory by their names."""
    if detection.format == "parquet" and path.is_dir():
        return _parquet_splits(path)
    if detection.format != "clinc":
        return {"train": [path]}
    names = clinc.splits(path)
    splits: Splits = {}
    for split, words in _WORDS.items():
        paths = []
        for name in names:
            if name.endswith(words):
                paths.append(path.with_name(f"{path.name}#{name}"))
        if paths:
            splits[split] = paths
    if "train" not in splits:
        raise DataError(f"{path}: no split called train (it holds: {', '.join(names)}); name one: {path.name}#SPLIT")
    return splits


def _parquet_splits(folder: Path) -> Splits:
    splits: Splits = {}
    for split in _WORDS:
        files = []
        for file in _entries(folder):
            if _named([file], split):
                files.append(file)
        if files:
            splits[split] = files
    return splits if "train" in splits else {"train": [folder]}


def _only_file(folder: Path, entries: Iterable[Path]) -> Splits:
    """Return the splits inside the only data file of a directory.

    Plain text counts only if there is nothing else.
    """
    files: list[tuple[Path, Detection]] = []
    for path in entries:
        detection = _try_detect(path) if path.is_file() else None
        if detection is not None:
            files.append((path, detection))
    files = [(path, detection) for path, detection in files if detection.format != "text"] or files
    if len(files) == 1:
        return _splits_inside(*files[0])
    listed = ", ".join(f"{file.name} ({detection.format})" for file, detection in files[:6])
    folders = ", ".join(map(attrgetter("name"), filter(Path.is_dir, entries)))
    content = f"several data files ({listed})" if files else "no data file of a known format"
    if folders:
        content += f", and directories ({folders})"
    raise DataError(
        f"{folder}: {content}, none called train, dev or test "
        f"(a joint directory has {', '.join(FILES)}); name a file or directory in it"
    )


def _file_in(path: Path) -> Path:
    """Return the path itself, or the only file of a directory that is no data set of a known format."""
    if not path.is_dir() or _try_detect(path) is not None:
        return path
    files = list(filter(Path.is_file, _entries(path)))
    if len(files) != 1:
        raise DataError(f"{path}: {len(files)} data files, not one; name a file in it")
    return files[0]


def _try_detect(path: Path) -> Detection | None:
    try:
        return detect_format(path)
    except DataError:
        return None


def _entries(folder: Path) -> list[Path]:
    """List the entries of a directory that may be data, sorted."""
    entries = []
    for path in folder.iterdir():
        is_hidden = path.name.startswith(".")
        is_other = (path.suffix in _NO_DATA and not holds_examples(path)) or path.name.lower().startswith(
            _NO_DATA_NAMES
        )
        if not is_hidden and not is_other:
            entries.append(path)
    return sorted(entries)


def _named_splits(entries: Iterable[Path]) -> dict[str, Path]:
    """Return the entry of each split that has one."""
    entry_by_split = {}
    for split in _WORDS:
        path = _named(entries, split)
        if path is not None:
            entry_by_split[split] = path
    return entry_by_split


def _named(paths: Iterable[Path], split: str) -> Path | None:
    """Return the first path whose name holds a word for a split. Earlier words have priority."""
    for word in _WORDS[split]:
        for path in paths:
            if word in path.name.lower():
                return path
    return None


def _size(path: Path) -> int:
    """Return the size of a file, or of all files below a directory, in bytes."""
    files = path.rglob("*") if path.is_dir() else [path]
    size = 0
    for file in files:
        if file.is_file():
            size += file.stat().st_size
    return size
