"""Parts of JSON Lines, CSV and text files: some thousand rows each. What cannot be read of a row becomes its fault."""

import codecs
import csv
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from palm_serve.batch.files import open_file, shown
from palm_serve.batch.parts import FileState, InputFile, Part, Rows
from palm_serve.bundle.strict_json import parse_json
from palm_serve.errors import BatchError, InvalidRequest, check_unicode
from palm_serve.system.files import other_encoding

_MOST_ROWS = 4096
"""Rows of a part."""
_LONGEST_FIELD = 1 << 26
"""Characters of a field of CSV. Without a limit, a quote that nothing closes takes the rest of the file into memory."""
_OPEN_QUOTE = "unexpected end of data"
"""Message of Python's strict reader for a file that ends within quotes."""
_INT64 = range(-(2**63), 2**63)

Values = dict[str, Any]


@dataclass(slots=True)
class Row:
    """One row: its columns, or the fault because of which there are none, and where it ends in its file."""

    values: Values | None
    fault: str
    end: int
    lines: int
    """Lines of the file up to the end of the row."""


@dataclass(slots=True)
class _Lines:
    """Lines of a file from one byte on. Counts bytes and lines, also while a reader of CSV takes several for one row."""

    file: InputFile
    position: int
    end: int | None
    number: int
    digest: Any = field(default_factory=hashlib.sha256)
    is_broken: bool = False
    """True if a line since the last row was not UTF-8."""

    def __iter__(self) -> Iterator[str]:
        with open_file(self.file.path) as stream:
            stream.seek(self.position)
            for line in stream:
                if self.end is not None and self.position >= self.end:
                    return
                if self.position == 0:
                    _check_first_line(line, self.file)
                self.position += len(line)
                self.number += 1
                self.digest.update(line)
                while line.startswith(codecs.BOM_UTF8):  # at the beginning of a line where files were joined
                    line = line[len(codecs.BOM_UTF8) :]
                try:
                    yield line.decode()
                except UnicodeDecodeError:
                    self.is_broken = True
                    yield line.decode(errors="replace")


def _check_first_line(line: bytes, file: InputFile) -> None:
    """Check that a file is not UTF-16 or UTF-32, and no single line with the line ends of old Macs, which would be one row.

    Raises:
        BatchError: it is.
    """
    encoding = other_encoding(line)
    if encoding:
        raise BatchError(f"{shown(file.path)}:1 must be UTF-8, got {encoding}. Save the file as UTF-8.")
    if b"\n" not in line and b"\r" in line.rstrip(b"\r"):
        raise BatchError(
            f"{shown(file.path)}: lines must end with LF or CRLF, got CR alone. "
            "Convert the file: tr '\\r' '\\n' < FILE > CONVERTED."
        )


def plan_lines(
    files: Sequence[InputFile], names: Sequence[str] | None, texts: Sequence[str], limit: int | None
) -> list[Part]:
    """Return the parts of files of lines. They are read whole, for their digests, and for the types of JSON's columns.

    Args:
        files: files of one format.
        names: columns to read. None: all.
        texts: names of the columns of texts, which are strings.
        limit: largest number of rows. None: all rows.

    Raises:
        BatchError: no row of a file has one of `names`, a file is no CSV, or no row of any can be read.
    """
    types: dict[str, set[type]] = {}
    first_fault = ""
    drafts: list[tuple[InputFile, FileState, list[tuple[int, int, int, int, str]]]] = []
    remaining = limit
    for file in files:
        state = FileState.of(file.path)
        ranges = []
        types_of_file: dict[str, set[type]] = {}
        lines = _Lines(file, 0, None, 0)
        start, before, rows = 0, 0, 0
        if remaining != 0:
            for row in _read_rows(lines, texts[0], None):
                rows += 1
                remaining = None if remaining is None else remaining - 1
                _collect_types(types_of_file, row.values or {})
                first_fault = first_fault or row.fault
                if rows == _MOST_ROWS or remaining == 0:
                    ranges.append((start, row.end, before, rows, lines.digest.hexdigest()))
                    start, before, rows = row.end, row.lines, 0
                    lines.digest = hashlib.sha256()
                if remaining == 0:
                    break
            if rows:
                ranges.append((start, lines.position, before, rows, lines.digest.hexdigest()))
        state.check(file.path)
        for name in names or texts:
            if types_of_file and name not in types_of_file:
                raise BatchError(
                    f"{shown(file.path)}: no row has the column '{name}'; there are: {', '.join(types_of_file)}. "
                    "Name its columns: --text-column, --keep."
                )
        for name, value_types in types_of_file.items():
            types.setdefault(name, set()).update(value_types)
        drafts.append((file, state, ranges))
    if first_fault and not types:
        raise BatchError(f"no row of the input can be read. The first one: {first_fault}")
    schema = _schema(types, names, texts)
    input_parts = []
    for file, state, ranges in drafts:
        for number, (start, end, before, rows, digest) in enumerate(ranges):
            input_parts.append(Part(file, state, number, rows, digest, schema, start, end, before))
    return input_parts


