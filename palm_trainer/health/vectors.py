"""Vectors of texts and of their words, from the encoder of a run or the one that a training would start from."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.tokenization import bare_tokenizer_json
from palm_serve.types import Encoding, FloatArray, RowLayout
from palm_trainer.config.loader import Config
from palm_trainer.data.example import Example
from palm_trainer.data.words import word_ranges
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.model.heads import TaskHead
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel, describe_encoder
from palm_trainer.runs.encoder_of_job import load_job_encoder
from palm_trainer.tensors import POOLED_OUTPUT, SEQUENCE_OUTPUT

_TEXTS = "texts"
_PIECES = "pieces"


@dataclass(frozen=True)
class Vectors:
    """Vectors of some examples: of each text [N, H], and of the words of each text [words, H] where they were asked for."""

    texts: FloatArray
    words: Sequence[FloatArray]


class _TextVectors(TaskHead):
    """Returns the vector of a text as it is."""

    kind = "classify"
    inputs = (POOLED_OUTPUT,)
    tensors = ("vectors",)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`pooled_output` [B, H] -> `vectors` [B, H]."""
        return {"vectors": features[POOLED_OUTPUT.name]}


class _PieceVectors(TaskHead):
    """Returns the vectors of a text's pieces as they are."""

    kind = "classify"
    inputs = (SEQUENCE_OUTPUT,)
    tensors = ("vectors",)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`sequence_output` [B, T, H] -> `vectors` [B, T, H]."""
        return {"vectors": features[SEQUENCE_OUTPUT.name]}


def load_encoder(config: Config, run: Path | None, examples: Sequence[Example]) -> TrainedModel:
    """Return a model whose encoder gives the vectors.

    Args:
        config: the configuration.
        run: run whose best checkpoint holds the encoder. None: the encoder of the configuration, untrained.
        examples: texts, for an encoder whose vocabulary is cut to them.

    Raises:
        PalmError: the encoder cannot be loaded.
    """
    if run is not None:
        return load_trained(run)
    encoder = load_job_encoder(config, examples).encoder
    info = describe_encoder(encoder.backbone, encoder.name, encoder.pad_token_id)
    tokenizer_json = bare_tokenizer_json(encoder.tokenizer_json)
    return TrainedModel(MultiTaskModel(encoder.backbone, {}), tokenizer_json, config.encoder.max_length, {}, info)


def encode(trained: TrainedModel, examples: Sequence[Example], *, words: bool) -> Vectors:
    """Encode examples, in eval mode and fp32.

    Args:
        trained: the model.
        examples: texts, or texts with their pairs.
        words: also return the mean vector of the pieces of each word. A word that is not read has zeros.
    """
    heads: dict[str, TaskHead] = {_TEXTS: _TextVectors()}
    if words:
        heads[_PIECES] = _PieceVectors()
    infos = {}
    for name in heads:
        infos[name] = TaskInfo(kind="classify", outputs=(f"{name}.vectors",))
    model = MultiTaskModel(trained.model.backbone, heads)
    hidden = trained.model.backbone.hidden_size
    texts = np.zeros((len(examples), hidden), np.float32)
    word_vectors: list[FloatArray] = [np.zeros((0, hidden), np.float32)] * len(examples)
    predictor = Predictor(replace(trained, model=model, tasks=infos))
    for positions, items, outputs in predictor.outputs(examples, tuple(heads), RowLayout(context=True)):
        texts[positions] = outputs[f"{_TEXTS}.vectors"]
        if words:
            pieces = outputs[f"{_PIECES}.vectors"]
            for number, (position, item) in enumerate(zip(positions, items, strict=True)):
                word_vectors[position] = _pool_words(examples[position], item.rows[0], pieces[number])
    return Vectors(texts, word_vectors)


def _pool_words(example: Example, encoding: Encoding, pieces: FloatArray) -> FloatArray:
    """Return the mean vector of the pieces of each word, [words, H]."""
    ranges = word_ranges(example)
    firsts = np.array([start for start, _ in ranges] or [0])
    sums = np.zeros((len(ranges), pieces.shape[1]), np.float32)
    counts = np.zeros(len(ranges), np.float32)
    for piece, (offsets, segment) in enumerate(zip(encoding.offsets, encoding.segments, strict=True)):
        if segment != 0 or not ranges:
            continue
        word = int(np.searchsorted(firsts, offsets[0], side="right")) - 1
        if word >= 0 and offsets[0] < ranges[word][1]:
            sums[word] += pieces[piece]
            counts[word] += 1
    pooled: FloatArray = (sums / np.maximum(counts, 1.0)[:, None]).astype(np.float32)
    return pooled


def stack_words(vectors: Vectors) -> FloatArray:
    """Return the words of all texts, [all words, H]."""
    return np.concatenate(list(vectors.words))
