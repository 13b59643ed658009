"""Which format a file has, and with which options it is read: by its name where that says it, else by its first lines."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from palm_trainer.data.formats.clinc import is_clinc
from palm_trainer.data.formats.columns import PAIR_COLUMNS, SKIPPED, TEXT_COLUMNS
from palm_trainer.data.formats.datasets import HUB, STATE
from palm_trainer.data.formats.joint import FILES
from palm_trainer.data.formats.palm_tsv import SEPARATOR, TAG_COLUMNS
from palm_trainer.data.formats.rasa import holds_examples, yaml_files
from palm_trainer.data.formats.squad import is_row
from palm_trainer.data.formats.text_files import FormatOptions, lines, load_json, read_text
from palm_trainer.errors import DataError

_SAMPLE_LINES = 2000
_TAG = re.compile(r"O|[BIESM]-\S+")
_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
"""Characters of scripts that are written without blanks."""


@dataclass(frozen=True, slots=True)
class Detection:
    """A format's name and the options that the file needs."""

    format: str
    options: FormatOptions = field(default_factory=FormatOptions)


def detect_format(path: Path) -> Detection:
    """Looks at a file or directory.

    Raises:
        DataError: missing, empty, not UTF-8, or a directory or JSON of no known format.
    """
    if path.is_dir():
        return _detect_directory(path)
    if path.parts[:1] == (HUB,):
        return Detection("datasets")
    if not path.exists() and "#" in path.name:
        return Detection("clinc")
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return Detection("parquet")
    if suffix == ".json":
        return _detect_json(path)
    if suffix in (".yml", ".yaml"):
        return Detection("rasa")
    sample = lines(read_text(path))[:_SAMPLE_LINES]
    filled = [line for line in sample if line.strip()]
    if suffix in (".jsonl", ".ndjson") or all(line.startswith("{") for line in filled):
        return Detection("jsonl")
    if any(SEPARATOR in line for line in filled):
        return Detection("palm", _palm_options(filled))
    if suffix == ".tsv" and all(map(is_row, filled)):
        return Detection("squad")
    without = _without_intents(sample)
    if _is_conll(without):
        side = ".intent" if path.with_name(path.name + ".intent").exists() else None
        options = _conll_options([line for line in without if line.strip()], side)
        return Detection("conll", replace(options, intent_line=len(without) < len(sample)))
    if suffix == ".csv":
        return Detection("csv")
    if all(line.count("\t") == filled[0].count("\t") > 0 for line in filled):
        return Detection("tsv", _tsv_options([line.split("\t") for line in filled]))
    if suffix == ".tsv":
        return Detection("tsv")
    return Detection("text")


def _detect_directory(path: Path) -> Detection:
    if all((path / name).is_file() for name in FILES):
        return Detection("joint")
    if (path / STATE).is_file():
        return Detection("datasets")
    if any(path.glob("*.parquet")):
        return Detection("parquet")
    if any(holds_examples(file) for file in yaml_files(path)):
        return Detection("rasa")
    raise DataError(
        f"{path}: a directory of no known format (joint: {', '.join(FILES)}; rasa: *.yml); name a file in it"
    )


def _detect_json(path: Path) -> Detection:
    value = load_json(path)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        return Detection("squad")
    if is_clinc(value):
        return Detection("clinc")
    if isinstance(value, list) and value and isinstance(value[0], dict):
        columns = tuple(key for key in value[0] if key != "id" and any(row.get(key) not in ("", None) for row in value))
        return Detection("json", FormatOptions(columns=columns))
    raise DataError(f"{path}: JSON of no known format (squad, clinc, an array of objects); convert it to jsonl")


def _without_intents(sample: Sequence[str]) -> list[str]:
    """The lines without the last ones of sentences, where all of these are one word that is no tag."""
    ended = [*sample[1:], "" if len(sample) < _SAMPLE_LINES else "more"]
    last = [i for i, line in enumerate(sample) if line.strip() and not ended[i].strip()]
    if not last or any(len(sample[i].split()) != 1 or _TAG.fullmatch(sample[i].strip()) for i in last):
        return list(sample)
    return [line for i, line in enumerate(sample) if i not in set(last)]


