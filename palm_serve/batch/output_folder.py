"""The folder of the answers: parts that appear as a whole or not at all, and what each of them answers."""

import json
import socket
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from palm_serve.batch.files import is_url, open_file, remove, shown, write_whole, written_files
from palm_serve.batch.parts import Part
from palm_serve.errors import BatchError

_KEY = b"palm.batch"
"""Key of the metadata of a part."""
_SUCCESS = "_SUCCESS.json"
_SEEN_S = 30.0
"""Time after which a machine sees what another has written to a folder that they share."""


@dataclass(frozen=True, slots=True)
class WrittenPart:
    """A part of the answers. `facts` are what its answers depend on."""

    name: str
    rows: int
    errors: int
    facts: Mapping[str, Any]


def facts_of(input_part: Part, run_facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the answers of a part depend on.

    Args:
        input_part: the part.
        run_facts: what those of all parts depend on.
    """
    rows = {
        "file": input_part.file.name,
        "sha256": input_part.digest,
        "start": input_part.start,
        "end": input_part.end,
        "group": input_part.group,
    }
    return {**run_facts, "input": {**rows, "rows": input_part.rows}}


def write_part(folder: Path, input_part: Part, answers: pa.Table, facts: Mapping[str, Any]) -> WrittenPart:
    """Write the answers of a part, so that they are on disk as a whole or not at all.

    Args:
        folder: folder of the answers.
        input_part: the part.
        answers: its answers.
        facts: what they depend on.

    Raises:
        BatchError: the folder is not there.
        OSError: they cannot be written.
    """
    if not is_url(folder) and not folder.is_dir():
        raise BatchError(
            f"the output {folder} must be there until the run ends, got none on {socket.gethostname()}. All machines of a cluster "
            "must see the same folder."
        )
    errors = input_part.rows - answers.column("error").null_count
    content = json.dumps({**facts, "errors": errors}, sort_keys=True, ensure_ascii=False)
    buffer = pa.BufferOutputStream()
    table = answers.replace_schema_metadata({_KEY: content.encode()})
    pq.write_table(table, buffer, row_group_size=max(input_part.rows, 1))
    write_whole(folder / input_part.name, [buffer.getvalue()])
    return WrittenPart(input_part.name, input_part.rows, errors, facts)


def check_present(folder: Path, input_parts: Iterable[Part]) -> None:
    """Check that parts that others have written are in the folder of this machine. Raises BatchError."""
    if is_url(folder):  # what is written there is there for all at once
        return
    end = time.monotonic() + _SEEN_S
    for input_part in input_parts:
        while not (folder / input_part.name).exists():
            if time.monotonic() > end:
                raise BatchError(
                    f"{folder / input_part.name} was written by another machine, and is not here. All machines of a cluster must "
                    "see the same folder."
                )
            time.sleep(1.0)


def written_parts(folder: Path, input_parts: Iterable[Part]) -> dict[str, WrittenPart]:
    """Return the parts that the folder holds, by name.

    Raises:
        BatchError: the folder holds another Parquet file, or parts of other inputs.
    """
    expected = {input_part.name for input_part in input_parts}
    written = {}
    for path in written_files(folder):
        if path.suffix == ".parquet":
            name = path.relative_to(folder).as_posix()
            earlier = _read_facts(path, name)
            if name not in expected:
                raise BatchError(
                    f"{shown(path)} holds answers to rows of {earlier.facts['input']['file']} that are not in the input now. "
                    "Choose another output, or remove the file."
                )
            written[name] = earlier
    return written


def check_facts(folder: Path, written: WrittenPart, facts: Mapping[str, Any]) -> None:
    """Check that a part that exists has the answers that would be written now.

    Args:
        folder: folder of the answers.
        written: the part that exists.
        facts: what its answers would depend on now.

    Raises:
        BatchError: it has those of another bundle, of other options or of an input that has changed.
    """
    for key, value in facts.items():
        earlier_value = written.facts.get(key)
        if earlier_value != value:
            if key == "input":
                raise BatchError(
                    f"{value['file']} must be as it was when {shown(folder / written.name)} was written, and has changed, or --limit has. "
                    "Choose another output, or remove that part."
                )
            raise BatchError(
                f"{shown(folder / written.name)} must have the {key} {_shown(value)}, got {_shown(earlier_value)}. Choose another output."
            )


def write_success(folder: Path, facts: Mapping[str, Any], written: Iterable[WrittenPart]) -> None:
    """Write `_SUCCESS.json`: the last file, which says that the answers are complete, and what they are.

    Args:
        folder: folder of the answers.
        facts: what the answers of all parts depend on.
        written: all parts, in the order of the input.

    Raises:
        OSError: it cannot be written.
    """
    listed = []
    rows, errors = 0, 0
    for answered in written:
        digest = answered.facts["input"]["sha256"]
        listed.append({"file": answered.name, "rows": answered.rows, "errors": answered.errors, "input_sha256": digest})
        rows += answered.rows
        errors += answered.errors
    content = {**facts, "rows": rows, "errors": errors, "parts": listed}
    write_whole(folder / _SUCCESS, [(json.dumps(content, ensure_ascii=False, indent=2) + "\n").encode()])


def parts_of_success(folder: Path) -> list[str]:
    """Return the names of all parts of a complete run, in the order of the input."""
    with open_file(folder / _SUCCESS) as stream:
        content = json.load(stream)
    return [listed["file"] for listed in content["parts"]]


def remove_success(folder: Path) -> None:
    """Remove `_SUCCESS.json`: the answers are not complete any more."""
    remove(folder / _SUCCESS)


def _read_facts(path: Path, name: str) -> WrittenPart:
    try:
        with open_file(path) as stream:
            metadata = pq.read_metadata(stream)
        content = json.loads((metadata.metadata or {})[_KEY])
        errors = content.pop("errors")
    except (pa.ArrowException, OSError, KeyError, ValueError, AttributeError):
        raise BatchError(
            f"{shown(path)} must be a part that palm-serve batch wrote, got another file. Choose another output, or remove it."
        ) from None
    return WrittenPart(name, metadata.num_rows, errors, content)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
