"""Trainings of a comparison: one variant with one seed, and the counts of its correct answers.

Each training has a run directory of its own. A stopped training is resumed there. A finished one is
not repeated: it has a file `counts.json`:

    {"examples": {split: digest},
     "counts": {split: {task: {"rows": ["atis:0", ...], "numerator": [...], "denominator": [...], "right": [0, 1, ...]}}}}

`rows` are positions in the split of the data set. `numerator` and `denominator` are those of
`statistics.ScoreCounts`.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palm_trainer.compare.variants import ComparisonPlan, TrainingVariant, select_task
from palm_trainer.config.atomic_files import write_file
from palm_trainer.config.loader import Config, load_config
from palm_trainer.errors import CheckpointError, PalmError
from palm_trainer.evaluation.evaluate import EvaluationSet, judge
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained, read_json
from palm_trainer.runs.directory import differences
from palm_trainer.runs.events import Event, Finished, Started
from palm_trainer.runs.file_names import CONFIG
from palm_trainer.runs.resume import keep_to_older_keys
from palm_trainer.runs.run import train
from palm_trainer.tasks import task_kind

COUNTS = "counts.json"
_SETTINGS_WITHOUT_EFFECT = ("test", "out_of_domain", "log_every_steps")
"""Settings that do not change a training."""

TaskCounts = dict[str, Any]
"""`rows`, `numerator`, `denominator` and `right` of one task, see the module docstring."""


@dataclass(frozen=True)
class VariantTraining:
    """One variant trained with one seed. `config` includes the seed."""

    variant: TrainingVariant
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """Return the name shown to the user."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Return the run directory."""
        return self.config.train.output


def plan_trainings(plan: ComparisonPlan, seeds: Sequence[int], output: Path) -> list[VariantTraining]:
    """List all trainings, ordered by seed, so that a stopped comparison has complete seeds.

    Args:
        plan: the comparison.
        seeds: seeds of the trainings.
        output: directory of the comparison.

    Raises:
        CheckpointError: if `output` is not a directory for a comparison, or holds trainings with
            other settings.
    """
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"{output} must be a directory, got a file. Choose another directory with --output.")
    if (output / CONFIG).exists():
        raise CheckpointError(
            f"{output} must be the directory of a comparison, got the directory of a run. "
            "Choose another directory with --output."
        )
    older_configs = [load_config(path) for path in sorted(output.rglob(CONFIG))]
    trainings = []
    for seed in seeds:
        for variant in plan.variants:
            settings = {"seed": seed, "output": output / variant.folder / str(seed)}
            train_config = variant.config.train.model_copy(update=settings)
            config = keep_to_older_keys(variant.config.model_copy(update={"train": train_config}), older_configs)
            trainings.append(VariantTraining(variant, seed, config))
    for training in trainings:
        _check_settings(training)
    return trainings


def is_finished(training: VariantTraining, plan: ComparisonPlan) -> bool:
    """Return True if it is trained and was evaluated on the examples of the plan."""
    path = training.folder / COUNTS
    return path.exists() and read_json(path)["examples"] == _hash_examples(training, plan)


