"""Files of one format -> a file of another, with an account of what the target does not hold."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.formats.text_fields import class_fields, span_fields
from palm_trainer.data.formats.text_files import Defect, Defects, FormatOptions
from palm_trainer.data.formats.writers import WRITERS
from palm_trainer.errors import DataError

TEXT_CHANGED = "text: its white space changed"
PAIR_LOST = "second text: left out"
WORDS_LOST = "words that the data was tagged on: left out or changed"
ROLES_LOST = "roles and groups of spans: left out"
_SUFFIXES = {
    ".jsonl": "jsonl",
    ".conll": "conll",
    ".csv": "csv",
    ".txt": "text",
    ".yml": "rasa",
    ".parquet": "parquet",
    "": "joint",
}


@dataclass(frozen=True, slots=True)
class ConversionReport:
    """What was done."""

    source_format: str
    target_format: str
    count: int
    """Examples written."""
    defects: list[Defect]
    """Of the source."""
    losses: list[Defect]
    """What the target does not hold: found by reading it back and comparing."""
    options: FormatOptions
    """With which the target is read."""


def convert(
    source: Path,
    target: Path,
    *,
    source_format: str | None = None,
    target_format: str | None = None,
    options: FormatOptions | None = None,
    field: str | None = None,
) -> ConversionReport:
    """Writes `target` (a file, or for `joint` a directory), which must not exist.

    Args:
        source: a file or directory of any format.
        target: what to write; its suffix tells the format where `target_format` does not.
        source_format: None: detected, with its options.
        target_format: one of `WRITERS`.
        options: how to read the source, where detection does not tell; `joiner` also holds for the target.
        field: the only field to write; its name becomes `label`, which PALM's readers want.

    Raises:
        DataError: a source that cannot be read, a target that exists, or one that cannot hold such data at all.
    """
    if target.with_name(target.name.partition("#")[0]).exists():
        raise DataError(f"{target}: exists; remove it or choose another target")
    if source_format is None:
        found = detect_format(source)
        source_format, options = found.format, options or found.options
    options = options or FormatOptions()
    if source_format not in FORMATS:
        raise DataError(f"{source}: unknown format '{source_format}'; known: {', '.join(FORMATS)}")
    defects = Defects()
    examples = list(FORMATS[source_format](source, options, defects))
    if not examples:
        raise DataError(f"{source}: no example in it; nothing to convert")
    written = [_select(example, field) for example in examples] if field else examples
    if field and not any(example.fields for example in written):
        known = ", ".join(dict.fromkeys(name for example in examples for name in example.fields)) or "none"
        raise DataError(f"{source}: no field '{field}'; known: {known}")
    chosen = target_format or _format_of(target, written)
    if chosen not in WRITERS:
        raise DataError(f"{target}: format '{chosen}' cannot be written; choose one of {', '.join(WRITERS)}")
    classes = class_fields(written)
    several = any(isinstance(e.fields.get(name), tuple) for e in written for name in classes)
    back = FormatOptions(joiner=options.joiner, label_separator=(options.label_separator or "#") if several else None)
    WRITERS[chosen](written, target, back)
    losses = _losses(examples, _read_back(chosen, target, back), field)
    return ConversionReport(source_format, chosen, len(examples), list(defects), losses, back)


def _read_back(form: str, target: Path, options: FormatOptions) -> list[Example]:
    try:
        return list(FORMATS[form](target, options, Defects()))
    except DataError as error:
        raise DataError(
            f"format '{form}' cannot hold these examples; what was written does not read: {error}. Choose format 'jsonl'"
        ) from None


def _select(example: Example, field: str) -> Example:
    return replace(example, fields={"label": example.fields[field]} if field in example.fields else {})


def _format_of(target: Path, examples: Sequence[Example]) -> str:
    if "#" in target.name:
        return "clinc"
    suffix = target.suffix.lower()
    if suffix == ".json":
        return "squad" if any(ANSWER in example.fields for example in examples) else "json"
    if suffix == ".tsv":
        return "palm" if span_fields(examples) else "tsv"
    if suffix not in _SUFFIXES:
        known = ", ".join([*filter(None, _SUFFIXES), ".json", ".tsv"])
        raise DataError(f"{target}: suffix '{suffix}' tells no format ({known}, none for joint); name the format")
    return _SUFFIXES[suffix]


def _losses(originals: Sequence[Example], copies: Sequence[Example], field: str | None) -> list[Defect]:
    losses = Defects()
    if len(originals) != len(copies):
        raise DataError(f"{len(copies)} of {len(originals)} examples could be read back; choose format 'jsonl'")
    for original, copy in zip(originals, copies, strict=True):
        where = original.source
        if original.text != copy.text:
            losses.add(TEXT_CHANGED, where)
        if original.pair != copy.pair:
            losses.add(PAIR_LOST, where)
        if original.words is not None and original.words != copy.words and original.text == copy.text:
            losses.add(WORDS_LOST, where)
        for name, value in original.fields.items():
            kept = copy.fields.get("label" if name == field else name)
            if kept is None:
                losses.add(f"field '{name}': left out or under another name", where)
            elif _values(_covered(original, name), value) != _values(_covered(copy, name), kept):
                losses.add(f"field '{name}': changed", where)
            elif _roles(value) != _roles(kept):
                losses.add(ROLES_LOST, where)
        for name in copy.fields:
            if name not in original.fields and (name != "label" or field not in original.fields):
                losses.add(f"field '{name}': made up, the source has none here under this name", where)
    return list(losses)


def _covered(example: Example, name: str) -> str:
    return example.pair if name == ANSWER and example.pair is not None else example.text


def _values(on: str, value: FieldValue) -> object:
    """What is compared: classes as they are, spans without roles and by the characters that they cover."""
    if isinstance(value, str):
        return value
    solid = [0]
    for character in on:
        solid.append(solid[-1] + (not character.isspace()))
    return [(solid[v.start], solid[v.end], v.label) if isinstance(v, LabelledSpan) else v for v in value]


def _roles(value: FieldValue) -> list[tuple[str, str]]:
    return [(item.role, item.group) for item in value if isinstance(item, LabelledSpan)]
