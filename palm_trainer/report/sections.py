"""Section of a task: scores, confusions, calibration and mistakes."""

from collections import Counter
from collections.abc import Mapping, Sequence

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.evaluation.evaluate import collect_confidences
from palm_trainer.report.answers import filter_link
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
from palm_trainer.report.mistakes import select_mistakes
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

_MAX_LABELS = 300
"""Rows of a table of labels."""
_FOLDED_LABELS = 30
"""A table with more labels is folded."""
_MAX_CONFUSIONS = 20
_CONFIDENCE_THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


def make_task_section(
    task: str, info: TaskInfo, split: str, rows: Sequence[Judged], train_counts: Mapping[str, int]
) -> ReportSection:
    """Make the section of a task on a split.

    Args:
        task: name of the task.
        info: its manifest entry.
        split: name of the split.
        rows: judged examples of the split, at least one.
        train_counts: number of examples of each label in train.
    """
    kind = task_kind(info.kind)
    blocks: list[Block] = []
    for table in kind.tables(rows):
        blocks += _make_table_blocks(task, table, train_counts)
    points = collect_confidences(info.kind, rows)
    if points:
        blocks.append(_draw_calibration(points, kind.answer_noun))
        blocks.append(_make_threshold_table(points, kind.answer_noun))
    match_thresholds = kind.match_thresholds(info, rows)
    if match_thresholds is not None:
        blocks.append(_make_match_table(match_thresholds))
    blocks.append(_list_mistakes(task, info.kind, rows))
    return ReportSection(f"task-{task}", task, f"{info.kind}, {split}: {kind.summary(rows)}", blocks)


def _make_table_blocks(task: str, table: ReportTable, train_counts: Mapping[str, int]) -> list[Block]:
    """Make the blocks of one of a kind's tables."""
    match table:
        case LabelTable(title=title, scores=label_scores):
            return [_make_label_table(label_scores, train_counts, title)]
        case ConfusionTable(pairs=pairs, as_matrix=True):
            return [_make_matrix(task, pairs), *_list_confusions(pairs, task)]
        case ConfusionTable(pairs=pairs):
            return _list_confusions(pairs, task)
        case SpanErrorTable(errors=errors, pairs=pairs):
            return _list_span_errors(errors, pairs)
        case AnswerLengthTable(scores=reading_scores):
            return [_make_length_table(reading_scores)]


def _make_label_table(label_scores: Sequence[scores.LabelScore], train_counts: Mapping[str, int], title: str) -> Table:
    rows = []
    for score in label_scores[:_MAX_LABELS]:
        row = (
            TableCell(score.label),
            percent_cell(score.f1, bar=True),
            percent_cell(score.precision),
            percent_cell(score.recall),
            count_cell(score.support),
            count_cell(score.answered),
            count_cell(train_counts.get(score.label, 0)),
        )
        rows.append(row)
    columns = ("label", "F1", "precision", "recall", "support", "answered", "in train")
    note = (
        "Scores in per cent. Support counts the label in the gold data, answered counts it in the answers. "
        "Click a heading to sort."
    )
    hidden = max(0, len(label_scores) - _MAX_LABELS)
    return Table(title, columns, rows, note=note, hidden=hidden, folded=len(label_scores) > _FOLDED_LABELS)


def _make_matrix(task: str, pairs: scores.Confusions) -> Block:
    confusion = scores.confusion(pairs)
    if not confusion.labels:
        return Note(f"No label is confused with another: all {confusion.all_labels} are told apart.")
    heat = []
    for counts in confusion.counts:
        total = max(1, sum(counts))
        heat.append([count / total for count in counts])
    links = []
    for gold in confusion.labels:
        links.append([filter_link(task=task, gold=gold, answered=answered) for answered in confusion.labels])
    note = "Rows: gold labels. Columns: answers. The colour is the fraction of the row. A number leads to its answers."
    if len(confusion.labels) < confusion.all_labels:
        note = (
            f"The {len(confusion.labels)} labels of {confusion.all_labels} that are confused most. "
            f"{confusion.shown_errors} of {confusion.errors} errors are between them. {note}"
        )
    return Matrix("Confusion matrix", confusion.labels, confusion.counts, heat, note, links)


