"""Hugging Face `datasets`: a split saved by `save_to_disk` (needs `pyarrow`), or a split on a hub (needs `datasets`).

A saved `DatasetDict` has a directory for each split: `train = "conll/train"`. A data set on a hub
is written `hf://OWNER/NAME#SPLIT`, or `hf://OWNER/NAME:CONFIGURATION#SPLIT`. The columns are those
of `palm_trainer.data.formats.arrow`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palm_serve.system.installation import how_to_install
from palm_trainer.data.example import Example
from palm_trainer.data.formats import arrow
from palm_trainer.data.formats.json_values import load_json
from palm_trainer.data.formats.parquet import arrow_errors, import_parquet
from palm_trainer.data.formats.text_files import Defects, FormatOptions, check_readable
from palm_trainer.errors import DataError

HUB = "hf:"
STATE, SPLITS = "state.json", "dataset_dict.json"
_ROWS = 1000
"""Rows of a record batch."""


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a split.

    Args:
        path: directory of a saved split, or `hf://OWNER/NAME#SPLIT`.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: a package is missing, there is no such data set or split, or as `arrow.examples`.
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
    """List the Arrow files of a saved split."""
    if (path / SPLITS).is_file():
        document = load_json(path / SPLITS)
        names = document.get("splits") if isinstance(document, dict) else None
        listed = ", ".join(f"{path}/{name}" for name in names) if isinstance(names, list) else f"{path}/SPLIT"
        raise DataError(f"{path}: a data set of several splits; name one: {listed}")
    if not (path / STATE).is_file():
        raise DataError(
            f"{path}: no {STATE}; format 'datasets' reads a directory written by save_to_disk, or hf://OWNER/NAME#SPLIT"
        )
    state = load_json(path / STATE)
    try:
        return [path / entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{path / STATE}: `_data_files` must be a list of objects with `filename` "
            f"({type(error).__name__}: {error}); save it again"
        ) from None


def _from_hub(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a split on a hub."""
    address = "/".join(path.parts[1:])
    url = f"hf://{address}"
    try:
        import datasets
    except ImportError:
        raise DataError(
            f"{url}: a data set of a hub needs the package datasets; to install it, {how_to_install('datasets')}"
        ) from None
    repository, _, split = address.partition("#")
    name, _, configuration = repository.partition(":")
    if not split:
        raise DataError(f"{url}: no split; write {url}#train")
    try:
        dataset: Any = datasets.load_dataset(name, configuration or None, split=split)
    except Exception as error:  # the hub's client raises many kinds, each with a message for the user
        raise DataError(f"{url}: cannot be loaded: {error}; check name, split and network (HF_ENDPOINT)") from error
    tables = dataset.with_format("arrow").iter(_ROWS)
    yield from arrow.examples(tables, dataset.features.arrow_schema, url, options, defects)
