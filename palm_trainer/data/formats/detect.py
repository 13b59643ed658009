"""Detection of file formats and their options: by the name if it tells the format, else by the first lines."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from palm_trainer.data.formats import dialogflow_cx, dialogflow_es
from palm_trainer.data.formats.alexa import is_alexa
from palm_trainer.data.formats.clinc import is_clinc
from palm_trainer.data.formats.clu import is_clu
from palm_trainer.data.formats.columns import TEXT_COLUMNS
from palm_trainer.data.formats.conll import numbers_tokens
from palm_trainer.data.formats.datasets import HUB, STATE
from palm_trainer.data.formats.detect_tables import csv_options, header_delimiter, named_columns, tsv_options
from palm_trainer.data.formats.doccano import is_doccano
from palm_trainer.data.formats.joint import FILES
from palm_trainer.data.formats.json_values import load_json, parse_json
from palm_trainer.data.formats.label_studio import is_label_studio
from palm_trainer.data.formats.lex import has_bot
from palm_trainer.data.formats.luis import is_luis
from palm_trainer.data.formats.palm_tsv import SEPARATOR, TAG_COLUMNS
from palm_trainer.data.formats.prodigy import is_prodigy
from palm_trainer.data.formats.project_files import ProjectFiles
from palm_trainer.data.formats.rasa import holds_examples, rasa_files
from palm_trainer.data.formats.rasa_json import is_rasa_json
from palm_trainer.data.formats.rasa_markdown import is_markdown
from palm_trainer.data.formats.snips import is_snips
from palm_trainer.data.formats.spacy_docs import SUFFIX
from palm_trainer.data.formats.squad import is_row
from palm_trainer.data.formats.tags import TAG, guess_scheme
from palm_trainer.data.formats.text_files import FormatOptions, read_text, split_lines
from palm_trainer.data.formats.unread import check_unlabelled
from palm_trainer.data.formats.wit import has_app, is_wit
from palm_trainer.errors import DataError

_SAMPLE_LINES = 2000
_SAMPLE_ROWS = 100
_WIDE = re.compile(r"[\u2e80-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
"""Characters of scripts that are written without blanks."""
_NOT_ROWS = ("# ", "-DOCSTART-")
"""Start of CoNLL lines without a token."""


@dataclass(frozen=True, slots=True)
class Detection:
    """Name of a format, and the options that the file needs."""

    format: str
    options: FormatOptions = field(default_factory=FormatOptions)


def detect_format(path: Path) -> Detection:
    """Detect the format of a file or directory.

    Raises:
        DataError: it is missing, empty or not UTF-8, or a directory or JSON file of no known
            format.
    """
    if path.is_dir():
        return _detect_directory(path)
    if path.parts[:1] == (HUB,):
        return Detection("datasets")
    if not path.exists() and "#" in path.name:
        return _detect_split(path)
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return Detection("parquet")
    if suffix == SUFFIX:
        return Detection("spacy")
    if suffix == ".json":
        return _detect_json(path)
    if suffix == ".zip":
        project = _detect_project(path)
        if not project:
            raise DataError(
                f"{path}: a zip file of no known product (Dialogflow, Lex, Wit); unpack it, and give the data in it"
            )
        return Detection(project)
    if suffix in (".yml", ".yaml"):
        return Detection("rasa")
    return _detect_text(path, suffix)


def _detect_text(path: Path, suffix: str) -> Detection:
    """Detect the format of a text file by its first lines."""
    text = read_text(path)
    if is_markdown(text):
        return Detection("rasa")
    sample = split_lines(text)[:_SAMPLE_LINES]
    filled = list(filter(str.strip, sample))
    if suffix in (".jsonl", ".ndjson") or all(line.startswith("{") for line in filled):
        return _detect_lines(filled)
    if any(SEPARATOR in line for line in filled):
        return Detection("palm", _palm_options(filled))
    if suffix == ".tsv" and all(map(is_row, filled)):
        return Detection("squad")
    if _tags_come_first(sample):
        tags = [line.split()[0] for line in _token_rows(sample)]
        options = FormatOptions(scheme=guess_scheme(tags), token_column=2, tag_column=1)
        return Detection("conll", options)
    token_lines = _without_intents(sample)
    if _is_conll(token_lines) or suffix in (".conll", ".conllu"):
        intent_suffix = ".intent" if path.with_name(path.name + ".intent").exists() else None
        options = _conll_options(token_lines, intent_suffix)
        return Detection("conll", replace(options, intent_line=len(token_lines) < len(sample)))
    try:
        if suffix == ".csv":
            return Detection("csv", csv_options(filled))
        if all(line.count("\t") == filled[0].count("\t") > 0 for line in filled):
            return Detection("tsv", tsv_options([line.split("\t") for line in filled]))
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    if suffix == ".tsv":
        return Detection("tsv")
    delimiter = header_delimiter(filled)
    if delimiter is not None:
        return Detection("csv", FormatOptions(delimiter=None if delimiter == "," else delimiter))
    check_unlabelled(path, filled)
    return Detection("text")


def _detect_lines(lines: Sequence[str]) -> Detection:
    """Detect the format of JSON lines: of an annotation tool if the first that can tell is such a line, else jsonl."""
    for line in lines[:_SAMPLE_ROWS]:
        try:
            row = parse_json(line, "", "", is_line=True)
        except DataError:  # the reader says so with its place
            break
        if isinstance(row, dict) and is_prodigy(row):
            return Detection("prodigy")
        if isinstance(row, dict) and is_doccano(row):
            return Detection("doccano")
    return Detection("jsonl")


def _detect_directory(path: Path) -> Detection:
    if all((path / name).is_file() for name in FILES):
        return Detection("joint")
    if (path / STATE).is_file():
        return Detection("datasets")
    if any(path.glob("*.parquet")):
        return Detection("parquet")
    project = _detect_project(path)
    if project:
        return Detection(project)
    if any(holds_examples(file) for file in rasa_files(path)):
        return Detection("rasa")
    raise DataError(
        f"{path}: a directory of no known format (joint: {', '.join(FILES)}; rasa: *.yml); name a file in it"
    )


def _detect_split(path: Path) -> Detection:
    """Detect the format of a file with several splits, of which the path names one after `#`."""
    file = path.with_name(path.name.partition("#")[0])
    return Detection("clu" if file.is_file() and detect_format(file).format == "clu" else "clinc")


_JSON_FORMATS: tuple[tuple[str, Callable[[object], bool]], ...] = (
    ("luis", is_luis),
    ("clu", is_clu),
    ("dialogflow_es", dialogflow_es.is_dialogflow_es),
    ("dialogflow_cx", dialogflow_cx.is_dialogflow_cx),
    ("alexa", is_alexa),
    ("snips", is_snips),
    ("wit", is_wit),
    ("label_studio", is_label_studio),
    ("clinc", is_clinc),
)
"""Formats of JSON files, and the test of a file's content, in the order in which they are asked."""
_PROJECTS: tuple[tuple[str, Callable[[list[str]], bool]], ...] = (
    ("dialogflow_es", dialogflow_es.has_agent),
    ("dialogflow_cx", dialogflow_cx.has_agent),
    ("lex", has_bot),
    ("wit", has_app),
)
"""Formats of exported projects, and the test of the names of their files."""


