"""Train a job into a finished run directory.

config.toml    the configuration, resolved
best/ last/    checkpoints (see model/checkpoint.py), with train.checkpoints.best_per_task also best-TASK/
events.jsonl   one object per logged step and evaluation
metrics.json   last evaluation of each split, of the best checkpoint
report.html    the page to look at
dev_rows.json  rows that `dev_share` sets apart, where a data set has it
values.json    what values of spans stand for, where the data or the configuration says it
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Literal, TypeVar

from palm_trainer.config.loader import Config, load_config
from palm_trainer.evaluation.evaluate import Metrics, evaluate, score_of
from palm_trainer.evaluation.perplexity import add_perplexities
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import save_trained
from palm_trainer.model.checkpoint_files import has_checkpoint
from palm_trainer.report import installed_versions
from palm_trainer.runs import weight_averaging as averaging
from palm_trainer.runs.directory import check_output_directory
from palm_trainer.runs.evaluate_run import finish
from palm_trainer.runs.event_log import RunLog, check_trackers, open_log
from palm_trainer.runs.events import Averaged, Evaluated, Event, Finished, Saved, Started
from palm_trainer.runs.file_names import CONFIG, EVENTS
from palm_trainer.runs.fit_decoding import fit_checkpoints
from palm_trainer.runs.job import Job
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.runs.mirror import MIRROR_END_S, MIRROR_STOP_S, Mirror, prepare_mirror
from palm_trainer.runs.resume import (
    RunProgress,
    begin,
    check_alike,
    find_encoder_to_resume,
    find_run_to_resume,
    keep_to_encoder_of_run,
    keep_to_older_keys,
    keep_to_roles_of_checkpoint,
    learns_roles_first,
    restore,
    save_last,
)
from palm_trainer.runs.save_pace import SavePace
from palm_trainer.tasks import task_kind
from palm_trainer.training.loop import Step
from palm_trainer.training.processes import SINGLE_PROCESS, Processes

Result = TypeVar("Result")


def train(
    config: Config,
    *,
    resume: bool | Literal["auto"] = False,
    overwrite: bool = False,
    stop: Callable[[], bool] = lambda: False,
    processes: Processes = SINGLE_PROCESS,
) -> Iterator[Event]:
    """Train a configuration, and keep the best and the last checkpoint.

    Args:
        config: what to train. `train.output` is the run directory.
        resume: continue from `last/` (from the beginning where nothing was saved yet). Configuration and data must be the same.
            auto: also begin where there is no run.
        overwrite: replace a run that the directory holds.
        stop: called after each step. When it returns True in any process, the last checkpoint is written and training ends.
        processes: that train together. All yield the same events. The first alone evaluates and writes.

    Raises:
        CheckpointError: the output holds a run and neither `resume` nor `overwrite` is given, there is nothing to resume, or the mirror
            cannot be used.
        PalmError: the processes do not see the same data.
    """
    check_trackers(config.train.trackers)
    output = config.train.output
    processes.run_on_first(lambda: prepare_mirror(config.train.mirror, output, resume, overwrite))
    resume = find_run_to_resume(output, processes) if resume == "auto" else resume
    processes.run_on_first(lambda: check_output_directory(output, resume, overwrite))
    starts = not (resume and processes.run_on_first(lambda: has_checkpoint(output, "last")))
    resumed = None
    if resume:
        config, resumed = processes.run_on_first(partial(_keep_to_older_run, config))
    job = job_from_config(config, processes, start_heads=starts, resumed=resumed)
    if resume:
        older_config = processes.run_on_first(lambda: keep_to_roles_of_checkpoint(job.config, job.run))
        if learns_roles_first(job, older_config):
            job = job_from_config(older_config, processes, start_heads=starts, resumed=resumed)
    check_alike(job)
    run = Run(job)
    if resume:
        restore(job, run.progress)
    else:
        processes.run_on_first(lambda: begin(job))
    yield from run.events(stop)


def _keep_to_older_run(config: Config) -> tuple[Config, Path | None]:
    """Return the configuration of a run to resume, and the run if its own checkpoint holds the encoder to begin with."""
    run = config.train.output
    older_config = keep_to_older_keys(keep_to_encoder_of_run(config, run), [load_config(run / CONFIG)])
    return older_config, find_encoder_to_resume(older_config)


class Run:
    """One training of a job. It evaluates, saves and logs between the steps.

    `events` trains to the end. Who makes the steps himself calls `start` before the first step and `between` after each.

    Args:
        job: what to train.
        progress: where the run stands. None: at its beginning.
        snapshot: writes what is due after a step beside the checkpoints of the run, and returns it.
    """

    def __init__(
        self,
        job: Job,
        progress: RunProgress | None = None,
        snapshot: Callable[["Run", Step], Iterable[Saved]] | None = None,
    ) -> None:
        self.job = job
        self.progress = progress or RunProgress()
        self.interrupted = False
        self._snapshot = snapshot
        self._log: RunLog | None = None
        self._mirror: Mirror | None = None
        self._pace = SavePace()
        self._open = ExitStack()

    @property
    def ended(self) -> bool:
        """True when no step is left, training was stopped, or patience has run out."""
        loop = self.job.loop
        return self.interrupted or loop.step >= loop.total_steps or self.out_of_patience

    @property
    def out_of_patience(self) -> bool:
        """True when too many evaluations have passed without a better one."""
        patience = self.job.train.checkpoints.patience
        return patience is not None and self.progress.evaluations_without_gain >= patience

    def events(self, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
        """Train from where the loop stands to the end. `stop` is called after each step."""
        loop = self.job.loop
        yield Started(self.job, loop.step)
        try:
            with self._open:
                self.start()
                for step in () if self.out_of_patience else loop.steps():
                    self.log_step(step)
                    yield step
                    yield from self.between(step, stop)
                    if self.ended:
                        break
                yield from self.finish()
        finally:
            self._close_mirror(MIRROR_STOP_S)

    # -- before and between the steps ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Open the log, once. Only the first of several processes has one."""
        job, loop = self.job, self.job.loop
        if self._log is not None or job.output is None or not loop.processes.is_first:
            return
        if job.train.mirror is not None and self._mirror is None:
            self._mirror = Mirror(job.train.mirror, job.run)
        settings = {} if job.evaluation.config is None else job.config.model_dump(mode="json")
        self._log = self._open.enter_context(open_log(job.run / EVENTS, job.train.trackers, settings, loop.step))
        if not self.ended:
            self._log_start()

    def log_step(self, step: Step) -> None:
        """Log a step where `train.log_every_steps` says so."""
        if step.step % self.job.train.log_every_steps == 0:
            self._write_log(step)

    def between(self, step: Step, stop: Callable[[], bool] | None = None) -> Iterator[Event]:
        """Evaluate and save what is due after a step. `stop` is asked last."""
        job, loop = self.job, self.job.loop
        evaluated = self._evaluation_is_due(step)
        saved = False
        if evaluated:
            # Without `last/` the caller ends the training where he likes, and `best/` must be there.
            keeps = not job.saves_last or step.step == loop.total_steps or self._on_first(lambda: self._pace.is_due)
            event = self._evaluate(keeps)
            self._write_log(event)
            yield event
            saved = job.saves_last and (keeps or self.out_of_patience)
        if saved:
            self._save_last()
        if self._snapshot is not None:
            yield from self._snapshot(self, step)
        if evaluated and self.out_of_patience:
            return
        stopped = stop is not None and step.step < loop.total_steps and loop.processes.any(stop())
        save_is_due = stopped or step.step % (job.train.checkpoints.save_every_steps or loop.total_steps) == 0
        if job.saves_last and save_is_due and not saved:
            self._save_last()
        self.interrupted = stopped

    def _save_last(self) -> None:
        with self._pace.timed():
            save_last(self.job, self.progress)
        self._copy_to_mirror()

    def _evaluation_is_due(self, step: Step) -> bool:
        job, total = self.job, self.job.loop.total_steps
        if job.evaluation_steps is not None:
            return step.step % job.evaluation_steps == 0 or step.step == total
        evaluations = job.train.evaluations
        if evaluations is not None:
            return step.step * evaluations // total > (step.step - 1) * evaluations // total
        reference = job.loop.sources[job.reference].sampler
        epoch_ended = step.data == job.reference and reference.position == reference.batches_per_epoch
        return epoch_ended or step.step == total

    # -- the end ------------------------------------------------------------------------------------------------------

    def finish(self) -> Iterator[Event]:
        """Average the best checkpoints, fit the decoding, and write metrics and report."""
        job = self.job
        if self.interrupted:
            self._close_mirror(MIRROR_STOP_S)
            yield Finished({}, interrupted=True)
            return
        if job.output is None:
            yield Finished({})
            return
        if job.train.checkpoints.average_best:
            averaged = self._on_first(self._average_best)
            if averaged is not None:
                self._write_log(averaged)
                yield averaged
        self.close()
        thresholds, metrics = self._on_first(lambda: (fit_checkpoints(job), finish(job)))
        self._copy_to_mirror()
        self._close_mirror(MIRROR_END_S)
        yield Finished(metrics, thresholds=thresholds)

    def close(self) -> None:
        """Close the log and its trackers."""
        self._log = None
        self._open.close()

    def _copy_to_mirror(self) -> None:
        if self._mirror is not None:
            self._mirror.note(self.job.loop.step)

    def _close_mirror(self, wait_s: float) -> None:
        if self._mirror is not None:
            self._mirror.close(wait_s)
            self._mirror = None

    def _on_first(self, make: Callable[[], Result]) -> Result:
        return self.job.loop.processes.run_on_first(make)

    # -- evaluation ---------------------------------------------------------------------------------------------------

    def _evaluate(self, keeps: bool) -> Evaluated:
        """Evaluate and keep the best on the first process. The others get its results.

        Args:
            keeps: also keep a model of which nothing is known, since there is no dev.
        """

        def on_first() -> tuple[Evaluated, RunProgress]:
            return self._evaluate_here(keeps), self.progress

        event, progress = self._on_first(on_first)
        vars(self.progress).update(vars(progress))
        return event

    def _evaluate_here(self, keeps: bool) -> Evaluated:
        job, progress, loop = self.job, self.progress, self.job.loop
        reference = loop.sources[job.reference].sampler
        epoch = reference.epoch + reference.position / reference.batches_per_epoch
        with loop.averaged():
            metrics, score = self._score()
            best = score > progress.best_score or not metrics
            if best:
                progress.best_score = score
                progress.evaluations_without_gain = 0
            else:
                progress.evaluations_without_gain += 1
            if job.output is not None:
                self._keep(metrics, score, best and (keeps or bool(metrics)))
        return Evaluated(loop.step, epoch, metrics, score, best)

    def _score(self) -> tuple[Metrics, float]:
        """Return the metrics of the model on dev, and the number that chooses the best."""
        job, plan = self.job, self.job.evaluation
        dev = plan.data("dev")
        metrics: Metrics = {}
        if dev.sets:
            metrics = evaluate(Predictor(job.trained), plan.kinds, dev.sets)
        metrics = add_perplexities(metrics, job.trained, dev.masked)
        return metrics, score_of(metrics, job.train.checkpoints.select, plan.kinds, plan.baselines)

    def _keep(self, metrics: Metrics, score: float, best: bool) -> None:
        """Save the model where it is the best, of all tasks, of one task, or among the candidates to average."""
        job, progress = self.job, self.progress
        if best:
            save_trained(job.trained, job.run / "best")
        for task, kind in job.evaluation.kinds.items() if job.train.checkpoints.best_per_task else ():
            if task in metrics and metrics[task][task_kind(kind).primary_metric] > progress.best_by_task.get(
                task, -1.0
            ):
                progress.best_by_task[task] = metrics[task][task_kind(kind).primary_metric]
                save_trained(job.trained, job.run / f"best-{task}")
        if job.train.checkpoints.average_best:
            limit = job.train.checkpoints.average_best
            model = job.trained.model
            progress.candidates = averaging.add_candidate(
                job.run, model, job.loop.step, score, progress.candidates, limit
            )

    def _average_best(self) -> Averaged | None:
        """Average the best checkpoints. Return None where that was done before the run was resumed."""
        job, model = self.job, self.job.trained.model
        trained_weights = {name: value.clone() for name, value in model.state_dict().items()}

        def judge(weights: averaging.Weights) -> float:
            model.load_state_dict(weights)
            return self._score()[1]

        soup = averaging.greedy_soup(job.run, self.progress.candidates, judge)
        if soup is None:
            return None
        event = Averaged(job.loop.step, soup.steps, soup.score, soup.score > self.progress.best_score)
        if event.best:
            model.load_state_dict(soup.weights)
            save_trained(job.trained, job.run / "best")
        model.load_state_dict(trained_weights)
        averaging.forget(job.run)  # the last: a run that was killed before makes the same soup again
        return event

    # -- the log ------------------------------------------------------------------------------------------------------

    def _write_log(self, event: Step | Evaluated | Averaged) -> None:
        if self._log is not None:
            names = {Step: "step", Evaluated: "evaluation", Averaged: "average"}
            self._log.write({"event": names[type(event)], "time": time.time(), **asdict(event)})

    def _log_start(self) -> None:
        """Log what no other file of the run tells."""
        loop = self.job.loop
        assert self._log is not None
        given_tags = {task: tags.facts for task, tags in self.job.given_tags.items()}
        self._log.write(
            {
                "event": "start",
                "time": time.time(),
                "step": loop.step,
                "total_steps": loop.total_steps,
                "device": str(loop.precision.device),
                "precision": str(loop.precision.autocast or "fp32").removeprefix("torch."),
                "processes": loop.processes.size,
                "versions": installed_versions(),
                **({"given": given_tags} if given_tags else {}),
            }
        )
