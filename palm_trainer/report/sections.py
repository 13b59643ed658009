"""Results of one task -> its section: which tables and drawings suit which kind."""

from collections.abc import Mapping, Sequence

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import Match
from palm_trainer.evaluation.metrics import expected_calibration_error
from palm_trainer.report import scores
from palm_trainer.report.blocks import (
    Block,
    Figure,
    Matrix,
    Mistakes,
    Note,
    ReportSection,
    Table,
    TableCell,
    count_cell,
    percent_cell,
)
from palm_trainer.report.charts import draw_reliability_chart
from palm_trainer.report.mistakes import worst
from palm_trainer.report.reliability import collect_confidences, group_into_bins
from palm_trainer.report.rows import Judged

LABELS_SHOWN = 300
"""Rows of a table of labels."""
_CONFUSIONS_SHOWN = 20
_STEPS = tuple(i / 10 for i in range(1, 10))
_SURE = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def task_section(
    task: str, info: TaskInfo, split: str, rows: Sequence[Judged], trained: Mapping[str, int]
) -> ReportSection:
    """All that can be said of a task's answers on a split. `trained`: how often each label occurs in train."""
    blocks: list[Block] = []
    match info.kind:
        case "mrc":
            blocks += [_by_length(rows)]
        case "match" if _is_ranker(rows):
            pass
        case "sequence_label":
            blocks += [_labels(_label_scores(info.kind, rows), trained, "Span types"), *_span_errors(rows)]
        case kind:
            blocks += [_labels(_label_scores(kind, rows), trained, "Labels")]
            if kind == "multi_label":
                blocks += _confused(scores.set_confusions((row.gold, row.predicted) for row in rows))
            else:
                pairs = scores.label_pairs((row.gold for row in rows), (row.predicted for row in rows))
                blocks += [_matrix(pairs), *_confused(pairs)]
    blocks += _confidence(info, rows)
    blocks.append(_mistakes(info.kind, rows))
    wrong = _wrong(rows)
    lead = f"{info.kind}, {split}: {wrong:,} of {len(rows):,} examples are not wholly right."
    if _is_ranker(rows):
        lead = f"{info.kind}, {split}: {wrong:,} of {len(rows) // 2:,} pairs do not score above their negative."
    return ReportSection(f"task-{task}", task, lead, blocks)


def _is_ranker(rows: Sequence[Judged]) -> bool:
    return isinstance(rows[0].answer, Match) and rows[0].answer.label is None


def _wrong(rows: Sequence[Judged]) -> int:
    if _is_ranker(rows):
        return sum(n.predicted >= p.predicted for p, n in zip(rows[::2], rows[1::2], strict=True))
    return sum(not row.correct for row in rows)


def _label_scores(kind: str, rows: Sequence[Judged]) -> list[scores.LabelScore]:
    match kind:
        case "sequence_label":  # one example's spans of a type are told apart by where they are
            return scores.label_scores(((row.gold, row.predicted) for row in rows), lambda unit: unit[2])
        case "multi_label":
            return scores.label_scores(((row.gold, row.predicted) for row in rows), str)
    return scores.label_scores((((row.gold,), (row.predicted,)) for row in rows), str)


def _labels(found: Sequence[scores.LabelScore], trained: Mapping[str, int], title: str) -> Table:
    rows = [
        (
            TableCell(one.label),
            percent_cell(one.f1, bar=True),
            percent_cell(one.precision),
            percent_cell(one.recall),
            count_cell(one.support),
            count_cell(one.answered),
            count_cell(trained.get(one.label, 0)),
        )
        for one in found[:LABELS_SHOWN]
    ]
    columns = ("label", "F1", "precision", "recall", "support", "answered", "in train")
    note = "In per cent; support counts the label in the gold data, answered in the model's answers. A click on a heading sorts."
    return Table(title, columns, rows, note=note, hidden=max(0, len(found) - LABELS_SHOWN), folded=len(found) > 30)


