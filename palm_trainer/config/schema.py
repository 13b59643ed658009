"""The sections of a configuration: what each key means, of which type it is, and what stands where it is left out."""

import os
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo

from palm_serve.bundle.manifest import Kind


def _as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


def _as_paths(value: object, info: ValidationInfo) -> object:
    """A path or a list of paths -> absolute paths, names of a hub (`hf://...`) as they are; the base folder comes in the validation context."""
    values = value if isinstance(value, list | tuple) else [value]
    paths = [v for v in values if isinstance(v, str | Path) and str(v)]
    if len(paths) != len(values):
        raise ValueError("must be a path or a list of paths")
    base: Path = (info.context or {}).get("base", Path())
    return tuple(Path(v if str(v).startswith("hf:/") else os.path.normpath(base / Path(v).expanduser())) for v in paths)


def _as_runs(value: object) -> object:
    """A path or a list of paths -> paths."""
    return tuple(_as_path(item) for item in (value if isinstance(value, list | tuple) else [value]))


def _as_path(value: object) -> object:
    return Path(value).expanduser() if isinstance(value, str) and value else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_as_paths)]
Names = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0)]


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


class Section(BaseModel):
    """Base of the sections: frozen, strict, and without keys that nobody knows."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())


def inner_section(model: type[Section], key: str) -> type[Section] | None:
    """Return the section that a key of another section holds, None where the key holds a value."""
    field = model.model_fields.get(key)
    annotation = None if field is None else field.annotation
    return annotation if isinstance(annotation, type) and issubclass(annotation, Section) else None


def key_paths(model: type[Section]) -> dict[str, str]:
    """Return the dotted path of each key of a section, by the key's own name and by its path.

    A key of an inner section is found by its own name where the outer section has no key of that name.
    """
    paths = {name: name for name in model.model_fields}
    for name in model.model_fields:
        inner = inner_section(model, name)
        for key in () if inner is None else inner.model_fields:
            paths.setdefault(key, f"{name}.{key}")
            paths[f"{name}.{key}"] = f"{name}.{key}"
    return paths


class EncoderConfig(Section):
    """The shared encoder. The fields after `pooling` are for `model = "scratch"` only."""

    model: str = Field(default="minilm-l6-en", min_length=1)
    """A name of `palm-train models ls`, a local directory (relative to the file), a Hugging Face id, or `scratch`."""
    max_length: int = Field(default=128, ge=3, le=8192)
    """Tokens, special ones included."""
    pooling: Literal["cls", "mean"] = "cls"
    layers: int = Field(default=4, ge=1, le=48)
    hidden_size: int = Field(default=256, ge=8, le=4096)
    heads: int = Field(default=4, ge=1, le=64)
    intermediate_size: int | None = Field(default=None, ge=8)
    """None: 4 x hidden_size."""
    vocab_size: int = Field(default=8000, ge=64, le=1_000_000)
    """Pieces, at most; learned from the training text."""
    dropout: Fraction = 0.1
    convolutions: int = Field(default=0, ge=0, le=8)
    """Between the embeddings and the layers, over three pieces each: they tell neighbours from little text. Two are a good number."""
    lowercase: bool = True
    characters: bool = False
    """One piece a character (Chinese) in the place of WordPiece."""


class DataConfig(Section):
    """A data set: files of one format. An option that the format does not take is refused."""

    format: str
    train: Paths = Field(min_length=1)
    """A path or a list of paths, like the other splits."""
    dev: Paths = ()
    test: Paths = ()
    out_of_domain: Paths = ()
    """Labelled text from another domain than train's: what generalisation is measured on. Never trained or selected on."""
    out_of_scope: Paths = ()
    """Text that belongs to no class of the data set's `classify` tasks. Never trained on: it chooses, with dev, how out-of-scope text is told.
    In the data set's format, or `.txt` with a text a line."""
    out_of_scope_test: Paths = ()
    """More such text, which nothing is chosen with: how much of it is rejected is told with the metrics of test."""
    mix_ratio: Positive = 1.0
    """mixing = mix_ratio: how often its batches come, against the other data sets."""
    epochs: Positive | None = None
    """mixing = per_task_epochs: how often it is gone through. None: `train.epochs`."""
    substitute: float = Field(default=0.0, ge=0, le=1)
    """Share of the training examples whose slot values are replaced by others of the same labels, or of labels that share many values with
    them, drawn anew in each epoch. 0: off."""
    columns: Names = ()
    """tsv, csv, palm: names of the columns in the file's order; `_` skips one. None given: the first line names them.
    json, parquet, datasets: the keys or columns that are read."""
    header: bool | None = None
    """tsv, csv, palm: whether the first line is a header. None: yes unless `columns` are given."""
    delimiter: str | None = Field(default=None, min_length=1, max_length=1)
    """tsv, csv: one character. None: tab for tsv, comma for csv."""
    label_separator: str | None = Field(default=None, min_length=1)
    """Splits a class field into several classes (`a#b`), for `multi_label` tasks."""
    scheme: Literal["bio", "iob1", "bioes", "bmes"] = "bio"
    """How word tags mark spans."""
    joiner: str = " "
    """What stands between words in the text; empty for characters (Chinese)."""
    intent_suffix: str | None = Field(default=None, min_length=1)
    """conll: the intents are in a file of the same name with this suffix, one a line."""
    intent_line: bool = False
    """conll: the last line of each sentence is its intent."""

    def paths(self, split: str) -> tuple[Path, ...]:
        """Files of `train`, `dev`, `test`, `out_of_domain`, `out_of_scope` or `out_of_scope_test`; empty where the data set has no such split."""
        found: tuple[Path, ...] = getattr(self, split)
        return found


