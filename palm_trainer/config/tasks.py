"""`[tasks.NAME]`: a task, whose options depend on its kind."""

from collections.abc import Iterator
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from palm_trainer.config.section import (
    MAX_LENGTH,
    ConfigSection,
    Fraction,
    LearningRate,
    Names,
    Positive,
    SectionUnion,
    Table,
)

Roles = Literal["learn", "ignore"]
Resolver = Literal["date", "duration", "money", "number", "ordinal", "time"]


class TaskConfig(ConfigSection):
    """A task: a head with a name."""

    possible_roles: ClassVar[tuple[str, ...]] = ()
    """Values of `role` that a task of this kind can have."""

    kind: str
    """Kind of the task."""
    data: Names = Field(min_length=1)
    """Data sets that it trains on. Tasks that share a data set are trained in one encoder pass."""
    role: Literal["", "intent", "slots"] = ""
    """Part of the answer of `Parse`. Each role is held by one task at most."""
    field: str | None = Field(default=None, min_length=1)
    """Field of the examples that it learns. None: chosen by role, name and kind."""
    weight: Positive = 1.0
    """Weight of its loss in the sum of all losses."""
    auxiliary: bool = False
    """Only shapes the encoder: never ends the training, is not selected on, and is not exported."""
    dropout: Fraction = 0.1
    """Dropout probability before the head. A prototype head has none unless it is set here."""
    learning_rate: LearningRate | None = None
    """Learning rate of this head, without the scores of a CRF. None: `train.head_learning_rate`."""
    baseline: float | None = Field(default=None, gt=0, le=1)
    """Metric that the task reaches alone, from 0 to 1. `average` is then the mean of metric / baseline,
    so that no easy task outweighs a hard one."""

    @classmethod
    def faults_between_keys(cls, table: Table) -> Iterator[tuple[str, str]]:
        """Yield the fault of a role that this kind cannot have."""
        role = table.get("role")
        kinds = []
        for tag, model in TASK_KINDS.members.items():
            if role in model.possible_roles:
                kinds.append(tag)
        if kinds and role not in cls.possible_roles:
            kind = table.get("kind")
            yield "role", f"= '{role}' needs kind {' or '.join(kinds)}, got '{kind}'. Change one of them."


class ClassifyTask(TaskConfig):
    """One class per text."""

    possible_roles: ClassVar[tuple[str, ...]] = ("intent",)

    kind: Literal["classify"]
    false_rejection: float | None = Field(default=None, gt=0, lt=1)
    """Share of dev texts that may be rejected as out of scope. It sets the threshold.
    None: 0.05 where a data set has `out_of_scope` text or the task an `out_of_scope_score`, else no threshold."""
    out_of_scope_score: Literal["softmax", "energy", "mahalanobis"] | None = None
    """Score that detects out-of-scope text. `mahalanobis` needs a second output of the graph, the features.
    None: the score that detects `out_of_scope` text best. Without such text: mahalanobis."""
    head: Literal["linear", "prototype"] = "linear"
    """`prototype`: a vector for each class, which starts at the mean of its training texts and its name. For few texts a class.
    `linear`: a layer that starts at random."""
    names: dict[str, str] = Field(default={})
    """Words of a label, for a prototype head (`names = {book_flight = "book a flight"}`). Without an entry: the label, split into words."""
    names_only: bool = False
    """Make classes of the labels in `names` that no training text has, for a prototype head."""

    @model_validator(mode="before")
    @classmethod
    def _no_dropout_before_cosines(cls, table: Any) -> Any:
        """Give a prototype head no dropout, where the file says nothing."""
        if isinstance(table, dict) and table.get("head") == "prototype":
            return {"dropout": 0.0, **table}
        return table

    @classmethod
    def faults_between_keys(cls, table: Table) -> Iterator[tuple[str, str]]:
        """Yield the faults of options of a prototype head for a linear one, and of a score that names cannot give."""
        yield from super().faults_between_keys(table)
        head = table.get("head", "linear")
        for key in ("names", "names_only"):
            if table.get(key) and head != "prototype":
                yield key, f"is only for head = 'prototype', got '{head}'. Set head = 'prototype', or remove it."
        if table.get("names_only") is True and table.get("out_of_scope_score") == "mahalanobis":
            yield (
                "out_of_scope_score",
                "must be softmax or energy with names_only, got 'mahalanobis', which needs texts of every class. "
                "Change one of them.",
            )


