"""Search for the splits of a data set: files of a directory, files beside a file, or splits inside one file."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from palm_trainer.data.formats import clinc, clu
from palm_trainer.data.formats.detect import Detection, detect_format
from palm_trainer.data.formats.joint import FILES
from palm_trainer.data.formats.rasa import holds_examples, rasa_files
from palm_trainer.data.formats.split_names import SPLIT_WORDS, is_program_folder, set_of, split_of, split_of_path
from palm_trainer.errors import DataError

_NO_DATA = {".md", ".py", ".intent", ".toml"}
_NO_DATA_NAMES = ("license", "licence", "readme", "intent_label.txt", "slot_label.txt", "label_map.json")
_NAMED = 6
"""Files that a remark lists."""

Splits = dict[str, list[Path]]


def find_splits(data: Path) -> tuple[Splits, list[str]]:
    """Find the files (or directories, or `FILE#SPLIT`) of train, dev and test.

    Returns:
        Paths by split, and remarks on how they were chosen and on what was passed over.

    Raises:
        DataError: nothing is there, a directory has no data file or no training data, or it is unclear which of
            several files is meant.
    """
    if not data.exists() and "#" not in data.name:
        raise DataError(f"{data}: no such file or directory. Give the data's directory or its training file.")
    data = data.resolve()
    if not data.is_dir():
        return _splits_beside(data)
    detection = _try_detect(data)
    if detection is None:
        return _splits_in_folder(data)
    if detection.format == "parquet":
        return _parquet_splits(data)
    if detection.format == "rasa":
        return _rasa_splits(data)
    return _splits_inside(data, detection), []


def _splits_beside(file: Path) -> tuple[Splits, list[str]]:
    """Return the splits inside a training file, or the dev and test files beside it."""
    if file.exists():
        inside = _splits_inside(file, detect_format(file))
        if inside != {"train": [file]}:
            return inside, []
    splits = {"train": [file]}
    split = split_of(file.name)
    if split in ("dev", "test"):
        return splits, [f"{file.name} is named like a {split} split, and is used to train since it was given"]
    if split == "train":
        siblings = []
        for path in _entries(file.parent)[0]:
            if path.suffix == file.suffix and path != file:
                siblings.append(path)
        for name in ("dev", "test"):
            sibling = _choose(siblings, name, set_of(file.name))
            if sibling is not None:
                splits[name] = [sibling]
    return splits, []


def _splits_inside(path: Path, detection: Detection) -> Splits:
    """Return the splits of a file that holds several (CLINC: `train`, `oos_train`; CLU), or the path itself to train on."""
    if detection.format not in ("clinc", "clu") or "#" in path.name:
        return {"train": [path]}
    names = clinc.splits(path) if detection.format == "clinc" else clu.splits(path)
    if names == [clu.TRAIN]:
        return {"train": [path]}
    splits: Splits = {}
    for split, words in SPLIT_WORDS.items():
        paths = []
        for name in names:
            if name.lower().endswith(words):
                paths.append(path.with_name(f"{path.name}#{name}"))
        if paths:
            splits[split] = paths
    if "train" not in splits:
        raise DataError(f"{path}: no split called train (it holds: {', '.join(names)}); name one: {path.name}#SPLIT")
    return splits


def _parquet_splits(folder: Path) -> tuple[Splits, list[str]]:
    """Return the Parquet files of a directory by the split in their names. Files without one are to train on."""
    splits: Splits = {}
    for file in sorted(folder.glob("*.parquet")):
        splits.setdefault(split_of(file.name) or "train", []).append(file)
    if set(splits) == {"train"}:
        return {"train": [folder]}, []
    return _with_train(folder, splits, [])


def _rasa_splits(folder: Path) -> tuple[Splits, list[str]]:
    """Return the files of a Rasa project with examples. Those below `tests`, or called so, are never to train on."""
    splits_by_entry: dict[Path, dict[Path, str]] = {}
    without_examples = []
    for file in rasa_files(folder):
        if holds_examples(file):
            entry = folder / file.relative_to(folder).parts[0]
            splits_by_entry.setdefault(entry, {})[file] = split_of_path(file, folder) or "train"
        else:
            without_examples.append(file)
    remarks = _passed_over(folder, [*without_examples, *_entries(folder)[1]], "no NLU examples")
    splits: Splits = {}
    for entry, split_by_file in splits_by_entry.items():
        names = set(split_by_file.values())
        if len(names) == 1:  # the directory stands for its files, and for those that will be added
            splits.setdefault(names.pop(), []).append(entry)
            continue
        for file, split in split_by_file.items():
            splits.setdefault(split, []).append(file)
    if set(splits) == {"train"}:
        return {"train": [folder]}, remarks
    if "train" not in splits:
        return _splits_in_folder(folder)
    splits = {split: splits[split] for split in SPLIT_WORDS if split in splits}
    return splits, [*_describe(folder, splits), *remarks]


def _splits_in_folder(folder: Path) -> tuple[Splits, list[str]]:
    """Return the files and directories that are named after a split, or the only data file."""
    entries, skipped = _entries(folder)
    usable: dict[Path, Path] = {}
    for entry in entries:
        if split_of(entry.name) is not None:
            path = _data_in(entry)
            if path is None:
                skipped.append(entry)
            else:
                usable[entry] = path
    splits: Splits = {}
    train = _choose(usable, "train", None)
    for split in SPLIT_WORDS:
        split_entry = (
            train if split == "train" else _choose(usable, split, None if train is None else set_of(train.name))
        )
        if split_entry is not None:
            splits[split] = [usable.pop(split_entry)]
    if not splits:
        remarks = _passed_over(folder, skipped, "no data")
        files = _data_files(entries)
        splits = _splits_by_ending(files)
        return _with_train(folder, splits, remarks) if splits else (_only_file(folder, entries, files), remarks)
    unnamed_files = []
    for entry in entries:
        if split_of(entry.name) is None and entry.is_file() and _try_detect(entry) is not None:
            unnamed_files.append(entry)
    if train is None and len(unnamed_files) == 1:
        splits = {"train": unnamed_files, **splits}
        unnamed_files = []
    remarks = _passed_over(folder, [*usable, *unnamed_files], "give its name to use it")
    remarks += _passed_over(folder, skipped, "no data")
    return _with_train(folder, splits, remarks)


def _data_files(entries: Iterable[Path]) -> dict[Path, Detection]:
    """Return the format of each data file of a directory."""
    files = {}
    for path in entries:
        detection = _try_detect(path) if path.is_file() else None
        if detection is not None:
            files[path] = detection
    return files


def _splits_by_ending(files: Iterable[Path]) -> Splits:
    """Return the files whose names differ by the split at their end alone, as `engtrain.bio` and `engtest.bio`."""
    stems = {path: path.stem.lower() for path in files}
    shortest = min(map(len, stems.values()), default=0)
    for start in range(1, shortest):
        if len({stem[:start] for stem in stems.values()}) > 1:
            break
        splits: Splits = {}
        for path, stem in stems.items():
            split = split_of(stem[start:])
            if split is not None:
                splits.setdefault(split, []).append(path)
        if "train" in splits and len(splits) == len(stems) > 1:
            return splits
    return {}


def _with_train(folder: Path, splits: Splits, remarks: list[str]) -> tuple[Splits, list[str]]:
    """Return the splits with one to train on, which is never the test split, and remarks on them.

    Raises:
        DataError: there is a test split only.
    """
    if "train" in splits:
        splits, format_remarks = _same_format(folder, splits)
        return splits, [*_describe(folder, splits), *format_remarks, *remarks]
    if "dev" not in splits:
        test = _listed(folder, splits["test"])
        raise DataError(
            f"{folder}: no training data, only a test split ({test}), which is not trained on. "
            "Give the training file; to train on the test split all the same, give its name."
        )
    dev_names = _listed(folder, splits["dev"])
    splits = {"train": splits.pop("dev"), **splits}
    note = f"no train split found: the dev split ({dev_names}) is used to train"
    return splits, [note, *_describe(folder, splits), *remarks]


def _same_format(folder: Path, splits: Splits) -> tuple[Splits, list[str]]:
    """Return the splits that have the format of train, since a data set has one format, and remarks on those left out."""
    train = splits["train"][0]
    detection = _try_detect(train)
    remarks = []
    for split, paths in list(splits.items()):
        split_detection = _try_detect(paths[0])
        if paths[0].suffix != train.suffix and detection is not None and split_detection != detection:
            del splits[split]
            remarks += _passed_over(folder, paths, f"not in the format of {train.name}; convert it: palm-train convert")
    return splits, remarks


def _describe(folder: Path, splits: Mapping[str, Sequence[Path]]) -> list[str]:
    """Return a remark that names the files of each split."""
    descriptions = []
    for split in SPLIT_WORDS:
        if split in splits:
            descriptions.append(f"{split} {_listed(folder, splits[split])}")
    return [f"splits by name: {'; '.join(descriptions)}"]


def _passed_over(folder: Path, paths: Sequence[Path], reason: str) -> list[str]:
    """Return a remark on files that are not used, none for no files."""
    return [f"passed over ({reason}): {_listed(folder, paths)}"] if paths else []


def _listed(folder: Path, paths: Iterable[Path]) -> str:
    """Return the names of paths below a folder, shortened."""
    names = []
    for path in paths:
        names.append(f"{path.relative_to(folder)}{'/' if path.is_dir() else ''}")
    remaining = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + remaining


def _only_file(folder: Path, entries: Iterable[Path], data_files: Mapping[Path, Detection]) -> Splits:
    """Return the splits inside the only data file of a directory.

    Plain text counts only if there is nothing else.

    Args:
        folder: the directory.
        entries: what is in it, for the message.
        data_files: its data files with their formats.
    """
    files = list(data_files.items())
    files = [(path, detection) for path, detection in files if detection.format != "text"] or files
    if len(files) == 1:
        return _splits_inside(*files[0])
    listed = ", ".join(f"{file.name} ({detection.format})" for file, detection in files[:_NAMED])
    folders = ", ".join(path.name for path in entries if path.is_dir())
    content = f"several data files ({listed})" if files else f"no data file of a known format{_reason(entries)}"
    if folders:
        content += f", and directories ({folders})"
    raise DataError(
        f"{folder}: {content}, none called train, dev or test "
        f"(a joint directory has {', '.join(FILES)}); name a file or directory in it"
    )


def _reason(entries: Iterable[Path]) -> str:
    """Return why the first file of a directory is no data, in brackets. Empty: there is no file."""
    for path in entries:
        if path.is_file():
            try:
                detect_format(path)
            except DataError as error:
                return f" ({error})"
    return ""


def _data_in(path: Path) -> Path | None:
    """Return a data file, a directory of a known format or its only file, or None where there is no data.

    Raises:
        DataError: a directory holds several data files.
    """
    if _try_detect(path) is not None:
        return path
    if not path.is_dir():
        return None
    files = []
    for entry in _entries(path)[0]:
        if entry.is_file() and _try_detect(entry) is not None:
            files.append(entry)
    if len(files) > 1:
        raise DataError(f"{path}: {len(files)} data files, not one; name a file in it")
    return files[0] if files else None


def _try_detect(path: Path) -> Detection | None:
    """Return the format of a path, or None where it is no data: of no known format, or YAML without NLU examples."""
    try:
        detection = detect_format(path)
    except DataError:
        return None
    is_other_yaml = detection.format == "rasa" and path.is_file() and not holds_examples(path)
    return None if is_other_yaml else detection


def _entries(folder: Path) -> tuple[list[Path], list[Path]]:
    """Return the entries of a directory that may be data, and those that programs use, both sorted.

    Hidden entries are left out of both.
    """
    entries = []
    program_entries = []
    for path in sorted(folder.iterdir()):
        if path.name.startswith("."):
            continue
        is_other = (path.suffix in _NO_DATA and not holds_examples(path)) or path.name.lower().startswith(
            _NO_DATA_NAMES
        )
        if path.is_dir() and is_program_folder(path):
            program_entries.append(path)
        elif not is_other:
            entries.append(path)
    return entries, program_entries


def _choose(paths: Iterable[Path], split: str, data_set: str | None) -> Path | None:
    """Return the path that is named after a split, or None.

    Args:
        paths: candidates.
        split: that the path is named after. Earlier words of it are preferred.
        data_set: name without the split, which is preferred among several. None: any.
    """
    candidates = [path for path in paths if split_of(path.name) == split]
    same_set = [path for path in candidates if data_set is None or set_of(path.name) == data_set]
    for word in SPLIT_WORDS[split]:
        for path in same_set or candidates:
            if word in path.name.lower():
                return path
    return None
