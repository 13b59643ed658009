"""How the field counts what a benchmark's labels leave open.

ATIS has utterances with several intents, written as one label: `atis_flight#atis_airfare`. Two counts are in use, and differ by about a point:
the whole label must be found (JointBERT, OpenSLU), or any one of its intents will do (models trained on single intents). Papers seldom say which.
"""

from collections.abc import Sequence
from pathlib import Path

from palm_serve.types import Classification
from palm_trainer.config.loader import Config, load_config
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.job_from_config import evaluation_sets
from palm_trainer.tasks.metrics import accuracy

SEPARATOR = "#"


def any_of_accuracy(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Share of predictions that are the whole gold label or one of its intents. A prediction of several intents is right only as a whole."""
    pairs = zip(gold, predicted, strict=True)
    return sum(p == g or p in g.split(SEPARATOR) for g, p in pairs) / len(gold) if gold else 0.0


def atis_intent(run: Path, config: Config | Path, split: str = "test", task: str = "intent") -> dict[str, float]:
    """Intent accuracy of a finished run's best checkpoint by both counts, in per cent.

    Args:
        run: directory of the run.
        config: the run's resolved configuration, or its file (`RUN/config.toml`).
        split: dev or test.
        task: name of the intent task.

    Raises:
        ValueError: no data set of the split has this task.
    """
    if isinstance(config, Path):
        config = load_config(config, output=run)
    predictor = Predictor(load_trained(run))
    gold, predicted = [], []
    for one in evaluation_sets(config, split):
        field = one.fields.get(task)
        examples = [example for example in one.examples if field in example.fields]
        for example, answers in zip(examples, predictor.answers(examples, (task,)), strict=True):
            answer = answers[task]
            assert isinstance(answer, Classification)
            gold.append(str(example.fields[field]))
            predicted.append(answer.label.name)
    if not gold:
        raise ValueError(f"{run}: no data set has labels of '{task}' in {split}")
    return {
        "intent accuracy": 100 * accuracy(gold, predicted),
        "intent any-of accuracy": 100 * any_of_accuracy(gold, predicted),
    }
