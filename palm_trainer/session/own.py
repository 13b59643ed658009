"""Backbones, heads and readers that the user wrote, on the engine's side: matched by the names that they declare, checked before the first step."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from palm_serve.bundle.manifest import EncoderInfo
from palm_trainer.backbone import Backbone
from palm_trainer.backbone.base_backbone import Backbone as OwnedBackbone
from palm_trainer.errors import WiringError
from palm_trainer.head import Head, LossSum
from palm_trainer.head.base_head import Head as OwnedHead
from palm_trainer.loop import Source
from palm_trainer.reader.base_reader import Phase, Reader, ReaderBatch
from palm_trainer.reader.dataset import TrainingBatch
from palm_trainer.reader.text_reader import TextReader
from palm_trainer.specs import EMBEDDING_TABLE, PALM_NAMES, POOLED_OUTPUT, SEQUENCE_OUTPUT, TensorSpec, full_precision

Attrs = Mapping[str, Sequence[Any]]
Answer = TypeVar("Answer")
_ENGINE = {palm: ours for ours, palm in PALM_NAMES.items()}
NO_TOKENIZER = "{}"
"""In the place of tokenizer.json where all readers are the user's own."""
FEATURES = {
    "encoder_outputs": SEQUENCE_OUTPUT,
    "sentence_embedding": POOLED_OUTPUT,
    "sentence_pair_embedding": POOLED_OUTPUT,
    "embedding_table": EMBEDDING_TABLE,
}
"""PALM's name of what a backbone gives -> the engine's."""


class ReaderArrays(dict[str, Tensor]):
    """What a head of the user takes of the reader, in the place of a built-in head's targets."""

    def to(self, device: torch.device, non_blocking: bool = False) -> "ReaderArrays":
        """The same on another device."""
        return ReaderArrays({name: value.to(device, non_blocking=non_blocking) for name, value in self.items()})


class OwnBackbone(Backbone):
    """The engine's side of a backbone that the user wrote."""

    def __init__(self, user: OwnedBackbone) -> None:
        nn.Module.__init__(self)
        self.encoder = user
        self.pooling = "cls"
        self.inputs = tuple(
            TensorSpec(_ENGINE.get(name, name), "float32" if "float" in str(dtype) else "int64", ())
            for name, (_, dtype) in user.inputs_attr.items()
        )
        self.outputs = tuple(dict.fromkeys(FEATURES[name] for name in user.outputs_attr if name in FEATURES))

    @property
    def hidden_size(self) -> int:
        """Last dimension of its first output for heads of the package; 0 when it gives none."""
        return next((int(shape[-1]) for name, (shape, _) in self.outputs_attr.items() if name in FEATURES), 0)

    @property
    def max_length(self) -> int | None:
        """Its own business."""
        return None

    @property
    def inputs_attr(self) -> dict[str, list[Any]]:
        """As the user declares it."""
        return self._user.inputs_attr

    @property
    def outputs_attr(self) -> dict[str, list[Any]]:
        """As the user declares it."""
        return self._user.outputs_attr

    @property
    def embedding_table(self) -> Tensor:
        """None that could be shared: no rows."""
        return torch.empty(0, self.hidden_size)

    @property
    def _user(self) -> OwnedBackbone:
        assert isinstance(self.encoder, OwnedBackbone)
        return self.encoder

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:  # type: ignore[override]  # what it takes is declared, not fixed
        """What the user's `build` gives, under PALM's names and the engine's."""
        built = self._user.build({PALM_NAMES.get(name, name): value for name, value in inputs.items()})
        missing = [name for name in self.outputs_attr if name not in built]
        if missing:
            raise WiringError(
                f"{type(self._user).__name__}.build gave no '{missing[0]}', which its outputs_attr declares. It gave: {', '.join(built)}."
            )
        return {**built, **{FEATURES[name].name: built[name] for name in built if name in FEATURES}}