def _detect_project(path: Path) -> str:
    """Return the format of a directory or zip file that a product exported; empty if it is none."""
    names = ProjectFiles(path).names
    for name, has_files in _PROJECTS:
        if has_files(names):
            return name
    return ""


def _detect_json(path: Path) -> Detection:
    lines = list(filter(str.strip, split_lines(read_text(path))[:_SAMPLE_LINES]))
    if len(lines) > 1 and all(line.lstrip().startswith("{") and line.rstrip().endswith("}") for line in lines):
        return _detect_lines(lines)
    value = load_json(path)
    for name, has_structure in _JSON_FORMATS:
        if has_structure(value):
            return Detection(name)
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        if any(isinstance(item, dict) and "text" in item for item in value["data"]):
            raise DataError(
                f'{path}: "data" holds rows, not articles of SQuAD; write the list of its rows alone, as JSON or jsonl'
            )
        return Detection("squad")
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return Detection("json", FormatOptions(columns=_json_columns(value)))
    if is_rasa_json(value):
        return Detection("rasa")
    raise DataError(f"{path}: JSON of no known format (squad, clinc, an array of objects); convert it to jsonl")


def _json_columns(rows: Sequence[object]) -> tuple[str, ...]:
    """Return the keys that hold something, if all rows have the same keys; else none, which reads each row's own."""
    keys = set(rows[0]) if isinstance(rows[0], dict) else set()
    filled: set[str] = set()
    for row in rows:
        if not isinstance(row, dict) or set(row) != keys:
            return ()
        for key, value in row.items():
            if value not in ("", None):
                filled.add(key)
    return tuple(filter((filled - {"id"}).__contains__, rows[0])) if isinstance(rows[0], dict) else ()


