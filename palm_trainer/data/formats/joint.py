"""The joint intent and slot format: a directory of three parallel files, one utterance a line.

`seq.in` holds words, `seq.out` a tag a word, `label` the intent. Words are split at any white space and joined by
single spaces (or `joiner`). Fields: `slots` (spans), `intent` (a class; several with `label_separator`).
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.tags import spans_from_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value, join_words, lines, read_text
from palm_trainer.errors import DataError

FILES = ("seq.in", "seq.out", "label")
OUTER_BLANKS = "white space before or after an utterance (removed)"
INNER_BLANKS = "doubled white space between words (made one space)"


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Examples of the directory `path`.

    Raises:
        DataError: missing or empty file, unequal numbers of lines, or of words and tags, an empty line, an unknown tag.
    """
    if not path.is_dir():
        what = "a file" if path.exists() else "no such directory"
        raise DataError(f"{path}: {what}; format 'joint' reads a directory with {', '.join(FILES)}")
    utterances, tag_lines, labels = (lines(read_text(path / name, defects)) for name in FILES)
    tag_file = str(path / "seq.out")  # joining paths for each tag would take most of the time
    _check_counts(path, {"seq.in": len(utterances), "seq.out": len(tag_lines), "label": len(labels)})
    for number, (utterance, tag_line, label) in enumerate(zip(utterances, tag_lines, labels, strict=True), 1):
        where = f"{path / 'seq.in'}:{number}"
        for name, line in zip(FILES, (utterance, tag_line, label), strict=True):
            if not line.strip():
                raise DataError(f"{path / name}:{number}: an empty line; remove it from all of {', '.join(FILES)}")
        words, tags = utterance.split(), tag_line.split()
        if len(words) != len(tags):
            raise DataError(
                f"{where}: {len(words)} words, but {len(tags)} tags in seq.out:{number}; give each word one tag"
            )
        if utterance.strip() != utterance:
            defects.add(OUTER_BLANKS, where)
        if " ".join(words) != utterance.strip():
            defects.add(INNER_BLANKS, where)
        text, ranges = join_words(words, options.joiner)
        places = [f"{tag_file}:{number}:{word}" for word in range(1, len(tags) + 1)]
        spans = spans_from_tags(tags, ranges, options.scheme, places, defects)
        intent = class_value(label.strip(), options.label_separator)
        yield Example(text, {"intent": intent, "slots": spans}, words=ranges, source=where)


def _check_counts(path: Path, counts: dict[str, int]) -> None:
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        shortest = min(counts, key=counts.__getitem__)
        where = f"{path / shortest}:{counts[shortest] + 1}"
        raise DataError(f"{where}: no such line (lines: {listed}); each utterance needs a line in every file")
