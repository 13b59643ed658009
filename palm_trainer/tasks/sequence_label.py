"""Task kind: labelled spans of a text, a tag for each token."""

from collections.abc import Mapping, Sequence
from operator import itemgetter
from typing import Any, ClassVar

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import FloatArray, Span, Spans, TaskAnswer
from palm_trainer.config.schema import SequenceLabelTask, TaskConfig
from palm_trainer.data.example import Example, FieldValue, LabelledSpan, spans_in
from palm_trainer.data.formats.tags import tags_from_spans
from palm_trainer.data.formats.text_files import Defect, Defects
from palm_trainer.data.roles import count_roles, fold_roles, fold_spans, has_roles
from palm_trainer.data.targets.sequence_label import SequenceLabelTarget
from palm_trainer.tasks import scores
from palm_trainer.tasks.base import Judged, LearnContext, TaskKind
from palm_trainer.tasks.metrics import span_scores, to_units, token_accuracy
from palm_trainer.tasks.mistakes import MistakeSide, Segment, marked
from palm_trainer.tasks.report_tables import LabelTable, ReportTable, SpanErrorTable

ROLES_IGNORED = "whose role or group is not learnt (roles = 'ignore')"


class SequenceLabelKind(TaskKind):
    """Spans, compared on the data's own words or characters."""

    name = "sequence_label"
    section = SequenceLabelTask
    primary_metric = "f1"
    learns_tags = True
    answers_tokens = True
    calibrates_answers = True
    wanted_value = "spans"
    label_noun = "tags"
    answer_noun = "whole spans"
    custom_head_options: ClassVar[Mapping[str, Any]] = {"crf": False}
    """A chain would be the package's own."""

    def fits(self, value: FieldValue) -> bool:
        """Return True for spans."""
        return is_spans(value)

    def learn(
        self, task: str, settings: TaskConfig, examples: Sequence[Example], context: LearnContext
    ) -> SequenceLabelTarget:
        """Build the target with the span types of the examples.

        Args:
            task: task name.
            settings: `crf` selects the decoding, `roles` what is learnt, `role` goes into the manifest.
            examples: of all data sets of the task; their span types are learnt.
            context: not used.
        """
        assert isinstance(settings, SequenceLabelTask)
        return SequenceLabelTarget.learn(
            task,
            settings.field or "",
            examples,
            role=settings.role,
            crf=settings.crf,
            roles=learns_roles(settings),
        )

    def with_label_names(self, settings: TaskConfig, field: str, examples: Sequence[Example]) -> Sequence[Example]:
        """Return the examples with the roles that the task learns inside the labels, and without any other.

        Args:
            settings: `roles` says what is learnt.
            field: that holds the spans.
            examples: of one split.
        """
        return fold_roles(examples, field, learnt=learns_roles(settings) and has_roles(examples, field))

    def data_losses(self, settings: TaskConfig, field: str, examples: Sequence[Example]) -> list[Defect]:
        """Count the spans whose role or group the task ignores.

        Args:
            settings: `roles` says what is learnt.
            field: that holds the spans.
            examples: of one split.
        """
        losses = Defects()
        for example in () if learns_roles(settings) else examples:
            count = count_roles(example, field)
            if count:
                losses.add(f"span of '{field}' {ROLES_IGNORED}", example.source, count)
        return list(losses)

    def card_labels(self, info: TaskInfo) -> list[str]:
        """Return the names of the spans, with roles and groups."""
        return sorted({tag[2:] for tag in info.labels if tag.startswith("B-")})

    def compare(self, example: Example, field: str, answer: TaskAnswer) -> tuple[Any, Any]:
        """Return gold and answered spans over the data's own units.

        Args:
            example: with gold spans, and words if the data has them.
            field: that holds it.
            answer: of the model.
        """
        assert isinstance(answer, Spans)
        gold = _gold(example, field, answer)
        return to_units(gold, example.words), to_units(_labelled(answer), example.words)

    def outcomes(self, example: Example, field: str, answer: TaskAnswer) -> list[tuple[float, bool]]:
        """Return the confidence of each answered span, and whether it is right."""
        assert isinstance(answer, Spans)
        gold = to_units(_gold(example, field, answer), example.words)
        outcomes = []
        for span, labelled_span in zip(answer.spans, _labelled(answer), strict=True):
            units = to_units([labelled_span], example.words)
            outcomes.append((span.confidence, bool(units) and units <= gold))
        return outcomes

    def metrics(self, rows: Sequence[Judged], positive: str) -> dict[str, float]:
        """Return F1 of whole spans, and the accuracy of tags."""
        tags = [_tags(row) for row in rows]
        span_metrics = span_scores([row.gold for row in rows], [row.predicted for row in rows])
        right = token_accuracy([gold for gold, _ in tags], [predicted for _, predicted in tags])
        return {**span_metrics, "token_accuracy": right}

    def contribution(self, unit: Sequence[Judged]) -> tuple[float, float]:
        """Return twice the hits, and the number of gold and answered spans: parts of F1."""
        row = unit[0]
        return 2.0 * len(row.gold & row.predicted), float(len(row.gold) + len(row.predicted))

    def tables(self, rows: Sequence[Judged]) -> list[ReportTable]:
        """Return scores of the span types, and how spans go wrong."""
        # one example's spans of a type are told apart by where they are
        label_scores = scores.label_scores(((row.gold, row.predicted) for row in rows), lambda unit: unit[2])
        errors, pairs = scores.span_errors((row.gold, row.predicted, row.example.words is not None) for row in rows)
        return [LabelTable("Span types", label_scores), SpanErrorTable(errors, pairs)]

    def error_confidence(self, row: Judged) -> float | None:
        """Return the confidence of the surest wrong span, or None where spans were only missed."""
        assert isinstance(row.answer, Spans)
        spans = zip(row.answer.spans, _labelled(row.answer), strict=True)
        return max((span.confidence for span, labelled in spans if not _is_gold(labelled, row)), default=None)

    def sides(self, row: Judged) -> tuple[MistakeSide, MistakeSide, tuple[Segment, ...]]:
        """Return the text twice, with gold and with answered spans marked."""
        assert isinstance(row.answer, Spans)
        gold = []
        for span in sorted(_gold(row.example, row.field, row.answer), key=lambda span: span.start):
            status = "right" if to_units([span], row.example.words) <= row.predicted else "missed"
            gold.append((span.start, span.end, Segment("", span.label, status)))
        answered = []
        for answer, labelled in zip(row.answer.spans, _labelled(row.answer), strict=True):
            status = "right" if _is_gold(labelled, row) else "wrong"
            answered.append((answer.start, answer.end, Segment("", labelled.label, status, answer.confidence)))
        text = row.example.text
        return MistakeSide(marked(text, gold)), MistakeSide(marked(text, answered)), ()

    def palm_record(
        self, example: Example, index: int, info: TaskInfo, answer: Any, logits: FloatArray | None
    ) -> dict[str, Any]:
        """Return tags of the words (of what white space parts, where the data has none), their ids, and the spans."""
        words = _split_words(example) if example.words is None else example.words
        tags = tags_from_spans(_labelled(answer), words)
        return {
            "label": [info.labels.index(tag) for tag in tags],
            "tags": tags,
            "words": [example.text[start:end] for start, end in words],
            "spans": [_span_record(span) for span in answer.spans],
        }


