"""Wrong answers as the report shows them: the texts, with gold and answered labels marked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath

_CONTEXT = 60
"""Code points of text kept on each side of a mark."""
_LONGEST = 200
"""Code points that one stretch of text may have before its middle is left out."""
_SEGMENTS = 60


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text: plain, or marked with a label as `right`, `wrong` (answered, not gold) or `missed` (gold, not answered)."""

    text: str
    label: str = ""
    status: str = ""
    confidence: float | None = None


@dataclass(frozen=True, slots=True)
class MistakeSide:
    """What is right, or what was answered: marked text, or labels beside it."""

    segments: tuple[Segment, ...] = ()
    labels: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong answer. `confidence` is that of the worst part of it; None where only spans were missed, which have none."""

    source: str
    place: str
    """The end of `source`, short enough to show."""
    data: str
    context: tuple[Segment, ...]
    """What both sides read, where they do not mark it themselves."""
    gold: MistakeSide
    answered: MistakeSide
    confidence: float | None


def marked(text: str, marks: Sequence[tuple[int, int, Segment]], *, context_only: bool = False) -> tuple[Segment, ...]:
    """Cut a text into plain and marked segments, long ones without their middle.

    Args:
        text: all of it.
        marks: range and how it is marked, by beginning; what overlaps an earlier mark is shown from its end on.
        context_only: keep only what stands near the marks.
    """
    segments: list[Segment] = []
    position = 0
    for start, end, mark in marks[:_SEGMENTS]:
        start = max(start, position)
        if start > position:
            segments.append(Segment(_between(text[position:start], not segments, False, context_only)))
        position = max(end, start)
        segments.append(Segment(_middle_cut(text[start:position], _LONGEST), mark.label, mark.status, mark.confidence))
    if position < len(text):
        remainder = _between(text[position:], not segments, True, context_only)
        segments.append(Segment("… " if len(marks) > _SEGMENTS else remainder))
    return tuple(segments)


def _between(text: str, first: bool, last: bool, context_only: bool) -> str:
    """Return plain text beside marks: both its ends, or only the end that touches a mark."""
    limit = 2 * _CONTEXT if context_only else _LONGEST
    if len(text) <= limit or (first and last):
        return _middle_cut(text, limit)
    head = "" if first else text[:_CONTEXT]
    tail = "" if last else text[-_CONTEXT:]
    return f"{head} … {tail}"


def _middle_cut(text: str, limit: int) -> str:
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} … {text[-limit // 2 :]}"


def shorten_text(text: str) -> Segment:
    """Return a text as one plain segment, without its middle where it is long."""
    return Segment(_middle_cut(text, 3 * _LONGEST))


def short_source(source: str) -> str:
    """Return `dev/seq.in:12` of a longer path."""
    return "/".join(PurePath(source).parts[-2:])


def label_side(name: str, status: str, confidence: float | None = None) -> MistakeSide:
    """Return a side that holds one label.

    Args:
        name: of the label.
        status: `right`, `wrong` or `missed`.
        confidence: of the label, where it has one.
    """
    return MistakeSide(labels=(Segment(name, "", status, confidence),))
