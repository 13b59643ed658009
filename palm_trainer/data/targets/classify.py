"""Target: one class of a text."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from palm_serve.bundle.manifest import Decode, Role, TaskInfo
from palm_serve.types import Encoding
from palm_trainer.data.example import Example
from palm_trainer.data.inputs import Inputs, Texts
from palm_trainer.data.label_names import check_names
from palm_trainer.data.targets.base import collate_indices
from palm_trainer.errors import DataError
from palm_trainer.tensors import IGNORE, NO_CLASS

if TYPE_CHECKING:  # commands that only read data need no torch, which takes seconds to load
    from torch import Tensor


class ClassifyTarget:
    """Class indices. The labels are those of the training data, in alphabetical order."""

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
    ) -> None:
        self.field = field
        self.info = TaskInfo(
            kind="classify",
            role=role,
            outputs=(f"{task}.logits",),
            labels=tuple(labels),
            decode=Decode(pairs=pairs, context=context),
        )
        self._index = {label: i for i, label in enumerate(labels)}

    @classmethod
    def learn(
        cls,
        task: str,
        field: str,
        examples: Iterable[Example],
        *,
        role: Role = "",
        names: Mapping[str, str] = MappingProxyType({}),
        names_only: bool = False,
    ) -> "ClassifyTarget":
        """Build the target with the labels of the training examples.

        Args:
            task: task name.
            field: field of the examples that holds the class.
            examples: training examples.
            role: role of the task in `Parse`.
            names: words of some labels.
            names_only: make classes of the labels in `names` that no example has.

        Raises:
            DataError: a field holds no single class, or there are fewer than two classes.
            ConfigError: `names` has no words for a label, has a label without examples, or the same words for two of those.
        """
        labels: set[str] = set()
        pairs = False
        context = False
        for example in examples:
            value = example.fields.get(field)
            if value is None:
                continue
            if not isinstance(value, str):
                raise DataError(
                    f"{example.source}: task '{task}' needs one class in '{field}', not {value!r}. Choose kind = \"multi_label\" or another field."
                )
            labels.add(value)
            pairs = pairs or example.pair is not None
            context = context or example.context is not None
        check_names(f"tasks.{task}", names, labels, names_only=names_only)
        labels.update(names)
        if len(labels) < 2:
            raise DataError(
                f"task '{task}': the training data holds {len(labels)} class in the field '{field}'; a classifier needs 2. Check field and file."
            )
        return cls(task, field, sorted(labels), role=role, pairs=pairs, context=context)

    def encode(self, example: Example, encoding: Encoding) -> int:
        """Return the index of the class, NO_CLASS for out-of-scope text, or IGNORE when unlabelled or never seen in training."""
        if example.out_of_scope:
            return NO_CLASS
        value = example.fields.get(self.field)
        return self._index.get(value, IGNORE) if isinstance(value, str) else IGNORE

    def collate(self, targets: Sequence[int], length: int) -> "Tensor":
        """Return int64 [B]."""
        return collate_indices(targets)
