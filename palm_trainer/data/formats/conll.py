"""CoNLL: a token and its tag a line, a blank line after each sentence.

The token is the first column and the tag the last, parted by tabs or blanks; the token may itself be a blank (`"  O"`:
blank, blank, tag). Lines `# key: value` before a sentence are comments; `# intent: NAME` is its intent, or
`intent_suffix` names a side file, or with `intent_line` it is the sentence's last line (MixATIS). `-DOCSTART-` lines
are passed over. Fields: `slots`, `intent`.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.tags import spans_from_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value, join_words, lines, read_text
from palm_trainer.errors import DataError

BLANK_TOKEN = "blank as a token (kept)"
_COMMENT = re.compile(r"#\s*(\w+)\s*[:=]\s*(.*\S)\s*")


@dataclass(slots=True)
class _Sentence:
    tokens: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    places: list[str] = field(default_factory=list)
    intent: str | None = None


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the file.

    Raises:
        DataError: a line without a tag, an unknown tag, a side file whose number of lines differs.
    """
    sentences = list(_sentences(path, options, defects))
    if options.intent_suffix is not None:
        side = path.with_name(path.name + options.intent_suffix)
        intents = [line.strip() for line in lines(read_text(side, defects))]
        if len(intents) != len(sentences):
            shorter = min(len(intents), len(sentences)) + 1
            raise DataError(
                f"{side}:{shorter}: {len(intents)} intents, but {len(sentences)} sentences in {path.name}; "
                "each sentence needs one"
            )
        for sentence, intent in zip(sentences, intents, strict=True):
            sentence.intent = intent
    for sentence in sentences:
        text, ranges = join_words(sentence.tokens, options.joiner)
        if not text.strip():
            raise DataError(f"{sentence.places[0]}: a sentence of blanks; remove it")
        spans = spans_from_tags(sentence.tags, ranges, options.scheme, sentence.places, defects)
        fields: dict[str, FieldValue] = {"slots": spans}
        if sentence.intent:
            fields["intent"] = class_value(sentence.intent, options.label_separator)
        yield Example(text, fields, words=ranges, source=sentence.places[0])


def _sentences(path: Path, options: FormatOptions, defects: Defects) -> Iterator[_Sentence]:
    sentence, file = _Sentence(), str(path)
    rows = lines(read_text(path, defects))
    for number, (line, following) in enumerate(zip(rows, [*rows[1:], ""], strict=True), 1):
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
        where = f"{file}:{number}"
        if options.intent_line and not following.strip():
            _take_intent(sentence, line.strip(), where)
            continue
        token, tag = _columns(line, where)
        if token != "-DOCSTART-":
            if token.isspace():
                defects.add(BLANK_TOKEN, where)
            sentence.tokens.append(token)
            sentence.tags.append(tag)
            sentence.places.append(where)
    if sentence.tokens:
        yield sentence


def _take_intent(sentence: _Sentence, line: str, where: str) -> None:
    if not sentence.tokens or len(line.split()) != 1:
        raise DataError(
            f"{where}: '{line}' should be the sentence's intent alone (`intent_line`); add it, or leave the option out"
        )
    sentence.intent = line


def _columns(line: str, where: str) -> tuple[str, str]:
    if "\t" in line:
        columns = line.split("\t")
        token, tag = columns[0], columns[-1].strip()
    else:
        left, _, tag = line.rstrip().rpartition(" ")
        token = left.split(" ")[0] if left.strip() else left[:1]
    if not token or not tag:
        raise DataError(
            f"{where}: '{line}' is not a token and a tag parted by a tab or a blank; add what is missing "
            "(if it is the intent of the sentence above, set `intent_line = true`)"
        )
    return token, tag
