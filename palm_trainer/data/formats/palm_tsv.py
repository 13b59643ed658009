"""PALM's tab-separated file for sequence labels: words and tags joined by the control character 0x02 (Ctrl-B).

Columns are found by the header's names, or by `columns`: `text_a` or `text` holds the words.
`label`, `tags` or `slots` holds the tags and names the field. `_` is skipped. Any other column is a
class field. Rows without tags are unlabelled.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.columns import examples
from palm_trainer.data.formats.tags import spans_from_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value, join_words, read_text, split_lines
from palm_trainer.errors import DataError

SEPARATOR = "\x02"
TRAILING = "0x02 after the last word (removed)"
TAG_COLUMNS = ("label", "tags", "slots")


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a file, one a line.

    Args:
        path: file to read.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: as for `tsv`; or the numbers of words and tags differ, or tags are joined by
            blanks.
    """
    rows = ((number, line.split("\t")) for number, line in enumerate(split_lines(read_text(path, defects)), 1))
    for row in examples(rows, path, replace(options, label_separator=None), defects, reads_spans=False):
        yield _tagged_example(row, options, defects)


def _are_tags(pieces: Sequence[str]) -> bool:
    """True for several pieces that are all tags, and not the pieces of one label that holds a blank."""
    return len(pieces) > 1 and all(piece == "O" or piece[1:2] == "-" for piece in pieces)


def _tagged_example(row: Example, options: FormatOptions, defects: Defects) -> Example:
    """Split the joined words and tags of a row."""
    if row.text.endswith(SEPARATOR):
        defects.add(TRAILING, row.source)
    words = row.text.removesuffix(SEPARATOR).split(SEPARATOR)
    text, ranges = join_words(words, options.joiner)
    fields: dict[str, FieldValue] = {}
    for name, value in row.fields.items():
        assert isinstance(value, str)
        if name not in TAG_COLUMNS:
            fields[name] = class_value(value, options.label_separator, row.source, defects)
            continue
        tags = value.removesuffix(SEPARATOR).split(SEPARATOR)
        if len(tags) == 1 and _are_tags(value.split()):
            raise DataError(f"{row.source}: tags are joined by blanks; format 'palm' joins words and tags by 0x02")
        if len(tags) != len(words):
            raise DataError(f"{row.source}: {len(words)} words, but {len(tags)} tags; give each word one tag")
        tag_sources = [f"{row.source}:{word}" for word in range(1, len(tags) + 1)]
        fields[name] = spans_from_tags(list(map(str.strip, tags)), ranges, options.scheme, tag_sources, defects)
    if not all(words):
        raise DataError(f"{row.source}: word {words.index('') + 1} is empty (two 0x02 in a row); remove it")
    return Example(text, fields, pair=row.pair, words=ranges, source=row.source)
