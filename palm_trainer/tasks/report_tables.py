"""Tables of a task's section in the report, as data. `report/` draws them."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from palm_trainer.tasks.scores import Confusions, LabelScore, MatchScore, ReadingScore


@dataclass(frozen=True, slots=True)
class LabelTable:
    """Precision, recall and F1 of each label."""

    title: str
    scores: Sequence[LabelScore]


@dataclass(frozen=True, slots=True)
class ConfusionTable:
    """Which label is answered for which. `as_matrix` also draws the matrix."""

    pairs: Confusions
    as_matrix: bool = False


@dataclass(frozen=True, slots=True)
class SpanErrorTable:
    """Kinds of wrong spans, and which span type is answered for which."""

    errors: Counter[str]
    pairs: Confusions


@dataclass(frozen=True, slots=True)
class AnswerLengthTable:
    """Reading comprehension by the length of the answer."""

    scores: Sequence[ReadingScore]


@dataclass(frozen=True, slots=True)
class MatchThresholds:
    """Precision and recall of the label `label` at thresholds on a score."""

    label: str
    scores: Sequence[MatchScore]


ReportTable: TypeAlias = LabelTable | ConfusionTable | SpanErrorTable | AnswerLengthTable
