"""CoNLL: a token and its tag a line, a blank line after each sentence.

The token is the first column and the tag the last, separated by tabs or blanks. The token may
itself be a blank (`"  O"`: blank, blank, tag). Lines `# key: value` before a sentence are comments.
The intent of a sentence is in a comment `# intent: NAME`, in a side file (`intent_suffix`), or in
its last line (`intent_line`, MixATIS). `-DOCSTART-` lines are skipped. Fields: `slots`, `intent`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.tags import spans_from_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value, join_words, read_text, split_lines
from palm_trainer.errors import DataError

BLANK_TOKEN = "blank as a token (kept)"
_COMMENT = re.compile(r"#\s*(\w+)\s*[:=]\s*(.*\S)\s*")


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
    intents = [line.strip() for line in split_lines(read_text(intent_file, defects))]
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
    for number, (line, next_line) in enumerate(zip(rows, [*rows[1:], ""], strict=True), 1):
        if not line.strip():
            if sentence.tokens:
                yield sentence
                sentence = _Sentence()
            continue
        comment = None if sentence.tokens or "\t" in line else _COMMENT.fullmatch(line)
        if comment:
            if comment[1] == "intent":
                sentence.intent = comment[2]
            continue
        source = f"{file}:{number}"
        if options.intent_line and not next_line.strip():
            _set_intent(sentence, line.strip(), source)
            continue
        token, tag = _columns(line, source)
        if token != "-DOCSTART-":
            if token.isspace():
                defects.add(BLANK_TOKEN, source)
            sentence.tokens.append(token)
            sentence.tags.append(tag)
            sentence.sources.append(source)
    if sentence.tokens:
        yield sentence


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
