"""Declarations of heads, with the arguments of the original PALM.

A declaration such as `palm.head.SequenceLabel(num_classes, input_dim, dropout_prob)` has no weights.
The labels are known once the reader has read its data. `Trainer` then builds the engine's head of the same kind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from palm_serve.bundle.manifest import Kind
from palm_trainer.api.compat import accept_unused
from palm_trainer.api.phase import Phase, check_phase
from palm_trainer.config.tasks import Roles
from palm_trainer.errors import WiringError


@dataclass(kw_only=True)
class DeclaredHead:
    """Base of the declarations. One head serves both phases."""

    kind: ClassVar[Kind]
    phase: Phase = "train"

    @property
    def classes(self) -> int | None:
        """Number of classes or tags that were declared. None for a head without classes."""
        return getattr(self, "num_classes", None)

    @property
    def dropout(self) -> float:
        """Probability of dropout on the head's input, while training."""
        return float(getattr(self, "dropout_prob", 0.0))

    @property
    def options(self) -> dict[str, Any]:
        """Options of the head that the target of the reader needs."""
        return {}

    @property
    def width(self) -> int:
        """Hidden size of the backbone that the head was declared for."""
        return int(getattr(self, "input_dim", 0))

    def __post_init__(self) -> None:
        check_phase(type(self).__name__, self.phase)
        if not 0.0 <= self.dropout < 1.0:
            raise WiringError(
                f"{type(self).__name__}: dropout_prob must be at least 0 and below 1, got {self.dropout}."
            )
        if self.classes is not None and self.classes < 1:
            raise WiringError(f"{type(self).__name__}: num_classes must be at least 1, got {self.classes}.")


@dataclass
class Classify(DeclaredHead):
    """One class per text.

    `num_classes` is the number of labels in the data or the label map. `input_dim` is the hidden size of the backbone.
    `head="prototype"` starts at the mean of the texts and the name of each class, for few texts a class. `names` says
    some labels in other words.
    """

    kind = "classify"
    num_classes: int
    input_dim: int
    dropout_prob: float = 0.0
    param_initializer_range: float = 0.02
    head: Literal["linear", "prototype"] = "linear"
    names: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head not in ("linear", "prototype"):
            raise WiringError(f"Classify: head must be 'linear' or 'prototype', got {self.head!r}.")
        if self.names and self.head != "prototype":
            raise WiringError("Classify: names must be given with head='prototype', got 'linear'. Leave them out.")


@dataclass
class MultiLabel(DeclaredHead):
    """Any number of classes per text (several intents)."""

    kind = "multi_label"
    num_classes: int
    input_dim: int
    dropout_prob: float = 0.0
    param_initializer_range: float = 0.02


@dataclass
class Match(DeclaredHead):
    """Matching of two texts: one class per pair (`pointwise`), or a score that ranks pairs by `margin` (`pairwise`)."""

    kind = "match"
    num_classes: int
    input_dim: int
    dropout_prob: float = 0.0
    param_initializer_range: float = 0.02
    learning_strategy: Literal["pointwise", "pairwise"] = "pointwise"
    margin: float = 0.5

    @property
    def options(self) -> dict[str, Any]:
        """Strategy, which must be that of the reader."""
        return {"learning_strategy": self.learning_strategy}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_strategy not in ("pointwise", "pairwise"):
            raise WiringError(
                f"Match: learning_strategy must be 'pointwise' or 'pairwise', got '{self.learning_strategy}'."
            )


@accept_unused(learning_rate="dropout_prob")
@dataclass
class SequenceLabel(DeclaredHead):
    """One tag per piece, with a CRF. `num_classes` is the size of the reader's label map.

    `crf=False` classifies each piece on its own. PALM's `learning_rate` froze the CRF's transitions at its default 1e-3.
    They train with the head here. `roles="ignore"` leaves the roles and groups of spans out. By default their types
    are learnt with them (`B-city (role from)`), where the data has some.
    """

    kind = "sequence_label"
    num_classes: int
    input_dim: int
    dropout_prob: float = 0.0
    param_initializer_range: float = 0.02
    crf: bool = True
    roles: Roles | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.roles not in (None, "learn", "ignore"):
            raise WiringError(f"SequenceLabel: roles must be 'learn' or 'ignore', got {self.roles!r}.")

    @property
    def options(self) -> dict[str, Any]:
        """Use of a CRF, and of roles."""
        return {"crf": self.crf, "roles": self.roles}


@accept_unused(pred_output_path="input_dim", verbose="pred_output_path", do_lower_case="with_negative")
@dataclass
class MRC(DeclaredHead):
    """Position of the answer in a passage.

    With `with_negative` the passage may hold no answer (SQuAD 2.0), and `null_score_diff_threshold` applies.
    """

    kind = "mrc"
    max_query_len: int
    input_dim: int
    with_negative: bool = False
    max_ans_len: int | None = None
    null_score_diff_threshold: float = 0.0
    n_best_size: int = 20
    dropout_prob: float = 0.0

    @property
    def options(self) -> dict[str, Any]:
        """Options of the choice of answers. `max_ans_len` None: 30 tokens."""
        return {
            "max_query_tokens": self.max_query_len,
            "max_answer_tokens": self.max_ans_len or 30,
            "n_best": self.n_best_size,
            "null_threshold": self.null_score_diff_threshold,
        }


@dataclass
class MaskLM(DeclaredHead):
    """Prediction of masked tokens.

    The decoder is the embedding table of the backbone, so `vocab_size` is that of the backbone.
    `hidden_act` is the activation of the hidden layer.
    """

    kind = "masked_lm"
    input_dim: int
    vocab_size: int
    hidden_act: str = "gelu"
    dropout_prob: float = 0.0
    param_initializer_range: float = 0.02
