"""CoNLL: a token and its tag a line, a blank line after each sentence.

The token is the first column and the tag the last, separated by tabs or blanks. A first
column that numbers the tokens of each sentence is passed over. `token_column` and `tag_column` name
other columns. The token may itself be a blank (`"  O"`: blank, blank, tag). Lines `# key: value` before a sentence are comments.
The intent of a sentence is in a comment `# intent: NAME`, in a side file (`intent_suffix`), or in
its last line (`intent_line`, MixATIS). `# text: TEXT` is the text of the sentence, if its tokens spell
it, or the multi-word tokens that stand for some of them (`3-4`). Other columns, other comments and
`-DOCSTART-` lines are passed over and counted. Fields: `slots`, `intent`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.columns import NO_CLASS
from palm_trainer.data.formats.conll_words import MultiWord, sentence_text
from palm_trainer.data.formats.tags import TAG, spans_from_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value, read_text, split_lines
from palm_trainer.errors import DataError

BLANK_TOKEN = "blank as a token (kept)"
EMPTY_NODE = "line of an empty node (passed over)"
DOCUMENT = "line -DOCSTART- (passed over)"
FREE_COMMENT = "comment without a key (passed over)"
NO_SENTENCE = "comment without a sentence below it (passed over)"
_COMMENT = re.compile(r"#\s*([\w.-]+)\s*[:=]")
_PARTS = re.compile(r"[0-9]+[-.][0-9]+")
"""Number of a multi-word token (`3-4`) or an empty node (`3.1`) in CoNLL-U."""
_NOTHING = ("", "_", "-")
"""Cells of CoNLL-U and its like that hold nothing."""


@dataclass(slots=True)
class _Sentence:
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)
    intent: str | None = None
    text: str = ""
    """Text of the comment `# text`."""
    text_source: str = ""
    multi_words: list[MultiWord] = field(default_factory=list)
    cells: list[tuple[int, str, str]] = field(default_factory=list)
    """Column number, content and place of each cell that is neither token nor tag."""


@dataclass(frozen=True, slots=True)
class _Columns:
    """Columns of a file, counted from 1.

    Args:
        token: column of the words. None: the first, which may be a blank.
        tag: column of the tags. None: the last.
        numbered: True if the first numbers the words.
    """

    token: int | None
    tag: int | None
    numbered: bool


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
        source = sentence.sources[0]
        text, ranges, tags, sources = sentence_text(
            (sentence.tokens, sentence.tags, sentence.sources),
            sentence.multi_words,
            (sentence.text, sentence.text_source),
            options.joiner,
            defects,
        )
        if not text.strip():
            raise DataError(f"{source}: a sentence of blanks; remove it")
        spans = spans_from_tags(tags, ranges, options.scheme, sources, defects)
        fields: dict[str, FieldValue] = {"slots": spans}
        if sentence.intent:
            fields["intent"] = class_value(sentence.intent, options.label_separator, source, defects)
        for column, content, place in sentence.cells:
            if content != sentence.intent:  # xSID repeats it
                defects.add(f"cell of column {column}, neither token nor tag (passed over)", place)
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
    for number, (sentence, intent) in enumerate(zip(sentences, intents, strict=True), 1):
        _set_intent(sentence, intent, f"{intent_file}:{number}", defects)


def _sentences(path: Path, options: FormatOptions, defects: Defects) -> Iterator[_Sentence]:
    sentence = _Sentence()
    comment_source = ""
    """Place of the last comment, until its sentence begins."""
    rows = split_lines(read_text(path, defects))
    is_numbered = numbers_tokens(rows)
    columns = _Columns(options.token_column or (2 if is_numbered else None), options.tag_column, is_numbered)
    for number, (line, next_line) in enumerate(zip(rows, [*rows[1:], ""], strict=True), 1):
        if not line.strip():
            if sentence.tokens:
                yield sentence
                sentence = _Sentence()
            continue
        source = f"{path}:{number}"
        if line.startswith("#") and (is_numbered or _is_comment(line, sentence)):
            _read_comment(line, sentence, source, defects)
            comment_source = source
            continue
        if options.intent_line and not next_line.strip():
            _read_intent_line(sentence, line.strip(), source, defects)
            continue
        if _read_token(line, sentence, columns, source, defects):
            comment_source = ""
    if sentence.tokens:
        yield sentence
    elif comment_source:
        defects.add(NO_SENTENCE, comment_source)


def _read_token(line: str, sentence: _Sentence, columns: _Columns, source: str, defects: Defects) -> bool:
    """Add the token of a line to a sentence. Return False if the line holds none."""
    if columns.numbered and _PARTS.fullmatch(line.split(None, 1)[0]):
        multi_word = _multi_word(line, sentence, columns)
        if multi_word is None:
            defects.add(EMPTY_NODE, source)
        else:
            sentence.multi_words.append(multi_word)
        return False
    if columns.token is None and columns.tag is None:
        token, tag, cells = _outer_columns(line, source)
    else:
        token, tag, cells = _named_columns(line, columns, source)
    if token == "-DOCSTART-":
        defects.add(DOCUMENT, source)
        return False
    if token.isspace():
        defects.add(BLANK_TOKEN, source)
    for column, content in cells:
        if content not in _NOTHING:
            sentence.cells.append((column, content, source))
    sentence.tokens.append(token)
    sentence.tags.append(tag)
    sentence.sources.append(source)
    return True


def _multi_word(line: str, sentence: _Sentence, columns: _Columns) -> MultiWord | None:
    """Return the multi-word token of a line; None if the line is an empty node or has no token."""
    cells = _cells(line)
    first, dash, last = cells[0].partition("-")
    token_column = columns.token or 2
    if not dash or len(cells) < token_column or max(len(first), len(last)) > 9:
        return None
    count = int(last) - int(first) + 1
    return MultiWord(len(sentence.tokens), count, cells[token_column - 1]) if count > 0 else None


def numbers_tokens(rows: Sequence[str]) -> bool:
    """Return True if the first of three or more columns numbers the tokens of each sentence, as in CoNLL-U and xSID.

    Numbers may begin anywhere and have gaps, as where rows were left out, if they rise in a sentence of two words or
    more and the second column holds words.
    """
    previous: int | None = None
    has_rows = False
    has_gaps = False
    has_rise = False
    has_words = False
    for row in rows:
        columns = row.split(None, 3)
        if not columns:
            previous = None
        elif not row.startswith(("#", "-DOCSTART-")) and not _PARTS.fullmatch(columns[0]):
            number = columns[0]
            if len(columns) < 3 or len(number) > 9 or not (number.isascii() and number.isdigit()):
                return False
            if previous is not None and int(number) <= previous:
                return False
            has_gaps |= int(number) not in ((0, 1) if previous is None else (previous + 1,))
            has_rise |= previous is not None
            has_words |= not columns[1].isdigit()
            previous = int(number)
            has_rows = True
    return has_rows and (not has_gaps or (has_rise and has_words))


def _is_comment(line: str, sentence: _Sentence) -> bool:
    """Return True for a line before a sentence that begins with `#` and is no token with its tag."""
    if sentence.tokens or "\t" in line:
        return False
    return _COMMENT.match(line) is not None or not TAG.fullmatch(line.rstrip().rpartition(" ")[2])


def _read_comment(line: str, sentence: _Sentence, source: str, defects: Defects) -> None:
    """Read intent and text of a sentence from `# intent: NAME` and `# text: TEXT`. Count other comments."""
    match = _COMMENT.match(line)
    key = match[1] if match is not None else ""
    value = line[match.end() :].strip() if match is not None else ""
    if key == "intent":
        _set_intent(sentence, value, source, defects)
    elif key == "text" and not sentence.text:
        sentence.text = value
        sentence.text_source = source
    else:
        defects.add(f"comment '# {key}' (passed over)" if key else FREE_COMMENT, source)


def _cells(line: str) -> list[str]:
    return line.split("\t") if "\t" in line else line.split()


def _named_columns(line: str, columns: _Columns, source: str) -> tuple[str, str, list[tuple[int, str]]]:
    """Return token and tag of a line from the columns with these numbers, and its other cells with their numbers."""
    cells = _cells(line)
    token_column = columns.token or 1
    tag_column = columns.tag or len(cells)
    if cells[0] == "-DOCSTART-":
        return cells[0], "O", []
    if max(token_column, tag_column) > len(cells) or token_column == tag_column:
        raise DataError(
            f"{source}: a row must have token_column {token_column} and another tag_column {tag_column}, "
            f"got {len(cells)} columns. Correct the row or the options."
        )
    token = cells[token_column - 1]
    tag = cells[tag_column - 1].strip()
    if not token or not tag:
        raise DataError(f"{source}: '{line}' must have a token and a tag in its columns. Add what is missing.")
    further_cells = []
    for column, cell in enumerate(cells, 1):
        if column not in (token_column, tag_column) and not (columns.numbered and column == 1):
            further_cells.append((column, cell.strip()))
    return token, tag, further_cells


def _outer_columns(line: str, source: str) -> tuple[str, str, list[tuple[int, str]]]:
    """Return token and tag of a line from its first and last column, and the cells between with their numbers."""
    if "\t" in line:
        first, *further_cells = line.split("\t")
        token = first
        tag = further_cells[-1].strip()
        middle = further_cells[:-1]
    else:
        prefix, _, tag = line.rstrip().rpartition(" ")
        if prefix.strip():
            token, *middle = prefix.split(" ")
        else:
            token, middle = prefix[:1], []
    if not token or not tag:
        raise DataError(
            f"{source}: '{line}' is not a token and a tag separated by a tab or a blank; add what is missing "
            "(if it is the intent of the sentence above, set `intent_line = true`)"
        )
    return token, tag, list(enumerate(map(str.strip, middle), 2))


def _read_intent_line(sentence: _Sentence, line: str, source: str, defects: Defects) -> None:
    if not sentence.tokens or len(line.split()) != 1:
        raise DataError(
            f"{source}: '{line}' should be the sentence's intent alone (`intent_line`); add it, or leave the option out"
        )
    _set_intent(sentence, line, source, defects)


def _set_intent(sentence: _Sentence, intent: str, source: str, defects: Defects) -> None:
    """Set the intent of a sentence. Raises DataError if it has another one."""
    if not intent:
        defects.add(NO_CLASS, source)
        return
    if sentence.intent is not None and sentence.intent != intent:
        raise DataError(f"{source}: a sentence has one intent, got '{sentence.intent}' and '{intent}'. Keep one.")
    sentence.intent = intent
