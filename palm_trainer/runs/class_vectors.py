"""Class vectors of prototype heads: the mean of the vectors of a class's texts, with its name as one more text."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer
from torch import Tensor

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.tokenization import find_unknown_id
from palm_serve.types import FloatArray, InputTexts, RowLayout
from palm_trainer.data.example import Example
from palm_trainer.data.label_names import label_text
from palm_trainer.errors import ConfigError
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.heads import TaskHead
from palm_trainer.model.heads.prototype import PrototypeHead
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel
from palm_trainer.tensors import POOLED_OUTPUT

MAX_TEXTS = 100
"""Texts of a class, evenly chosen, that its vector is the mean of. Each takes an encoder pass, and more would hardly move it."""
_TASK = "texts"


@dataclass(frozen=True)
class ClassTexts:
    """What the class vectors of a task are made of.

    Args:
        field: field of the examples that holds the class.
        examples: training examples.
        names: words of some labels.
    """

    field: str
    examples: Sequence[Example]
    names: Mapping[str, str]


def start_prototype_heads(trained: TrainedModel, texts: Mapping[str, ClassTexts], device: torch.device) -> None:
    """Set the class vectors of prototype heads. A text that several tasks learn is encoded once.

    Args:
        trained: the model, before its first step. It is moved to the device.
        texts: by task, for each task with such a head.
        device: to encode the texts on.

    Raises:
        ConfigError: a class has no text, and no name that the encoder can read.
    """
    holders: dict[InputTexts, tuple[Example, list[tuple[str, int]]]] = {}
    sums: dict[str, npt.NDArray[np.float64]] = {}
    for task, class_texts in texts.items():
        labels = trained.tasks[task].labels
        sums[task] = np.zeros((len(labels), trained.model.backbone.hidden_size))
        for example, number in _labelled_texts(f"tasks.{task}", labels, class_texts, trained.tokenizer_json):
            holders.setdefault(example.inputs, (example, []))[1].append((task, number))
    trained.model.to(device)
    examples = [example for example, _ in holders.values()]
    classes = [numbers for _, numbers in holders.values()]
    for positions, vectors in pooled_vectors(trained, examples):
        for position, vector in zip(positions, to_unit(vectors), strict=True):
            for task, number in classes[position]:
                sums[task][number] += vector
    for task, summed in sums.items():
        head = trained.model.head(task)
        assert isinstance(head, PrototypeHead)
        head.start_at(torch.from_numpy(to_unit(summed)))


def pooled_vectors(trained: TrainedModel, examples: Sequence[Example]) -> Iterator[tuple[list[int], FloatArray]]:
    """Yield positions of examples and their vectors [N, H], batch by batch.

    Args:
        trained: the model, whose encoder reads the texts in eval mode and fp32.
        examples: texts, or texts with their pairs or contexts.
    """
    head = _PooledVectors()
    info = TaskInfo(kind=head.kind, outputs=(f"{_TASK}.vectors",))
    model = MultiTaskModel(trained.model.backbone, {_TASK: head})
    predictor = Predictor(replace(trained, model=model, tasks={_TASK: info}))
    for positions, _, outputs in predictor.outputs(examples, (_TASK,), RowLayout(context=True)):
        yield positions, outputs[f"{_TASK}.vectors"]


def to_unit(vectors: FloatArray | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return rows of length 1. A row of zeros stays."""
    values = vectors.astype(np.float64)
    lengths: npt.NDArray[np.float64] = np.linalg.norm(values, axis=1, keepdims=True)
    return values / np.where(lengths > 0, lengths, 1.0)


class _PooledVectors(TaskHead):
    """Returns the vector that the encoder gives for a text."""

    kind = "classify"
    inputs = (POOLED_OUTPUT,)
    tensors = ("vectors",)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`pooled_output` [B, H] -> `vectors` [B, H]."""
        return {"vectors": features[POOLED_OUTPUT.name]}


def _labelled_texts(
    task_path: str, labels: Sequence[str], texts: ClassTexts, tokenizer_json: str
) -> Iterator[tuple[Example, int]]:
    """Yield the texts of each class and its name, with the number of the class.

    Args:
        task_path: dotted path of the task, for messages.
        labels: of the task, in the order of the logits.
        texts: of the classes.
        tokenizer_json: contents of `tokenizer.json`.
    """
    by_label: dict[object, list[Example]] = {label: [] for label in labels}
    for example in texts.examples:
        value = example.fields.get(texts.field)
        if value in by_label:
            by_label[value].append(example)
    names = [label_text(label, texts.names) for label in labels]
    readable = readable_texts(names, tokenizer_json)
    for number, (label, name, is_readable) in enumerate(zip(labels, names, readable, strict=True)):
        examples = by_label[label]
        if not examples and not is_readable:
            raise ConfigError(
                f"{task_path}.names must have words for '{label}' that the encoder can read, got {name!r}. "
                "Describe the class in the language of the encoder, or add texts of it."
            )
        for example in evenly_chosen(examples):
            yield example, number
        if is_readable:
            yield Example(name), number


def evenly_chosen(examples: Sequence[Example]) -> Sequence[Example]:
    """Return at most MAX_TEXTS of the examples of a class."""
    step = -(-len(examples) // MAX_TEXTS) or 1
    return examples[::step]


def readable_texts(texts: Sequence[str], tokenizer_json: str) -> list[bool]:
    """Return for each text whether it has a piece that the vocabulary knows."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    unknown_id = find_unknown_id(tokenizer)
    readable = []
    for encoding in tokenizer.encode_batch(list(texts), add_special_tokens=False):
        readable.append(any(piece != unknown_id for piece in encoding.ids))
    return readable
