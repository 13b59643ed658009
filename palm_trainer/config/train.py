"""`[train]`: how long, how fast, on which device and where to."""

from collections.abc import Iterator
from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field

from palm_trainer.config.section import (
    ConfigSection,
    Count,
    DataPaths,
    Epochs,
    Fraction,
    LearningRate,
    OutputPath,
    Penalty,
    Positive,
    RunPaths,
    Table,
    as_tuple,
)

MixingPolicy: TypeAlias = Literal[
    "mix_ratio",
    "per_task_epochs",
    "proportional",
    "temperature",
    "annealed",
    "uniform",
    "round_robin",
    "loss_driven",
]

BalancingMethod: TypeAlias = Literal[
    "fixed",
    "uncertainty",
    "dwa",
    "gradnorm",
    "random",
    "pcgrad",
    "cagrad",
    "upgrad",
    "aligned_mtl",
    "mgda",
]


Tracker: TypeAlias = Literal[
    "tensorboard", "wandb", "aim", "clearml", "comet_ml", "dvclive", "mlflow", "swanlab", "trackio"
]

GRADIENT_METHODS = ("pcgrad", "cagrad", "upgrad", "aligned_mtl", "mgda")
WHOLE_BATCH = ("gradnorm", *GRADIENT_METHODS)
"""Balancing methods that weigh the gradients of a whole batch, and not of its parts: weighed parts would not add up."""
_OPTIONS_OF_METHODS = {
    "learning_rate": ("uncertainty", "gradnorm"),
    "dwa_temperature": ("dwa",),
    "gradnorm_alpha": ("gradnorm",),
    "cagrad_c": ("cagrad",),
}


class BalancingConfig(ConfigSection):
    """How tasks are weighed against each other; see `palm_trainer.training.balancing`."""

    method: BalancingMethod = "fixed"
    """Weighting of the task losses, or (from pcgrad on, with the extra `gradient`) of the task gradients.
    `gradnorm`, `random` and the gradient methods weigh only tasks that share a data set."""
    learning_rate: LearningRate | None = None
    """uncertainty, gradnorm: learning rate of the task weights. None: 0.01 and 0.025."""
    dwa_temperature: Positive | None = None
    """dwa: temperature of the task weights. A high one makes them equal. None: 2."""
    gradnorm_alpha: Penalty | None = None
    """gradnorm: how strongly tasks that lag behind are favoured. None: 1.5."""
    cagrad_c: float | None = Field(default=None, ge=0, lt=1)
    """cagrad: largest distance from the mean gradient, as a share of its length. None: 0.4."""

    @classmethod
    def faults_between_keys(cls, table: Table) -> Iterator[tuple[str, str]]:
        """Yield the fault of each option that belongs to another method."""
        method = table.get("method", "fixed")
        if not isinstance(method, str):
            return
        for key, methods in _OPTIONS_OF_METHODS.items():
            if key in table and method not in methods:
                listed = " or ".join(map(repr, methods))
                yield key, f"is only for method = {listed}, got '{method}'. Remove it."


class RegularizationConfig(ConfigSection):
    """Regularization methods. All are off by default, and all but `anchor` are experimental."""

    r_drop: Penalty = 0.0
    """Experimental: weight of R-Drop, 1 to 5 for most data. Each text passes twice with other dropout,
    and the loss grows where the answers differ. Doubles the work. 0: off."""
    fgm: Penalty = 0.0
    """Experimental: adversarial training. L2 norm of the noise on a text's embeddings, about 1.
    Each batch passes twice. 0: off."""
    word_dropout: Fraction = 0.0
    """Experimental: share of the tokens that are hidden from the encoder, drawn anew in each pass.
    Special tokens are never hidden. 0: off."""
    label_smoothing: Fraction = 0.0
    """Experimental: share of the probability that is spread over all classes. 0: off."""
    ema_decay: Fraction | None = None
    """Experimental: decay of the moving average of the weights, which is then evaluated and saved. None: no average."""
    anchor: Penalty = 0.0
    """Weight of the distance between the vector of a text (`pooled_output`) and that of the encoder at the start: 1 - cosine.
    Keeps what a pretrained encoder knows of texts, for an encoder that other trainings start from. Costs a forward pass. 0: off."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Experimental: learning rate of an encoder layer over that of the layer above it. The embeddings have the lowest.
    1: one learning rate for the whole encoder."""


