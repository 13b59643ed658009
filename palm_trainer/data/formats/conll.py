"""CoNLL: a token and its tag a line, a blank line after each sentence.

The token is the first column and the tag the last, separated by tabs or blanks. A first
column that numbers the tokens of each sentence is passed over. `token_column` and `tag_column` name
other columns. The token may itself be a blank (`"  O"`: blank, blank, tag). Lines `# key: value` before a sentence are comments.
The intent of a sentence is in a comment `# intent: NAME`, in a side file (`intent_suffix`), or in
its last line (`intent_line`, MixATIS). `-DOCSTART-` lines are skipped. Fields: `slots`, `intent`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.tags import spans_from_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value, join_words, read_text, split_lines
from palm_trainer.errors import DataError

BLANK_TOKEN = "blank as a token (kept)"
NUMBERED_PARTS = "line of a multi-word token or an empty node (passed over)"
_COMMENT = re.compile(r"#\s*(\w+)\s*[:=]")
_TAG = re.compile(r"O|[BIESMLU]-\S+")
_PARTS = re.compile(r"[0-9]+[-.][0-9]+")
"""Number of a multi-word token (`3-4`) or an empty node (`3.1`) in CoNLL-U."""


@dataclass(slots=True)
class _Sentence:
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    intent: str | None = None


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file.

    Args:
        path: file to read.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: a line without a tag, an unknown tag, or a side file with another number of
            lines.
    """
    sentences = list(_sentences(path, options, defects))
    if options.intent_suffix is not None:
        _read_intents(path.with_name(path.name + options.intent_suffix), path, sentences, defects)
    for sentence in sentences:
        text, ranges = join_words(sentence.tokens, options.joiner)
        source = sentence.sources[0]
        if not text.strip():
            raise DataError(f"{source}: a sentence of blanks; remove it")
        spans = spans_from_tags(sentence.tags, ranges, options.scheme, sentence.sources, defects)
        fields: dict[str, FieldValue] = {"slots": spans}
        if sentence.intent:
            fields["intent"] = class_value(sentence.intent, options.label_separator)
        yield Example(text, fields, words=ranges, source=source)


def _read_intents(intent_file: Path, path: Path, sentences: list[_Sentence], defects: Defects) -> None:
    """Read the intent of each sentence from a side file."""
    intents = list(map(str.strip, split_lines(read_text(intent_file, defects))))
    if len(intents) != len(sentences):
        first_missing = min(len(intents), len(sentences)) + 1
        raise DataError(
            f"{intent_file}:{first_missing}: {len(intents)} intents, but {len(sentences)} sentences in {path.name}; "
            "each sentence needs one"
        )
    for sentence, intent in zip(sentences, intents, strict=True):
        sentence.intent = intent


def _sentences(path: Path, options: FormatOptions, defects: Defects) -> Iterator[_Sentence]:
    sentence = _Sentence()
    file = str(path)
    rows = split_lines(read_text(path, defects))
    is_numbered = numbers_tokens(rows)
    columns: tuple[int, int | None] | None = None
    if is_numbered or options.token_column is not None or options.tag_column is not None:
        columns = (options.token_column or (2 if is_numbered else 1), options.tag_column)
    for number, (line, next_line) in enumerate(zip(rows, [*rows[1:], ""], strict=True), 1):
        if not line.strip():
            if sentence.tokens:
                yield sentence
                sentence = _Sentence()
            continue
        source = f"{file}:{number}"
        if line.startswith("#") and (is_numbered or _is_comment(line, sentence)):
            _read_comment(line, sentence, source)
            continue
        if options.intent_line and not next_line.strip():
            _set_intent(sentence, line.strip(), source)
            continue
        if is_numbered and _PARTS.fullmatch(line.split(None, 1)[0]):
            defects.add(NUMBERED_PARTS, source)
            continue
        token, tag = _columns(line, source) if columns is None else _named_columns(line, columns, source)
        if token != "-DOCSTART-":
            if token.isspace():
                defects.add(BLANK_TOKEN, source)
            sentence.tokens.append(token)
            sentence.tags.append(tag)
            sentence.sources.append(source)
    if sentence.tokens:
        yield sentence


def numbers_tokens(rows: Sequence[str]) -> bool:
    """Return True if the first of three or more columns counts the tokens of each sentence, as in CoNLL-U and xSID."""
    previous: int | None = None
    has_rows = False
    for row in rows:
        columns = row.split(None, 3)
        if not columns:
            previous = None
        elif not row.startswith(("#", "-DOCSTART-")) and not _PARTS.fullmatch(columns[0]):
            number = columns[0]
            if len(columns) < 3 or len(number) > 9 or not (number.isascii() and number.isdigit()):
                return False
            if int(number) not in ((0, 1) if previous is None else (previous + 1,)):
                return False
            previous = int(number)
            has_rows = True
    return has_rows


def _is_comment(line: str, sentence: _Sentence) -> bool:
    """Return True for a line before a sentence that begins with `#` and is no token with its tag."""
    if sentence.tokens or "\t" in line:
        return False
    return _COMMENT.match(line) is not None or not _TAG.fullmatch(line.rstrip().rpartition(" ")[2])


def _read_comment(line: str, sentence: _Sentence, source: str) -> None:
    """Read the intent of a sentence from `# intent: NAME`. Other comments are free."""
    match = _COMMENT.match(line)
    if match is None or match[1] != "intent":
        return
    intent = line[match.end() :].strip()
    if sentence.intent is not None and sentence.intent != intent:
        raise DataError(f"{source}: a sentence has one intent, got '{sentence.intent}' and '{intent}'. Keep one.")
    sentence.intent = intent or None


def _named_columns(line: str, columns: tuple[int, int | None], source: str) -> tuple[str, str]:
    """Return token and tag of a line from the columns with these numbers, counted from 1. None is the last."""
    cells = line.split("\t") if "\t" in line else line.split()
    token_column, tag_column = columns
    tag_column = len(cells) if tag_column is None else tag_column
    if cells[0] == "-DOCSTART-":
        return cells[0], "O"
    if max(token_column, tag_column) > len(cells) or token_column == tag_column:
        raise DataError(
            f"{source}: a row must have token_column {token_column} and another tag_column {tag_column}, "
            f"got {len(cells)} columns. Correct the row or the options."
        )
    token = cells[token_column - 1]
    tag = cells[tag_column - 1].strip()
    if not token or not tag:
        raise DataError(f"{source}: '{line}' must have a token and a tag in its columns. Add what is missing.")
    return token, tag


def _set_intent(sentence: _Sentence, line: str, source: str) -> None:
    if not sentence.tokens or len(line.split()) != 1:
        raise DataError(
            f"{source}: '{line}' should be the sentence's intent alone (`intent_line`); add it, or leave the option out"
        )
    sentence.intent = line


def _columns(line: str, source: str) -> tuple[str, str]:
    """Return token and tag of a line."""
    if "\t" in line:
        columns = line.split("\t")
        token = columns[0]
        tag = columns[-1].strip()
    else:
        prefix, _, tag = line.rstrip().rpartition(" ")
        token = prefix.split(" ")[0] if prefix.strip() else prefix[:1]
    if not token or not tag:
        raise DataError(
            f"{source}: '{line}' is not a token and a tag separated by a tab or a blank; add what is missing "
            "(if it is the intent of the sentence above, set `intent_line = true`)"
        )
    return token, tag