def is_spans(value: FieldValue) -> bool:
    """Return True for a field that holds spans, or none."""
    return isinstance(value, tuple) and all(isinstance(item, LabelledSpan) for item in value)


def learns_roles(settings: TaskConfig) -> bool:
    """Return True if the task learns the roles and groups of spans, where the data has some."""
    assert isinstance(settings, SequenceLabelTask)
    return settings.roles != "ignore"


def gold_spans(example: Example, field: str) -> list[LabelledSpan]:
    """Return the spans of a field."""
    return spans_in(example.fields[field])


def _gold(example: Example, field: str, answer: Spans) -> list[LabelledSpan]:
    """Return the spans of a field to compare an answer with, with roles and groups inside their labels where the answer tells them."""
    return fold_spans(gold_spans(example, field), learnt=answer.has_roles)


def _labelled(answer: Spans) -> list[LabelledSpan]:
    spans = []
    for span in answer.spans:
        spans.append(LabelledSpan(span.start, span.end, span.name, span.role, span.group))
    return fold_spans(spans, learnt=answer.has_roles)


def _is_gold(span: LabelledSpan, row: Judged) -> bool:
    return to_units([span], row.example.words).issubset(row.gold)


def _tags(row: Judged) -> tuple[list[str], list[str]]:
    """Return gold and predicted tags of the data's own words; of characters, where it has none."""
    assert isinstance(row.answer, Spans)
    words = row.example.words
    if words is None:
        text = row.example.text
        words = tuple((i, i + 1) for i, character in enumerate(text) if not character.isspace())
    gold = tags_from_spans(_gold(row.example, row.field, row.answer), words)
    return gold, tags_from_spans(_labelled(row.answer), words)


def _split_words(example: Example) -> tuple[tuple[int, int], ...]:
    """Return the ranges of the words between white space."""
    words = []
    end = 0
    for word in example.text.split():
        start = example.text.index(word, end)
        end = start + len(word)
        words.append((start, end))
    return tuple(words)


def _span_record(span: Span) -> dict[str, Any]:
    return {
        "label": span.name,
        **role_keys(span),
        "value": span.value,
        "start": span.start,
        "end": span.end,
        "confidence": span.confidence,
    }


def role_keys(span: Span) -> dict[str, str]:
    """Return the role and the group of a span as keys of its JSON object, if it has them."""
    return dict(filter(itemgetter(1), (("role", span.role), ("group", span.group))))
