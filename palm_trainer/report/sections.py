"""Results of one task -> its section: which tables and drawings suit which kind."""

from collections import Counter
from collections.abc import Mapping, Sequence

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.evaluation.evaluate import collect_confidences
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
from palm_trainer.report.reliability import ConfidencePoint, group_into_bins
from palm_trainer.tasks import Judged, scores, task_kind
from palm_trainer.tasks.metrics import expected_calibration_error
from palm_trainer.tasks.report_tables import (
    AnswerLengthTable,
    ConfusionTable,
    LabelTable,
    MatchThresholds,
    ReportTable,
    SpanErrorTable,
)

LABELS_SHOWN = 300
"""Rows of a table of labels."""
_CONFUSIONS_SHOWN = 20
_SURE = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def task_section(
    task: str, info: TaskInfo, split: str, rows: Sequence[Judged], trained: Mapping[str, int]
) -> ReportSection:
    """Return the section of a task: scores, confusions, calibration and mistakes on a split.

    Args:
        task: task name.
        info: its manifest entry.
        split: name of the split.
        rows: judged examples of the split, at least one.
        trained: how often each label occurs in train.
    """
    kind = task_kind(info.kind)
    blocks: list[Block] = []
    for table in kind.tables(rows):
        blocks += _table_blocks(table, trained)
    blocks += _confidence(info, rows)
    blocks.append(_mistakes(info.kind, rows))
    return ReportSection(f"task-{task}", task, f"{info.kind}, {split}: {kind.summary(rows)}", blocks)


def _table_blocks(table: ReportTable, trained: Mapping[str, int]) -> list[Block]:
    """Draw one of a kind's tables."""
    match table:
        case LabelTable(title=title, scores=label_scores):
            return [_labels(label_scores, trained, title)]
        case ConfusionTable(pairs=pairs, as_matrix=True):
            return [_matrix(pairs), *_confused(pairs)]
        case ConfusionTable(pairs=pairs):
            return _confused(pairs)
        case SpanErrorTable(errors=errors, pairs=pairs):
            return _span_errors(errors, pairs)
        case AnswerLengthTable(scores=reading_scores):
            return [_by_length(reading_scores)]


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


def _span_errors(errors: Counter[str], pairs: scores.Confusions) -> list[Block]:
    if not errors:
        return [Note("Every span was found, and no other.")]
    total = errors.total()
    rows = [
        (TableCell(error), count_cell(number), percent_cell(number / total, bar=True))
        for error, number in errors.most_common()
    ]
    return [Table("How spans go wrong", ("error", "spans", "%"), rows), *_confused(pairs)]


def _by_length(reading_scores: Sequence[scores.ReadingScore]) -> Table:
    rows = [
        (
            TableCell(score.tokens),
            percent_cell(score.exact_match),
            percent_cell(score.f1, bar=True),
            count_cell(score.support),
        )
        for score in reading_scores
    ]
    return Table("By length of the answer", ("tokens", "exact match", "F1", "questions"), rows)


def _confidence(info: TaskInfo, rows: Sequence[Judged]) -> list[Block]:
    kind = task_kind(info.kind)
    points = collect_confidences(info.kind, rows)
    blocks = _calibration(points, kind.answer_noun) if points else []
    thresholds = kind.match_thresholds(info, rows)
    if thresholds is not None:
        blocks.append(_thresholds(thresholds))
    return blocks


def _calibration(points: Sequence[ConfidencePoint], noun: str) -> list[Block]:
    """Draw the reliability diagram, and what acting from a confidence on would give."""
    error = expected_calibration_error(points)
    label = f"Reliability diagram: expected calibration error {error:.2%} over {len(points)} {noun}"
    legend = (
        ("bar", "share right"),
        ("gap", "surer than right"),
        ("spare", "right more often than said"),
        ("diagonal", "calibrated"),
    )
    note = (
        f"Expected calibration error {100 * error:.2f} % over {len(points):,} {noun} in 15 equal ranges "
        "(the bars: ten); the numbers count answers."
    )
    diagram = Figure(
        "Calibration", draw_reliability_chart(group_into_bins(points), label=label), note, legend, narrow=True
    )
    cells = [
        (
            TableCell(f"{score.threshold:.2f}", score.threshold),
            percent_cell(score.share),
            percent_cell(score.accuracy, bar=True),
        )
        for score in scores.thresholds(points, _SURE)
    ]
    title = f"Acting only on {noun} from a confidence on"
    return [diagram, Table(title, ("confidence", "% kept", "% right of these"), cells)]


def _thresholds(thresholds: MatchThresholds) -> Table:
    columns = ("score", "precision", "recall", "F1", "false positive rate")
    rows = [
        (
            TableCell(f"{score.threshold:.1f}", score.threshold),
            *map(percent_cell, (score.precision, score.recall, score.f1, score.false_positive_rate)),
        )
        for score in thresholds.scores
    ]
    return Table(f"Saying '{thresholds.label}' from a score on", columns, rows)


def _mistakes(kind: str, rows: Sequence[Judged]) -> Block:
    items, total = worst(kind, rows)
    if not items:
        return Note("There is no error.")
    note = (
        "The surest first. A mark with ✓ is right, with ✗ answered but wrong, with ○ in the gold data but not answered."
    )
    return Mistakes("Worst errors", items, total - len(items), note)
