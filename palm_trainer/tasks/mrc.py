"""Task kind: reading comprehension, the answer to a question in its passage."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Answer, FloatArray, TaskAnswer
from palm_trainer.config.schema import MrcTask, TaskConfig
from palm_trainer.data.example import Example, FieldValue, LabelledSpan
from palm_trainer.data.formats.jsonl import ANSWER
from palm_trainer.data.targets.mrc import MrcTarget
from palm_trainer.tasks import scores
from palm_trainer.tasks.base import PREDICTIONS, Judged, LearnContext, TaskKind, unlabelled_note
from palm_trainer.tasks.metrics import answer_tokens, reading_scores
from palm_trainer.tasks.mistakes import MistakeSide, Segment, label_side, marked, shorten_text
from palm_trainer.tasks.report_tables import AnswerLengthTable, ReportTable
from palm_trainer.tasks.sequence_label import gold_spans, is_spans

_NEVER_NOTHING = 1e9
"""A null threshold that no score exceeds."""
_OTHER_ANSWERS_SHOWN = 5


class MrcKind(TaskKind):
    """Answers cut from a passage, compared as SQuAD does. The limit of "no answer" is chosen on dev."""

    name = "mrc"
    section = MrcTask
    primary_metric = "f1"
    answers_tokens = True
    calibrates_answers = True
    wanted_value = "spans of the passage"
    default_field = ANSWER
    example_pair = ("your question", "its passage")

    def fits(self, value: FieldValue) -> bool:
        """Return True for spans."""
        return is_spans(value)

    def learn(self, task: str, settings: TaskConfig, examples: Sequence[Example], context: LearnContext) -> MrcTarget:
        """Build the target with the window sizes that the configuration or the data gives.

        Args:
            task: task name.
            settings: sizes of windows and answers; those left open are taken from the data.
            examples: questions with their passages, of all data sets of the task.
            context: `max_length` and the tokenizer decide the windows.
        """
        assert isinstance(settings, MrcTask)
        return MrcTarget.learn(
            task,
            settings.field or "",
            examples,
            max_length=context.max_length,
            max_query_tokens=settings.max_query_tokens,
            doc_stride_tokens=settings.doc_stride_tokens,
            max_answer_tokens=settings.max_answer_tokens,
            n_best=settings.n_best,
            null_threshold=settings.null_threshold or 0.0,
            tokenizer=TextTokenizer(context.tokenizer_json, context.max_length),
        )

    def has_labels(self, settings: TaskConfig) -> bool:
        """Return False: answers are no labels."""
        return False

    def labels_in(self, example: Example, field: str) -> Iterator[str]:
        """Yield whether the passage holds an answer."""
        value = example.fields.get(field)
        if isinstance(value, str):
            yield value
        elif value is not None:
            yield "answer in the passage" if value else "no answer"

    def field_summary(self, settings: TaskConfig, field: str, examples: Sequence[Example]) -> str:
        """Describe how many questions have an answer.

        Args:
            settings: not used.
            field: that holds the answers.
            examples: training questions.
        """
        answered = [bool(example.fields[field]) for example in examples if field in example.fields]
        without = len(answered) - sum(answered)
        return f"{sum(answered)} answered, {without} without an answer{unlabelled_note(field, examples)}"

    def compare(self, example: Example, field: str, answer: TaskAnswer) -> tuple[Any, Any]:
        """Return the texts of all right answers, "" for none, and the text of the answer.

        Args:
            example: with the gold label.
            field: that holds it.
            answer: of the model.
        """
        assert isinstance(answer, Answer)
        return _gold_texts(example, field), answer.text

    def is_correct(self, row: Judged) -> bool:
        """Return True for an answer equal to a right one after SQuAD's normalization."""
        return _is_right(row.gold, row.predicted)

    def outcomes(self, example: Example, field: str, answer: TaskAnswer) -> list[tuple[float, bool]]:
        """Return the confidence of the answer, and whether it equals a right one after SQuAD's normalization."""
        assert isinstance(answer, Answer)
        return [(answer.confidence, _is_right(_gold_texts(example, field), answer.text))]

    def metrics(self, rows: Sequence[Judged], positive: str) -> dict[str, float]:
        """Return exact match and F1."""
        return reading_scores([row.gold for row in rows], [row.predicted for row in rows])

    def contribution(self, unit: Sequence[Judged]) -> tuple[float, float]:
        """Return F1 of the answer, and 1."""
        row = unit[0]
        return reading_scores([row.gold], [row.predicted])["f1"], 1.0

    def has_open_limit(self, settings: TaskConfig | None) -> bool:
        """Return True unless the configuration gives the threshold. Heads in Python always give it."""
        return isinstance(settings, MrcTask) and settings.null_threshold is None

    def limit_rows(self, info: TaskInfo, rows: Sequence[tuple[Example, str]]) -> list[tuple[Example, str]]:
        """Return the questions with a passage; none unless some have an answer and some have not."""
        if info.decode.null_threshold is None:
            return []
        rows = [(example, field) for example, field in rows if example.pair]
        answered = {bool(example.fields[field]) for example, field in rows}
        return rows if len(answered) > 1 else []

    def without_limit(self, info: TaskInfo) -> TaskInfo:
        """Return the task so that it ranks "no answer" and never gives it first."""
        return self.with_limit(info, _NEVER_NOTHING)

    def best_limit(self, info: TaskInfo, rows: Sequence[tuple[Example, str, TaskAnswer]]) -> float | None:
        """Return the null threshold with the greatest F1; None where no answer was ranked beside "no answer"."""
        margins = []
        answered = []
        nothing = []
        for example, field, answer in rows:
            assert isinstance(answer, Answer)
            null = next((choice for choice in answer.alternatives if choice.no_answer), None)
            if null is None:  # no answer can be given here, whatever the limit
                continue
            gold = _gold_texts(example, field)
            # confidences are a softmax of the scores, which a temperature divides
            ratio = np.log(max(null.confidence, 1e-300)) - np.log(max(answer.confidence, 1e-300))
            margins.append(info.calibration.temperature * ratio)
            answered.append(reading_scores([gold], [answer.text])["f1"])
            nothing.append(reading_scores([gold], [""])["f1"])
        if not margins:
            return None
        return best_null_limit(np.array(margins), np.array(answered), np.array(nothing))

    def with_limit(self, info: TaskInfo, limit: float) -> TaskInfo:
        """Return the task with another null threshold."""
        return info.model_copy(update={"decode": info.decode.model_copy(update={"null_threshold": limit})})

    def tables(self, rows: Sequence[Judged]) -> list[ReportTable]:
        """Return exact match and F1 by the length of the answer."""
        return [
            AnswerLengthTable(scores.reading_by_length([row.gold for row in rows], [row.predicted for row in rows]))
        ]

    def error_confidence(self, row: Judged) -> float | None:
        """Return the confidence of the answer."""
        assert isinstance(row.answer, Answer)
        return row.answer.confidence

    def sides(self, row: Judged) -> tuple[MistakeSide, MistakeSide, tuple[Segment, ...]]:
        """Return the passage with the first right answer and with the given one marked, and the question."""
        assert isinstance(row.answer, Answer)
        return _gold_side(row), _answered_side(row, row.answer), (shorten_text(row.example.text),)

    def palm_record(
        self, example: Example, index: int, info: TaskInfo, answer: Any, logits: FloatArray | None
    ) -> dict[str, Any]:
        """Return the answer with its place in the passage, and the other answers that were ranked."""
        _, mark, question = example.source.rpartition("#")
        return {
            "id": question if mark else index,  # SQuAD's own id, or the row's number where the file has none
            "text": answer.text,
            "start": answer.start,
            "end": answer.end,
            "probability": answer.confidence,
            "nbest": [_choice(choice) for choice in (answer, *answer.alternatives)],
        }

    def palm_files(self, records: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Return one object by question id, and the ranked answers in a file of their own."""
        texts = {str(record["id"]): record["text"] for record in records}
        ranked = {str(record["id"]): record["nbest"] for record in records}
        return {PREDICTIONS: _json(texts), "nbest_predictions.json": _json(ranked)}


def _gold_texts(example: Example, field: str) -> tuple[str, ...]:
    passage = example.pair or ""
    return tuple(passage[span.start : span.end] for span in gold_spans(example, field)) or ("",)


def _is_right(gold: Sequence[str], text: str) -> bool:
    tokens = answer_tokens(text)
    return any(answer_tokens(answer) == tokens for answer in gold)


def _gold_side(row: Judged) -> MistakeSide:
    spans = gold_spans(row.example, row.field)
    if not spans:
        return label_side("no answer", "missed")
    passage = row.example.pair or ""
    first = spans[0]
    mark = (first.start, first.end, Segment("", "answer", "missed"))
    other_texts = {_cut(passage, span) for span in spans[1:]} - {_cut(passage, first)}
    labels = tuple(Segment(text, "", "missed") for text in sorted(other_texts)[:_OTHER_ANSWERS_SHOWN])
    return MistakeSide(marked(passage, [mark], context_only=True), labels)


def _answered_side(row: Judged, answer: Answer) -> MistakeSide:
    if answer.no_answer:
        return label_side("no answer", "wrong", answer.confidence)
    mark = (answer.start, answer.end, Segment("", "answer", "wrong", answer.confidence))
    return MistakeSide(marked(row.example.pair or "", [mark], context_only=True))


def _cut(passage: str, span: LabelledSpan) -> str:
    return passage[span.start : span.end]


def _choice(answer: Answer) -> dict[str, Any]:
    return {"text": answer.text, "probability": answer.confidence, "start": answer.start, "end": answer.end}


def _json(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def best_null_limit(
    margins: npt.NDArray[np.float64], answered: npt.NDArray[np.float64], nothing: npt.NDArray[np.float64]
) -> float:
    """Return the limit with the greatest sum of scores, of several the one nearest to 0.

    "No answer" is given where the margin exceeds the limit.

    Args:
        margins: score of "no answer" over that of the best answer, [N].
        answered: score (F1) when the answer is given, [N].
        nothing: score when "no answer" is given, [N].
    """
    edges = np.unique(margins)
    candidates = np.concatenate([[0.0, edges[0] - 1, edges[-1] + 1], (edges[1:] + edges[:-1]) / 2])
    totals = [float(np.where(margins > limit, nothing, answered).sum()) for limit in candidates]
    best = max(totals)
    return float(min((c for c, t in zip(candidates, totals, strict=True) if t >= best - 1e-9), key=abs))
