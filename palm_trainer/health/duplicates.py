"""Equal and nearly equal texts with different labels, and texts of train in other splits."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from palm_serve.types import InputTexts
from palm_trainer.data.example import FieldValue, spans_in
from palm_trainer.health.findings import DUPLICATE, LEAK, NEAR_DUPLICATE, Finding
from palm_trainer.health.rows import SPLITS, Row, TaskRows, describe_value, normal_text, span_name
from palm_trainer.tasks.mistakes import short_source

_TextKey: TypeAlias = tuple[str, str]
_Label: TypeAlias = str | tuple[tuple[str, str], ...] | frozenset[str]


def find_duplicates(rows: TaskRows) -> list[Finding]:
    """Find rows whose label differs from that of most rows with the same words.

    Rows of train are compared with each other only: no label of dev or test shall change what is trained on.
    """
    train = _group(rows.rows["train"])
    findings: list[Finding] = []
    for split in SPLITS:
        for key, group in _group(rows.rows[split]).items():
            train_group = train.get(key, []) if split != "train" else []
            findings += _compare(rows, [*train_group, *group], split)
    return findings


def find_leaks(rows: TaskRows) -> list[Finding]:
    """Find rows of dev and test whose text is in train."""
    train: dict[InputTexts, list[Row]] = defaultdict(list)
    for row in rows.rows["train"]:
        train[row.example.inputs].append(row)
    findings = []
    for split in SPLITS[1:]:
        for row in rows.rows[split]:
            same = train.get(row.example.inputs)
            if same:
                why = f"The text is in train too, in {short_source(same[0].example.source)}."
                findings.append(Finding(LEAK, row, "", why, 0.1, near=same[:3]))
    return findings


def _group(rows: Sequence[Row]) -> dict[_TextKey, list[Row]]:
    """Return rows by their words."""
    groups: dict[_TextKey, list[Row]] = defaultdict(list)
    for row in rows:
        groups[normal_text(row.example.text), normal_text(row.example.inputs.second or "")].append(row)
    return groups


def _compare(rows: TaskRows, group: Sequence[Row], split: str) -> Iterator[Finding]:
    """Yield the rows of a split whose label differs from that of most rows of a group."""
    if len(group) < 2:
        return
    counts: Counter[_Label] = Counter()
    for row in group:
        counts[_comparable(rows, row)] += 1
    if len(counts) < 2:
        return
    majority, agreeing = counts.most_common(1)[0]
    right = [row for row in group if _comparable(rows, row) == majority]
    for row in group:
        if row.split != split or _comparable(rows, row) == majority:
            continue
        same = [model for model in right if model.example.text == row.example.text]
        model = (same or right)[0]
        signal = DUPLICATE if same else NEAR_DUPLICATE
        described = describe_value(rows.value(model), model.example.text)
        subject = "The same text" if same else "A text with the same words"
        why = f"{subject} has {described} in {agreeing} of {len(group)} rows, such as {short_source(model.example.source)}."
        score = agreeing / len(group) if same else 0.9 * agreeing / len(group)
        for start, end, to in _suggestions(rows, row, model):
            yield Finding(signal, row, rows.field, why, score, to, start, end, (same or right)[:3])


def _comparable(rows: TaskRows, row: Row) -> _Label:
    """Return a label in a form that does not depend on the spelling of the text, nor on the order of classes."""
    value = rows.value(row)
    if isinstance(value, str):
        return value
    if rows.kind == "classes":
        return frozenset(map(str, value))
    labelled = []
    for span in spans_in(value):
        labelled.append((normal_text(row.example.text[span.start : span.end]), span_name(span)))
    return tuple(labelled)


def _suggestions(rows: TaskRows, row: Row, model: Row) -> list[tuple[int | None, int | None, FieldValue | None]]:
    """Return the parts of a label that another row has otherwise: the range of each, and what it has there."""
    if rows.kind != "spans":
        return [(None, None, rows.value(model))]
    if model.example.text.casefold() != row.example.text.casefold():
        return [(None, None, None)]  # the spans stand elsewhere
    spans = spans_in(rows.value(row))
    model_spans = spans_in(rows.value(model))
    differing = set(spans).symmetric_difference(model_spans)
    ranges: list[tuple[int, int]] = []
    for span in sorted(differing, key=lambda span: span.start):
        if ranges and span.start < ranges[-1][1]:
            ranges[-1] = (ranges[-1][0], max(ranges[-1][1], span.end))
        else:
            ranges.append((span.start, span.end))
    suggestions: list[tuple[int | None, int | None, FieldValue | None]] = []
    for start, end in ranges:
        suggestions.append((start, end, tuple(span for span in model_spans if start <= span.start < end)))
    return suggestions
