"""Fit temperatures, thresholds and out-of-scope scores on dev, and find the scripts that the model reads."""

from palm_trainer.evaluation.calibration import calibrate
from palm_trainer.evaluation.scripts import with_scripts
from palm_trainer.evaluation.thresholds import tune_thresholds
from palm_trainer.model.checkpoint import save_trained
from palm_trainer.model.checkpoint_files import has_checkpoint
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.runs.file_names import METRICS
from palm_trainer.runs.job import EvaluationPlan, Job


def fit_decoding(trained: TrainedModel, plan: EvaluationPlan) -> tuple[TrainedModel, dict[str, float]]:
    """Return the model with its decoding fitted, and the chosen thresholds by task. Without dev it only gets its scripts."""
    dev = plan.data("dev")
    for task in plan.tasks:
        info = trained.tasks[task]
        if info.role == "intent" and info.calibration.method == "none" and not info.thresholds.scripts:
            trained = with_scripts(trained, task, plan.train_examples(task))
    if not dev.sets:
        return trained, {}
    labelled = {}
    for task in {**dev.out_of_scope, **plan.false_rejections}:
        labelled[task] = plan.train_examples(task)
    fitted = calibrate(trained, dev.sets, dev.out_of_scope, plan.false_rejections, labelled, plan.out_of_scope_scores)
    return tune_thresholds(fitted, dev.sets, plan.tuned_tasks)


def fit_checkpoints(job: Job) -> dict[str, float]:
    """Fit the decoding of `best/` and of each `best-TASK/`, and write it into them. Return the thresholds of the best."""
    thresholds: dict[str, float] = {}
    has_dev = bool(job.evaluation.data("dev").sets)
    finished_before = (job.run / METRICS).exists()
    for checkpoint in ("best", *(f"best-{task}" for task in job.evaluation.kinds)):
        if has_checkpoint(job.run, checkpoint) and (has_dev or not finished_before):
            with job.opened(checkpoint) as trained:
                if _labels(trained) != _labels(job.trained):
                    continue  # `palm-train add-class` has added a class to a finished run, which keeps what was fitted
                fitted, chosen_thresholds = fit_decoding(trained, job.evaluation)
                if fitted.tasks != trained.tasks:  # a run that is resumed at its end is left as it is
                    save_trained(fitted, job.run / checkpoint)
            thresholds = thresholds or chosen_thresholds
    return thresholds


def _labels(trained: TrainedModel) -> dict[str, tuple[str, ...]]:
    """Return the labels of each task."""
    return {name: info.labels for name, info in trained.tasks.items()}
