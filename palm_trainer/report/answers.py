"""Section of the page on all answers: how many are right and how many are refused, and a list of them that can be filtered."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlencode

from palm_serve.types import Answer, Classification, FallbackReason, Match, Spans
from palm_trainer.data.example import Example
from palm_trainer.data.words import word_ranges
from palm_trainer.report.blocks import AnswerList, Block, ReportSection, Table, TableCell, count_cell
from palm_trainer.tasks import Judged, task_kind
from palm_trainer.tasks.mistakes import Segment, short_source

OUT_OF_SCOPE = "(out of scope)"
"""Gold class of a text that belongs to no class."""
RIGHT_ANSWERED, WRONG_ANSWERED = "right, answered", "wrong, answered"
RIGHT_REFUSED, WRONG_REFUSED = "right, refused", "wrong, refused"
OUTCOMES = (WRONG_ANSWERED, RIGHT_REFUSED, WRONG_REFUSED, RIGHT_ANSWERED)
"""In the order of the list. The first costs most: a dialogue system acts on it."""
MAX_BYTES = 400_000
"""Size of the list in the page. All wrong answers of some thousand rows fit."""
_MAX_CLASSES = 300
_DIGITS = 4


@dataclass(frozen=True, slots=True)
class JudgedAnswer:
    """One answer of one task. `row` is None for a text that belongs to no class."""

    task: str
    kind: str
    example: Example
    answer: Any
    reason: FallbackReason
    row: Judged | None = None

    @property
    def outcome(self) -> str:
        """Return one of `OUTCOMES`."""
        refused = self.reason is not FallbackReason.NONE
        right = refused if self.row is None else task_kind(self.kind).is_correct(self.row)
        if refused:
            return RIGHT_REFUSED if right else WRONG_REFUSED
        return RIGHT_ANSWERED if right else WRONG_ANSWERED

    @property
    def confidence(self) -> float | None:
        """Return the confidence of the answer, of its least certain part. None: no part has one."""
        if self.row is None:
            return float(self.answer.label.confidence)
        outcomes = task_kind(self.kind).outcomes(self.example, self.row.field, self.answer)
        return min((float(confidence) for confidence, _ in outcomes), default=None)

    @property
    def gold(self) -> list[str]:
        """Return the classes or labels of spans that are right, each once."""
        if self.row is None:
            return [OUT_OF_SCOPE]
        return [*dict.fromkeys(task_kind(self.kind).labels_in(self.example, self.row.field))]

    @property
    def answered(self) -> list[str]:
        """Return the classes or labels of spans that were answered, each once."""
        match self.answer:
            case Spans(spans=spans):
                return [*dict.fromkeys(span.name for span in spans)]
            case Classification(label=label):
                several = self.row is not None and isinstance(self.row.predicted, frozenset)
                return sorted(self.row.predicted) if several and self.row is not None else [label.name]
            case Match(label=label):
                return [] if label is None else [label.name]
            case Answer(no_answer=no_answer):
                return ["no answer"] if no_answer else ["answer in the passage"]
        return []


def make_answers_section(answers: Mapping[str, Sequence[JudgedAnswer]]) -> ReportSection | None:
    """Make the section on the answers of all tasks. None: there is no answer.

    Args:
        answers: answers by task.
    """
    answers = {task: rows for task, rows in answers.items() if rows}
    if not answers:
        return None
    blocks: list[Block] = [_make_outcome_table(answers)]
    for task, rows in answers.items():
        if any(row.reason is not FallbackReason.NONE for row in rows):
            blocks.append(_make_class_table(task, rows))
    rows_as_json = list_rows(answers)
    total = sum(map(len, answers.values()))
    blocks.append(
        AnswerList("All answers", _as_script_text(rows_as_json), len(rows_as_json), total - len(rows_as_json))
    )
    lead = (
        "An answer is refused where a server with the thresholds of this run triggers the fallback. "
        "A wrong answer that is not refused costs most: a dialogue system acts on it."
    )
    return ReportSection("answers", "Answers", lead, blocks)


def filter_link(**filters: str) -> str:
    """Return a link that shows the rows of the list with these filters: `#task=intent&outcome=wrong%2C%20answered`."""
    return "#" + urlencode(filters, quote_via=quote)


def _make_outcome_table(answers: Mapping[str, Sequence[JudgedAnswer]]) -> Table:
    rows = []
    has_out_of_scope = False
    for task, task_answers in answers.items():
        counts = Counter(answer.outcome for answer in task_answers)
        rows.append((TableCell(task), TableCell("all"), *_outcome_cells(counts, {"task": task})))
        outside = Counter(answer.outcome for answer in task_answers if answer.row is None)
        if outside:
            has_out_of_scope = True
            filters = {"task": task, "gold": OUT_OF_SCOPE}
            rows.append((TableCell(task), TableCell("out of scope"), *_outcome_cells(outside, filters)))
    note = "Click a number to list its answers below."
    if has_out_of_scope:
        note += " A text out of scope is right where it is refused."
    return Table("Outcomes", ("task", "texts", *OUTCOMES), rows, text_columns=2, note=note)


def _make_class_table(task: str, answers: Sequence[JudgedAnswer]) -> Table:
    """Make a table of the outcomes of each class of a task."""
    by_class: dict[str, Counter[str]] = {}
    for answer in answers:
        for name in answer.gold:
            by_class.setdefault(name, Counter())[answer.outcome] += 1
    ordered = sorted(by_class.items(), key=lambda item: (-item[1][WRONG_ANSWERED], -item[1][WRONG_REFUSED], item[0]))
    rows = []
    for name, counts in ordered[:_MAX_CLASSES]:
        rows.append((TableCell(name), *_outcome_cells(counts, {"task": task, "gold": name})))
    hidden = max(0, len(ordered) - _MAX_CLASSES)
    return Table(f"{task}: outcomes by class", ("gold", *OUTCOMES), rows, hidden=hidden, folded=True)


def _outcome_cells(counts: Counter[str], filters: Mapping[str, str]) -> list[TableCell]:
    cells = []
    total = counts.total()
    for outcome in OUTCOMES:
        count = counts[outcome]
        link = filter_link(**filters, outcome=outcome) if count else ""
        cells.append(count_cell(count, bar=count / total, link=link))
    return cells


def list_rows(answers: Mapping[str, Sequence[JudgedAnswer]], max_bytes: int = MAX_BYTES) -> list[dict[str, Any]]:
    """Return the answers as the script of the page reads them: by outcome, wrong ones with the most confident first.

    Args:
        answers: answers by task.
        max_bytes: size of all rows as JSON. Each task has the same share.
    """
    listed_rows: list[dict[str, Any]] = []
    for task_answers in answers.values():
        bytes_left = max_bytes // len(answers)
        for answer in _in_order(task_answers):
            row = _row_as_json(answer)
            bytes_left -= len(json.dumps(row, ensure_ascii=False).encode("utf-8", "replace"))
            if bytes_left < 0:
                break
            listed_rows.append(row)
    return sorted(listed_rows, key=lambda row: OUTCOMES.index(row["outcome"]))


def _in_order(answers: Sequence[JudgedAnswer]) -> Iterator[JudgedAnswer]:
    """Yield the answers by outcome. The least certain of the right answers come first, the most certain of all others."""
    by_outcome: dict[str, list[JudgedAnswer]] = {outcome: [] for outcome in OUTCOMES}
    for answer in answers:
        by_outcome[answer.outcome].append(answer)
    for outcome, group in by_outcome.items():
        sign = 1 if outcome == RIGHT_ANSWERED else -1
        yield from sorted(group, key=lambda answer: sign * (answer.confidence or 0.0))


def _row_as_json(answer: JudgedAnswer) -> dict[str, Any]:
    """Return an answer with its texts. Segments are lists of text, label, status and confidence."""
    outcome = answer.outcome
    example = answer.example
    row: dict[str, Any] = {
        "task": answer.task,
        "outcome": outcome,
        "row": example.source,
        "place": short_source(example.source),
        "words": len(word_ranges(example)),
        "gold": answer.gold,
        "answered": answer.answered,
    }
    if answer.confidence is not None:
        row["confidence"] = round(answer.confidence, _DIGITS)
    if answer.reason is not FallbackReason.NONE:
        row["reason"] = answer.reason.name.lower().replace("_", " ")
    if answer.row is None:
        row["texts"] = [example.text]
        row["sides"] = [[[], [[OUT_OF_SCOPE, "", "missed", None]]], [[], [_label_as_json(answer)]]]
        return row
    kind = task_kind(answer.kind)
    gold, answered, context = kind.sides(answer.row)
    row["texts"] = [segment.text for segment in context]
    is_right = kind.is_correct(answer.row)
    sides = (answered,) if is_right else (gold, answered)
    row["sides"] = []
    for side in sides:
        segments = [_segment_as_json(segment, is_right) for segment in side.segments]
        labels = [_segment_as_json(label, is_right, is_label=True) for label in side.labels]
        row["sides"].append([segments, labels])
    return row


def _label_as_json(answer: JudgedAnswer) -> list[Any]:
    """Return the class that was answered for a text out of scope."""
    label = answer.answer.label
    status = "wrong" if answer.reason is FallbackReason.NONE else "plain"
    return [label.name, "", status, round(float(label.confidence), _DIGITS)]


def _segment_as_json(segment: Segment, is_right: bool, is_label: bool = False) -> list[Any]:
    """Return a stretch of text or a label. Kinds mark the parts of wrong answers, so all marks of a right one are right."""
    if not segment.status and not is_label:
        return [segment.text]
    status = "right" if is_right else segment.status
    confidence = None if segment.confidence is None else round(float(segment.confidence), _DIGITS)
    return [segment.text, segment.label, status, confidence]


def _as_script_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return JSON that can stand in a script element."""
    text = json.dumps(rows, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