class TaskConfig(Section):
    """A head with a name."""

    kind: Kind
    data: Names = Field(min_length=1)
    """Data sets that it trains on; tasks that share one are trained in the same encoder pass."""
    role: Literal["", "intent", "slots"] = ""
    """What `Parse` answers with; each role is held once at most."""
    field: str | None = Field(default=None, min_length=1)
    """Field of the examples that it learns. None: chosen by role, name and kind."""
    weight: Positive = 1.0
    """Of its loss in the sum."""
    auxiliary: bool = False
    """Shapes the encoder only: never ends the training, is not selected on, and is not exported."""
    crf: bool = True
    """sequence_label: a linear-chain CRF over the tags; otherwise a softmax a token."""
    learning_strategy: Literal["pointwise", "pairwise"] = "pointwise"
    """match: a class a pair; or a ranker, which learns that the pair scores above the text with `text_b_neg`."""
    match_label: str | None = Field(default=None, min_length=1)
    """match, pointwise: the label that says yes. None: the one that is called so (1, true, yes, match, ...)."""
    margin: Positive = 0.5
    """match, pairwise: by how much the score (0 to 1) of a pair should exceed that of its negative."""
    max_query_tokens: int | None = Field(default=None, ge=1)
    """mrc: a question is cut to this. None: 64, or a third of `encoder.max_length` where that is less."""
    doc_stride_tokens: int | None = Field(default=None, ge=1)
    """mrc: from one window of a long passage to the next. None: a third of `encoder.max_length`."""
    max_answer_tokens: int | None = Field(default=None, ge=1)
    """mrc: no answer is longer. None: 30, or more where more than one in 200 answers of the training data is longer (Chinese)."""
    n_best: int = Field(default=20, ge=1)
    """mrc: answers that are ranked."""
    null_threshold: float | None = None
    """mrc, where the training data holds questions without an answer: "no answer" wins when it scores more than this above the best answer.
    None: chosen on dev at the end of training, for the greatest F1."""
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """multi_label: a class applies from this probability on. None: chosen on dev at the end of training, for most sets that are exactly right."""
    mask_share: float = Field(default=0.15, gt=0, lt=1)
    """masked_lm: share of the pieces that are to be guessed."""
    whole_word: bool = False
    """masked_lm: all pieces of a word are masked together."""
    dropout: Fraction = 0.1
    learning_rate: Positive | None = None
    """Of this head. None: `train.head_learning_rate`."""
    false_rejection: float | None = Field(default=None, gt=0, lt=1)
    """classify: share of dev texts that may be told to be out of scope; it sets the threshold.
    None: 0.05 where a data set has `out_of_scope` text or the task an `out_of_scope_score`, else no threshold."""
    out_of_scope_score: Literal["softmax", "energy", "mahalanobis"] | None = None
    """classify: what tells out-of-scope text. `mahalanobis` looks at the features beside the logits, as a second output of the graph.
    None: the one that tells `out_of_scope` text best; without such text mahalanobis."""
    baseline: float | None = Field(default=None, gt=0, le=1)
    """What its metric reaches alone (0 to 1): `average` then is the mean of metric / baseline, so that no easy task outweighs a hard one."""


class BalancingConfig(Section):
    """How tasks are weighed against each other; see `palm_trainer.training.balancing`."""

    method: BalancingMethod = "fixed"
    """Weighting of the task losses, or (from pcgrad on, with the extra `gradient`) of the task gradients.
    `gradnorm`, `random` and the gradient methods weigh only tasks that share a data set."""
    learning_rate: Positive | None = None
    """uncertainty, gradnorm: learning rate of the task weights. None: 0.01 and 0.025."""
    dwa_temperature: Positive | None = None
    """dwa: temperature of the task weights. A high one makes them equal. None: 2."""
    gradnorm_alpha: float | None = Field(default=None, ge=0)
    """gradnorm: how strongly tasks that lag behind are favoured. None: 1.5."""
    cagrad_c: float | None = Field(default=None, ge=0, lt=1)
    """cagrad: largest distance from the mean gradient, as a share of its length. None: 0.4."""