class StudentConfig(ConfigSection):
    """A smaller encoder that is cut from that of `encoder.model`. `palm-train compress` writes this section."""

    layers: int | None = Field(default=None, ge=1, le=48)
    """Number of transformer layers: evenly chosen ones of the encoder, the highest among them. None: all."""
    intermediate_size: int | None = Field(default=None, ge=8, le=65_536)
    """Width of the feed-forward layers. The units with the largest weights stay. None: that of the encoder."""
    vocabulary: Literal["all", "text"] = "all"
    """`text`: keep only the pieces that the training text can produce, all single characters and the special pieces."""
    vocabulary_texts: DataPaths = ()
    """vocabulary = text: files with more texts whose pieces are kept, one text a line."""
    int8: bool = False
    """Train with weights and activations as int8 graphs compute them. The finished weights are multiples of 7-bit
    numbers, so that `palm-export` stores them in a quarter of the space without a loss."""

    @classmethod
    def faults_between_keys(cls, table: Table) -> Iterator[tuple[str, str]]:
        """Yield the fault of texts for a vocabulary that is not cut."""
        if table.get("vocabulary_texts") and table.get("vocabulary", "all") != "text":
            yield "vocabulary_texts", "is only for vocabulary = 'text'. Add it, or remove vocabulary_texts."


class DistillationConfig(ConfigSection):
    """Knowledge distillation: finished runs whose answers are learned beside the labels."""

    teachers: RunPaths = ()
    """Run directories, relative to the working directory. Tasks of the same name, kind and labels learn their answers,
    on unlabelled examples too. Several teachers of a task are averaged."""
    temperature: Positive | None = None
    """Divisor of the logits of teachers and student. None: 2."""
    weight: float | None = Field(default=None, gt=0, le=1)
    """Share of the teachers' answers in the loss. None: 0.5."""
    student: StudentConfig | None = None
    """The model is smaller than `encoder.model`, and also learns what the first teacher makes of each token.
    None: it is as large as that."""

    @classmethod
    def faults_between_keys(cls, table: Table) -> Iterator[tuple[str, str]]:
        """Yield the fault of each option without a teacher."""
        for key in ("temperature", "weight", "student"):
            if key in table and not table.get("teachers"):
                yield key, "needs teachers, got none. Name their runs in `teachers`, or remove it."