class OwnHead(Head):
    """The engine's side of a head that the user wrote."""

    inputs = ()

    def __init__(self, task: str, user: OwnedHead) -> None:
        super().__init__()
        self.kind = user.kind  # type: ignore[misc,assignment]  # each user's head has its own
        self.user = user
        self._task = task

    @property
    def tensors(self) -> tuple[str, ...]:  # type: ignore[override]  # differs by phase
        """While training what `build` takes of the backbone, since only the loss has the reader's part; else what it gives."""
        return tuple(self.user.inputs_attrs.get("backbone", {})) if self.training else tuple(self.user.outputs_attr)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The user's outputs when predicting; while training what the loss will need."""
        wanted = self.user.inputs_attrs
        backbone = {
            name: features[name if name in features else FEATURES[name].name] for name in wanted.get("backbone", {})
        }
        if self.training:
            return backbone
        reader = {name: features[_ENGINE.get(name, name)] for name in wanted.get("reader", {})}
        return self._built({"reader": reader, "backbone": backbone}, self.user.outputs_attr)

    def labels(self, targets: Any) -> Tensor:
        """Rows of the reader's arrays; 1 where the loss takes none."""
        return torch.tensor(max((len(value) for value in targets.values() if value.dim()), default=1))

    def loss(self, outputs: Mapping[str, Tensor], targets: Any) -> LossSum:
        """The user's loss, once a row, so that it is a mean again in the end; targets are ReaderArrays. Raises WiringError where `build` gives none."""
        built = self._built({"reader": targets, "backbone": outputs}, ("loss",))
        rows = self.labels(targets)
        return LossSum(full_precision(built["loss"]).sum() * rows, rows)

    def _built(self, given: Mapping[str, Mapping[str, Tensor]], wanted: Sequence[str] | Attrs) -> dict[str, Tensor]:
        built = self.user.build(given, scope_name=f"{self._task}.")
        missing = [name for name in wanted if name not in built]
        if missing:
            raise WiringError(
                f"trainer '{self._task}': {type(self.user).__name__}.build gave no '{missing[0]}' in phase '{self.user.phase}', which its outputs_attr "
                f"declares. It gave: {', '.join(built) or 'nothing'}."
            )
        return {name: built[name] for name in wanted}


@dataclass(frozen=True)
class ReaderContent(TrainingBatch):
    """A batch of a reader that the user wrote, and its arrays as they came."""

    arrays: ReaderBatch


class _Position:
    """Where a reader stands, in the place of a sampler: the order of its batches is its own."""

    def __init__(self, batches_per_epoch: int, draw: Callable[[], object]) -> None:
        self.batches_per_epoch = batches_per_epoch
        self.epoch = 0
        self.position = 0
        self._draw = draw

    def step(self) -> None:
        """One batch more."""
        if self.position == self.batches_per_epoch:
            self.epoch, self.position = self.epoch + 1, 0
        self.position += 1

    def state_dict(self) -> dict[str, int]:
        """Where it stands."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Draws the batches that were trained before once more."""
        while (self.epoch, self.position) < (state["epoch"], state["position"]):
            self._draw()