class MultiLabelTask(TaskConfig):
    """Any number of classes per text."""

    possible_roles: ClassVar[tuple[str, ...]] = ("intent",)

    kind: Literal["multi_label"]
    threshold: float | None = Field(default=None, gt=0, lt=1)
    """Probability from which a class applies.
    None: chosen on dev at the end of training, for most sets that are exactly right."""


class SequenceLabelTask(TaskConfig):
    """Labelled spans of a text."""

    possible_roles: ClassVar[tuple[str, ...]] = ("slots",)

    kind: Literal["sequence_label"]
    crf: bool = True
    """Use a linear-chain CRF over the tags. False: a softmax for each token."""
    roles: Roles | None = None
    """`ignore` leaves the roles and groups of spans out. `learn` learns, scores and answers them.
    None: `learn`, where the training data has some."""
    given: str | None = Field(default=None, min_length=1)
    """Classify task on the same texts. Span types that no training row has with the class of the text are not answered.
    It has no effect where it would forbid more than 0.5 % of the spans of dev. None: every type is possible."""
    values: dict[str, Resolver] = Field(default={})
    """Resolver of a slot's values (`values = {when = "time"}`): `date`, `duration`, `money`, `number`, `ordinal` or `time`.
    A server answers what the values stand for. It needs the extra `values`."""


class MatchTask(TaskConfig):
    """Pairs of texts."""

    kind: Literal["match"]
    learning_strategy: Literal["pointwise", "pairwise"] = "pointwise"
    """`pointwise`: a class for each pair. `pairwise`: a ranker, which learns that the pair scores above the text with `text_b_neg`."""
    match_label: str | None = Field(default=None, min_length=1)
    """pointwise: the label of matching pairs. None: the label with a usual name for it (1, true, yes, match, ...)."""
    margin: float = Field(default=0.5, gt=0, le=100)
    """pairwise: least difference between the score (0 to 1) of a pair and that of its negative."""

    @classmethod
    def faults_between_keys(cls, table: Table) -> Iterator[tuple[str, str]]:
        """Yield the fault of a label for a ranker."""
        yield from super().faults_between_keys(table)
        if table.get("learning_strategy") == "pairwise" and "match_label" in table:
            yield "match_label", "is only for learning_strategy = 'pointwise', got 'pairwise'. Remove it."


class MrcTask(TaskConfig):
    """Machine reading comprehension: answers to questions in a passage."""

    kind: Literal["mrc"]
    max_query_tokens: int | None = Field(default=None, ge=1, le=MAX_LENGTH)
    """Longest question in tokens. None: 64, or a third of `encoder.max_length` where that is less."""
    doc_stride_tokens: int | None = Field(default=None, ge=1, le=MAX_LENGTH)
    """Tokens from one window of a long passage to the next. None: a third of `encoder.max_length`."""
    max_answer_tokens: int | None = Field(default=None, ge=1, le=MAX_LENGTH)
    """Longest answer in tokens. None: 30, or more where over 1 in 200 answers of the training data is longer (Chinese)."""
    n_best: int = Field(default=20, ge=1, le=1000)
    """Number of answers that are ranked."""
    null_threshold: float | None = None
    """Score above that of the best answer from which "no answer" wins, for training data with unanswerable questions.
    None: chosen on dev at the end of training, for the greatest F1."""


class MaskedLmTask(TaskConfig):
    """Masked language modelling. Always auxiliary."""

    kind: Literal["masked_lm"]
    mask_share: float = Field(default=0.15, gt=0, lt=1)
    """Share of the tokens that are to be predicted."""
    whole_word: bool = False
    """Mask all tokens of a word together."""


TASK_KINDS: SectionUnion[TaskConfig] = SectionUnion(
    tag="kind",
    base=TaskConfig,
    members={
        "classify": ClassifyTask,
        "multi_label": MultiLabelTask,
        "sequence_label": SequenceLabelTask,
        "match": MatchTask,
        "mrc": MrcTask,
        "masked_lm": MaskedLmTask,
    },
)
