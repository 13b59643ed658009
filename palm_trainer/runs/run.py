"""A training run from configuration to finished run directory.

config.toml    the configuration, resolved
best/ last/    checkpoints (see checkpoint.py); with train.checkpoints.best_per_task also best-TASK/
events.jsonl   one object per logged step and evaluation
metrics.json   last evaluation of each split, of the best checkpoint
report.html    what a person looks at
"""

import os
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path

from palm_trainer.config.loader import Config
from palm_trainer.evaluation.calibration import calibrate
from palm_trainer.evaluation.evaluate import (
    PRIMARY,
    Metrics,
    evaluate,
    score_of,
)
from palm_trainer.evaluation.perplexity import perplexities
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.evaluation.thresholds import tune_thresholds
from palm_trainer.model.checkpoint import has_checkpoint, load_trained, save_trained
from palm_trainer.report import versions
from palm_trainer.runs import weight_averaging as averaging
from palm_trainer.runs.directory import EVENTS, claim
from palm_trainer.runs.evaluate_run import finish
from palm_trainer.runs.event_log import RunLog, check_trackers, open_log
from palm_trainer.runs.events import Averaged, Evaluated, Event, Finished, Started
from palm_trainer.runs.job_from_config import (
    Training,
    build_training,
    false_rejections,
    out_of_scope_examples,
    task_kinds,
    train_examples,
    tuned_tasks,
)
from palm_trainer.runs.resume import Progress, begin, check_alike, restore, save_last
from palm_trainer.training.loop import Step
from palm_trainer.training.processes import SINGLE_PROCESS, Processes


def train(
    config: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = SINGLE_PROCESS,
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
    processes.run_on_first(lambda: claim(output, resume, overwrite))
    training = build_training(config, processes)
    check_alike(training)
    progress = Progress()
    if resume:
        restore(training, progress, output)
    else:
        processes.run_on_first(lambda: begin(training))
    yield Started(training, training.loop.step)
    with _open_log(training) as log:
        if training.loop.step < training.loop.total_steps and not _out_of_patience(training, progress):
            _log_start(log, training)
        interrupted = yield from _steps_and_evaluations(training, progress, log, stop)
        if config.train.checkpoints.average_best and not interrupted:
            averaged = processes.run_on_first(lambda: _average_best(training, progress))
            if averaged is not None:
                _log(log, averaged)
                yield averaged
    if interrupted:
        yield Finished({}, interrupted=True)
        return
    thresholds, metrics = processes.run_on_first(lambda: (_fit_decoding(training), finish(training.config)))
    yield Finished(metrics, thresholds=thresholds)


def _steps_and_evaluations(
    training: Training, progress: Progress, log: RunLog, stop: Callable[[], bool]
) -> Generator[Step | Evaluated, None, bool]:
    """Trains from where the loop stands; returns whether `stop` ended it."""
    loop, settings = training.loop, training.config.train
    save_steps = settings.checkpoints.save_every_steps or loop.total_steps
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
        if not ended and (stopped or step.step % save_steps == 0):
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
    patience = training.config.train.checkpoints.patience
    return patience is not None and progress.evaluations_without_gain >= patience


def _evaluate(training: Training, progress: Progress, epoch: float) -> Evaluated:
    """Evaluates and keeps the best on the first process; all learn of it."""

    def on_first() -> tuple[Evaluated, Progress]:
        return _evaluated(training, progress, epoch), progress

    evaluated, known = training.loop.processes.run_on_first(on_first)
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
        if config.train.checkpoints.best_per_task:
            _keep_best_by_task(training, progress, output, metrics)
        if config.train.checkpoints.average_best:
            progress.candidates = averaging.enter(
                output,
                training.trained.model,
                training.loop.step,
                score,
                progress.candidates,
                config.train.checkpoints.average_best,
            )
    return Evaluated(training.loop.step, epoch, metrics, score, best)


def _judge(training: Training) -> tuple[Metrics, float]:
    """Metrics of the model on dev as it stands, and the number that chooses the best."""
    config, kinds = training.config, task_kinds(training.config)
    baselines = {name: task.baseline for name, task in config.tasks.items() if task.baseline is not None}
    metrics = evaluate(Predictor(training.trained), kinds, training.dev)
    metrics |= perplexities(training.trained, training.guessing)
    return metrics, score_of(metrics, config.train.checkpoints.select, kinds, baselines)


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
