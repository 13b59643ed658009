"""Word tags -> labelled spans."""

from collections.abc import Sequence

from palm_trainer.errors import DataError
from palm_trainer.example import LabelledSpan
from palm_trainer.reader.formats.source import Defects

BEGINS_WITH_I = "I- tag that continues no span (read as the begin of one)"


def spans_from_bio(
    tags: Sequence[str], ranges: Sequence[tuple[int, int]], where: str, defects: Defects
) -> tuple[LabelledSpan, ...]:
    """Spans of BIO tags over words at `ranges`. An I- after O or another type begins a new span, counted as a defect.

    Raises:
        DataError: for a tag that is none of O, B-TYPE, I-TYPE.
    """
    spans: list[LabelledSpan] = []
    previous = ""
    for column, (tag, (start, end)) in enumerate(zip(tags, ranges, strict=True), 1):
        prefix, dash, label = tag.partition("-")
        if tag != "O" and not (dash and label and prefix in ("B", "I")):
            raise DataError(f"{where}: tag {column} is '{tag}', none of O, B-TYPE, I-TYPE; correct it")
        if prefix == "I" and label == previous:
            spans[-1] = LabelledSpan(spans[-1].start, end, label)
        elif label:
            if prefix == "I":
                defects.add(BEGINS_WITH_I, where)
            spans.append(LabelledSpan(start, end, label))
        previous = label
    return tuple(spans)
