"""Page of a comparison: compare.html, a single file with differences, scores and method."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from palm_trainer.compare.forest_plot import draw_forest_plot, format_difference
from palm_trainer.compare.result import Comparison, ComparisonResult
from palm_trainer.compare.statistics import BOOTSTRAP_DRAWS, HELPED, HURT, NO_DIFFERENCE
from palm_trainer.config.atomic_files import write_file
from palm_trainer.report.blocks import Block, Figure, Note, Table, TableCell, count_cell, percent_cell
from palm_trainer.report.template import render_page

METHOD = (
    "Equal budget: a task alone takes as many batches of each of its data sets as the joint training takes of that "
    "data set, of the same size. It is evaluated on dev as often, and all other settings are as configured. "
    "The joint training additionally takes batches of other data sets.",
    "Each training keeps its best checkpoint on dev. The joint training selects by "
    "train.checkpoints.select, a task alone by the metric in the table.",
    f"Intervals are 95 % intervals of a paired bootstrap with {BOOTSTRAP_DRAWS:,} draws over examples and seeds. "
    "The resampled examples are the same for both trainings and all seeds. The intervals are widened for the number "
    "of seeds. Micro-averages are computed for each draw. Examples are assumed to be independent.",
)
_SCORE_COLUMNS = (
    "task",
    "metric",
    "scored on",
    "examples",
    "joint",
    "alone",
    "difference [95 %]",
    "p",
    "verdict",
)

_DATA_SET_COLUMNS = ("data set", "task", "metric", "scored on", "examples", "joint", "alone")


def write_page(result: ComparisonResult, config: Path, output: Path) -> None:
    """Write the page. An existing file is replaced as a whole.

    Args:
        result: the comparison.
        config: file of the configuration that was compared.
        output: the HTML file.

    Raises:
        OSError: if it cannot be written.
    """
    write_file(output, render_comparison(result, config), errors="replace")


def render_comparison(result: ComparisonResult, config: Path) -> str:
    """Render the page of a result. `config` is the file of the configuration."""
    return render_page(
        "compare.html",
        name=config.stem,
        seeds=result.seeds,
        warnings=result.warnings,
        result_blocks=_result_blocks(result),
        method=METHOD,
        budget=_budget_table(result),
    )


def _result_blocks(result: ComparisonResult) -> list[Block]:
    figure = Figure(
        "Differences",
        draw_forest_plot(result.comparisons),
        "Dot: mean over the seeds. Bar: 95 % interval. Rings: single seeds.",
        ((HELPED, HELPED), (HURT, HURT), ("", NO_DIFFERENCE)),
    )
    rows = []
    data_rows = []
    for comparison in result.comparisons:
        rows.append(_score_row(comparison))
        data_rows += _data_set_rows(comparison)
    table = Table("Scores in per cent, mean over seeds", _SCORE_COLUMNS, rows, text_columns=3)
    blocks: list[Block] = [figure, table]
    if data_rows:
        blocks.append(Table("Scores of each data set", _DATA_SET_COLUMNS, data_rows, text_columns=4))
    for note in result.notes:
        blocks.append(Note(note))
    return blocks


def _score_row(comparison: Comparison) -> list[TableCell]:
    difference = comparison.difference
    return [
        TableCell(comparison.scored_task.task),
        TableCell(comparison.metric),
        TableCell(comparison.scored_task.split),
        count_cell(comparison.examples),
        _mean_score(comparison.joint_scores),
        _mean_score(comparison.alone_scores),
        TableCell(format_difference(comparison), difference.mean),
        TableCell(f"{difference.p:.3f}", difference.p),
        TableCell(comparison.verdict),
    ]


def _data_set_rows(comparison: Comparison) -> list[list[TableCell]]:
    rows = []
    for data, scores in comparison.by_data_set.items():
        names = (data, comparison.scored_task.task, comparison.metric, comparison.scored_task.split)
        means = (_mean_score(scores.joint_scores), _mean_score(scores.alone_scores))
        rows.append([*map(TableCell, names), count_cell(scores.examples), *means])
    return rows


def _mean_score(scores: Mapping[int, float]) -> TableCell:
    return percent_cell(float(np.mean(list(scores.values()))), 2)


def _budget_table(result: ComparisonResult) -> Table:
    data_names = list(result.plan.joint.batches)
    rows = []
    for variant in result.plan.variants:
        row = [TableCell(variant.name)]
        for name in data_names:
            if name in variant.batches:
                row.append(count_cell(variant.batches[name]))
            else:
                row.append(TableCell("–", -1.0))
        rows.append(row)
    return Table("Batches of each data set in a training", ("training", *data_names), rows)
