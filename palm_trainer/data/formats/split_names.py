"""Names of files and directories that tell the split of their rows, and directories that hold no data."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

SPLIT_WORDS = {
    "train": ("train", "training", "trial"),
    "dev": ("dev", "devel", "development", "valid", "validation", "validate", "val", "eval", "evaluation", "testa"),
    "test": ("test", "tests", "testing", "testb"),
}
"""Words of a name by split. CoNLL-2003 calls them `testa` and `testb`."""

_PROGRAM_FOLDERS = frozenset(
    ("node_modules", "__pycache__", "site-packages", "venv", "env", "models", "runs", "bundles", "build", "dist")
)
_BETWEEN_CASES = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


def _patterns() -> dict[str, re.Pattern[str]]:
    """Return a pattern of each split: one of its words between characters that are no letters, as in `wnut17train`."""
    patterns = {}
    for split, words in SPLIT_WORDS.items():
        patterns[split] = re.compile(rf"(?<![a-z])(?:{'|'.join(words)})(?:set|data)?(?![a-z])")
    return patterns


_PATTERNS = _patterns()


def split_of(name: str) -> str | None:
    """Return the split that a file or directory is named after, or None. The last word of a split counts."""
    spaced = _BETWEEN_CASES.sub("_", name).lower()
    last_start, last_split = -1, None
    for split, pattern in _PATTERNS.items():
        for match in pattern.finditer(spaced):
            if match.start() > last_start:
                last_start, last_split = match.start(), split
    return last_split


def names_splits(values: Sequence[object]) -> bool:
    """Return True if the values of a field are names of splits, that of train and another among them."""
    names = set()
    for value in values:
        if not isinstance(value, str):
            return False
        names.add(value.strip().lower())
    splits = set()
    for split, words in SPLIT_WORDS.items():
        if not names.isdisjoint(words):
            splits.add(split)
        names -= set(words)
    return not names and "train" in splits and len(splits) > 1


def set_of(name: str) -> str:
    """Return a name without the words of splits. Files of one data set have the same."""
    spaced = _BETWEEN_CASES.sub("_", name).lower()
    for pattern in _PATTERNS.values():
        spaced = pattern.sub("", spaced)
    return spaced


def split_of_path(path: Path, folder: Path) -> str | None:
    """Return the split of a file below a folder, by its name and the directories between. `test` goes before others."""
    splits = set(map(split_of, path.relative_to(folder).parts))
    for split in ("test", "dev", "train"):
        if split in splits:
            return split
    return None


def is_program_folder(path: Path) -> bool:
    """Return True for a hidden directory, or one that programs fill: it holds no data of the user."""
    return path.name.startswith(".") or path.name in _PROGRAM_FOLDERS


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subdirectories, sorted. Directories that programs fill are passed over."""
    for path in sorted(folder.iterdir()):
        if path.is_dir():
            if not is_program_folder(path) and not path.is_symlink():  # a link may lead back
                yield from walk_files(path)
        elif not path.name.startswith("."):
            yield path