class OwnSource(Source):
    """Batches of a reader that the user wrote, without end: when its iterator ends it is asked for another."""

    def __init__(self, reader: Reader, heads: Mapping[str, OwnedHead | None], backbone: Backbone) -> None:
        if reader.batch_size < 1:
            raise WiringError(f"{type(reader).__name__} has no batch size. Its load_data sets self._batch_size.")
        self._reader, self._heads, self._backbone = reader, heads, backbone
        self.tasks = tuple(heads)
        self._position = _Position(-(-reader.num_examples // reader.batch_size), self.next)
        self.sampler = self._position  # type: ignore[assignment]  # counts, and orders nothing
        self._batches = reader.iterate()
        self._first: ReaderContent | None = self._read()  # what is wrong with it is said before the first step

    def next(self) -> TrainingBatch:
        """The next batch."""
        self._position.step()
        content, self._first = self._first or self._read(), None
        return content

    def _read(self) -> ReaderContent:
        arrays = next(self._batches, None)
        if arrays is None:
            self._batches = self._reader.iterate()
            arrays = next(self._batches, None)
        if arrays is None:
            raise WiringError(f"{type(self._reader).__name__}: its _iterator gives no batch.")
        check_batch(self._reader, arrays)
        return own_content(arrays, self._heads, self._backbone)


def own_content(arrays: ReaderBatch, heads: Mapping[str, OwnedHead | None], backbone: Backbone) -> ReaderContent:
    """Arrays as the engine takes them. A built-in classifier's targets are `label_ids`."""
    inputs = inputs_of(arrays, backbone)
    targets: dict[str, Any] = {
        task: torch.from_numpy(arrays["label_ids"]).long().flatten()
        if head is None
        else taken_by(head, arrays, "train")
        for task, head in heads.items()
        if head is not None or "label_ids" in arrays
    }
    return ReaderContent(inputs, targets, max((len(a) for a in arrays.values() if a.ndim), default=1), arrays)


def taken_by(head: OwnedHead, arrays: ReaderBatch, phase: Phase) -> ReaderArrays:
    """What a head takes of a reader's batch in a phase."""
    wanted = in_phase(head, phase, lambda: head.inputs_attrs.get("reader", {}))
    return ReaderArrays({name: torch.from_numpy(np.ascontiguousarray(arrays[name])) for name in wanted})


def in_phase(head: OwnedHead, phase: Phase, ask: Callable[[], Answer]) -> Answer:
    """What a head declares in a phase, whatever mode the model is in."""
    mode = head.training
    head.training = phase == "train"
    try:
        return ask()
    finally:
        head.training = mode


def inputs_of(arrays: ReaderBatch, backbone: Backbone) -> dict[str, Tensor]:
    """What a backbone takes of a reader's batch. PALM's float mask [B, S, 1] becomes the engine's, int64 [B, S]."""
    inputs = {}
    for spec in backbone.inputs:
        value = torch.from_numpy(np.ascontiguousarray(arrays[PALM_NAMES.get(spec.name, spec.name)]))
        if spec.name in PALM_NAMES and not isinstance(backbone, OwnBackbone):
            value = value.reshape(value.shape[:2]).long()
        inputs[spec.name] = value
    return inputs


def is_own(reader: Reader) -> bool:
    """Whether a reader gives its batches itself."""
    return not isinstance(reader, TextReader) or type(reader)._iterator is not TextReader._iterator


def engine_backbone(given: Backbone | OwnedBackbone) -> Backbone:
    """The engine's side of a backbone."""
    return OwnBackbone(given) if isinstance(given, OwnedBackbone) else given


def own_encoder(backbone: OwnBackbone, vocab_size: int, pad_token_id: int) -> EncoderInfo:
    """What can be said of a backbone that the user wrote. `vocab_size` is the readers'; 1 where none of them has a vocabulary."""
    return EncoderInfo(
        family="custom",
        name=type(backbone.encoder).__name__,
        layers=0,
        hidden_size=max(1, backbone.hidden_size),
        vocab_size=vocab_size,
        parameters=max(1, sum(p.numel() for p in backbone.parameters())),
        pad_token_id=pad_token_id,
    )


def gives(backbone: Backbone) -> dict[str, Sequence[Any]]:
    """What a backbone gives to heads, as PALM declares it."""
    if isinstance(backbone, OwnBackbone):
        return dict(backbone.outputs_attr)
    return {**backbone.outputs_attr, "embedding_table": [list(backbone.embedding_table.shape), "float32"]}


def check_own_head(task: str, head: OwnedHead, reader: Reader, backbone: Backbone) -> None:
    """Raises WiringError unless reader and backbone give what the head declares in both phases; registers it with the reader."""
    name = f"trainer '{task}': {type(head).__name__}"
    phases: tuple[Phase, ...] = ("train", "predict")
    for phase in phases:
        wanted = in_phase(head, phase, lambda: head.inputs_attrs)
        unknown = [part for part in wanted if part not in ("reader", "backbone")]
        if unknown:
            raise WiringError(f"{name}.inputs_attrs has '{unknown[0]}', but takes of 'reader' and 'backbone' only.")
        check_attrs(wanted.get("backbone", {}), gives(backbone), name, f"backbone {_name(backbone)}")
        if phase == "train":
            check_attrs(wanted.get("reader", {}), reader.outputs_attr, name, f"its {type(reader).__name__}")
            for attr in wanted.get("reader", {}):
                reader.require_attr(attr)
    if "loss" not in in_phase(head, "train", lambda: head.outputs_attr):
        raise WiringError(f"{name}: its outputs_attr has no 'loss' in phase 'train'. Add it.")


def check_attrs(needs: Attrs, given: Attrs, consumer: str, provider: str) -> None:
    """Raises WiringError for a name that is not given or has another shape; warns of another dtype."""
    for name, (shape, dtype) in needs.items():
        if name not in given:
            raise WiringError(f"{consumer} needs '{name}', but {provider} gives: {', '.join(given) or 'nothing'}.")
        have, kind = given[name]
        if name == "input_mask":  # PALM's is [-1, -1, 1]
            continue
        if len(have) != len(shape) or any(a != b and -1 not in (a, b) for a, b in zip(shape, have, strict=True)):
            raise WiringError(f"{consumer} needs '{name}' of shape {list(shape)}, but {provider} gives {list(have)}.")
        if str(dtype) != str(kind):
            warnings.warn(f"{consumer} declares '{name}' as {dtype}, but {provider} gives {kind}.", stacklevel=2)


def check_batch(reader: Reader, arrays: ReaderBatch) -> None:
    """Raises WiringError for a batch that lacks what is registered, or is not of the shape that `outputs_attr` declares."""
    name, declared = type(reader).__name__, reader.outputs_attr
    missing = sorted(reader._register - set(arrays))
    if missing:
        raise WiringError(f"{name}: its batch has no '{missing[0]}', which is registered. It has: {', '.join(arrays)}.")
    for attr, value in arrays.items():
        if attr not in declared:
            raise WiringError(f"{name}: its batch has '{attr}', which outputs_attr does not declare.")
        shape, dtype = declared[attr]
        same = len(shape) == value.ndim and all(a in (-1, b) for a, b in zip(shape, value.shape, strict=True))
        if not same or ("float" in str(dtype)) != (value.dtype.kind == "f"):
            raise WiringError(
                f"{name}: '{attr}' is {value.dtype} of shape {list(value.shape)}, but outputs_attr declares {dtype} of shape {list(shape)}."
            )


def _name(backbone: Backbone) -> str:
    return type(backbone.encoder if isinstance(backbone, OwnBackbone) else backbone).__name__