def _list_confusions(pairs: scores.Confusions, task: str = "") -> list[Block]:
    """List which labels were answered for which. With a task, the numbers lead to its answers."""
    wrong_pairs = []
    for pair, count in pairs.most_common():
        gold, predicted = pair
        if gold != predicted:
            wrong_pairs.append((pair, count))
    if not wrong_pairs:
        return []
    rows = []
    for (gold, predicted), count in wrong_pairs[:_MAX_CONFUSIONS]:
        link = filter_link(task=task, gold=gold, answered=predicted) if task else ""
        rows.append((TableCell(gold), TableCell(predicted), count_cell(count, link=link)))
    columns = ("gold", "answered", "times")
    hidden = max(0, len(wrong_pairs) - _MAX_CONFUSIONS)
    return [Table("Most frequent confusions", columns, rows, text_columns=2, hidden=hidden)]


def _list_span_errors(errors: Counter[str], pairs: scores.Confusions) -> list[Block]:
    if not errors:
        return [Note("All spans were found, and no others.")]
    total = errors.total()
    rows = []
    for error, count in errors.most_common():
        rows.append((TableCell(error), count_cell(count), percent_cell(count / total, bar=True)))
    return [Table("Span errors by type", ("error", "spans", "%"), rows), *_list_confusions(pairs)]


def _make_length_table(reading_scores: Sequence[scores.ReadingScore]) -> Table:
    rows = []
    for score in reading_scores:
        row = (
            TableCell(score.tokens),
            percent_cell(score.exact_match),
            percent_cell(score.f1, bar=True),
            count_cell(score.support),
        )
        rows.append(row)
    return Table("By length of the answer", ("tokens", "exact match", "F1", "questions"), rows)


def _draw_calibration(points: Sequence[ConfidencePoint], noun: str) -> Figure:
    error = expected_calibration_error(points)
    label = f"Reliability diagram: expected calibration error {error:.2%} over {len(points)} {noun}"
    legend = (
        ("bar", "accuracy"),
        ("gap", "overconfident"),
        ("spare", "underconfident"),
        ("diagonal", "calibrated"),
    )
    note = (
        f"Expected calibration error {100 * error:.2f} % over {len(points):,} {noun} in 15 equal ranges. "
        "The bars show ten ranges, the numbers count answers."
    )
    svg = draw_reliability_chart(group_into_bins(points), label=label)
    return Figure("Calibration", svg, note, legend, narrow=True)


def _make_threshold_table(points: Sequence[ConfidencePoint], noun: str) -> Table:
    """Make a table of how many answers reach a confidence, and how many of these are right."""
    rows = []
    for score in scores.thresholds(points, _CONFIDENCE_THRESHOLDS):
        row = (
            TableCell(f"{score.threshold:.2f}", score.threshold),
            percent_cell(score.share),
            percent_cell(score.accuracy, bar=True),
        )
        rows.append(row)
    title = f"Accuracy of {noun} above a confidence"
    return Table(title, ("confidence", "% of all", "% right of these"), rows)


def _make_match_table(thresholds: MatchThresholds) -> Table:
    rows = []
    for score in thresholds.scores:
        row = (
            TableCell(f"{score.threshold:.1f}", score.threshold),
            percent_cell(score.precision),
            percent_cell(score.recall),
            percent_cell(score.f1),
            percent_cell(score.false_positive_rate),
        )
        rows.append(row)
    columns = ("score", "precision", "recall", "F1", "false positive rate")
    return Table(f"'{thresholds.label}' above a score", columns, rows)


def _list_mistakes(task: str, kind: str, rows: Sequence[Judged]) -> Block:
    mistakes, total = select_mistakes(kind, rows)
    if not mistakes:
        return Note("There are no errors.")
    note = (
        "The most confident come first. A mark with ✓ is right, with ✗ answered but wrong, "
        "with ○ in the gold data but not answered."
    )
    links = []
    if all(len(unit) == 1 for unit in task_kind(kind).units(rows)):  # those of a ranker are not in the list of answers
        links = [filter_link(task=task, row=mistake.source) for mistake in mistakes]
    return Mistakes("Worst errors", mistakes, total - len(mistakes), note, links)
