"""Compress a run: the configuration of a smaller model that learns from it, and what became smaller."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from palm_trainer.config.loader import Config, TaskConfig, load_config
from palm_trainer.config.schema import (
    DataConfig,
    DistillationConfig,
    PretrainedEncoderConfig,
    RegularizationConfig,
    StudentConfig,
    data_config,
)
from palm_trainer.data.splits import Splits
from palm_trainer.errors import CheckpointError, ConfigError
from palm_trainer.model.checkpoint import TOKENIZER, ModelDescription, read_description, reading
from palm_trainer.model.checkpoint_files import checkpoint_directory, has_checkpoint
from palm_trainer.model.warm_start import find_starting_checkpoint
from palm_trainer.runs.file_names import CONFIG, METRICS
from palm_trainer.tokenization.prune_vocabulary import count_changed

_UNLABELLED = "unlabelled"
"""Name of the data set of unlabelled text."""
_TRAINING_TEXT = "text"
"""Value of `--prune-vocabulary` for the text of the training data alone."""


@dataclass(frozen=True)
class CompressOptions:
    """Options of `palm-train compress`.

    Args:
        layers: transformer layers. None: half of those of the run.
        feed_forward: width of the feed-forward layers. None: that of the run.
        text: file of unlabelled text. None: there is none.
        vocabulary: `text`, or a file of texts whose pieces are kept too. None: all pieces are kept.
    """

    layers: int | None = None
    feed_forward: int | None = None
    text: Path | None = None
    vocabulary: str | None = None


def compress_config(run: Path, output: Path, options: CompressOptions, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a smaller model that learns from a run.

    Args:
        run: a finished run of a configuration.
        output: run directory of the smaller model.
        options: how small it is.
        overrides: `KEY=VALUE` each, applied last.

    Raises:
        CheckpointError: the run is not finished or damaged.
        ConfigError: the run cannot be compressed so.
    """
    description = _read_finished(run)
    config = load_config(run / CONFIG)
    encoder = PretrainedEncoderConfig(model=str(run.resolve()), heads=True, max_length=description.max_length)
    data, tasks = dict(config.data), dict(config.tasks)
    if options.text is not None:
        name = _free_name(data)
        data[name] = data_config({"format": "text", "train": str(options.text.resolve())})
        tasks = _with_data(tasks, name, description)
    train = config.train.model_copy(
        update={
            "output": output,
            "resume": None,
            "mirror": None,
            "freeze_layers": 0,
            "regularization": RegularizationConfig(),
            "checkpoints": config.train.checkpoints.model_copy(update={"average_best": None}),
            "distillation": DistillationConfig(teachers=(run.resolve(),), student=_student(options, description)),
        }
    )
    compressed = Config(encoder=encoder, data=data, tasks=tasks, train=train)
    with tempfile.TemporaryDirectory() as folder:  # read back, so that every rule of a file holds, and --set too
        path = Path(folder) / "compress.toml"
        path.write_text(compressed.dump_toml(), encoding="utf-8")
        return load_config(path, overrides, output)


def describe_compression(run: Path, config: Config) -> list[str]:
    """Return lines on what became smaller.

    Args:
        run: the teacher.
        config: of the finished smaller run.
    """
    output = config.train.output
    before, after = _read_best(run), _read_best(output)
    old, new = before.encoder, after.encoder
    lines = [
        f"{new.layers} of {old.layers} layers, {new.vocab_size} of {old.vocab_size} pieces, "
        f"{new.parameters / 1e6:.2f} of {old.parameters / 1e6:.2f} million parameters of the encoder"
    ]
    if not any(_UNLABELLED in name for name in config.data):
        lines.append(
            "no unlabelled text: the model learnt from the data of the run alone. More text helps (--text FILE)."
        )
    if new.vocab_size < old.vocab_size:
        lines.append(_describe_pieces(run, config))
    for task, info in before.tasks.items():
        lost = [label for label in info.labels if task in after.tasks and label not in after.tasks[task].labels]
        if lost:
            lines.append(f"task '{task}' lost {len(lost)} labels that its data lacks ('{lost[0]}'). Add them again.")
    lines.append(f"next: palm-export {output} --output BUNDLE")
    return lines


def _describe_pieces(run: Path, config: Config) -> str:
    """Tell how many texts of dev a cut vocabulary reads otherwise."""
    texts = []
    splits = Splits(config.data, seed=config.train.seed)
    for name in splits.data_sets("dev"):
        for example in splits.examples(name, "dev"):
            texts.append(example.text)
    before, after = (
        (checkpoint_directory(path) / TOKENIZER).read_text(encoding="utf-8") for path in (run, config.train.output)
    )
    changed = count_changed(before, after, texts)
    return f"{changed} of {len(texts)} texts of dev have words that the cut vocabulary reads in other pieces"


def _read_finished(run: Path) -> ModelDescription:
    """Return the description of the best model of a run that has ended."""
    checkpoint = find_starting_checkpoint(str(run.resolve()), "RUN")
    if checkpoint is None or not (run / CONFIG).is_file():
        raise CheckpointError(f"RUN must be a run of `palm-train run`, got {run}. Name the directory of one.")
    if has_checkpoint(run, "last") and not (run / METRICS).exists():
        raise CheckpointError(
            f"RUN must be a finished run, got {run}, which has no {METRICS}: it is being trained, or was stopped. "
            "Wait for its end, or finish it with --resume."
        )
    description = _read_best(run)
    if description.own:
        components = ", ".join(map(": ".join, description.own.items()))
        raise ConfigError(
            f"RUN must be a run whose parts are all PALM's, got {run} with parts of your own ({components}), "
            "which no command can build. Name another run."
        )
    return description


def _read_best(run: Path) -> ModelDescription:
    directory = checkpoint_directory(run)
    with reading(f"checkpoint {directory} is damaged", "Name another run, or train it again."):
        return read_description(directory)


def _student(options: CompressOptions, description: ModelDescription) -> StudentConfig:
    layers = options.layers or -(-description.encoder.layers // 2)
    texts: tuple[Path, ...] = ()
    if options.vocabulary not in (None, _TRAINING_TEXT):
        texts = (Path(str(options.vocabulary)).resolve(),)
    return StudentConfig.model_validate(
        {
            "layers": layers,
            "intermediate_size": options.feed_forward,
            "vocabulary": "all" if options.vocabulary is None else "text",
            "vocabulary_texts": list(map(str, texts)),
            "int8": True,
        }
    )


def _free_name(data: dict[str, DataConfig]) -> str:
    """Return a name for the data set of unlabelled text that no other has."""
    name = _UNLABELLED
    while name in data:
        name += "_"
    return name


def _with_data(tasks: dict[str, TaskConfig], data: str, description: ModelDescription) -> dict[str, TaskConfig]:
    """Return the tasks, where those that read single texts read one more data set."""
    changed = dict(tasks)
    for name, task in tasks.items():
        info = description.tasks.get(name)
        if info is not None and not info.pairs and name not in description.auxiliary:
            changed[name] = task.model_copy(update={"data": (*task.data, data)})
    if changed == tasks:
        raise ConfigError(
            f"--text needs a task that reads single texts, got tasks that read pairs ({', '.join(tasks)}). Leave it out."
        )
    return changed
