"""Heads as the Python API declares them, with the arguments of the original PALM.

A declaration holds what the user says (`palm.head.SequenceLabel(num_classes, input_dim, dropout_prob)`) and no weights: which labels there
are is known once the reader has read its data. `Trainer` binds it to the engine's head of the same kind then.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from palm_serve.bundle.manifest import Kind
from palm_trainer.api.compat import accept_unused
from palm_trainer.api.phase import Phase, check_phase
from palm_trainer.errors import WiringError


@dataclass(kw_only=True)
class DeclaredHead:
    """Base of the declarations. `phase` is kept for PALM's calls: one head serves both."""

    kind: ClassVar[Kind]
    phase: Phase = "train"

    @property
    def classes(self) -> int | None:
        """How many classes or tags were declared; None for a head without classes."""
        return getattr(self, "num_classes", None)

    @property
    def dropout(self) -> float:
        """Probability of dropout on the head's input, while training."""
        return float(getattr(self, "dropout_prob", 0.0))

    @property
    def options(self) -> dict[str, Any]:
        """What the reader's target is told of the head."""
        return {}

    @property
    def width(self) -> int:
        """Hidden size of the backbone that the head was declared for."""
        return int(getattr(self, "input_dim", 0))

    def __post_init__(self) -> None:
        check_phase(type(self).__name__, self.phase)
        if not 0.0 <= self.dropout < 1.0:
            raise WiringError(f"{type(self).__name__}: dropout_prob is {self.dropout}, but is from 0 to below 1.")
        if self.classes is not None and self.classes < 1:
            raise WiringError(f"{type(self).__name__}: num_classes is {self.classes}, but is 1 at least.")


@dataclass
class Classify(DeclaredHead):
    """One class a text. Needs `num_classes` labels in the reader's data or label map; `input_dim` is the backbone's hidden size."""

    kind = "classify"
    num_classes: int
    input_dim: int
    dropout_prob: float = 0.0
    param_initializer_range: float = 0.02


@dataclass
class MultiLabel(DeclaredHead):
    """Any number of classes a text (several intents)."""

    kind = "multi_label"
    num_classes: int
    input_dim: int
    dropout_prob: float = 0.0
    param_initializer_range: float = 0.02


@dataclass
class Match(DeclaredHead):
    """Do two texts match: a class a pair (`pointwise`), or a score that ranks pairs by `margin` (`pairwise`)."""

    kind = "match"
    num_classes: int
    input_dim: int
    dropout_prob: float = 0.0
    param_initializer_range: float = 0.02
    learning_strategy: Literal["pointwise", "pairwise"] = "pointwise"
    margin: float = 0.5

    @property
    def options(self) -> dict[str, Any]:
        """The strategy, which the reader must share."""
        return {"learning_strategy": self.learning_strategy}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_strategy not in ("pointwise", "pairwise"):
            raise WiringError(
                f"Match: learning_strategy is '{self.learning_strategy}', but is 'pointwise' or 'pairwise'."
            )


@accept_unused(learning_rate="dropout_prob")
@dataclass
class SequenceLabel(DeclaredHead):
    """A tag a piece, with a CRF. `num_classes` is the size of the reader's label map.

    `crf=False` classifies each piece on its own. PALM's `learning_rate` froze the CRF's transitions at its default 1e-3.
    They train with the head here.
    """

    kind = "sequence_label"
    num_classes: int
    input_dim: int
    dropout_prob: float = 0.0
    param_initializer_range: float = 0.02
    crf: bool = True

    @property
    def options(self) -> dict[str, Any]:
        """Whether there is a CRF."""
        return {"crf": self.crf}


@accept_unused(pred_output_path="input_dim", verbose="pred_output_path", do_lower_case="with_negative")
@dataclass
class MRC(DeclaredHead):
    """The answer's place in a passage. `with_negative`: the passage may hold none (SQuAD 2.0), then `null_score_diff_threshold` counts."""

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
        """How answers are chosen. `max_ans_len` None: 30 tokens."""
        return {
            "max_query_tokens": self.max_query_len,
            "max_answer_tokens": self.max_ans_len or 30,
            "n_best": self.n_best_size,
            "null_threshold": self.null_score_diff_threshold,
        }


@dataclass
class MaskLM(DeclaredHead):
    """The masked words. The decoder is the backbone's embedding table, so `vocab_size` is the backbone's; `hidden_act` its inner activation."""

    kind = "masked_lm"
    input_dim: int
    vocab_size: int
    hidden_act: str = "gelu"
    dropout_prob: float = 0.0
    param_initializer_range: float = 0.02