def _matrix(pairs: scores.Confusions) -> Block:
    found = scores.confusion(pairs)
    if not found.labels:
        return Note(f"No label is confused with another: all {found.all_labels} are told apart.")
    totals = [max(1, sum(own)) for own in found.counts]
    heat = [[number / total for number in own] for own, total in zip(found.counts, totals, strict=True)]
    note = "Rows: gold labels. Columns: answers. The colour is the share of the row."
    if len(found.labels) < found.all_labels:
        note = (
            f"The {len(found.labels)} labels of {found.all_labels} that are confused most; {found.shown_errors} of {found.errors} errors are between them. "
            + note
        )
    return Matrix("Confusion matrix", found.labels, found.counts, heat, note)


def _confused(pairs: scores.Confusions) -> list[Block]:
    wrong = [(pair, number) for pair, number in pairs.most_common() if pair[0] != pair[1]]
    if not wrong:
        return []
    rows = [
        (TableCell(gold), TableCell(predicted), count_cell(number))
        for (gold, predicted), number in wrong[:_CONFUSIONS_SHOWN]
    ]
    more = max(0, len(wrong) - _CONFUSIONS_SHOWN)
    return [Table("Most frequent confusions", ("gold", "answered", "times"), rows, text_columns=2, hidden=more)]


def _span_errors(rows: Sequence[Judged]) -> list[Block]:
    kinds, taken = scores.span_errors((row.gold, row.predicted, row.example.words is not None) for row in rows)
    if not kinds:
        return [Note("Every span was found, and no other.")]
    total = kinds.total()
    told = [
        (TableCell(kind), count_cell(number), percent_cell(number / total, bar=True))
        for kind, number in kinds.most_common()
    ]
    return [Table("How spans go wrong", ("error", "spans", "%"), told), *_confused(taken)]


def _by_length(rows: Sequence[Judged]) -> Table:
    found = scores.reading_by_length([row.gold for row in rows], [row.predicted for row in rows])
    cells = [
        (TableCell(one.tokens), percent_cell(one.exact_match), percent_cell(one.f1, bar=True), count_cell(one.support))
        for one in found
    ]
    return Table("By length of the answer", ("tokens", "exact match", "F1", "questions"), cells)


def _confidence(info: TaskInfo, rows: Sequence[Judged]) -> list[Block]:
    found = collect_confidences(info.kind, rows)
    blocks: list[Block] = []
    if found:
        filled = group_into_bins(found)
        error = expected_calibration_error(found)
        what = {"sequence_label": "whole spans", "multi_label": "labels that were said to apply"}.get(
            info.kind, "answers"
        )
        label = f"Reliability diagram: expected calibration error {error:.2%} over {len(found)} {what}"
        legend = (
            ("bar", "share right"),
            ("gap", "surer than right"),
            ("spare", "right more often than said"),
            ("diagonal", "calibrated"),
        )
        note = f"Expected calibration error {100 * error:.2f} % over {len(found):,} {what} in 15 equal ranges (the bars: ten); the numbers count answers."
        blocks.append(Figure("Calibration", draw_reliability_chart(filled, label=label), note, legend, narrow=True))
        sure = scores.thresholds(found, _SURE)
        cells = [
            (TableCell(f"{s.threshold:.2f}", s.threshold), percent_cell(s.share), percent_cell(s.accuracy, bar=True))
            for s in sure
        ]
        title = f"Acting only on {what} from a confidence on"
        blocks.append(Table(title, ("confidence", "% kept", "% right of these"), cells))
    if info.kind == "match" and info.labels:
        yes = info.decode.match_label
        pairs = [(row.answer.score, row.gold == yes) for row in rows if isinstance(row.answer, Match)]
        scored = [
            (
                TableCell(f"{s.threshold:.1f}", s.threshold),
                *map(percent_cell, (s.precision, s.recall, s.f1, s.false_positive_rate)),
            )
            for s in scores.match_thresholds(pairs, _STEPS)
        ]
        columns = ("score", "precision", "recall", "F1", "false positive rate")
        blocks.append(Table(f"Saying '{yes}' from a score on", columns, scored))
    return blocks


def _mistakes(kind: str, rows: Sequence[Judged]) -> Block:
    items, total = worst(kind, rows)
    if not items:
        return Note("There is no error.")
    note = (
        "The surest first. A mark with ✓ is right, with ✗ answered but wrong, with ○ in the gold data but not answered."
    )
    return Mistakes("Worst errors", items, total - len(items), note)
