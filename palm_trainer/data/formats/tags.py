"""Word tags <-> labelled spans, in the four schemes that data comes in.

bio    B begins, I continues
iob1   I begins and continues, B only parts two neighbours of a type
bioes  B begins, I continues, E ends, S is a span of one word
bmes   the same with M for I
"""

from collections.abc import Mapping, Sequence

from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.text_files import Defects
from palm_trainer.errors import DataError

SCHEMES: Mapping[str, Mapping[str, str]] = {
    "bio": {"B": "begin", "I": "inside"},
    "iob1": {"B": "begin", "I": "inside"},
    "bioes": {"B": "begin", "I": "inside", "E": "end", "S": "single"},
    "bmes": {"B": "begin", "M": "inside", "E": "end", "S": "single"},
}
"""Prefix -> what it says of its word."""

NO_BEGIN = "tag that continues a span where none is open (read as its begin)"
NO_END = "span without its E- tag (ended before the next tag)"


def spans_from_tags(
    tags: Sequence[str], ranges: Sequence[tuple[int, int]], scheme: str, where: Sequence[str], defects: Defects
) -> tuple[LabelledSpan, ...]:
    """Spans of word tags.

    Args:
        tags: one a word, `O` or `PREFIX-TYPE`.
        ranges: code-point range of each word.
        scheme: a name of `SCHEMES`.
        where: `file:line` of each tag, for messages.
        defects: broken spans are repaired and counted here.

    Raises:
        DataError: for a tag of another form.
    """
    prefixes = SCHEMES[scheme]
    ends_are_tagged = "E" in prefixes
    spans: list[LabelledSpan] = []
    current = ""
    """Type of the span that the next word may continue."""
    for tag, (start, end), place in zip(tags, ranges, where, strict=True):
        prefix, _, label = tag.partition("-")
        if tag != "O" and (prefix not in prefixes or not label):
            known = ", ".join(f"{name}-TYPE" for name in prefixes)
            raise DataError(
                f"{place}: tag '{tag}' is none of O, {known} (scheme '{scheme}'); correct it or set `scheme`"
            )
        says = prefixes.get(prefix, "outside")
        continues = says in ("inside", "end") and label == current
        if ends_are_tagged and current and not continues:
            defects.add(NO_END, place)
        if continues:
            spans[-1] = LabelledSpan(spans[-1].start, end, label)
        elif label:
            if says in ("inside", "end") and scheme != "iob1":
                defects.add(NO_BEGIN, place)
            spans.append(LabelledSpan(start, end, label))
        current = label if says in ("begin", "inside") else ""
    if ends_are_tagged and current:
        defects.add(NO_END, where[-1])
    return tuple(spans)


def tags_from_spans(spans: Sequence[LabelledSpan], ranges: Sequence[tuple[int, int]]) -> list[str]:
    """BIO tags of the words at `ranges`. A span that cuts words takes all of each, unless another span has it."""
    tags = ["O"] * len(ranges)
    for span in spans:
        inside = [
            i for i, (start, end) in enumerate(ranges) if start < span.end and span.start < end and tags[i] == "O"
        ]
        for i in inside:
            tags[i] = ("B-" if i == inside[0] else "I-") + span.label
    return tags
