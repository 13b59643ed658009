"""The errors of a task, the most confident first, with gold and answered spans marked in the text."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from palm_serve.types import Answer, Classification, Match, Span, Spans
from palm_trainer.data.example import LabelledSpan
from palm_trainer.evaluation.metrics import to_units
from palm_trainer.report.rows import Judged

SHOWN = 50
"""Errors of one task that the report holds."""
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
class Side:
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
    gold: Side
    answered: Side
    confidence: float | None


def worst(kind: str, rows: Iterable[Judged], shown: int = SHOWN) -> tuple[list[Mistake], int]:
    """The most confident errors, and how many there are in all. Of those that only miss spans a third is kept: they have no confidence."""
    if kind == "match" and (rows := list(rows)) and isinstance(rows[0].answer, Match) and rows[0].answer.label is None:
        found = sorted(_misranked(rows), key=lambda m: -(m.confidence or 0))
        return found[:shown], len(found)
    wrong = [row for row in rows if not row.correct]
    by_confidence = sorted(((_confidence(kind, row), row) for row in wrong), key=lambda pair: -(pair[0] or 0))
    told = [row for confidence, row in by_confidence if confidence is not None]
    silent = [row for confidence, row in by_confidence if confidence is None]
    kept = silent[: max(shown // 3, shown - len(told))]
    chosen = told[: shown - len(kept)] + kept
    return [_mistake(kind, row) for row in chosen], len(wrong)


def _confidence(kind: str, row: Judged) -> float | None:
    """How sure the model was of what is wrong; None where it only said too little."""
    match row.answer:
        case Classification(ranking=ranking) if kind == "multi_label":
            wrong = row.gold ^ row.predicted
            sure = (c.confidence if c.name in row.predicted else 1 - c.confidence for c in ranking if c.name in wrong)
            return max(sure, default=None)
        case Classification(label=label):
            return label.confidence
        case Match(label=label) if label is not None:
            return label.confidence
        case Spans(spans=spans):
            return max((span.confidence for span in spans if not _is_gold(span, row)), default=None)
        case Answer(confidence=confidence):
            return confidence
    return None


def _is_gold(span: Span, row: Judged) -> bool:
    unit = to_units([LabelledSpan(span.start, span.end, span.name)], row.example.words)
    return unit.issubset(row.gold)


def _mistake(kind: str, row: Judged) -> Mistake:
    gold, answered, context = _sides(kind, row)
    return Mistake(
        row.example.source, _place(row.example.source), row.data, context, gold, answered, _confidence(kind, row)
    )


def _sides(kind: str, row: Judged) -> tuple[Side, Side, tuple[Segment, ...]]:
    texts = tuple(_shortened(text) for text in (row.example.text, row.example.pair) if text is not None)
    match row.answer:
        case Classification(ranking=ranking) if kind == "multi_label":
            sure = {label.name: label.confidence for label in ranking}
            gold = [_label(n, "right" if n in row.predicted else "missed", sure.get(n)) for n in sorted(row.gold)]
            told = [_label(n, "right" if n in row.gold else "wrong", sure.get(n)) for n in sorted(row.predicted)]
            return Side(labels=tuple(gold)), Side(labels=tuple(told)), texts
        case Classification(ranking=ranking):
            sure = {label.name: label.confidence for label in ranking}
            first = ranking[0]
            return (
                _labels(row.gold, sure.get(row.gold)),
                Side(labels=(_label(first.name, "wrong", first.confidence),)),
                texts,
            )
        case Match(label=label) if label is not None:
            return _labels(row.gold, None), Side(labels=(_label(label.name, "wrong", label.confidence),)), texts
        case Spans(spans=spans):
            return (*_span_sides(row, spans), ())
        case Answer() as answer:
            return (*_answer_sides(row, answer), (_shortened(row.example.text),))
    raise AssertionError(f"no such answer: {row.answer!r}")  # pragma: no cover


def _labels(gold: str, confidence: float | None) -> Side:
    return Side(labels=(_label(gold, "missed", confidence),))


def _label(name: str, status: str, confidence: float | None) -> Segment:
    return Segment(name, "", status, confidence)


def _span_sides(row: Judged, spans: Sequence[Span]) -> tuple[Side, Side]:
    value = row.example.fields[row.field]
    gold, told = [], []
    for item in sorted((i for i in value if isinstance(i, LabelledSpan)), key=lambda i: i.start):
        found = to_units([item], row.example.words) <= row.predicted
        gold.append((item.start, item.end, Segment("", item.label, "right" if found else "missed")))
    for span in spans:
        status = "right" if _is_gold(span, row) else "wrong"
        told.append((span.start, span.end, Segment("", span.name, status, span.confidence)))
    text = row.example.text
    return Side(marked(text, gold)), Side(marked(text, told))


def _answer_sides(row: Judged, answer: Answer) -> tuple[Side, Side]:
    passage = row.example.pair or ""
    spans = [item for item in row.example.fields[row.field] if isinstance(item, LabelledSpan)]
    told = Segment("", "answer", "wrong", answer.confidence)
    found = Side(labels=(_label("no answer", "wrong", answer.confidence),))
    if not answer.no_answer:
        found = Side(marked(passage, [(answer.start, answer.end, told)], context_only=True))
    if not spans:
        return Side(labels=(_label("no answer", "missed", None),)), found
    others = {passage[span.start : span.end] for span in spans[1:]} - {passage[spans[0].start : spans[0].end]}
    first = marked(passage, [(spans[0].start, spans[0].end, Segment("", "answer", "missed"))], context_only=True)
    return Side(first, tuple(Segment(text, "", "missed") for text in sorted(others)[:5])), found


def _misranked(rows: Sequence[Judged]) -> Iterable[Mistake]:
    """A ranker's pairs that do not score above their negatives, which follow each of them; confidence: by how much."""
    for positive, negative in zip(rows[::2], rows[1::2], strict=True):
        if negative.predicted >= positive.predicted:
            yield Mistake(
                positive.example.source,
                _place(positive.example.source),
                positive.data,
                (_shortened(positive.example.text),),
                Side((_shortened(positive.example.pair or ""),), (_label("score", "missed", positive.predicted),)),
                Side((_shortened(negative.example.pair or ""),), (_label("score", "wrong", negative.predicted),)),
                negative.predicted - positive.predicted,
            )


def marked(text: str, marks: Sequence[tuple[int, int, Segment]], *, context_only: bool = False) -> tuple[Segment, ...]:
    """The text cut into plain and marked stretches, long ones without their middle.

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
        rest = _between(text[position:], not segments, True, context_only)
        segments.append(Segment("… " if len(marks) > _SEGMENTS else rest))
    return tuple(segments)


def _between(text: str, first: bool, last: bool, context_only: bool) -> str:
    """Plain text beside marks: both its ends, or only that which touches a mark."""
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


def _shortened(text: str) -> Segment:
    return Segment(_middle_cut(text, 3 * _LONGEST))


def _place(source: str) -> str:
    """`dev/seq.in:12` of a longer path."""
    return "/".join(PurePath(source).parts[-2:])
