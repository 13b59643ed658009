"""Fit temperatures, thresholds and out-of-scope scores on dev."""

from palm_trainer.evaluation.calibration import calibrate
from palm_trainer.evaluation.thresholds import tune_thresholds
from palm_trainer.model.checkpoint import save_trained
from palm_trainer.model.checkpoint_files import has_checkpoint
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.runs.job import EvaluationPlan, Job


def fit_decoding(trained: TrainedModel, plan: EvaluationPlan) -> tuple[TrainedModel, dict[str, float]]:
    """Return the model with its decoding fitted on dev, and the chosen thresholds by task. Without dev it stays as it is."""
    dev = plan.data("dev")
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
    for checkpoint in ("best", *(f"best-{task}" for task in job.evaluation.kinds)):
        if job.evaluation.data("dev").sets and has_checkpoint(job.run, checkpoint):
            with job.opened(checkpoint) as trained:
                fitted, chosen_thresholds = fit_decoding(trained, job.evaluation)
                if fitted.tasks != trained.tasks:  # a run that is resumed at its end is left as it is
                    save_trained(fitted, job.run / checkpoint)
            thresholds = thresholds or chosen_thresholds
    return thresholds
