"""What one Trainer says of its task, and what passes between trainers and their user."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from palm_serve.bundle.manifest import Role
from palm_trainer.api.head import DeclaredHead
from palm_trainer.api.head.base_head import Head as OwnedHead
from palm_trainer.api.reader.base_reader import Reader
from palm_trainer.api.reader.text_reader import TextReader
from palm_trainer.config.schema import ClassifyTask
from palm_trainer.data.dataset import TrainingBatch
from palm_trainer.errors import WiringError
from palm_trainer.model.encoders import Encoder
from palm_trainer.tasks import task_kind
from palm_trainer.training.loop import Step

AnyHead = DeclaredHead | OwnedHead
"""A head of the package, as declared, or one that the user wrote."""

_ROLES: dict[str, tuple[Role, str]] = {
    "intent": ("intent", "classify"),
    "slot": ("slots", "sequence_label"),
    "slots": ("slots", "sequence_label"),
}
"""Task name and kind -> role in `Parse`."""


@dataclass(frozen=True)
class Rejection:
    """How text is told that belongs to no class: the task's keys in a configuration, and a reader of such text (None: there is none)."""

    settings: ClassifyTask
    reader: TextReader | None


@dataclass(eq=False)
class Task:
    """A task while its training is put together; each part is set by the call of that name."""

    name: str
    mix_ratio: float = 1.0
    weight: float = 1.0
    reuse_head_with: str | None = None
    auxiliary: bool = False
    backbone: Encoder | None = None
    head: AnyHead | None = None
    reader: Reader | None = None
    predict_reader: Reader | None = None
    evaluation_reader: Reader | None = None
    rejection: Rejection | None = None

    @property
    def declared(self) -> tuple[Encoder, AnyHead]:
        """Backbone and head. Raises WiringError when `build_forward` was not called."""
        if self.backbone is None or self.head is None:
            raise WiringError(
                f"trainer '{self.name}' has no head yet. Call its build_forward(backbone, head) first; to predict only, build_predict_forward."
            )
        return self.backbone, self.head

    @property
    def fitted(self) -> Reader:
        """The reader of the training data. Raises WiringError when there is none."""
        if self.reader is None:
            raise WiringError(f"trainer '{self.name}' has no training data yet. Call fit_reader(reader) first.")
        return self.reader

    @property
    def answers(self) -> bool:
        """Whether it is evaluated, exported and asked: not when it is auxiliary, nor a masked LM, which only shapes the encoder."""
        if self.auxiliary:
            return False
        return self.head is None or not self.has_kind or task_kind(self.head.kind).is_answered

    @property
    def own_head(self) -> OwnedHead | None:
        """The head, where the user wrote it."""
        return self.head if isinstance(self.head, OwnedHead) else None

    @property
    def has_kind(self) -> bool:
        """Whether it is evaluated, saved as a run and exported: not with a head that is of no kind of the package."""
        return self.head is None or self.head.kind != "custom"

    @property
    def role(self) -> Role:
        """`Parse` answers with the classifier `intent` and the tagger `slot` or `slots`, by these names."""
        role, kind = _ROLES.get(self.name, ("", ""))
        return role if self.head is not None and self.head.kind == kind else ""


@dataclass(frozen=True, eq=False)
class LossVar:
    """The loss that `build_forward` promises: its value exists in each training step only."""

    tasks: tuple[str, ...]
    owner: object = field(repr=False, default=None)


class Batch(dict[str, npt.NDArray[np.generic]]):
    """A batch as a dict of the reader's registered attributes. `data` and `content` are the engine's."""

    def __init__(self, arrays: dict[str, npt.NDArray[np.generic]], data: str, content: TrainingBatch) -> None:
        super().__init__(arrays)
        self.data = data
        self.content = content


@dataclass(frozen=True, slots=True)
class TaskStep:
    """A step from the view of one task: `step` from 1 in its epoch, `epoch` from 0, as PALM's log lines have them."""

    whole: Step
    task: str
    step: int
    steps_per_epoch: int
    epoch: int
    loss: float

    def line(self, speed: float) -> str:
        """PALM's log line of a single task; `speed` in steps/s."""
        return f"step {self.step}/{self.steps_per_epoch} (epoch {self.epoch}), loss: {self.loss:.3f}, speed: {speed:.2f} steps/s"

    def global_line(self, speed: float) -> str:
        """PALM's log line of several tasks."""
        return f"global step: {self.whole.step}, {self.task}: {self.line(speed)}"
