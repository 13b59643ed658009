"""Rows of Arrow tables, shared by Parquet files and Hugging Face datasets.

Columns are those of `palm_trainer.data.formats.rows`. Numbers of a `ClassLabel` are replaced by their
names. `columns` names the columns to read.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from palm_trainer.config.mappings import absent, first_repeated
from palm_trainer.data.example import Example
from palm_trainer.data.formats.json_values import parse_json
from palm_trainer.data.formats.rows import find_layout, row_example
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.errors import DataError


def examples(
    batches: Iterable[Any], schema: Any, path: object, options: FormatOptions, defects: Defects
) -> Iterator[Example]:
    """Yield the examples of record batches (or tables) with one schema, a row each, with `path: row N` as `source`.

    Args:
        batches: record batches or tables.
        schema: their Arrow schema.
        path: file or address, for messages.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: there is no text column, one of `columns` is missing, or a row is invalid in
            jsonl too.
    """
    available = list(schema.names)
    repeated = first_repeated(available)
    if repeated is not None:
        raise DataError(f"{path}: column '{repeated}' stands twice; rename one of them")
    missing = absent(options.columns, available)
    if missing:
        raise DataError(f"{path}: no column '{missing[0]}' (it has {', '.join(available)}); change `columns`")
    layout = find_layout(available, path, options, _class_names(schema, path))
    number = 0
    for batch in batches:
        for row in batch.to_pylist():
            number += 1
            yield row_example(row, layout, f"{path}: row {number}", options, defects)


def _class_names(schema: Any, path: object) -> dict[str, Sequence[str]]:
    """Return the names of ClassLabel columns and lists of them, from the metadata that `datasets` writes.

    Raises:
        DataError: the metadata has another structure.
    """
    features = _features((schema.metadata or {}).get(b"huggingface", b"{}"), path)
    class_names: dict[str, Sequence[str]] = {}
    for name, feature in features.items():
        element = feature.get("feature", feature) if isinstance(feature, dict) else {}
        names = element.get("names") if isinstance(element, dict) and element.get("_type") == "ClassLabel" else None
        if not names:
            continue
        if not isinstance(names, list) or not all(isinstance(label, str) for label in names):
            raise DataError(f"{path}: names of the classes of '{name}' must be a list of strings; write the file again")
        class_names[name] = names
    return class_names


def _features(metadata: bytes, path: object) -> dict[str, Any]:
    """Return the features that the metadata describes, by column."""
    fault = f"metadata `huggingface` of {path}"
    try:
        document = parse_json(metadata.decode(), str(path), "write the file again", subject=fault)
    except UnicodeDecodeError:
        raise DataError(f"{path}: {fault} is not UTF-8; write the file again") from None
    info = document.get("info", {}) if isinstance(document, dict) else None
    features = info.get("features") or {} if isinstance(info, dict) else None
    if not isinstance(features, dict):
        raise DataError(f"{path}: {fault} must hold an object `info.features`; write the file again")
    return features