def read_lines(input_part: Part, texts: Sequence[str]) -> Rows:
    """Read the rows of a part.

    Args:
        input_part: the part.
        texts: names of the columns of texts. A row whose text is no string has a fault.

    Raises:
        BatchError: the file was changed since the parts were planned.
    """
    header = None
    if input_part.start and input_part.file.format in ("csv", "tsv"):
        first_lines = _Lines(input_part.file, 0, None, 0)
        header = _read_header(_csv_rows(first_lines, input_part.file), first_lines)
    columns: dict[str, list[Any]] = {name: [] for name in input_part.schema.names}
    faults: dict[int, str] = {}
    lines = _Lines(input_part.file, input_part.start, input_part.end, input_part.group)
    for position, row in enumerate(_read_rows(lines, texts[0], header)):
        fault = row.fault
        for column in input_part.schema:
            value = (row.values or {}).get(column.name)
            if column.name in texts and row.values is not None:
                fault = fault or _text_fault(value, "text" if column.name == texts[0] else "text_pair")
            columns[column.name].append(_convert(value, column.type, is_text=column.name in texts))
        if fault:
            faults[position] = fault
    input_part.state.check(input_part.file.path)
    arrays = [pa.array(columns[column.name], column.type) for column in input_part.schema]
    return Rows(pa.table(arrays, schema=input_part.schema), faults)


def _read_rows(lines: _Lines, text_column: str, header: list[str] | None) -> Iterator[Row]:
    """Yield the rows of some lines."""
    file_format = lines.file.format
    if file_format in ("csv", "tsv"):
        return _table_rows(lines, header)
    read: Callable[[str, str], Values] = _read_object if file_format == "jsonl" else _read_text(text_column)
    return _line_rows(lines, read, skip_blank=file_format == "jsonl")


def _line_rows(lines: _Lines, read: Callable[[str, str], Values], *, skip_blank: bool) -> Iterator[Row]:
    for line in lines:
        if skip_blank and not line.strip():
            continue
        place = f"{lines.file.name}:{lines.number}"
        if lines.is_broken:
            yield Row(None, _not_unicode(lines), lines.position, lines.number)
            continue
        try:
            yield Row(read(line, place), "", lines.position, lines.number)
        except ValueError as error:
            yield Row(None, str(error), lines.position, lines.number)


def _not_unicode(lines: _Lines) -> str:
    lines.is_broken = False
    return f"{lines.file.name}:{lines.number} must be UTF-8, got another encoding. Encode the file as UTF-8."


def _read_text(column: str) -> Callable[[str, str], Values]:
    return lambda line, place: {column: line.rstrip("\r\n")}


def _read_object(line: str, place: str) -> Values:
    try:
        row = parse_json(line)
    except ValueError as error:
        raise ValueError(f"{place} must be a JSON object on one line: {error}. Correct the line.") from None
    if not isinstance(row, dict):
        raise ValueError(f"{place} must be a JSON object, got {type(row).__name__}. Correct the line.")
    return row


