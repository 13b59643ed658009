"""Section of the page on the data: token lengths, problems and label distributions."""

from collections import Counter
from collections.abc import Mapping, Sequence
from statistics import median

from palm_trainer.report.blocks import (
    Block,
    Figure,
    Figures,
    Note,
    ReportSection,
    Table,
    TableCell,
    count_cell,
    percent_cell,
)
from palm_trainer.report.charts import draw_histogram
from palm_trainer.report.data_summary import DataProblem, DataSummary

_MAX_ROWS = 100
_FOLDED_ROWS = 12
"""A distribution with more labels is folded."""


def make_data_section(summary: DataSummary, max_length: int, *, windows: frozenset[str] = frozenset()) -> ReportSection:
    """Make the section with lengths, problems and label distributions.

    Args:
        summary: the data of the run.
        max_length: tokens that the model reads.
        windows: keys of `summary.lengths` that are read in windows, so that nothing is truncated.
    """
    figures = []
    rows = []
    for name, lengths in summary.lengths.items():
        in_windows = name in windows
        label = f"Token lengths of {name}: {min(lengths.tokens)} to {max(lengths.tokens)}"
        limit = None if in_windows else max_length
        histogram = draw_histogram(lengths.tokens, label=label, x_name="tokens", limit=limit)
        figures.append(Figure(f"{name}: length", histogram))
        text_count = len(lengths.tokens)
        truncated = percent_cell(lengths.truncated / text_count, 2)
        if in_windows:
            truncated = TableCell("read in windows", 0.0)
        row = (
            TableCell(name),
            count_cell(text_count),
            count_cell(int(median(lengths.tokens))),
            count_cell(max(lengths.tokens)),
            truncated,
        )
        rows.append(row)
    columns = ("data", "texts", "median tokens", "longest", f"% truncated at {max_length}")
    blocks: list[Block] = [Table("Texts", columns, rows), Figures(figures), _list_problems(summary.problems)]
    for task, counts in summary.labels.items():
        if any(counts.values()):
            blocks.append(_make_distribution_table(task, counts))
    return ReportSection("data", "Data", "Training data, and data of the evaluation.", blocks)


def _list_problems(problems: Sequence[DataProblem]) -> Block:
    if not problems:
        return Note("No problem was found in the data.")
    rows = []
    for problem in problems[:_MAX_ROWS]:
        texts = (TableCell(problem.place), TableCell(problem.description), TableCell(problem.first))
        rows.append((*texts, count_cell(problem.count)))
    columns = ("data", "problem", "first at", "times")
    hidden = max(0, len(problems) - _MAX_ROWS)
    return Table("Problems in the data", columns, rows, text_columns=3, hidden=hidden)


def _make_distribution_table(task: str, counts_by_split: Mapping[str, Counter[str]]) -> Table:
    """Make a table with the share of each label by split, most frequent first."""
    labels: set[str] = set()
    for counts in counts_by_split.values():
        labels.update(counts)
    first_counts = next(iter(counts_by_split.values()))
    sorted_labels = sorted(labels, key=lambda label: (-first_counts[label], label))
    shares = {}
    for split, counts in counts_by_split.items():
        shares[split] = _label_shares(counts)
    largest_share = 0.0
    for split_shares in shares.values():
        largest_share = max(largest_share, *split_shares.values(), 0.0)
    largest_share = largest_share or 1.0
    columns = ["label"]
    for split in counts_by_split:
        columns += [split, f"% of {split}"]
    rows = []
    for label in sorted_labels[:_MAX_ROWS]:
        row = [TableCell(label)]
        for split, counts in counts_by_split.items():
            fraction = shares[split].get(label, 0.0)
            row.append(count_cell(counts[label]))
            row.append(TableCell(f"{100 * fraction:.1f}", fraction, fraction / largest_share))
        rows.append(row)
    return Table(
        f"{task}: label distribution",
        columns,
        rows,
        hidden=max(0, len(sorted_labels) - _MAX_ROWS),
        folded=len(sorted_labels) > _FOLDED_ROWS,
    )


def _label_shares(counts: Counter[str]) -> dict[str, float]:
    total = max(1, counts.total())
    return {label: count / total for label, count in counts.items()}
