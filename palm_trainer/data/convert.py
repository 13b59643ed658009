"""Conversion of data files between formats, with a report of what the target format cannot hold."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from palm_trainer.config.atomic_files import NEW_SUFFIX, replace_file
from palm_trainer.data.conversion_losses import find_losses
from palm_trainer.data.divide import divide
from palm_trainer.data.example import Example, spans_in
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.formats.text_fields import class_fields, span_fields
from palm_trainer.data.formats.text_files import Defect, Defects, FormatOptions
from palm_trainer.data.formats.write_values import WRITE_VALUES, note_lost_values
from palm_trainer.data.formats.writers import HOLD_LISTS, WRITERS
from palm_trainer.data.found_values import FoundValues
from palm_trainer.errors import DataError

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".conll": "conll",
    ".csv": "csv",
    ".txt": "text",
    ".yml": "rasa",
    ".parquet": "parquet",
    ".spacy": "spacy",
    "": "joint",
}


_SUFFIXES_BY_FORMAT = {
    "jsonl": ".jsonl",
    "parquet": ".parquet",
    "joint": "",
    "conll": ".conll",
    "palm": ".tsv",
    "tsv": ".tsv",
    "csv": ".csv",
    "json": ".json",
    "squad": ".json",
    "rasa": ".yml",
    "text": ".txt",
    "label_studio": ".json",
    "doccano": ".jsonl",
    "prodigy": ".jsonl",
    "spacy": ".spacy",
}
"""Suffix of a file that holds one split. A file of `clinc` holds several."""
_SPLIT_SEED = 13


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """Result of a conversion.

    Args:
        source_format: format of the source.
        target_format: format of the target.
        count: number of examples written.
        defects: of the source.
        losses: content that the target does not hold, found by reading it back and comparing.
        options: options with which the target is read.
    """

    source_format: str
    target_format: str
    count: int
    defects: list[Defect]
    losses: list[Defect]
    options: FormatOptions


def convert(
    source: Path,
    target: Path,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    options: FormatOptions | None = None,
    field: str | None = None,
) -> ConversionReport:
    """Convert a file or directory to another format.

    Args:
        source: a file or directory of any format.
        target: file to write, or for `joint` a directory. It must not exist.
        source_format: None detects format and options.
        target_format: a key of `WRITERS`. None: by the suffix of `target`.
        options: how to read the source, if they are not detected. `joiner` also holds for the
            target.
        field: the only field to write. It is renamed to `label`, which PALM's readers expect.

    Raises:
        DataError: the source cannot be read, the target exists, or its format cannot hold such
            data.
    """
    _check_absent(target)
    content = _read(source, source_format, options)
    selected = _select_field(source, content.examples, field)
    target_format = _check_writable(target, target_format or _format_of(target, selected))
    target_options = _target_options(content.options, target_format, selected)
    draft = _Draft(target, target_format, target_options, content.examples, selected, field, content.values)
    losses = _write(draft)
    return ConversionReport(content.format, target_format, len(selected), list(content.defects), losses, target_options)


def convert_split(
    source: Path,
    folder: Path,
    shares: Mapping[str, float],
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    options: FormatOptions | None = None,
    field: str | None = None,
) -> dict[str, ConversionReport]:
    """Convert a file or directory to a directory with one file for each split.

    Args:
        source: a file or directory of any format.
        folder: directory to write. It must not exist.
        shares: share of the different texts by split, see `divide`.
        source_format: None detects format and options.
        target_format: a key of `WRITERS` whose files hold one split. None: jsonl.
        options: how to read the source, if they are not detected.
        field: the only field to write. It is renamed to `label`.

    Returns:
        Reports by split. The defects of the source are in the first.

    Raises:
        DataError: as `convert`, or a split gets no row.
    """
    _check_absent(folder)
    target_format = _check_writable(folder, target_format or "jsonl")
    if target_format not in _SUFFIXES_BY_FORMAT:
        allowed = ", ".join(_SUFFIXES_BY_FORMAT)
        raise DataError(f"{folder}: --to must be one of {allowed} with --split, got '{target_format}'. Choose one.")
    content = _read(source, source_format, options)
    target_options = _target_options(content.options, target_format, _select_field(source, content.examples, field))
    reports: dict[str, ConversionReport] = {}
    with _removed_on_failure(folder):
        for split, examples in divide(content.examples, shares, _SPLIT_SEED).items():
            selected = _rename_field(examples, field)
            target = folder / f"{split}{_SUFFIXES_BY_FORMAT[target_format]}"
            values = content.values if split == _split_with_values(shares) else None
            losses = _write(_Draft(target, target_format, target_options, examples, selected, field, values))
            defects = [] if reports else list(content.defects)
            reports[split] = ConversionReport(
                content.format, target_format, len(examples), defects, losses, target_options
            )
    return reports


@contextmanager
def _removed_on_failure(folder: Path) -> Iterator[None]:
    """Remove a new directory if what writes into it fails."""
    try:
        yield
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise


@dataclass(frozen=True)
class _Content:
    """Examples of a source, and how they were read."""

    format: str
    options: FormatOptions
    examples: list[Example]
    defects: Defects

    @property
    def values(self) -> FoundValues:
        """Values that the source holds beside its examples."""
        return self.defects.values


def _read(source: Path, source_format: str | None, options: FormatOptions | None) -> _Content:
    """Read a source. None for its format detects it."""
    if source_format is None:
        detection = detect_format(source)
        source_format = detection.format
        options = options or detection.options
    options = options or FormatOptions()
    if source_format not in FORMATS:
        raise DataError(f"{source}: unknown format '{source_format}'; known: {', '.join(FORMATS)}")
    defects = Defects()
    examples = list(FORMATS[source_format](source, options, defects))
    if not examples:
        raise DataError(f"{source}: no example in it; nothing to convert")
    return _Content(source_format, options, examples, defects)


def _check_absent(target: Path) -> None:
    if target.with_name(target.name.partition("#")[0]).exists():
        raise DataError(f"{target}: exists; remove it or choose another target")


def _check_writable(target: Path, target_format: str) -> str:
    """Return the format of a target. Raises DataError if it cannot be written."""
    if target_format not in WRITERS:
        raise DataError(f"{target}: format '{target_format}' cannot be written; choose one of {', '.join(WRITERS)}")
    return target_format


def _target_options(options: FormatOptions, target_format: str, examples: Sequence[Example]) -> FormatOptions:
    """Return the options with which a target is written and read."""
    joins_classes = target_format not in HOLD_LISTS and _has_several_classes(examples)
    separator = (options.label_separator or "#") if joins_classes else None
    return FormatOptions(joiner=options.joiner, label_separator=separator)


@dataclass(frozen=True)
class _Draft:
    """What is written to a target.

    Args:
        target: file or directory.
        format: its format.
        options: options with which it is read.
        examples: the examples with all fields.
        selected: they with the written fields.
        field: the only field that is written, renamed to `label`. None: all.
        values: values that the source holds beside its examples, or None.
    """

    target: Path
    format: str
    options: FormatOptions
    examples: Sequence[Example]
    selected: Sequence[Example]
    field: str | None
    values: FoundValues | None


def _split_with_values(shares: Mapping[str, float]) -> str:
    """Return the split whose file gets the values: `train`, whose values count, or the first."""
    return "train" if "train" in shares else next(iter(shares))


def _write(draft: _Draft) -> list[Defect]:
    """Write a target and return what it does not hold of the examples and the values."""
    slots = _span_labels(draft.selected)
    with _replaced_target(draft.target) as temporary:
        WRITERS[draft.format](draft.selected, temporary, draft.options)
        if draft.values and draft.format in WRITE_VALUES:
            WRITE_VALUES[draft.format](temporary, draft.values, slots)
        copies, copied_values = _read_back(draft.format, temporary, draft.options)
        losses = find_losses(draft.examples, copies, draft.field)
        if draft.values:
            note_lost_values(draft.values, copied_values, slots, draft.examples[0].source, losses)
        return list(losses)


def _span_labels(examples: Sequence[Example]) -> list[str]:
    """Return the labels of all spans, each once."""
    labels: dict[str, None] = {}
    for example in examples:
        for value in example.fields.values():
            labels.update(dict.fromkeys(span.label for span in spans_in(value)))
    return list(labels)


@contextmanager
def _replaced_target(target: Path) -> Iterator[Path]:
    """Yield the path to write to, which becomes the target on success. On failure nothing is left.

    Raises:
        DataError: the format cannot hold the examples.
        OSError: the target cannot be written. The error names it.
    """
    name, mark, split = target.name.partition("#")
    file = target.with_name(name)
    try:
        with replace_file(file) as temporary:
            yield temporary.with_name(temporary.name + mark + split)
    except DataError as error:
        raise DataError(str(error).replace(name + NEW_SUFFIX, name)) from None
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(file)) from error


def _select_field(source: Path, examples: Sequence[Example], field: str | None) -> Sequence[Example]:
    """Return the examples with one field, renamed to `label`; all fields if `field` is None."""
    if field and not any(field in example.fields for example in examples):
        names: dict[str, None] = {}
        for example in examples:
            names.update(dict.fromkeys(example.fields))
        raise DataError(f"{source}: no field '{field}'; known: {', '.join(names) or 'none'}")
    return _rename_field(examples, field)


def _rename_field(examples: Sequence[Example], field: str | None) -> Sequence[Example]:
    """Return the examples with one field, renamed to `label`; all fields if `field` is None."""
    if not field:
        return examples
    selected = []
    for example in examples:
        fields = {"label": example.fields[field]} if field in example.fields else {}
        selected.append(replace(example, fields=fields))
    return selected


def _has_several_classes(examples: Sequence[Example]) -> bool:
    """Return True if a class field of an example holds a tuple of classes."""
    value_types = set()
    for name in class_fields(examples):
        for example in examples:
            value_types.add(type(example.fields.get(name)))
    return tuple in value_types


def _read_back(format_name: str, target: Path, options: FormatOptions) -> tuple[list[Example], FoundValues]:
    """Return the examples and the values of a file that was written."""
    defects = Defects()
    try:
        return list(FORMATS[format_name](target, options, defects)), defects.values
    except DataError as error:
        raise DataError(
            f"format '{format_name}' cannot hold these examples: the written file cannot be read: {error}. "
            "Choose format 'jsonl'"
        ) from None


def _format_of(target: Path, examples: Sequence[Example]) -> str:
    """Return the format for the suffix of a target."""
    if "#" in target.name:
        return "clinc"
    suffix = target.suffix.lower()
    if suffix == ".json":
        return "squad" if any(ANSWER in example.fields for example in examples) else "json"
    if suffix == ".tsv":
        return "palm" if span_fields(examples) else "tsv"
    if suffix not in _SUFFIXES:
        suffixes = ", ".join([*filter(None, _SUFFIXES), ".json", ".tsv"])
        raise DataError(f"{target}: suffix '{suffix}' tells no format ({suffixes}, none for joint); name the format")
    return _SUFFIXES[suffix]
