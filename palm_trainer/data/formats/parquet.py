"""Parquet: a file, or a directory of them. The columns are those of `palm_trainer.data.formats.arrow`. Needs `pyarrow`."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palm_trainer.data.example import Example
from palm_trainer.data.formats import arrow
from palm_trainer.data.formats.text_files import Defects, FormatOptions, check_readable
from palm_trainer.errors import DataError


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the file, or of all `*.parquet` files of a directory in the order of their names.

    Raises:
        DataError: pyarrow is not installed, no or a broken file, or as `arrow.examples`.
    """
    pq = import_parquet(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no *.parquet file in this directory; name the file")
    for file in files:
        check_readable(file)
        try:
            with pq.ParquetFile(file) as opened:
                batches = opened.iter_batches(columns=list(options.columns) or None)
                yield from arrow.examples(batches, opened.schema_arrow, file, options, defects)
        except arrow_errors() as error:
            raise DataError(f"{file}: not a Parquet file, or a broken one: {error}; write it again") from None


def import_parquet(path: object) -> Any:
    """`pyarrow.parquet`. Raises DataError where it is not installed."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: Parquet needs the package pyarrow; install it with: pip install 'palm-nlu[parquet]'"
        ) from None
    return pyarrow.parquet


def arrow_errors() -> tuple[type[Exception], ...]:
    """What pyarrow raises for bytes that it cannot read."""
    import pyarrow

    return (pyarrow.ArrowException, OSError)
