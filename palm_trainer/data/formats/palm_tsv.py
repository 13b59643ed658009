"""PALM's tab-separated file for sequence labels: words and tags joined by the control character 0x02 (Ctrl-B).

Columns are found by the header's names, or `columns`: `text_a` or `text` holds the words, `label`, `tags` or `slots`
the tags and gives the field its name, `_` is skipped, any other is a class field. Without tags a row is unlabelled.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from palm_trainer.data.example import Example, FieldValue
from palm_trainer.data.formats.columns import examples
from palm_trainer.data.formats.tags import spans_from_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value, join_words, lines, read_text
from palm_trainer.errors import DataError

SEPARATOR = "\x02"
TRAILING = "0x02 after the last word (removed)"
TAG_COLUMNS = ("label", "tags", "slots")


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the file, a line each.

    Raises:
        DataError: as for `tsv`; unequal numbers of words and tags, words that are joined by blanks.
    """
    rows = ((number, line.split("\t")) for number, line in enumerate(lines(read_text(path, defects)), 1))
    for row in examples(rows, path, replace(options, label_separator=None), defects):
        yield _tagged(row, options, defects)


def _tagged(row: Example, options: FormatOptions, defects: Defects) -> Example:
    if row.text.endswith(SEPARATOR):
        defects.add(TRAILING, row.source)
    words = row.text.removesuffix(SEPARATOR).split(SEPARATOR)
    text, ranges = join_words(words, options.joiner)
    fields: dict[str, FieldValue] = {}
    for name, value in row.fields.items():
        assert isinstance(value, str)
        if name not in TAG_COLUMNS:
            fields[name] = class_value(value, options.label_separator)
            continue
        tags = value.removesuffix(SEPARATOR).split(SEPARATOR)
        if len(tags) == 1 and len(value.split()) > 1:
            raise DataError(f"{row.source}: tags are parted by blanks; format 'palm' parts words and tags by 0x02")
        if len(tags) != len(words):
            raise DataError(f"{row.source}: {len(words)} words, but {len(tags)} tags; give each word one tag")
        places = [f"{row.source}:{word}" for word in range(1, len(tags) + 1)]
        fields[name] = spans_from_tags([tag.strip() for tag in tags], ranges, options.scheme, places, defects)
    if not all(words):
        raise DataError(f"{row.source}: word {words.index('') + 1} is empty (two 0x02 in a row); remove it")
    return Example(text, fields, pair=row.pair, words=ranges, source=row.source)
