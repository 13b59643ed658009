"""What a run does once it is trained, for a model of the Python API: temperatures, thresholds and out-of-scope scores, fitted on the evaluation readers."""

from collections.abc import Sequence

from palm_trainer.api.declarations import Task
from palm_trainer.api.reader.base_reader import Reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.data.example import Example
from palm_trainer.errors import WiringError
from palm_trainer.evaluation.calibration import FALSE_REJECTION, calibrate
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.evaluation.thresholds import tune_thresholds
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tasks import task_kind


def calibrated(trained: TrainedModel, tasks: Sequence[Task], sets: Sequence[EvaluationSet]) -> TrainedModel:
    """The model as it is saved and exported; as it was where there are no evaluation readers. Raises WiringError where a threshold lacks its data."""
    check_dev(tasks)
    if not sets:
        return trained
    rejecting = {task.name: task for task in tasks if task.rejection is not None}
    wanted = {name: task.rejection for name, task in rejecting.items() if task.rejection is not None}
    foreign = {name: _examples(one.reader) for name, one in wanted.items() if one.reader is not None}
    shares = {name: one.settings.false_rejection or FALSE_REJECTION for name, one in wanted.items()}
    labelled = {name: _examples(task.fitted) for name, task in rejecting.items()}
    scores = {name: score for name, one in wanted.items() if (score := one.settings.out_of_scope_score) is not None}
    fitted = calibrate(trained, sets, foreign, shares, labelled, scores)
    several = [
        task.name
        for task in tasks
        if task.name in trained.tasks and task_kind(trained.tasks[task.name].kind).has_open_limit(None)
    ]
    return tune_thresholds(fitted, sets, several)[0]


def check_dev(tasks: Sequence[Task]) -> None:
    """Raises WiringError for a task that shall tell what is out of scope, and has no labelled texts to choose the threshold on."""
    for task in tasks:
        if task.rejection is not None and task.evaluation_reader is None:
            raise WiringError(
                f"trainer '{task.name}': set_out_of_scope chooses its threshold on dev, and there is no dev. Call set_evaluator(reader) first."
            )


def _examples(reader: Reader) -> Sequence[Example]:
    return reader.examples if isinstance(reader, TextReader) else ()
