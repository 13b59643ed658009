"""Reading the files of a split into examples, with the defects found in them."""

from collections.abc import Mapping
from dataclasses import dataclass

from palm_serve.types import InputTexts
from palm_trainer.config.loader import DataConfig
from palm_trainer.data.divide import divide
from palm_trainer.data.example import Example
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.text_files import Defect, Defects, FormatOptions
from palm_trainer.data.found_values import FoundValues
from palm_trainer.data.pause_collection import pause_collection
from palm_trainer.data.review import apply_review
from palm_trainer.data.review_file import Review, read_reviews
from palm_trainer.errors import DataError

REPEATED = "text that occurred before (kept)"
CONTRADICTED = "text that occurred before with other labels (kept)"

_UNLABELLED_SPLITS = ("out_of_scope", "out_of_scope_train", "out_of_scope_test")
"""Splits without labels, which may be plain text files beside data of any other format."""


@dataclass(frozen=True, slots=True)
class Split:
    """Examples in the order of the files, and the defects that were repaired or noted."""

    examples: list[Example]
    defects: list[Defect]
    values: FoundValues | None = None
    """Values found beside the examples."""


class Splits:
    """Reads the splits of data sets, each file once.

    Args:
        data: the data sets of a configuration, by name.
        loaded: splits that are in memory already, by data set and split.
        seed: of the draw of `dev_share`. None: no data set has it.
    """

    def __init__(
        self,
        data: Mapping[str, DataConfig],
        loaded: Mapping[tuple[str, str], Split] | None = None,
        seed: int | None = None,
    ) -> None:
        self._data = data
        self._loaded = dict(loaded or {})
        self._seed = seed
        self._reviews: dict[str, Review] | None = None

    def data_sets(self, split: str) -> list[str]:
        """Return the data sets that have this split, in the order of the configuration."""
        configured = []
        for name, data in self._data.items():
            if split and data.paths(split):
                configured.append(name)
        in_memory = [name for name, loaded_split in self._loaded if loaded_split == split]
        return list(dict.fromkeys([*configured, *in_memory]))

    def read(self, data_set: str, split: str) -> Split:
        """Return a split.

        Reads its files on the first call. Raises DataError as `read_split` does.
        """
        key = (data_set, split)
        if key not in self._loaded:
            if self._reviews is None:
                self._reviews = read_reviews(self._data)
            review = self._reviews.get(data_set)
            for name, content in _read_splits(self._data[data_set], split, self._seed, review).items():
                self._loaded[data_set, name] = content
        return self._loaded[key]

    def examples(self, data_set: str, split: str) -> list[Example]:
        """Return the examples of a split. Raises DataError as `read_split` does."""
        return self.read(data_set, split).examples


def read_split(data: DataConfig, split: str, seed: int | None = None) -> Split:
    """Read all files of a split. A review is not applied.

    Args:
        data: configuration of the data set.
        split: `train`, `dev`, `test`, `out_of_domain`, `out_of_scope` or `out_of_scope_test`.
        seed: of the draw of `dev_share`. None: the data set has none.

    Raises:
        DataError: the data set has no such split, or a file cannot be used.
    """
    return _read_splits(data, split, seed)[split]


def _read_splits(data: DataConfig, split: str, seed: int | None, review: Review | None = None) -> dict[str, Split]:
    """Read a split, and with it the one that shares its files."""
    if not data.dev_share or split not in ("train", "dev"):
        return {split: _read_files(data, split, review)}
    if seed is None:
        raise ValueError("dev_share needs the seed of the run, got None. Pass `train.seed`.")
    content = _read_files(data, "train", review)
    shares = {"train": 1 - data.dev_share, "dev": data.dev_share}
    divided = divide(content.examples, shares, seed)
    row = f"row that dev_share = {data.dev_share:g} sets apart as dev, drawn with seed {seed}"
    drawn = Defect(row, len(divided["dev"]), divided["dev"][0].source)
    return {
        "train": Split(divided["train"], [*content.defects, drawn], content.values),
        "dev": Split(divided["dev"], []),
    }


def _read_files(data: DataConfig, split: str, review: Review | None) -> Split:
    """Read all files of a split, and change what a review says."""
    if not data.paths(split):
        raise DataError(f"the data set has no '{split}' files; add `{split} = ...` to its table in the configuration")
    defects = Defects()
    with pause_collection():
        examples = _parse_files(data, split, defects)
    if review is not None:
        examples = apply_review(examples, split, review, defects)
    _note_repeats(examples, defects)
    return Split(examples, list(defects), defects.values)


def _parse_files(data: DataConfig, split: str, defects: Defects) -> list[Example]:
    """Return the examples of all files of a split. Raise DataError for a file with neither an example nor a value."""
    options = FormatOptions(**data.options())
    examples: list[Example] = []
    for path in data.paths(split):
        count_before = len(examples) + defects.values.texts_read
        is_plain_text = split in _UNLABELLED_SPLITS and path.suffix == ".txt"
        parse = FORMATS["text" if is_plain_text else data.format]
        examples += parse(path, options, defects)
        if len(examples) + defects.values.texts_read == count_before:
            raise DataError(f"{path}: no example in it; a data file holds at least one")
    if not examples:
        raise DataError(f"{data.paths(split)[0]}: no example in it, only values; name a file with examples beside it")
    return examples


def _note_repeats(examples: list[Example], defects: Defects) -> None:
    first_by_text: dict[InputTexts, Example] = {}
    for example in examples:
        first = first_by_text.setdefault(example.inputs, example)
        if first is not example:
            defects.add(REPEATED if first.fields == example.fields else CONTRADICTED, example.source)