def _is_conll(sample: Sequence[str]) -> bool:
    """Whether nearly all lines end in a tag, with something before it."""
    rows = [line for line in sample if line.strip() and not line.startswith(("# ", "-DOCSTART-"))]
    tagged = [
        line
        for line in rows
        if re.search(r"\S|\s\s", line[:-1]) and _TAG.fullmatch(re.split(r"[\t ]", line.rstrip())[-1])
    ]
    return len(tagged) > 0.95 * len(rows) and any(not line.strip() for line in sample)


def _conll_options(filled: Sequence[str], intent_suffix: str | None) -> FormatOptions:
    rows = [line for line in filled if not line.startswith(("# ", "-DOCSTART-"))]
    words = [re.split(r"[\t ]", row)[0] for row in rows]
    tags = [re.split(r"[\t ]", row.rstrip())[-1] for row in rows]
    return FormatOptions(joiner=_joiner(words), scheme=_scheme(tags), intent_suffix=intent_suffix)


def _palm_options(filled: Sequence[str]) -> FormatOptions:
    header = filled[0].split("\t")
    columns: tuple[str, ...] = ()
    rows = [line.split("\t") for line in filled[1:]]
    if SEPARATOR in filled[0]:
        rows = [line.split("\t") for line in filled]
        joined = [i for i in range(len(header)) if any(SEPARATOR in row[i] for row in rows if i < len(row))]
        names = dict(zip(joined, ("text_a", "label"), strict=False))
        columns = tuple(names.get(i, SKIPPED) for i in range(len(header)))
    layout = columns or tuple(header)
    words = [
        word
        for row in rows
        for name, cell in zip(layout, row, strict=False)
        if name in TEXT_COLUMNS
        for word in cell.split(SEPARATOR)
    ]
    tags = [
        tag
        for row in rows
        for name, cell in zip(layout, row, strict=False)
        if name in TAG_COLUMNS
        for tag in cell.split(SEPARATOR)
    ]
    return FormatOptions(columns=columns, joiner=_joiner(words), scheme=_scheme(tags))


def _joiner(words: Sequence[str]) -> str:
    """Nothing where words are single characters of a script without blanks, else a blank."""
    wide = sum(bool(_WIDE.match(word)) for word in words)
    single = sum(len(word) <= 1 for word in words)
    return "" if wide > 0.5 * len(words) and single > 0.8 * len(words) else " "


def _scheme(tags: Sequence[str]) -> str:
    prefixes = {tag[0] for tag in tags if "-" in tag}
    if prefixes & {"E", "S"}:
        return "bmes" if "M" in prefixes else "bioes"
    previous = "O"
    lone = 0
    for tag in tags:
        lone += tag.startswith("I-") and previous[2:] != tag[2:]
        previous = tag
    begins = sum(tag.startswith("B-") for tag in tags)
    return "iob1" if lone > begins else "bio"


def _tsv_options(rows: Sequence[Sequence[str]]) -> FormatOptions:
    """Names the columns of a table without a header, and of one whose header names no text."""
    if any(name.strip() in TEXT_COLUMNS for name in rows[0]):
        return FormatOptions()
    body = rows[1:] or rows
    by_length = sorted(range(len(rows[0])), key=lambda i: -sum(len(row[i]) for row in body))
    distinct = [len({row[i] for row in body}) for i in range(len(rows[0]))]
    names = {by_length[0]: TEXT_COLUMNS[1]}
    rest = by_length[1:]
    if rest and distinct[rest[0]] > 0.5 * len(body) and sum(len(row[rest[0]]) for row in body) > 12 * len(body):
        names[rest.pop(0)] = PAIR_COLUMNS[0]
    classes = [i for i in rest if distinct[i] <= max(2, 0.2 * len(body))]
    if classes:
        names[min(classes, key=lambda i: (distinct[i] < 2, distinct[i]))] = "label"
    # A first line whose class never comes again is a header.
    label = next((i for i, name in names.items() if name == "label"), None)
    header = label is not None and rows[0][label] not in {row[label] for row in body}
    return FormatOptions(columns=tuple(names.get(i, SKIPPED) for i in range(len(rows[0]))), header=header or None)
