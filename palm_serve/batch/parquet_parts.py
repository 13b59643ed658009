"""Parts of Parquet files: row groups, of which very large ones are divided."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from palm_serve.batch.files import open_file, shown
from palm_serve.batch.parts import FileState, InputFile, Part, Rows
from palm_serve.errors import BatchError, PalmServeError

_MOST_ROWS = 32_768
"""Rows of a part. A row group may have a million rows, and what is under way when a run is killed is computed again."""


def plan_parquet(files: Sequence[InputFile], names: Sequence[str] | None, limit: int | None) -> list[Part]:
    """Return the parts of Parquet files. A file is read whole, for its digest.

    Args:
        files: the files.
        names: columns to read. None: all.
        limit: largest number of rows. None: all rows.

    Raises:
        BatchError: a file cannot be read, or its columns are not those of the first file.
    """
    input_parts: list[Part] = []
    schema: pa.Schema | None = None
    remaining = limit
    for file in files:
        if remaining == 0:
            break
        state = FileState.of(file.path)
        with _errors_of(file.path), open_file(file.path) as stream, pq.ParquetFile(stream) as content:
            sizes = [content.metadata.row_group(group).num_rows for group in range(content.metadata.num_row_groups)]
            file_schema = _columns(content.schema_arrow, names, file.path)
        if schema is not None and not file_schema.equals(schema):
            raise BatchError(
                f"inputs must have the same columns, got {_types(schema)} in {shown(files[0].path)} and {_types(file_schema)} "
                f"in {shown(file.path)}. Name columns that are in both with --keep."
            )
        schema = file_schema
        digest = _file_digest(file.path)
        state.check(file.path)
        for number, (group, start, end) in enumerate(_ranges(sizes, remaining)):
            input_parts.append(Part(file, state, number, end - start, digest, schema, start, end, group))
            if remaining is not None:
                remaining -= end - start
    return input_parts


def read_parquet(input_part: Part) -> Rows:
    """Read the rows of a part.

    Raises:
        BatchError: the file cannot be read, or was changed since the parts were planned.
    """
    path = input_part.file.path
    with _errors_of(path), open_file(path) as stream, pq.ParquetFile(stream) as content:
        table = content.read_row_group(input_part.group, columns=input_part.schema.names).slice(
            input_part.start, input_part.rows
        )
        table = pa.Table.from_arrays(table.select(input_part.schema.names).columns, schema=input_part.schema)
    input_part.state.check(path)
    return Rows(table, {})


def _ranges(sizes: Sequence[int], limit: int | None) -> Iterator[tuple[int, int, int]]:
    """Yield row group, first row and the row after the last one of each part."""
    for group, size in enumerate(sizes):
        if limit is not None:
            size = min(size, limit)
            limit -= size
        for start in range(0, size, _MOST_ROWS):
            yield group, start, min(start + _MOST_ROWS, size)


def _columns(schema: pa.Schema, names: Sequence[str] | None, path: Path) -> pa.Schema:
    """Return the fields of the columns to read, without metadata."""
    fields = []
    for name in schema.names if names is None else names:
        positions = schema.get_all_field_indices(name)
        if len(positions) != 1:
            present = f"{len(positions)} of them" if positions else f"the columns {', '.join(schema.names)}"
            raise BatchError(
                f"{shown(path)} must have one column '{name}', got {present}. Name its columns: --text-column, --keep."
            )
        fields.append(schema.field(positions[0]).remove_metadata())
    return pa.schema(fields)


def _types(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema) or "none"


def _file_digest(path: Path) -> str:
    with open_file(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Report what pyarrow raises for bytes that it cannot read. Raises BatchError."""
    try:
        yield
    except PalmServeError:
        raise
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise BatchError(f"{shown(path)} must be a Parquet file that can be read: {error}. Write it again.") from None