class CheckpointsConfig(ConfigSection):
    """Which checkpoints are kept, and when training stops early."""

    select: str = "average"
    """What chooses the best checkpoint on dev: `average` (see `tasks.NAME.baseline`), `exact_match`, or TASK.METRIC."""
    patience: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Evaluations without a better one before training stops. None: never stops early."""
    average_best: int | None = Field(default=None, ge=2, le=1000)
    """Experimental: number of best checkpoints whose weights are averaged at the end, as long as dev gains (a greedy soup).
    The average becomes `best/` where it is better than any of them. None: no average."""
    best_per_task: bool = False
    """Also keep `best-TASK/`, the checkpoint with the best metric of each task."""
    save_every_steps: int | None = Field(default=None, ge=1, le=1_000_000_000)
    """Steps between checkpoints that `--resume` continues from. None: only after evaluations, at the end and when stopped.
    After a long save, the next evaluations are not saved until training has taken twenty times as long."""


class TrainConfig(ConfigSection):
    """How long, how fast, on which device and where to."""

    output: OutputPath
    """Run directory, relative to the working directory."""
    resume: Literal["auto"] | None = None
    """`auto`: continue the run in `output`, and begin where it holds none. Then a command that is started again goes on, as torchrun does it.
    None: as `--resume` says."""
    mirror: str | None = Field(default=None, pattern=r"^(s3|gs|az|abfs|hf|file|memory)://.+")
    """URL of an object store (`s3://BUCKET/RUN`) to which `last/`, `best/` and events are copied after each save, while training goes on.
    `--resume auto` takes the run from there where `output` holds none. None: no copy."""
    epochs: Epochs = 10.0
    """Passes over the reference data set."""
    reference: str | None = None
    """Data set whose passes are counted as epochs. None: the first."""
    mixing: MixingPolicy = "mix_ratio"
    """Policy that chooses the data set of each batch, see `palm_trainer.training.mixing`.
    The number of batches is exact and known before the run, except for `loss_driven`."""
    mixing_temperature: float | None = Field(default=None, ge=1, le=1_000_000)
    """temperature: T in p ~ size ** (1 / T). None: 2."""
    batch_size: Count = 32
    """Examples per step, over all processes."""
    accumulate_steps: Count = 1
    """Parts of a batch that pass one after the other, to save memory. The gradient is that of the whole batch."""
    learning_rate: LearningRate = 5e-5
    """Peak learning rate of the encoder."""
    head_learning_rate: LearningRate | None = None
    """Peak learning rate of the heads. None: 5 x learning_rate, since heads start untrained."""
    crf_learning_rate: LearningRate | None = 1e-2
    """Peak learning rate of the start, transition and end scores of every CRF, also where the task has a `learning_rate`.
    They start at zero and have to reach 1 and more. None: the rate of the head, in runs from before this key."""
    freeze_layers: int = Field(default=0, ge=0, le=1000)
    """Number of lowest encoder layers that keep their pretrained weights."""
    freeze_embeddings: bool = False
    """Keep the pretrained weights of the encoder's embeddings."""
    weight_decay: float = Field(default=0.01, ge=0, le=100)
    """Decoupled weight decay (AdamW). Biases, normalization weights and embeddings do not decay."""
    warmup_ratio: Fraction = 0.1
    """Share of all steps in which the learning rate rises."""
    schedule: Literal["linear", "constant", "cosine", "noam"] = "linear"
    """Course of the learning rate after the warm-up."""
    max_grad_norm: float = Field(default=1.0, gt=0, le=1e12)
    """L2 norm that the gradient is clipped to."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """Number format of the computation. `auto` takes bf16 where the device has it."""
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    """`auto`, `cpu`, `mps`, `cuda`, or a GPU by its number, such as `cuda:1`."""
    seed: int = Field(default=13, ge=0, lt=2**32)
    """Seed of weights, dropout and the order of the batches."""
    log_every_steps: int = Field(default=20, ge=1, le=1_000_000_000)
    """Steps between two logged steps."""
    trackers: Annotated[tuple[Tracker, ...], BeforeValidator(as_tuple)] = ()
    """Experiment trackers of accelerate that also log losses, learning rates and dev metrics. Each needs its package.
    TensorBoard writes to RUN/tensorboard."""
    evaluations: Count | None = None
    """Number of evaluations on dev, evenly over the run. None: after each epoch of the reference data set."""
    balancing: BalancingConfig = BalancingConfig()
    regularization: RegularizationConfig = RegularizationConfig()
    distillation: DistillationConfig = DistillationConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()

    @classmethod
    def faults_between_keys(cls, table: Table) -> Iterator[tuple[str, str]]:
        """Yield faults of batch parts and of the mixing temperature."""
        steps = table.get("accumulate_steps", 1)
        batch_size = table.get("batch_size", 32)
        if isinstance(steps, int) and isinstance(batch_size, int) and steps > batch_size > 0:
            yield "accumulate_steps", f"must be at most batch_size = {batch_size}, got {steps}."
        policy = table.get("mixing", "mix_ratio")
        if isinstance(policy, str) and "mixing_temperature" in table and policy != "temperature":
            yield "mixing_temperature", f"is only for mixing = 'temperature', got '{policy}'. Remove it."
