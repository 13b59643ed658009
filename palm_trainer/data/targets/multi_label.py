"""Target: any number of classes of a text."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from palm_serve.bundle.manifest import Decode, Role, TaskInfo, TaskThresholds
from palm_serve.types import Encoding
from palm_trainer.data.example import Example, spans_in
from palm_trainer.data.inputs import Inputs, Texts
from palm_trainer.errors import DataError
from palm_trainer.tensors import IGNORE

if TYPE_CHECKING:  # commands that only read data need no torch, which takes seconds to load
    from torch import Tensor


class MultiLabelTarget:
    """A 0 or 1 for each class. The labels are those of the training data, in alphabetical order.

    A class applies from `threshold` on (None: 0.5).
    """

    inputs: Inputs = Texts()

    def __init__(
        self,
        task: str,
        field: str,
        labels: Sequence[str],
        *,
        role: Role = "",
        pairs: bool = False,
        context: bool = False,
        threshold: float | None = None,
    ) -> None:
        self.field = field
        self.info = TaskInfo(
            kind="multi_label",
            role=role,
            outputs=(f"{task}.logits",),
            labels=tuple(labels),
            decode=Decode(pairs=pairs, context=context),
            thresholds=TaskThresholds(labels={} if threshold is None else dict.fromkeys(labels, threshold)),
        )
        self._index = {label: i for i, label in enumerate(labels)}

    @classmethod
    def learn(
        cls, task: str, field: str, examples: Iterable[Example], *, role: Role = "", threshold: float | None = None
    ) -> "MultiLabelTarget":
        """Build the target with the labels of the training examples.

        Args:
            task: task name.
            field: field of the examples that holds the classes.
            examples: training examples.
            role: role of the task in `Parse`.
            threshold: probability from which a class applies. None: 0.5.

        Raises:
            DataError: a field holds spans, or there is no label.
        """
        labels: set[str] = set()
        pairs = False
        context = False
        for example in examples:
            classes = classes_of(example, field)
            if classes is not None:
                labels.update(classes)
                pairs = pairs or example.pair is not None
                context = context or example.context is not None
        if not labels:
            raise DataError(
                f"task '{task}': the training data holds no class in the field '{field}'. Check field and file; label_separator splits 'a#b'."
            )
        return cls(task, field, sorted(labels), role=role, pairs=pairs, context=context, threshold=threshold)

    def encode(self, example: Example, encoding: Encoding) -> list[int]:
        """Return the indices of the classes that training has seen, or [IGNORE] when unlabelled."""
        classes = classes_of(example, self.field)
        if classes is None:
            return [IGNORE]
        return [self._index[label] for label in classes if label in self._index]

    def collate(self, targets: Sequence[Sequence[int]], length: int) -> "Tensor":
        """Return int64 [B, C] of 0 and 1, IGNORE in the rows that are unlabelled."""
        import torch

        out = np.zeros((len(targets), len(self._index)), dtype=np.int64)
        for row, target in enumerate(targets):
            if list(target) == [IGNORE]:
                out[row] = IGNORE
            else:
                out[row, list(target)] = 1
        return torch.from_numpy(out)


def classes_of(example: Example, field: str) -> tuple[str, ...] | None:
    """Return the classes of a field, None when unlabelled. Raise DataError when the field holds spans."""
    value = example.fields.get(field)
    if value is None or isinstance(value, str):
        return None if value is None else (value,)
    if spans_in(value):
        raise DataError(
            f"{example.source}: a multi_label task needs classes in '{field}', not {value!r}. Choose kind = \"sequence_label\" or another field."
        )
    return tuple(item for item in value if isinstance(item, str))