def _table_rows(lines: _Lines, header: list[str] | None) -> Iterator[Row]:
    records = _csv_rows(lines, lines.file)
    names = header or _read_header(records, lines)
    for record in records:
        if not record:
            continue
        if lines.is_broken:
            yield Row(None, _not_unicode(lines), lines.position, lines.number)
        elif len(record) != len(names):
            fault = (
                f"{lines.file.name}:{lines.number} must have {len(names)} fields as the header, got {len(record)}. "
                "Put fields that hold a separator in quotes."
            )
            yield Row(None, fault, lines.position, lines.number)
        else:
            yield Row(dict(zip(names, record, strict=True)), "", lines.position, lines.number)


def _csv_rows(lines: _Lines, file: InputFile) -> Iterator[list[str]]:
    """Yield the records of CSV lines.

    Raises:
        BatchError: they are no CSV, or the last record ends within quotes, which may have taken many others into it.
    """
    csv.field_size_limit(max(csv.field_size_limit(), _LONGEST_FIELD))
    delimiter = "\t" if file.format == "tsv" else ","
    record_lines: list[str] = []
    """Lines of the record that is being read."""
    last_lines: list[str] = []

    def noted_lines() -> Iterator[str]:
        for line in lines:
            record_lines.append(line)
            yield line

    try:
        for record in csv.reader(noted_lines(), delimiter=delimiter):
            last_lines[:] = record_lines
            record_lines.clear()
            yield record
    except csv.Error as error:
        raise BatchError(f"{shown(file.path)}:{lines.number} must be CSV: {error}. Correct the line.") from None
    _check_quotes(last_lines, delimiter, f"{shown(file.path)}:{lines.number - len(last_lines) + 1}")


def _check_quotes(record: Sequence[str], delimiter: str, place: str) -> None:
    """Check that the last record of a file has not ended within quotes, which takes all lines behind them into a field.

    Args:
        record: its lines.
        delimiter: between its fields.
        place: `file:line` of its first line.

    Raises:
        BatchError: it has.
    """
    try:
        for _ in csv.reader(record, delimiter=delimiter, strict=True):
            pass
    except csv.Error as error:
        if str(error) == _OPEN_QUOTE:  # other faults do not change what the fields hold
            raise BatchError(
                f"{place} must be CSV, got a quotation mark that nothing closes. Double the quotation marks inside of fields."
            ) from None


def _read_header(records: Iterator[list[str]], lines: _Lines) -> list[str]:
    names = next(records, [])
    if lines.is_broken:
        raise BatchError(_not_unicode(lines))
    if len(set(names)) != len(names):
        raise BatchError(
            f"{shown(lines.file.path)}:1 must name each column once, got {', '.join(names)}. Rename columns."
        )
    return names


def _collect_types(types: dict[str, set[type]], values: Values) -> None:
    for name, value in values.items():
        value_types = types.setdefault(name, set())
        if value is not None:
            is_long = type(value) is int and value not in _INT64
            value_types.add(object if is_long else type(value))


def _schema(types: dict[str, set[type]], names: Sequence[str] | None, texts: Sequence[str]) -> pa.Schema:
    """Return the columns to read. Values of several types, lists and objects are kept as JSON in strings."""
    kinds = {bool: pa.bool_(), int: pa.int64(), float: pa.float64()}
    fields = []
    for name in types if names is None else names:
        value_types = types.get(name, set())
        kind = pa.string()
        if name not in texts:
            if value_types == {int, float}:
                kind = pa.float64()
            elif len(value_types) == 1:
                kind = kinds.get(next(iter(value_types)), kind)
        fields.append(pa.field(name, kind))
    return pa.schema(fields)


def _text_fault(value: Any, name: str) -> str:
    """Return why a value cannot be a text. Empty: it can, or it is null, which has its own message."""
    if value is None:
        return ""
    if not isinstance(value, str):
        return f"{name} must be a string, got {type(value).__name__}. Put it in quotes."
    try:
        check_unicode(value, name)
    except InvalidRequest as error:
        return str(error)
    return ""


def _convert(value: Any, kind: pa.DataType, *, is_text: bool) -> Any:
    """Return a value as its column holds it. A text that is none is null."""
    if value is not None and kind == pa.float64():
        return float(value)  # Arrow refuses integers that a float only holds rounded
    if value is None or kind != pa.string():
        return value
    if not isinstance(value, str):
        return None if is_text else json.dumps(value, ensure_ascii=False)
    return value.encode(errors="replace").decode()
