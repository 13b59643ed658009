"""Roles and groups of spans, as the tasks that learn or ignore them see the examples."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from palm_serve.bundle.span_types import span_label
from palm_trainer.data.example import Example, LabelledSpan, spans_in


def has_roles(examples: Iterable[Example], field: str) -> bool:
    """Return True if a span of the field has a role or a group."""
    return any(map(_has_role, _spans(examples, field)))


def count_roles(example: Example, field: str) -> int:
    """Count the spans of the field that have a role or a group."""
    return sum(map(_has_role, _spans([example], field)))


def fold_roles(examples: Iterable[Example], field: str, *, learnt: bool) -> list[Example]:
    """Return the examples with the roles and groups of a field inside its labels.

    Args:
        examples: examples with any fields.
        field: field that may hold spans.
        learnt: False leaves roles and groups out, and the labels as they are.
    """
    folded_examples = []
    for example in examples:
        spans = spans_in(example.fields.get(field, ()))
        folded_spans = fold_spans(spans, learnt=learnt)
        changed = folded_spans != spans
        fields = {**example.fields, field: tuple(folded_spans)} if changed else example.fields
        folded_examples.append(replace(example, fields=fields) if changed else example)
    return folded_examples


def fold_spans(spans: Iterable[LabelledSpan], *, learnt: bool) -> list[LabelledSpan]:
    """Return the spans without roles and groups. `learnt`: their labels tell them, as the tags of a task do."""
    folded_spans = []
    for span in spans:
        label = span_label(span.label, span.role, span.group) if learnt else span.label
        folded_spans.append(LabelledSpan(span.start, span.end, label))
    return folded_spans


def _spans(examples: Iterable[Example], field: str) -> Iterator[LabelledSpan]:
    for example in examples:
        yield from spans_in(example.fields.get(field, ()))


def _has_role(span: LabelledSpan) -> bool:
    return bool(span.role or span.group)
