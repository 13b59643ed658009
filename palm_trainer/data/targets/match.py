"""Targets of pairs: a class of each pair (pointwise), or which of two second texts matches better (pairwise)."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from palm_serve.bundle.manifest import Decode, TaskInfo
from palm_serve.types import Encoding
from palm_trainer.data.example import Example
from palm_trainer.data.inputs import Inputs, PairAndNegative, Texts
from palm_trainer.data.targets.base import collate_indices
from palm_trainer.errors import DataError
from palm_trainer.tensors import IGNORE

if TYPE_CHECKING:  # commands that only read data need no torch, which takes seconds to load
    from torch import Tensor

NEGATIVE = "text_b_neg"
"""Field that holds the second text which should score lower, as PALM names it."""

_MATCHING = ("1", "true", "yes", "match", "same", "equivalent", "duplicate", "paraphrase", "entailment", "relevant")


class MatchTarget:
    """Class indices of pairs. One of the classes, `match_label`, is the match."""

    inputs: Inputs = Texts()

    def __init__(self, task: str, field: str, labels: Sequence[str], match_label: str) -> None:
        self.field = field
        self.info = TaskInfo(
            kind="match",
            outputs=(f"{task}.logits",),
            labels=tuple(labels),
            decode=Decode(match_label=match_label, pairs=True),
        )
        self._index = {label: i for i, label in enumerate(labels)}

    @classmethod
    def learn(
        cls, task: str, field: str, examples: Iterable[Example], *, match_label: str | None = None
    ) -> "MatchTarget":
        """Build the target with the labels of the training pairs.

        Args:
            task: task name.
            field: field of the examples that holds the class.
            examples: training examples.
            match_label: label of a match. None: the label with a usual name for it.

        Raises:
            DataError: a labelled single text, fewer than two labels, or no match label.
        """
        labels: set[str] = set()
        for example in examples:
            value = example.fields.get(field)
            if value is None:
                continue
            if not isinstance(value, str):
                raise DataError(
                    f"{example.source}: task '{task}' matches pairs and needs one class in '{field}', not {value!r}. Choose another field."
                )
            if example.pair is None:
                raise DataError(
                    f"{example.source}: task '{task}' matches pairs, but this row has one text. Name the second column text_b, or choose kind = \"classify\"."
                )
            labels.add(value)
        if len(labels) < 2:
            raise DataError(
                f"task '{task}': the training data holds {len(labels)} class in the field '{field}'; matching needs 2. Check field and file."
            )
        return cls(task, field, sorted(labels), _match_label(task, sorted(labels), match_label))

    def encode(self, example: Example, encoding: Encoding) -> int:
        """Return the index of the class, or IGNORE when unlabelled or never seen in training."""
        value = example.fields.get(self.field)
        return self._index.get(value, IGNORE) if isinstance(value, str) else IGNORE

    def collate(self, targets: Sequence[int], length: int) -> "Tensor":
        """Return int64 [B]."""
        return collate_indices(targets)


class RankTarget:
    """Two rows per example: the pair, and the text with the second text of `field`. The first should score higher."""

    def __init__(self, task: str, field: str) -> None:
        self.field = field
        self.inputs: Inputs = PairAndNegative(field)
        self.info = TaskInfo(kind="match", outputs=(f"{task}.logits",), decode=Decode(pairs=True))

    @classmethod
    def learn(cls, task: str, field: str, examples: Iterable[Example]) -> "RankTarget":
        """Build the target of a ranker.

        Args:
            task: task name.
            field: field of the examples that holds the negative.
            examples: training examples.

        Raises:
            DataError: a row with a negative has no pair, or no row has a negative.
        """
        has_negative = False
        for example in examples:
            if field in example.fields:
                if example.pair is None or not isinstance(example.fields[field], str):
                    raise DataError(
                        f"{example.source}: task '{task}' ranks pairs and needs text, text_b and a second text in '{field}'. Name the columns so."
                    )
                has_negative = True
        if not has_negative:
            raise DataError(
                f"task '{task}' ranks pairs, but no row holds '{field}'. Name that column, or choose learning_strategy = \"pointwise\"."
            )
        return cls(task, field)

    def encode(self, example: Example, encoding: Encoding) -> int:
        """Return 0: the order of the rows is the target."""
        return 0

    def collate(self, targets: Sequence[int], length: int) -> "Tensor":
        """Return int64 [B]."""
        return collate_indices(targets)


def with_negatives(examples: Iterable[Example], field: str) -> list[Example]:
    """Return the examples that a ranker is scored on: each pair, followed by the text with the pair's negative.

    In both `field` says which it is: "1" or "0".
    """
    rows = []
    for example in examples:
        negative = example.fields.get(field)
        if isinstance(negative, str) and example.pair is not None:
            rows.append(Example(example.text, {field: "1"}, pair=example.pair, source=example.source))
            rows.append(Example(example.text, {field: "0"}, pair=negative, source=example.source))
    return rows


def _match_label(task: str, labels: Sequence[str], configured: str | None) -> str:
    """Return the label whose probability is the score."""
    if configured is not None:
        if configured not in labels:
            raise DataError(
                f"tasks.{task}.match_label: '{configured}' is none of the labels: {', '.join(labels)}. Name one of them."
            )
        return configured
    usual = [label for label in labels if label.lower() in _MATCHING]
    if len(usual) != 1:
        raise DataError(
            f"task '{task}': which of the labels {', '.join(labels)} says that the texts match? Name it with match_label = \"...\"."
        )
    return usual[0]