def _without_intents(sample: Sequence[str]) -> list[str]:
    """Drop the last line of each sentence, if all of these lines are a single word that is no tag."""
    following = [*sample[1:], "" if len(sample) < _SAMPLE_LINES else "more"]
    last_lines = []
    for position, line in enumerate(sample):
        if line.strip() and not following[position].strip():
            if len(line.split()) != 1 or TAG.fullmatch(line.strip()):
                return list(sample)
            last_lines.append(position)
    dropped = set(last_lines)
    token_lines = []
    for position, line in enumerate(sample):
        if position not in dropped:
            token_lines.append(line)
    return token_lines


def _is_conll(sample: Sequence[str]) -> bool:
    """Return True if nearly all lines end in a tag and have something before it."""
    rows = _token_rows(sample)
    tagged_count = 0
    for line in rows:
        has_token = re.search(r"\S|\s\s", line[:-1])
        if has_token and TAG.fullmatch(_last_column(line)):
            tagged_count += 1
    has_blank_line = any(not line.strip() for line in sample)
    return tagged_count > 0.95 * len(rows) and has_blank_line


def _tags_come_first(sample: Sequence[str]) -> bool:
    """Return True if nearly all lines are a tag and its word, as in MIT's corpora, and not a word and its tag."""
    rows = [line.split() for line in _token_rows(sample)]
    has_blank_line = not all(map(str.strip, sample))
    if not has_blank_line or set(map(len, rows)) != {2}:
        return False
    first_count = sum(TAG.fullmatch(row[0]) is not None for row in rows)
    last_count = sum(TAG.fullmatch(row[1]) is not None for row in rows)
    return first_count > 0.95 * len(rows) > last_count


def _token_rows(sample: Sequence[str]) -> list[str]:
    """Return the lines that hold a token."""
    rows = []
    for line in sample:
        if line.strip() and not line.startswith(_NOT_ROWS):
            rows.append(line)
    return rows


def _last_column(line: str) -> str:
    return re.split(r"[\t ]", line.rstrip())[-1]


def _conll_options(sample: Sequence[str], intent_suffix: str | None) -> FormatOptions:
    rows = _token_rows(sample)
    token_column = 2 if numbers_tokens(sample) else None
    words = []
    for row in rows:
        if token_column is None:
            words.append(re.split(r"[\t ]", row)[0])
        elif not row.startswith("#"):
            words.append(row.split()[1])
    tags = list(map(_last_column, rows))
    return FormatOptions(
        joiner=_joiner(words), scheme=guess_scheme(tags), intent_suffix=intent_suffix, token_column=token_column
    )


def _palm_options(filled: Sequence[str]) -> FormatOptions:
    """Name the columns of a table without a header: the first joined column is the text."""
    header = filled[0].split("\t")
    rows = [line.split("\t") for line in filled]
    if SEPARATOR in filled[0]:
        joined_columns = []
        for column in range(len(header)):
            if any(SEPARATOR in row[column] for row in rows if column < len(row)):
                joined_columns.append(column)
        names = dict(zip(joined_columns, ("text_a", "label"), strict=False))
        columns = named_columns(names, len(header))
        layout = columns
    else:
        rows = rows[1:]
        columns = ()
        layout = tuple(header)
    words = list(_joined_items(rows, layout, TEXT_COLUMNS))
    tags = list(_joined_items(rows, layout, TAG_COLUMNS))
    return FormatOptions(columns=columns, joiner=_joiner(words), scheme=guess_scheme(tags))


def _joined_items(rows: Sequence[Sequence[str]], layout: Sequence[str], names: Sequence[str]) -> Iterator[str]:
    """Yield the joined items of all columns with some names."""
    for row in rows:
        for name, cell in zip(layout, row, strict=False):
            if name in names:
                yield from cell.split(SEPARATOR)


def _joiner(words: Sequence[str]) -> str:
    """Return an empty joiner if words are single characters of a script without blanks, else a blank."""
    wide_count = 0
    single_count = 0
    for word in words:
        wide_count += bool(_WIDE.match(word))
        single_count += len(word) <= 1
    return "" if wide_count > 0.5 * len(words) and single_count > 0.8 * len(words) else " "