def run_training(
    training: VariantTraining, plan: ComparisonPlan, stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Train where needed, then evaluate the best checkpoint and write its counts.

    Yields the events of the training. The last one is `Finished`. If `stop` returned True,
    `Finished.interrupted` is set, and the next call resumes there.

    Args:
        training: the training to run.
        plan: the comparison.
        stop: called after each step. True stops the training.

    Raises:
        PalmError: if the training takes other batches than planned, and what `run.train` raises.
    """
    run_directory = training.folder
    if not (run_directory / COUNTS).exists():
        resume = (run_directory / CONFIG).exists()
        for event in train(training.config, resume=resume, stop=stop):
            if isinstance(event, Started):
                _check_budget(training, event)
            yield event
            if isinstance(event, Finished) and event.interrupted:
                return
    counts = {}
    for split, sets in _evaluation_sets(training, plan).items():
        counts[split] = count_correct(Predictor(load_trained(run_directory)), plan.kinds, sets)
    contents = {"examples": _hash_examples(training, plan), "counts": counts}
    write_file(run_directory / COUNTS, json.dumps(contents) + "\n")
    # The last checkpoint takes three quarters of the space, and a finished training is not resumed.
    shutil.rmtree(run_directory / "last", ignore_errors=True)


def read_counts(training: VariantTraining) -> Mapping[str, Mapping[str, TaskCounts]]:
    """Read the counts of a finished training, by split and task."""
    counts: Mapping[str, Mapping[str, TaskCounts]] = read_json(training.folder / COUNTS)["counts"]
    return counts


def count_correct(
    predictor: Predictor, kinds: Mapping[str, str], sets: Sequence[EvaluationSet]
) -> dict[str, TaskCounts]:
    """Count what each labelled example adds to the primary metric of its task.

    Args:
        predictor: the trained model.
        kinds: kind of each task.
        sets: the examples to answer.
    """
    counts: dict[str, TaskCounts] = {}
    for evaluation_set in sets:
        row_names = {}
        for index, example in enumerate(evaluation_set.examples):
            row_names[id(example)] = f"{evaluation_set.data}:{index}"
        for task, rows in judge(predictor, kinds, [evaluation_set]).items():
            kind = task_kind(kinds[task])
            task_counts = counts.setdefault(task, {"rows": [], "numerator": [], "denominator": [], "right": []})
            for unit in kind.units(rows):
                numerator, denominator = kind.contribution(unit)
                task_counts["rows"].append(row_names[id(unit[0].example)])
                task_counts["numerator"].append(numerator)
                task_counts["denominator"].append(denominator)
                task_counts["right"].append(int(kind.is_unit_correct(unit)))
    return counts


def _evaluation_sets(training: VariantTraining, plan: ComparisonPlan) -> dict[str, list[EvaluationSet]]:
    return {split: select_task(sets, training.variant.task) for split, sets in plan.evaluation_sets.items()}


def _hash_examples(training: VariantTraining, plan: ComparisonPlan) -> dict[str, str]:
    """Hash the examples and their labels of each split.

    A paired comparison requires the same ones everywhere.
    """
    digests = {}
    for split, sets in _evaluation_sets(training, plan).items():
        lines = []
        for evaluation_set in sets:
            for example in evaluation_set.examples:
                labels = []
                texts = example.inputs if example.inputs.context else (example.text, example.pair)
                for task, field in evaluation_set.fields.items():
                    labels.append((task, repr(example.fields.get(field))))
                lines.append(repr((evaluation_set.data, *texts, sorted(labels))))
        text = "\n".join(lines).encode("utf-8", "surrogatepass")
        digests[split] = hashlib.sha256(text).hexdigest()
    return digests


def _check_settings(training: VariantTraining) -> None:
    """Check that a training already in the directory has the same settings.

    Raises:
        CheckpointError: if it has not.
    """
    path = training.folder / CONFIG
    if not path.exists():
        return
    changed_keys = []
    for key in differences(load_config(path), training.config):
        if key.split(".")[-1] not in _SETTINGS_WITHOUT_EFFECT:
            changed_keys.append(key)
    if changed_keys:
        raise CheckpointError(
            f"{training.folder} was trained with other settings ({', '.join(changed_keys)} differ). "
            "Choose another directory with --output, or delete this one to train it again."
        )


def _check_budget(training: VariantTraining, started: Started) -> None:
    batches = dict(started.job.loop.mixing.quotas)
    planned_batches = dict(training.variant.batches)
    if batches != planned_batches:
        raise PalmError(
            f"{training.name} must take {planned_batches} batches of its data sets for an equal budget, got {batches}. "
            "If the training data changed since the comparison began, restart it in another directory with --output."
        )
