"""Conversion between word tags and labelled spans, in five tagging schemes.

bio    B begins, I continues
iob1   I begins and continues, B only separates two adjacent spans of a type
bioes  B begins, I continues, E ends, S is a span of one word
bmes   the same with M for I
bilou  the same with L for E and U for S
"""

import re
from collections.abc import Mapping, Sequence

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

SCHEMES: Mapping[str, Mapping[str, str]] = {
    "bio": {"B": "begin", "I": "inside"},
    "iob1": {"B": "begin", "I": "inside"},
    "bioes": {"B": "begin", "I": "inside", "E": "end", "S": "single"},
    "bmes": {"B": "begin", "M": "inside", "E": "end", "S": "single"},
    "bilou": {"B": "begin", "I": "inside", "L": "end", "U": "single"},
}
"""Position in a span for each prefix of a scheme."""

TAG = re.compile(r"O|[BIESMLU]-\S+")
"""A tag of any scheme."""
NO_BEGIN = "tag that continues a span where none is open (read as its begin)"
NO_END = "span without its E- or L- tag (ended before the next tag)"


def spans_from_tags(
    tags: Sequence[str], ranges: Sequence[tuple[int, int]], scheme: str, sources: Sequence[str], defects: Defects
) -> tuple[LabelledSpan, ...]:
    """Convert word tags to spans.

    Args:
        tags: a tag for each word, `O` or `PREFIX-TYPE`.
        ranges: code-point range of each word.
        scheme: a key of `SCHEMES`.
        sources: `file:line` of each tag, for messages.
        defects: tally of repaired spans.

    Raises:
        DataError: a tag of another form.
    """
    prefixes = SCHEMES[scheme]
    ends_are_tagged = "end" in prefixes.values()
    spans: list[LabelledSpan] = []
    open_label = ""
    """Type of the span that the next word may continue."""
    for tag, (start, end), source in zip(tags, ranges, sources, strict=True):
        prefix, _, label = tag.partition("-")
        if tag != "O" and (prefix not in prefixes or not label):
            allowed = ", ".join(f"{name}-TYPE" for name in prefixes)
            raise DataError(
                f"{source}: tag '{tag}' is none of O, {allowed} (scheme '{scheme}'); correct it or set `scheme`"
            )
        position = prefixes.get(prefix, "outside")
        continues = position in ("inside", "end") and label == open_label
        if ends_are_tagged and open_label and not continues:
            defects.add(NO_END, source)
        if continues:
            spans[-1] = LabelledSpan(spans[-1].start, end, label)
        elif label:
            if position in ("inside", "end") and scheme != "iob1":
                defects.add(NO_BEGIN, source)
            spans.append(LabelledSpan(start, end, label))
        open_label = label if position in ("begin", "inside") else ""
    if ends_are_tagged and open_label:
        defects.add(NO_END, sources[-1])
    return tuple(spans)


def tags_from_spans(spans: Sequence[LabelledSpan], ranges: Sequence[tuple[int, int]]) -> list[str]:
    """Convert spans to BIO tags of words.

    A span that splits words takes them whole, unless another span has them.

    Args:
        spans: the spans.
        ranges: code-point range of each word.
    """
    tags = ["O"] * len(ranges)
    for span in spans:
        prefix = "B-"
        for word, (start, end) in enumerate(ranges):
            if start < span.end and span.start < end and tags[word] == "O":
                tags[word] = prefix + span.label
                prefix = "I-"
    return tags


def guess_scheme(tags: Sequence[str]) -> str:
    """Return the tagging scheme of some tags, a key of `SCHEMES`."""
    prefixes = {tag[0] for tag in tags if "-" in tag}
    if prefixes & {"L", "U"} and not prefixes & {"E", "S", "M"}:
        return "bilou"
    if prefixes & {"E", "S"}:
        return "bmes" if "M" in prefixes else "bioes"
    previous = "O"
    unopened_count = 0
    begin_count = 0
    for tag in tags:
        begin_count += tag.startswith("B-")
        unopened_count += tag.startswith("I-") and previous[2:] != tag[2:]
        previous = tag
    return "iob1" if unopened_count > begin_count else "bio"
