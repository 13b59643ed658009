"""Evaluate a run: its metrics and its report."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from palm_trainer.config.atomic_files import write_file
from palm_trainer.config.loader import Config
from palm_trainer.data.splits import Splits
from palm_trainer.evaluation.evaluate import Answering, Metrics, calibration_errors, evaluate
from palm_trainer.evaluation.out_of_scope import rejections
from palm_trainer.evaluation.perplexity import add_perplexities
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained, read_json
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.report import Recording, RunFacts, write_report
from palm_trainer.runs.data_checks import DataFault, find_split_faults
from palm_trainer.runs.dev_rows import check_dev_rows
from palm_trainer.runs.directory import read_events
from palm_trainer.runs.file_names import EVENTS, METRICS, REPORT
from palm_trainer.runs.job import EvaluationPlan, Job
from palm_trainer.runs.job_from_config import evaluation_plan
from palm_trainer.tasks import task_kind


def finish(job: Job) -> dict[str, Metrics]:
    """Evaluate the best checkpoint on dev and test, and write metrics.json and report.html."""
    plan, run = job.evaluation, job.run
    evaluated_splits = [split for split in ("dev", "test") if plan.splits.data_sets(split)]
    if not evaluated_splits:
        write_metrics(run, {})
        if plan.config is None:
            return {}
    with job.opened("best") as trained:
        return _evaluate_and_report(run, plan, trained, evaluated_splits, run / REPORT)


def report_run(run: Path, config: Config, split: str | None = None, output: Path | None = None) -> Path:
    """Evaluate the best checkpoint of a run and write its report. Return the path of the report.

    Args:
        run: the run directory.
        config: its configuration.
        split: to evaluate on. None: dev, or test where there is no dev.
        output: HTML file. None: report.html in the run.
    """
    if split is None:
        split = next((name for name in ("dev", "test") if _has(config, name)), None)
    trained = load_trained(run)
    splits = () if split is None else (split,)
    plan = evaluation_plan(config, trained, splits)
    check_dev_rows(run, config, plan.splits)
    path = output or run / REPORT
    _evaluate_and_report(run, plan, trained, splits, path)
    return path


def evaluate_again(run: Path, plan: EvaluationPlan) -> dict[str, Metrics]:
    """Evaluate the best checkpoint of a run on each split of a plan, and write metrics.json and report.html anew.

    Args:
        run: the run directory.
        plan: what is evaluated, with its data read.
    """
    return _evaluate_and_report(run, plan, load_trained(run), list(plan.by_split), run / REPORT)


def _has(config: Config, split: str) -> bool:
    return any(data.paths(split) for data in config.data.values())


def _evaluate_and_report(
    run: Path, plan: EvaluationPlan, trained: TrainedModel, splits: Sequence[str], output: Path
) -> dict[str, Metrics]:
    """Evaluate a model on splits, write what metrics there are, and a report on the first split.

    Args:
        run: the run directory.
        plan: what is evaluated.
        trained: the model.
        splits: to evaluate on.
        output: HTML file, written where the run has a configuration.
    """
    predictor = _recording(trained)
    metrics = {}
    for split in splits:
        metrics[split] = _metrics(predictor, trained, plan, split)
    if metrics:
        write_metrics(run, metrics)
    if plan.config is not None:
        _report(run, plan, trained, next(iter(splits), None), predictor, output)
    return metrics


def _recording(trained: TrainedModel) -> Recording:
    """Return a predictor that remembers its answers. The report needs the whole ranking of multi_label tasks."""
    multi_label = any(task_kind(info.kind).needs_full_ranking for info in trained.tasks.values())
    return Recording(Predictor(trained, top_k=0 if multi_label else 3))


def _report(
    run: Path, plan: EvaluationPlan, trained: TrainedModel, split: str | None, predictor: Recording, output: Path
) -> None:
    assert plan.config is not None
    metrics = read_json(run / METRICS) if (run / METRICS).exists() else {}
    events = read_events(run / EVENTS)
    facts = RunFacts(run, plan.config, trained, events, metrics, plan.splits)
    data = plan.data(split or "")
    write_report(facts, plan.kinds, split, data.sets, predictor, output, data.out_of_scope)


def evaluate_run(
    run: Path,
    config: Config,
    split: str,
    checkpoint: str = "best",
    on_faults: Callable[[Sequence[DataFault]], None] | None = None,
) -> Metrics:
    """Return the metrics of a run's checkpoint on a split of its data.

    Args:
        run: the run directory.
        config: its configuration.
        split: to evaluate on.
        checkpoint: its name, `best`, `last` or `best-TASK`.
        on_faults: called with what is wrong with the split, before it is evaluated.
    """
    trained = load_trained(run, checkpoint)
    splits = Splits(config.data, seed=config.train.seed)
    if split != "test":
        check_dev_rows(run, config, splits)
    if on_faults is not None:
        on_faults(find_split_faults(config, trained, splits, split))
    return _metrics(Recording(Predictor(trained)), trained, evaluation_plan(config, trained, (split,), splits), split)


def _metrics(predictor: Answering, trained: TrainedModel, plan: EvaluationPlan, split: str) -> Metrics:
    data, kinds = plan.data(split), plan.kinds
    metrics = add_perplexities(evaluate(predictor, kinds, data.sets), trained, data.masked)
    rejection_rates = rejections(predictor, trained.tasks, data.sets, data.out_of_scope)
    for more_metrics in (rejection_rates, calibration_errors(predictor, kinds, data.sets)):
        for task, figures in more_metrics.items():
            metrics[task] = {**metrics[task], **figures}
    return metrics


def write_metrics(run: Path, metrics: dict[str, Metrics]) -> None:
    """Merge metrics into metrics.json, by split."""
    path = run / METRICS
    saved: dict[str, Any] = read_json(path) if path.exists() else {}
    write_file(path, json.dumps({**saved, **metrics}, indent=2, ensure_ascii=False) + "\n")
