"""The encoder that a job begins with: from scratch, pretrained, of another run, or of the run that is resumed."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from palm_trainer.config.encoder_source import EXPORT_RECORD
from palm_trainer.config.loader import Config, EncoderConfig
from palm_trainer.config.schema import PretrainedEncoderConfig, ScratchEncoderConfig, StudentConfig
from palm_trainer.data.example import Example
from palm_trainer.data.formats.text_files import Defects, read_text, split_lines
from palm_trainer.errors import ConfigError
from palm_trainer.model.encoders import Encoder, LoadedEncoder, build_scratch, load_pretrained
from palm_trainer.model.encoders.cut_encoder import cut_layers, cut_pieces
from palm_trainer.model.encoders.e5_small_zh import load_e5_small_zh
from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.model.warm_start import (
    StartingRun,
    TakenHeads,
    find_starting_checkpoint,
    load_exported,
    load_starting_run,
    reload_encoder,
    take_heads,
)
from palm_trainer.tokenization.e5_files import E5_SMALL_ZH
from palm_trainer.tokenization.prune_vocabulary import prune_vocabulary

_KINDS_WITH_SPANS = ("sequence_label", "mrc")
"""Kinds of tasks whose answers begin and end at a character of the text."""


@dataclass(frozen=True)
class JobEncoder:
    """The encoder of a job. `start`: the run that it comes from, None where it comes from none."""

    encoder: LoadedEncoder
    start: StartingRun | None = None

    def resolve(self, config: Config) -> Config:
        """Return the configuration with the pooling and the digest of the encoder."""
        resolved: dict[str, object] = {"pooling": self.encoder.backbone.pooling}
        if self.encoder.digest:
            resolved["digest"] = self.encoder.digest
        return config.model_copy(update={"encoder": config.encoder.model_copy(update=resolved)})

    def give_heads(self, config: Config, trained: TrainedModel) -> TakenHeads | None:
        """Copy the heads of the run into a model, where `encoder.heads` asks for it."""
        settings = config.encoder
        if self.start is None or not isinstance(settings, PretrainedEncoderConfig) or not settings.heads:
            return None
        return take_heads(self.start, trained.model, trained.tasks)


def load_job_encoder(config: Config, examples: Iterable[Example], resumed: Path | None = None) -> JobEncoder:
    """Load or build the encoder of a configuration.

    Args:
        config: what to train.
        examples: of all data sets, for an encoder with a vocabulary of their text.
        resumed: the run that is resumed, if its `last/` stands for an encoder that came from a run.

    Raises:
        ConfigError: settings that do not fit the encoder.
        PalmError: the encoder cannot be loaded.
    """
    settings = config.encoder
    if isinstance(settings, ScratchEncoderConfig):
        return JobEncoder(_build_scratch(settings, examples))
    if resumed is not None:
        return JobEncoder(reload_encoder(resumed))
    checkpoint = find_starting_checkpoint(settings.model)
    if checkpoint is not None:
        _check_output(checkpoint, config)
        start = load_starting_run(checkpoint)
        job_encoder = JobEncoder(start.encoder, start)
    elif (Path(settings.model) / EXPORT_RECORD).is_file():
        job_encoder = JobEncoder(load_exported(Path(settings.model)))
    elif settings.model == E5_SMALL_ZH:
        characters = any(task.kind in _KINDS_WITH_SPANS for task in config.tasks.values())
        job_encoder = JobEncoder(
            load_e5_small_zh(_read_texts(examples), characters=characters, pooling=settings.pooling)
        )
    else:
        job_encoder = JobEncoder(load_pretrained(settings.model, pooling=settings.pooling))
    _check_settings(settings, job_encoder)
    student = config.train.distillation.student
    if student is None:
        return job_encoder
    return replace(job_encoder, encoder=_cut_student(student, job_encoder.encoder, examples))


def _cut_student(student: StudentConfig, encoder: LoadedEncoder, examples: Iterable[Example]) -> LoadedEncoder:
    """Return the encoder that a student begins with.

    Args:
        student: what is cut.
        encoder: that it is cut from.
        examples: of all data sets, for a vocabulary of their text.

    Raises:
        ConfigError: the encoder cannot be cut so.
        DataError: a file of texts cannot be read.
    """
    if student.layers is not None or student.intermediate_size is not None:
        encoder = cut_layers(encoder, student.layers, student.intermediate_size)
    if student.vocabulary == "text":
        texts = _read_texts(examples)
        for path in student.vocabulary_texts:
            texts += split_lines(read_text(path, Defects()))
        encoder = cut_pieces(encoder, prune_vocabulary(encoder.tokenizer_json, texts))
    return encoder


def load_start(config: Config, job_encoder: JobEncoder, resumed: Path | None) -> Encoder:
    """Return the encoder as it is before the first step, for the anchor. A resumed run loads what it started from again.

    Args:
        config: what to train.
        job_encoder: of the job, with the weights that it begins with.
        resumed: the run that is resumed, if its `last/` stands for an encoder that came from a run.

    Raises:
        ConfigError: what the run started from has changed.
        PalmError: it is gone.
    """
    if resumed is None:
        return job_encoder.encoder.backbone
    with torch.random.fork_rng(devices=[]):
        return load_job_encoder(config, ()).encoder.backbone


def _check_output(checkpoint: Path, config: Config) -> None:
    """Raise ConfigError where the training would replace the run that it starts from."""
    output = config.train.output.resolve()
    if checkpoint.resolve().is_relative_to(output):
        raise ConfigError(
            f"train.output must be another directory than that of the run in encoder.model, got {config.train.output}. "
            "Choose another with --output."
        )


def _check_settings(settings: EncoderConfig, job_encoder: JobEncoder) -> None:
    """Raise ConfigError for a key of `[encoder]` that contradicts what comes with the encoder."""
    assert isinstance(settings, PretrainedEncoderConfig)
    encoder = job_encoder.encoder
    if settings.digest and settings.digest != encoder.digest:
        actual = f"weights with the SHA-256 {encoder.digest}" if encoder.digest else "an encoder of no run"
        raise ConfigError(
            f"encoder.digest: {settings.model} must have weights with the SHA-256 {settings.digest}, got {actual}. "
            "Put back what it was, or remove encoder.digest to start from what is there now."
        )
    limit = encoder.backbone.max_length
    if limit is not None and settings.max_length > limit:
        raise ConfigError(
            f"encoder.max_length: {settings.max_length} tokens, but '{settings.model}' has positions for {limit}. Choose {limit} or less."
        )
    pooling = encoder.backbone.pooling
    if encoder.digest and settings.pooling not in ("auto", pooling):
        raise ConfigError(
            f"encoder.pooling must be '{pooling}', with which {settings.model} was trained, got '{settings.pooling}'. "
            "Remove it."
        )
    if settings.heads and job_encoder.start is None:
        raise ConfigError(
            f"encoder.heads needs a run as encoder.model, got '{settings.model}', which has no heads. Remove it."
        )


def _read_texts(examples: Iterable[Example]) -> list[str]:
    """Return all texts of some examples."""
    texts: list[str] = []
    for example in examples:
        texts += filter(None, (example.text, example.inputs.second))
    return texts


def _build_scratch(settings: ScratchEncoderConfig, examples: Iterable[Example]) -> LoadedEncoder:
    return build_scratch(
        _read_texts(examples),
        layers=settings.layers,
        hidden_size=settings.hidden_size,
        heads=settings.heads,
        intermediate_size=settings.intermediate_size,
        vocab_size=settings.vocab_size,
        dropout=settings.dropout,
        convolutions=settings.convolutions,
        lowercase=settings.lowercase,
        characters=settings.characters,
        max_length=settings.max_length,
        pooling="cls" if settings.pooling == "auto" else settings.pooling,
    )
