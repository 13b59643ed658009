"""The joint intent and slot format: a directory of three parallel files, one utterance a line.

`seq.in` holds words, `seq.out` a tag for each word, `label` the intent. Words are split at any
white space and joined by single spaces (or `joiner`). Fields: `slots` (spans), `intent` (a class,
or several with `label_separator`).
"""

from collections.abc import Iterator
from pathlib import Path

from palm_trainer.data.example import Example
from palm_trainer.data.formats.tags import spans_from_tags
from palm_trainer.data.formats.text_files import Defects, FormatOptions, class_value, join_words, read_text, split_lines
from palm_trainer.errors import DataError

FILES = ("seq.in", "seq.out", "label")
OUTER_BLANKS = "white space before or after an utterance (removed)"
INNER_BLANKS = "doubled white space between words (made one space)"


def parse(path: Path, options: FormatOptions, defects: Defects) -> Iterator[Example]:
    """Yield the examples of a directory.

    Args:
        path: directory to read.
        options: format options.
        defects: tally of repaired defects.

    Raises:
        DataError: a file is missing or empty, the numbers of lines or of words and tags differ, a
            line is empty, or a tag is unknown.
    """
    if not path.is_dir():
        fault = "a file" if path.exists() else "no such directory"
        raise DataError(f"{path}: {fault}; format 'joint' reads a directory with {', '.join(FILES)}")
    utterances, tag_lines, labels = (split_lines(read_text(path / name, defects)) for name in FILES)
    tag_file = str(path / "seq.out")  # joining paths for each tag would take most of the time
    _check_counts(path, {"seq.in": len(utterances), "seq.out": len(tag_lines), "label": len(labels)})
    for number, (utterance, tag_line, label) in enumerate(zip(utterances, tag_lines, labels, strict=True), 1):
        source = f"{path / 'seq.in'}:{number}"
        for name, line in zip(FILES, (utterance, tag_line, label), strict=True):
            if not line.strip():
                raise DataError(f"{path / name}:{number}: an empty line; remove it from all of {', '.join(FILES)}")
        words = utterance.split()
        tags = tag_line.split()
        if len(words) != len(tags):
            raise DataError(
                f"{source}: {len(words)} words, but {len(tags)} tags in seq.out:{number}; give each word one tag"
            )
        if utterance.strip() != utterance:
            defects.add(OUTER_BLANKS, source)
        if " ".join(words) != utterance.strip():
            defects.add(INNER_BLANKS, source)
        text, ranges = join_words(words, options.joiner)
        tag_sources = [f"{tag_file}:{number}:{word}" for word in range(1, len(tags) + 1)]
        spans = spans_from_tags(tags, ranges, options.scheme, tag_sources, defects)
        intent = class_value(label.strip(), options.label_separator, source, defects)
        yield Example(text, {"intent": intent, "slots": spans}, words=ranges, source=source)


def _check_counts(path: Path, counts: dict[str, int]) -> None:
    """Check that all files have the same number of lines."""
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{name} {count}" for name, count in counts.items())
        shortest = min(counts, key=counts.__getitem__)
        source = f"{path / shortest}:{counts[shortest] + 1}"
        raise DataError(f"{source}: no such line (lines: {listed}); each utterance needs a line in every file")
