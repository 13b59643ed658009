"""Hugging Face `datasets`: a split saved by `save_to_disk` (needs `pyarrow`), or one of a hub (needs `datasets`).

A saved `DatasetDict` has a directory for each split: `train = "conll/train"`. A data set of a hub is written
`hf://OWNER/NAME#SPLIT`, or `hf://OWNER/NAME:CONFIGURATION#SPLIT`. The columns are those of
`palm_trainer.data.formats.arrow`.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palm_trainer.data.example import Example
from palm_trainer.data.formats import arrow
from palm_trainer.data.formats.parquet import arrow_errors, import_parquet
from palm_trainer.data.formats.text_files import Defects, FormatOptions, check_readable
from palm_trainer.errors import DataError

HUB = "hf:"
STATE, SPLITS = "state.json", "dataset_dict.json"
_ROWS = 1000


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the split.

    Raises:
        DataError: a package is missing, no such data set or split, or as `arrow.examples`.
    """
    if path.parts[:1] == (HUB,):
        yield from _from_hub(path, options, defects)
        return
    import_parquet(path)
    import pyarrow.ipc

    for file in _saved_files(path):
        check_readable(file)
        try:
            with pyarrow.memory_map(str(file)) as source, pyarrow.ipc.open_stream(source) as stream:
                yield from arrow.examples(stream, stream.schema, file, options, defects)
        except arrow_errors() as error:
            raise DataError(f"{file}: not an Arrow file, or a broken one: {error}; save it again") from None


def _saved_files(path: Path) -> list[Path]:
    if (path / SPLITS).is_file():
        names = json.loads((path / SPLITS).read_text(encoding="utf-8")).get("splits", [])
        raise DataError(f"{path}: a data set of several splits; name one: {', '.join(f'{path}/{n}' for n in names)}")
    if not (path / STATE).is_file():
        raise DataError(
            f"{path}: no {STATE}; format 'datasets' reads a directory written by save_to_disk, or hf://OWNER/NAME#SPLIT"
        )
    state = json.loads((path / STATE).read_text(encoding="utf-8"))
    return [path / entry["filename"] for entry in state["_data_files"]]


def _from_hub(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    name = f"hf://{'/'.join(path.parts[1:])}"
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{name}: a data set of a hub needs the package datasets; install it with: pip install 'palm-nlu[datasets]'"
        ) from None
    whole, _, split = "/".join(path.parts[1:]).partition("#")
    identity, _, configuration = whole.partition(":")
    if not split:
        raise DataError(f"{name}: no split; write {name}#train")
    try:
        found: Any = datasets.load_dataset(identity, configuration or None, split=split)
    except Exception as error:  # the hub's client raises many kinds, each with a message for the user
        raise DataError(f"{name}: cannot be loaded: {error}; check name, split and network (HF_ENDPOINT)") from error
    tables = found.with_format("arrow").iter(_ROWS)
    yield from arrow.examples(tables, found.features.arrow_schema, name, options, defects)
