"""A training run from configuration to finished run directory.

config.toml    the configuration, resolved
best/ last/    checkpoints (see checkpoint.py); with train.best_per_task also best-TASK/
events.jsonl   one object per logged step and evaluation
metrics.json   last evaluation of each split, of the best checkpoint
report.html    what a person looks at
"""

import json
import os
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

from palm_trainer import averaging
from palm_trainer.build import (
    Training,
    build_training,
    evaluation_sets,
    false_rejections,
    guessing_sets,
    out_of_scope_examples,
    task_kinds,
    train_examples,
    tuned_tasks,
)
from palm_trainer.calibration import calibrate
from palm_trainer.checkpoint import has_checkpoint, load_trained, save_trained
from palm_trainer.config import Config
from palm_trainer.distributed import ALONE, Processes
from palm_trainer.evaluation import (
    PRIMARY,
    Answering,
    EvaluationSet,
    Metrics,
    Predictor,
    calibration_errors,
    evaluate,
    score_of,
)
from palm_trainer.loop import Step
from palm_trainer.model import TrainedModel
from palm_trainer.out_of_scope import rejections
from palm_trainer.perplexity import perplexities
from palm_trainer.report import Recording, RunFacts, versions, write_report
from palm_trainer.run_directory import EVENTS, METRICS, REPORT, claim, whole_lines, write_whole
from palm_trainer.run_state import Progress, begin, check_alike, restore, save_last
from palm_trainer.thresholds import tune_thresholds
from palm_trainer.trackers import RunLog, check_trackers, open_log


@dataclass(frozen=True, slots=True)
class Started:
    """Before the first step: what will be trained, and the step that it starts from (0 unless resumed)."""

    training: Training
    first_step: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """After an evaluation on dev. `epoch` counts passes over the reference data set."""

    step: int
    epoch: float
    metrics: Metrics
    score: float
    best: bool


@dataclass(frozen=True, slots=True)
class Finished:
    """After the last step: metrics of the best checkpoint by split, whether training was stopped before its end, and the limits chosen on dev by task."""

    metrics: dict[str, Metrics]
    interrupted: bool = False
    thresholds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Averaged:
    """After the last step, with `train.average_best`: the average of the checkpoints of some steps, and whether it was kept as `best/`."""

    step: int
    steps: tuple[int, ...]
    score: float
    best: bool


Event: TypeAlias = Started | Step | Evaluated | Averaged | Finished


def train(
    config: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = ALONE,
) -> Iterator[Event]:
    """Trains, evaluates after each epoch of the reference data set, and keeps the best and the last checkpoint.

    Args:
        config: what to train; `train.output` is the run directory.
        resume: continue from `last/` (from the beginning where nothing was saved yet); configuration and data must be the same.
        overwrite: replace a run that the directory holds.
        stop: asked after each step; when it says True (to any of the processes) the last checkpoint is written and training ends.
        processes: that train this together. All yield the same events; the first alone evaluates and writes.

    Raises:
        CheckpointError: the output holds a run and neither `resume` nor `overwrite` is given, or there is nothing to resume.
        PalmError: the processes do not see the same data.
    """
    check_trackers(config.train.trackers)
    output = config.train.output
    processes.from_first(lambda: claim(output, resume, overwrite))
    training = build_training(config, processes)
    check_alike(training)
    progress = Progress()
    if resume:
        restore(training, progress, output)
    else:
        processes.from_first(lambda: begin(training))
    yield Started(training, training.loop.step)
    with _open_log(training) as log:
        if training.loop.step < training.loop.total_steps and not _out_of_patience(training, progress):
            _log_start(log, training)
        interrupted = yield from _steps_and_evaluations(training, progress, log, stop)
        if config.train.average_best and not interrupted:
            averaged = processes.from_first(lambda: _average_best(training, progress))
            if averaged is not None:
                _log(log, averaged)
                yield averaged
    if interrupted:
        yield Finished({}, interrupted=True)
        return
    thresholds, metrics = processes.from_first(lambda: (_fit_decoding(training), finish(training.config)))
    yield Finished(metrics, thresholds=thresholds)


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
    write_whole(path, json.dumps({**known, **metrics}, indent=2, ensure_ascii=False) + "\n")


def _steps_and_evaluations(
    training: Training, progress: Progress, log: RunLog, stop: Callable[[], bool]
) -> Generator[Step | Evaluated, None, bool]:
    """Trains from where the loop stands; returns whether `stop` ended it."""
    loop, settings = training.loop, training.config.train
    reference = loop.sources[training.config.reference].sampler
    for step in () if _out_of_patience(training, progress) else loop.steps():
        if step.step % settings.log_every_steps == 0:
            _log(log, step)
        yield step
        ended = _evaluation_is_due(training, step)
        if ended:
            epoch = reference.epoch + reference.position / reference.batches_per_epoch
            evaluated = _evaluate(training, progress, epoch)
            _log(log, evaluated)
            yield evaluated
            save_last(training, progress)
            if _out_of_patience(training, progress):
                return False
        stopped = step.step < loop.total_steps and loop.processes.any(stop())
        if not ended and (stopped or step.step % (settings.save_every_steps or loop.total_steps) == 0):
            save_last(training, progress)
        if stopped:
            return True
    return False


