"""Section of the page on training: loss curves, and the metrics of all evaluations on dev."""

from collections.abc import Mapping, Sequence

from palm_trainer.report.blocks import Block, Figure, Figures, Note, ReportSection, Table, TableCell, count_cell
from palm_trainer.report.charts import Line, draw_line_chart
from palm_trainer.report.history import CurvePoint, History, smooth_curve
from palm_trainer.report.metric_text import UNITS_NOTE, column_title, is_percentage, metric_title
from palm_trainer.report.overview import metric_cell

_LOGARITHMIC_RATIO = 30.0
"""Losses have a logarithmic axis if the largest is more than this many times the smallest."""
_LINE_STYLES = 6


def make_training_section(history: History, kinds: Mapping[str, str]) -> ReportSection:
    """Make the section with the curves of each task and a table of all evaluations."""
    best_step = history.best.step if history.best else None
    figures = []
    for task in dict.fromkeys([*kinds, *history.losses]):
        if task in history.losses:
            figures.append(_draw_losses(task, history.losses[task], best_step))
        names = [name for name in history.metric_names if name.startswith(f"{task}.")]
        if names:
            figures.append(_draw_metrics(task, names, history, best_step))
    if "exact_match" in history.metric_names:
        figures.append(_draw_metrics("all tasks", ["exact_match"], history, best_step))
    blocks: list[Block] = [Figures(figures)] if figures else [Note("The log has no training steps.")]
    if history.metric_names:
        blocks.append(_make_evaluation_table(history))
    lead = "Loss of the training batches, and metrics on dev at each evaluation."
    return ReportSection("training", "Training", lead, blocks)


def _make_evaluation_table(history: History) -> Table:
    columns = ["epoch", "step"]
    for name in history.metric_names:
        columns.append(column_title(name))
    rows = []
    for evaluation in history.evaluations:
        mark = " best" if evaluation is history.best else ""
        row = [TableCell(f"{evaluation.epoch:g}{mark}", evaluation.epoch), count_cell(evaluation.step)]
        for name in history.metric_names:
            row.append(metric_cell(name, evaluation.metrics.get(name)))
        rows.append(row)
    return Table("All evaluations on dev", columns, rows, note=UNITS_NOTE, folded=True)


def _draw_losses(task: str, points: Sequence[CurvePoint], best_step: float | None) -> Figure:
    losses = [loss for _, loss in points]
    log = min(losses) > 0 and max(losses) / min(losses) > _LOGARITHMIC_RATIO
    means = smooth_curve(points)
    svg = draw_line_chart(
        [Line(points, "faint"), Line(means, "s1")],
        label=f"{task}: training loss from {means[0][1]:.3g} to {means[-1][1]:.3g}",
        x_name="step",
        y_name="loss",
        log=log,
        best=best_step,
        y_range=None if log else (min(0.0, *losses), max(0.0, *losses)),
    )
    title = f"{task}: loss (logarithmic)" if log else f"{task}: loss"
    legend = (("faint", "logged batches"), ("s1", "running mean"))
    return Figure(title, svg, legend=legend)


def _draw_metrics(title: str, names: Sequence[str], history: History, best_step: float | None) -> Figure:
    """Draw the curves of some metrics, in per cent unless one of them is a perplexity."""
    lines = []
    legend = []
    descriptions = []
    values: list[float] = []
    for index, name in enumerate(names):
        short_name = metric_title(name.rpartition(".")[2])
        factor = 100 if is_percentage(name) else 1
        points = []
        point_titles = []
        for evaluation in history.evaluations:
            if name in evaluation.metrics:
                value = factor * evaluation.metrics[name]
                points.append((float(evaluation.step), value))
                point_titles.append(f"epoch {evaluation.epoch:g}: {short_name} {value:.2f}")
                values.append(value)
        style = f"s{index % _LINE_STYLES + 1}"
        lines.append(Line(points, style, dots=True, titles=point_titles))
        legend.append((style, short_name))
        descriptions.append(f"{short_name} from {points[0][1]:.1f} to {points[-1][1]:.1f}")
    percentages = all(is_percentage(name) for name in names)
    margin = max(1.0, 0.05 * (max(values) - min(values)))
    low = max(0.0, min(values) - margin)
    high = max(values) + margin
    label = f"{title} on dev: {', '.join(descriptions)}"
    if percentages:
        high = min(100.0, high)
        label += " per cent"
    svg = draw_line_chart(
        lines,
        label=label,
        x_name="step",
        y_name="%" if percentages else "",
        best=best_step,
        y_range=(low, high),
    )
    return Figure(f"{title}: dev", svg, legend=legend)
