"""Parquet: a file, or a directory of files.

The columns are those of `palm_trainer.data.formats.arrow`. Needs `pyarrow`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from palm_serve.system.installation import how_to_install
from palm_trainer.data.example import Example
from palm_trainer.data.formats import arrow
from palm_trainer.data.formats.text_files import Defects, FormatOptions, check_readable
from palm_trainer.errors import DataError


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, or of all `*.parquet` files of a directory in the order of their names.

    Args:
        path: file or directory to read.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: pyarrow is not installed, a file is missing or broken, or as `arrow.examples`.
    """
    parquet = import_parquet(path)
    files = sorted(path.glob("*.parquet")) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: no *.parquet file in this directory; name the file")
    for file in files:
        check_readable(file)
        try:
            with parquet.ParquetFile(file) as reader:
                batches = reader.iter_batches()
                yield from arrow.examples(batches, reader.schema_arrow, file, options, defects)
        except arrow_errors() as error:
            raise DataError(f"{file}: not a Parquet file, or a broken one: {error}; write it again") from None


def import_parquet(path: object) -> Any:
    """Import `pyarrow.parquet`. `path` is named in the message.

    Raises:
        DataError: pyarrow is not installed.
    """
    try:
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: Parquet needs the package pyarrow; to install it, {how_to_install('parquet')}"
        ) from None
    return pyarrow.parquet


def arrow_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that pyarrow raises for bytes that it cannot read."""
    import pyarrow

    return (pyarrow.ArrowException, OSError, ValueError, OverflowError)
