"""Evaluation of a finished run, its metrics and its report."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm_trainer.config.loader import Config
from palm_trainer.evaluation.evaluate import (
    Answering,
    EvaluationSet,
    Metrics,
    calibration_errors,
    evaluate,
)
from palm_trainer.evaluation.out_of_scope import rejections
from palm_trainer.evaluation.perplexity import perplexities
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.atomic_files import write_file
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.report import Recording, RunFacts, write_report
from palm_trainer.runs.directory import EVENTS, METRICS, REPORT, whole_lines
from palm_trainer.runs.job_from_config import (
    evaluation_sets,
    guessing_sets,
    out_of_scope_examples,
    task_kinds,
)


def finish(config: Config) -> dict[str, Metrics]:
    """Evaluates the best checkpoint on dev and test, and writes metrics.json and report.html."""
    run = config.train.output
    trained = load_trained(run)
    predictor = _recording(trained)
    sets = {split: evaluation_sets(config, split) for split in ("dev", "test") if _has(config, split)}
    metrics = {split: _metrics(predictor, trained, config, split, own) for split, own in sets.items()}
    write_metrics(run, metrics)
    split = next(iter(sets), None)
    _report(run, config, trained, split, sets[split] if split else (), predictor, run / REPORT)
    return metrics


def report_run(run: Path, config: Config, split: str | None = None, output: Path | None = None) -> Path:
    """Judges the best checkpoint of a run on a split (None: dev, or test where there is none) and writes its report; where to."""
    if split is None:
        split = next((name for name in ("dev", "test") if _has(config, name)), None)
    trained = load_trained(run)
    predictor = _recording(trained)
    sets = evaluation_sets(config, split) if split else []
    if split:
        write_metrics(run, {split: _metrics(predictor, trained, config, split, sets)})
    path = output or run / REPORT
    _report(run, config, trained, split, sets, predictor, path)
    return path


def _has(config: Config, split: str) -> bool:
    return any(data.paths(split) for data in config.data.values())


def _recording(trained: TrainedModel) -> Recording:
    """Answers that are asked for twice. The report wants to know how far a class was from applying that did not: all of the ranking."""
    several = any(info.kind == "multi_label" for info in trained.tasks.values())
    return Recording(Predictor(trained, top_k=0 if several else 3))


def _report(
    run: Path,
    config: Config,
    trained: TrainedModel,
    split: str | None,
    sets: Sequence[EvaluationSet],
    predictor: Recording,
    output: Path,
) -> None:
    metrics = json.loads((run / METRICS).read_text(encoding="utf-8")) if (run / METRICS).exists() else {}
    facts = RunFacts(run, config, trained, [json.loads(line) for line in whole_lines(run / EVENTS)], metrics)
    write_report(facts, task_kinds(config), split, sets, predictor, output)


def evaluate_run(run: Path, config: Config, split: str, which: str = "best") -> Metrics:
    """Metrics of a run's checkpoint on a split of its data."""
    trained = load_trained(run, which)
    return _metrics(Recording(Predictor(trained)), trained, config, split, evaluation_sets(config, split))


def _metrics(
    predictor: Answering, trained: TrainedModel, config: Config, split: str, sets: Sequence[EvaluationSet]
) -> Metrics:
    kinds = task_kinds(config)
    metrics = {**evaluate(predictor, kinds, sets), **perplexities(trained, guessing_sets(config, trained, split))}
    more = (
        rejections(predictor, trained.tasks, sets, out_of_scope_examples(config, split)),
        calibration_errors(predictor, kinds, sets),
    )
    for task, figures in ((task, own) for found in more for task, own in found.items()):
        metrics[task] = {**metrics[task], **figures}
    return metrics


def write_metrics(run: Path, metrics: dict[str, Metrics]) -> None:
    """Merges into metrics.json, by split."""
    path = run / METRICS
    known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_file(path, json.dumps({**known, **metrics}, indent=2, ensure_ascii=False) + "\n")
