"""Report of a run as one HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from palm_trainer.config.atomic_files import write_output
from palm_trainer.evaluation.evaluate import Answering, EvaluationSet, judge
from palm_trainer.report.data_section import make_data_section
from palm_trainer.report.data_summary import summarize_data
from palm_trainer.report.history import read_history
from palm_trainer.report.overview import (
    list_facts,
    make_cards,
    make_configuration_section,
    make_metrics_tables,
)
from palm_trainer.report.rows import RunFacts
from palm_trainer.report.sections import make_task_section
from palm_trainer.report.template import render_page
from palm_trainer.report.training_section import make_training_section


def write_report(
    facts: RunFacts,
    kinds: Mapping[str, str],
    split: str | None,
    sets: Sequence[EvaluationSet],
    predictor: Answering,
    output: Path,
) -> None:
    """Write the report of a run. An existing file is replaced as a whole.

    Args:
        facts: the run.
        kinds: kind of each task that is evaluated.
        split: name of the evaluated split, or None if there is nothing to evaluate on.
        sets: examples of that split.
        predictor: answers them. Rankings of multi-label tasks should be complete. `Recording`
            returns the answers of an earlier evaluation.
        output: the HTML file.

    Raises:
        OSError: if it cannot be written.
    """
    html = render_report(facts, kinds, split, sets, predictor)
    # A label or a file name may contain an unpaired surrogate, which UTF-8 cannot encode.
    write_output(output, html, errors="replace")


def render_report(
    facts: RunFacts,
    kinds: Mapping[str, str],
    split: str | None,
    sets: Sequence[EvaluationSet],
    predictor: Answering,
) -> str:
    """Render the page.

    Args:
        facts: the run.
        kinds: kind of each task that is evaluated.
        split: name of the evaluated split, or None.
        sets: examples of that split.
        predictor: answers them.
    """
    history = read_history(facts.events)
    rows_by_task = judge(predictor, kinds, sets)
    summary = summarize_data(facts, kinds, split, sets, rows_by_task)
    sections = []
    for task, rows in rows_by_task.items():
        train_counts: Mapping[str, int] = summary.labels.get(task, {}).get("train", {})
        sections.append(make_task_section(task, facts.trained.tasks[task], split or "", rows, train_counts))
    sections.append(make_training_section(history, kinds))
    windows = _find_data_in_windows(facts, split)
    sections.append(make_data_section(summary, facts.trained.max_length, windows=windows))
    sections.append(make_configuration_section(facts))
    return render_page(
        "report.html",
        name=facts.path.resolve().name,
        split=split,
        cards=make_cards(facts, kinds, split),
        facts=list_facts(facts, history),
        metrics=make_metrics_tables(facts),
        sections=sections,
    )


def _find_data_in_windows(facts: RunFacts, split: str | None) -> frozenset[str]:
    """Find the data sets and splits (`squad train`) that are read in windows."""
    names = set()
    for task, settings in facts.config.tasks.items():
        if facts.trained.tasks[task].windows is not None:
            for name in settings.data:
                names.add(f"{name} train")
                names.add(f"{name} {split}")
    return frozenset(names)