class RegularizationConfig(Section):
    """Regularization methods. All are off by default, and all are experimental."""

    r_drop: float = Field(default=0.0, ge=0)
    """Experimental: weight of R-Drop, 1 to 5 for most data. Each text passes twice with other dropout,
    and the loss grows where the answers differ. Doubles the work. 0: off."""
    fgm: float = Field(default=0.0, ge=0)
    """Experimental: adversarial training. L2 norm of the noise on a text's embeddings, about 1.
    Each batch passes twice. 0: off."""
    word_dropout: Fraction = 0.0
    """Experimental: share of the tokens that are hidden from the encoder, drawn anew in each pass.
    Special tokens are never hidden. 0: off."""
    label_smoothing: Fraction = 0.0
    """Experimental: share of the probability that is spread over all classes. 0: off."""
    ema_decay: Fraction | None = None
    """Experimental: decay of the moving average of the weights, which is then evaluated and saved. None: no average."""
    layer_decay: float = Field(default=1.0, gt=0, le=1)
    """Experimental: learning rate of an encoder layer over that of the layer above it. The embeddings have the lowest.
    1: one learning rate for the whole encoder."""


class DistillationConfig(Section):
    """Knowledge distillation: finished runs whose answers are learned beside the labels."""

    teachers: Annotated[tuple[Path, ...], BeforeValidator(_as_runs)] = ()
    """Run directories, relative to the working directory. Tasks of the same name, kind and labels learn their answers,
    on unlabelled examples too. Several teachers of a task are averaged."""
    temperature: Positive | None = None
    """Divisor of the logits of teachers and student. None: 2."""
    weight: float | None = Field(default=None, gt=0, le=1)
    """Share of the teachers' answers in the loss. None: 0.5."""


class CheckpointsConfig(Section):
    """Which checkpoints are kept, and when training stops early."""

    select: str = "average"
    """What chooses the best checkpoint on dev: `average` (see `tasks.NAME.baseline`), `exact_match`, or TASK.METRIC."""
    patience: int | None = Field(default=None, ge=1)
    """Evaluations without a better one before training stops. None: never stops early."""
    average_best: int | None = Field(default=None, ge=2)
    """Experimental: number of best checkpoints whose weights are averaged at the end, as long as dev gains (a greedy soup).
    The average becomes `best/` where it is better than any of them. None: no average."""
    best_per_task: bool = False
    """Also keep `best-TASK/`, the checkpoint with the best metric of each task."""
    save_every_steps: int | None = Field(default=None, ge=1)
    """Steps between checkpoints that `--resume` continues from. None: only after each evaluation, and when stopped."""


class TrainConfig(Section):
    """How long, how fast, on what, and where to."""

    output: Annotated[Path, BeforeValidator(_as_path)]
    """Run directory, relative to the working directory."""
    epochs: float = Field(default=10.0, gt=0)
    """Of the reference data set."""
    reference: str | None = None
    """Data set whose passes are counted as epochs. None: the first."""
    mixing: MixingPolicy = "mix_ratio"
    """How often each data set's batch comes, and in which order; see `palm_trainer.training.mixing`. Counts are exact, but for `loss_driven`."""
    mixing_temperature: float | None = Field(default=None, ge=1)
    """temperature: T in p ~ size ** (1 / T). None: 2."""
    batch_size: int = Field(default=32, ge=1)
    """Examples, over all devices."""
    accumulate_steps: int = Field(default=1, ge=1)
    """Parts that a batch is cut into, one after the other, to save memory; the gradient is that of the whole batch."""
    learning_rate: Positive = 5e-5
    """Of the encoder, at its peak."""
    head_learning_rate: Positive | None = None
    """Of the heads. None: 5 x learning_rate, since heads start from nothing."""
    freeze_layers: int = Field(default=0, ge=0)
    """Lowest blocks of the encoder that keep their pretrained weights."""
    freeze_embeddings: bool = False
    """The encoder's embeddings keep their pretrained weights."""
    weight_decay: float = Field(default=0.01, ge=0)
    """None on biases, normalization weights and embeddings."""
    warmup_ratio: Fraction = 0.1
    """Of all steps."""
    schedule: Literal["linear", "constant", "cosine", "noam"] = "linear"
    max_grad_norm: Positive = 1.0
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    device: str = Field(default="auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")
    seed: int = Field(default=13, ge=0, lt=2**32)
    log_every_steps: int = Field(default=20, ge=1)
    trackers: Annotated[tuple[Tracker, ...], BeforeValidator(_as_tuple)] = ()
    """Experiment trackers that are told losses, rates and dev metrics beside events.jsonl, those that accelerate knows; each wants its package.
    TensorBoard's files lie in RUN/tensorboard."""
    evaluations: int | None = Field(default=None, ge=1)
    """On dev, evenly over the run. None: after each epoch of the reference data set."""
    balancing: BalancingConfig = BalancingConfig()
    regularization: RegularizationConfig = RegularizationConfig()
    distillation: DistillationConfig = DistillationConfig()
    checkpoints: CheckpointsConfig = CheckpointsConfig()
