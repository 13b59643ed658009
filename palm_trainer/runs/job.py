"""A training that is ready to start: one description for configurations and for the trainers of the Python API."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from safetensors.torch import load_file

from palm_trainer.config.loader import Config, TrainConfig
from palm_trainer.data.example import Example
from palm_trainer.data.splits import Splits
from palm_trainer.evaluation.calibration import FALSE_REJECTION
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.evaluation.out_of_scope import Method
from palm_trainer.evaluation.perplexity import MaskedRows
from palm_trainer.model.checkpoint import WEIGHTS, load_trained, read_description, reading
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.model.warm_start import TakenHeads
from palm_trainer.runs.given_tags import GivenTags
from palm_trainer.training.loop import TrainingLoop


@dataclass(frozen=True, slots=True)
class JobTask:
    """The settings of a task that is evaluated: neither auxiliary nor a masked LM.

    `false_rejection` is the share of dev texts that the out-of-scope threshold may reject.
    Without it, and without a score, only out-of-scope text asks for a threshold.
    `tuned`: the threshold of its answers is chosen on dev.
    """

    kind: str
    data: tuple[str, ...]
    baseline: float | None = None
    false_rejection: float | None = None
    out_of_scope_score: Method | None = None
    tuned: bool = False


@dataclass(frozen=True)
class EvaluationData:
    """The rows of one split that a model is evaluated on.

    `masked` holds rows of masked_lm tasks, `out_of_scope` text that belongs to no class. Both are by task.
    """

    sets: Sequence[EvaluationSet] = ()
    masked: Mapping[str, MaskedRows] = field(default_factory=dict)
    out_of_scope: Mapping[str, Sequence[Example]] = field(default_factory=dict)


@dataclass(frozen=True)
class EvaluationPlan:
    """The evaluated tasks and the data of each split, read once.

    `config` is missing where the user wrote a part of the model, so that no configuration describes it.
    """

    tasks: Mapping[str, JobTask]
    by_split: Mapping[str, EvaluationData]
    splits: Splits
    config: Config | None = None

    def data(self, split: str) -> EvaluationData:
        """Return the data of a split. It is empty where no data set has the split."""
        return self.by_split.get(split, EvaluationData())

    @property
    def kinds(self) -> dict[str, str]:
        """Kind of each evaluated task."""
        return {name: task.kind for name, task in self.tasks.items()}

    @property
    def baselines(self) -> dict[str, float]:
        """Baseline of each task that has one."""
        baselines = {}
        for name, task in self.tasks.items():
            if task.baseline is not None:
                baselines[name] = task.baseline
        return baselines

    @property
    def tuned_tasks(self) -> list[str]:
        """Tasks whose thresholds are chosen on dev."""
        return [name for name, task in self.tasks.items() if task.tuned]

    @property
    def false_rejections(self) -> dict[str, float]:
        """Share of dev texts that may be rejected, by task that must have an out-of-scope threshold."""
        shares = {}
        for name, task in self.tasks.items():
            if task.false_rejection or task.out_of_scope_score:
                shares[name] = task.false_rejection or FALSE_REJECTION
        return shares

    @property
    def out_of_scope_scores(self) -> dict[str, Method]:
        """Out-of-scope score of each task that names one."""
        scores = {}
        for name, task in self.tasks.items():
            if task.out_of_scope_score:
                scores[name] = task.out_of_scope_score
        return scores

    def train_examples(self, task: str) -> list[Example]:
        """Return all training examples of a task."""
        examples: list[Example] = []
        for data_set in self.tasks[task].data:
            examples += self.splits.examples(data_set, "train")
        return examples


@dataclass(frozen=True)
class Job:
    """A training that is ready to start.

    Args:
        train: every key of `[train]`.
        trained: the model with what is needed to answer.
        loop: trains the model on its sources.
        reference: data set whose passes are counted as epochs.
        evaluation: tasks and data to evaluate, select and calibrate on.
        output: run directory. None: nothing is written.
        teachers: digests of the teachers' weights.
        evaluation_steps: steps between evaluations. None: as `train.evaluations` says.
        heads: which heads came from the run that the training starts from. None: none were asked for.
        given_tags: by task with `given`, which tags each class of the other task can have, and whether decoding uses it.
        saves_last: `last/` is written after evaluations, see `SavePace`, and every `train.checkpoints.save_every_steps` steps.
    """

    train: TrainConfig
    trained: TrainedModel
    loop: TrainingLoop
    reference: str
    evaluation: EvaluationPlan
    output: Path | None
    teachers: Sequence[str] = ()
    evaluation_steps: int | None = None
    heads: TakenHeads | None = None
    given_tags: Mapping[str, GivenTags] = field(default_factory=dict)
    saves_last: bool = True

    @property
    def config(self) -> Config:
        """The configuration with every field resolved. The job must have one."""
        assert self.evaluation.config is not None
        return self.evaluation.config

    @property
    def run(self) -> Path:
        """The run directory of a job that writes one."""
        assert self.output is not None
        return self.output

    @contextmanager
    def opened(self, checkpoint: str) -> Iterator[TrainedModel]:
        """Yield the model of a checkpoint of the run.

        A model with parts that the user wrote cannot be built a second time. It gets the weights of the checkpoint
        for the length of the block.
        """
        if self.evaluation.config is not None:
            yield load_trained(self.run, checkpoint)
            return
        model = self.trained.model
        trained_weights = {name: value.clone() for name, value in model.state_dict().items()}
        directory = self.run / checkpoint
        try:
            with reading(f"checkpoint {directory} is damaged", "Use the other of best and last, or train again."):
                description = read_description(directory)
                model.load_state_dict(load_file(directory / WEIGHTS))
            yield replace(self.trained, tasks=dict(description.tasks))
        finally:
            model.load_state_dict(trained_weights)