def _evaluation_is_due(training: Training, step: Step) -> bool:
    total, evaluations = training.loop.total_steps, training.config.train.evaluations
    if evaluations is not None:
        return step.step * evaluations // total > (step.step - 1) * evaluations // total
    reference = training.loop.sources[training.config.reference].sampler
    epoch_ended = step.data == training.config.reference and reference.position == reference.batches_per_epoch
    return epoch_ended or step.step == total


def _fit_decoding(training: Training) -> dict[str, float]:
    """Fits temperatures and thresholds on dev, and writes them into the checkpoints; the limits chosen for the best."""
    config = training.config
    run, tuned = config.train.output, tuned_tasks(config)
    foreign, rejected = out_of_scope_examples(config, "dev"), false_rejections(config)
    scores = {name: task.out_of_scope_score for name, task in config.tasks.items() if task.out_of_scope_score}
    labelled = train_examples(config, {**foreign, **rejected})
    chosen: dict[str, float] = {}
    for which in ("best", *(f"best-{task}" for task in task_kinds(config))):
        if training.dev and has_checkpoint(run, which):
            trained = load_trained(run, which)
            fitted = calibrate(trained, training.dev, foreign, rejected, labelled, scores)
            fitted, found = tune_thresholds(fitted, training.dev, tuned)
            if fitted.tasks != trained.tasks:  # a run that is resumed at its end is left as it is
                save_trained(fitted, run / which)
            chosen = chosen or found
    return chosen


def _out_of_patience(training: Training, progress: Progress) -> bool:
    patience = training.config.train.patience
    return patience is not None and progress.evaluations_without_gain >= patience


def _evaluate(training: Training, progress: Progress, epoch: float) -> Evaluated:
    """Evaluates and keeps the best on the first process; all learn of it."""

    def on_first() -> tuple[Evaluated, Progress]:
        return _evaluated(training, progress, epoch), progress

    evaluated, known = training.loop.processes.from_first(on_first)
    vars(progress).update(vars(known))
    return evaluated


def _evaluated(training: Training, progress: Progress, epoch: float) -> Evaluated:
    config, output = training.config, training.config.train.output
    with training.loop.averaged():
        metrics, score = _judge(training)
        best = score > progress.best_score or not metrics
        if best:
            progress.best_score, progress.evaluations_without_gain = score, 0
            save_trained(training.trained, output / "best")
        else:
            progress.evaluations_without_gain += 1
        if config.train.best_per_task:
            _keep_best_by_task(training, progress, output, metrics)
        if config.train.average_best:
            progress.candidates = averaging.enter(
                output,
                training.trained.model,
                training.loop.step,
                score,
                progress.candidates,
                config.train.average_best,
            )
    return Evaluated(training.loop.step, epoch, metrics, score, best)


def _judge(training: Training) -> tuple[Metrics, float]:
    """Metrics of the model on dev as it stands, and the number that chooses the best."""
    config, kinds = training.config, task_kinds(training.config)
    baselines = {name: task.baseline for name, task in config.tasks.items() if task.baseline is not None}
    metrics = evaluate(Predictor(training.trained), kinds, training.dev)
    metrics |= perplexities(training.trained, training.guessing)
    return metrics, score_of(metrics, config.train.select, kinds, baselines)


def _average_best(training: Training, progress: Progress) -> Averaged | None:
    """Averages the best checkpoints; None where that was done before the run was resumed."""
    run, model, candidates = training.config.train.output, training.trained.model, progress.candidates
    trained = {name: value.clone() for name, value in model.state_dict().items()}

    def judge(weights: averaging.Weights) -> float:
        model.load_state_dict(weights)
        return _judge(training)[1]

    soup = averaging.greedy_soup(run, candidates, judge)
    if soup is None:
        return None
    found = Averaged(training.loop.step, soup.steps, soup.score, soup.score > progress.best_score)
    if found.best:
        model.load_state_dict(soup.weights)
        save_trained(training.trained, run / "best")
    model.load_state_dict(trained)
    averaging.forget(run)  # the last: a run that was killed before makes the same soup again
    return found


def _keep_best_by_task(training: Training, progress: Progress, output: Path, metrics: Metrics) -> None:
    for task, kind in task_kinds(training.config).items():
        if task in metrics and metrics[task][PRIMARY[kind]] > progress.best_by_task.get(task, -1.0):
            progress.best_by_task[task] = metrics[task][PRIMARY[kind]]
            save_trained(training.trained, output / f"best-{task}")


def _open_log(training: Training) -> AbstractContextManager[RunLog]:
    """events.jsonl and the trackers; of other processes than the first, nothing."""
    train, step = training.config.train, training.loop.step
    if not training.loop.processes.is_first:
        return open_log(Path(os.devnull), (), {}, step)
    return open_log(train.output / EVENTS, train.trackers, training.config.model_dump(mode="json"), step)


def _log(log: RunLog, event: Step | Evaluated | Averaged) -> None:
    names = {Step: "step", Evaluated: "evaluation", Averaged: "average"}
    record = {"event": names[type(event)], "time": time.time(), **asdict(event)}
    log.write(record)


def _log_start(log: RunLog, training: Training) -> None:
    """What the run works with, which no other file of it tells."""
    precision = training.loop.precision
    record = {
        "event": "start",
        "time": time.time(),
        "step": training.loop.step,
        "total_steps": training.loop.total_steps,
        "device": str(precision.device),
        "precision": str(precision.autocast or "fp32").removeprefix("torch."),
        "processes": training.loop.processes.size,
        "versions": versions(),
    }
    log.write(record)
