"""Report of a run as one HTML file."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from palm_serve.tokenization import TextTokenizer
from palm_serve.types import TaskAnswer
from palm_trainer.config.atomic_files import write_output
from palm_trainer.data.example import Example
from palm_trainer.evaluation.evaluate import Answering, EvaluationSet, judge
from palm_trainer.evaluation.refusals import find_refusals
from palm_trainer.report.answers import JudgedAnswer, make_answers_section
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
from palm_trainer.tasks import Judged, task_kind


def write_report(
    facts: RunFacts,
    kinds: Mapping[str, str],
    split: str | None,
    sets: Sequence[EvaluationSet],
    predictor: Answering,
    output: Path,
    out_of_scope: Mapping[str, Sequence[Example]] | None = None,
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
        out_of_scope: texts of the split that belong to no class, by task.

    Raises:
        OSError: if it cannot be written.
    """
    html = render_report(facts, kinds, split, sets, predictor, out_of_scope)
    # A label or a file name may contain an unpaired surrogate, which UTF-8 cannot encode.
    write_output(output, html, errors="replace")


def render_report(
    facts: RunFacts,
    kinds: Mapping[str, str],
    split: str | None,
    sets: Sequence[EvaluationSet],
    predictor: Answering,
    out_of_scope: Mapping[str, Sequence[Example]] | None = None,
) -> str:
    """Render the page.

    Args:
        facts: the run.
        kinds: kind of each task that is evaluated.
        split: name of the evaluated split, or None.
        sets: examples of that split.
        predictor: answers them.
        out_of_scope: texts of the split that belong to no class, by task.
    """
    history = read_history(facts.events)
    rows_by_task = judge(predictor, kinds, sets)
    summary = summarize_data(facts, kinds, split, sets, rows_by_task)
    sections = []
    answers = _judge_answers(facts, kinds, rows_by_task, predictor, out_of_scope or {})
    answers_section = make_answers_section(answers)
    if answers_section is not None:
        sections.append(answers_section)
    for task, rows in rows_by_task.items():
        train_counts: Mapping[str, int] = summary.labels.get(task, {}).get("train", {})
        sections.append(make_task_section(task, facts.trained.tasks[task], split or "", rows, train_counts))
    sections.append(make_training_section(history, kinds))
    windows = _find_data_in_windows(facts, split)
    sections.append(make_data_section(summary, facts.trained.max_length, windows=windows))
    sections.append(make_configuration_section(facts))
    return render_page(
        "report.html",
        script_files=("table.js", "report.js"),
        name=facts.path.resolve().name,
        split=split,
        cards=make_cards(facts, kinds, split),
        facts=list_facts(facts, history),
        metrics=make_metrics_tables(facts),
        sections=sections,
    )


def _judge_answers(
    facts: RunFacts,
    kinds: Mapping[str, str],
    rows_by_task: Mapping[str, Sequence[Judged]],
    predictor: Answering,
    out_of_scope: Mapping[str, Sequence[Example]],
) -> dict[str, list[JudgedAnswer]]:
    """Return the answers of each task, those to texts out of scope last. A ranker, whose rows are scored in pairs, has none."""
    tokenizer = TextTokenizer(facts.trained.tokenizer_json, facts.trained.max_length)
    answers_by_task = {}
    for task, rows in rows_by_task.items():
        info = facts.trained.tasks[task]
        if any(len(unit) > 1 for unit in task_kind(kinds[task]).units(rows)):
            continue
        judged: list[tuple[Example, TaskAnswer, Judged | None]] = [(row.example, row.answer, row) for row in rows]
        texts = out_of_scope.get(task, ())
        for example, answers in zip(texts, predictor.answers(texts, (task,)) if texts else (), strict=True):
            judged.append((example, answers[task], None))
        examples = [example for example, _, _ in judged]
        reasons = find_refusals(info, tokenizer, examples, [answer for _, answer, _ in judged])
        task_answers = []
        for (example, answer, row), reason in zip(judged, reasons, strict=True):
            task_answers.append(JudgedAnswer(task, info.kind, example, answer, reason, row))
        answers_by_task[task] = task_answers
    return answers_by_task


def _find_data_in_windows(facts: RunFacts, split: str | None) -> frozenset[str]:
    """Find the data sets and splits (`squad train`) that are read in windows."""
    names = set()
    for task, settings in facts.config.tasks.items():
        if facts.trained.tasks[task].windows is not None:
            for name in settings.data:
                names.add(f"{name} train")
                names.add(f"{name} {split}")
    return frozenset(names)
