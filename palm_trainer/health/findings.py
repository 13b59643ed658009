"""What a check found: about a row, or about a class."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from palm_trainer.data.example import FieldValue
from palm_trainer.health.rows import Row

DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near duplicate"
LEAK = "leak"
UNMARKED = "span or none"
OTHER_LABEL = "two span labels"
CONFIDENT = "confident learning"
NEIGHBOURS = "neighbours"

SIGNALS = {
    DUPLICATE: "The same text has another label in other rows.",
    NEAR_DUPLICATE: "A text that differs only in case, punctuation or blanks has another label.",
    UNMARKED: "The string is a span in some rows and none in others, between the same words.",
    OTHER_LABEL: "The string has two labels between the same words. Some of these are right.",
    CONFIDENT: "Heads that were trained on the other rows say something else.",
    NEIGHBOURS: "Nearly all of the nearest texts have another class.",
    LEAK: "The text is in train too, so that a score on this row measures memory.",
}
"""What each signal says, in the order of the page."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A row that looks wrong.

    Args:
        signal: a key of SIGNALS.
        row: the row.
        field: field with the label. Empty: the row as a whole.
        why: the reason, as a sentence.
        score: from 0 to 1; a higher one is more likely wrong.
        to: suggested value, or the spans of the range. None: there is no suggestion.
        start: first code point of the range of spans. None: the whole value.
        end: code point after the last.
        near: rows to compare with, the nearest first.
    """

    signal: str
    row: Row
    field: str
    why: str
    score: float
    to: FieldValue | None = None
    start: int | None = None
    end: int | None = None
    near: Sequence[Row] = ()


@dataclass(frozen=True, slots=True)
class Merge:
    """Two classes that may be one: `merged` would become `to`. `score` orders the merges."""

    data: str
    field: str
    merged: str
    to: str
    why: str
    score: float


@dataclass(frozen=True, slots=True)
class ClassWarning:
    """A class that is rare, frequent, or differs between splits."""

    task: str
    label: str
    warning: str
    figure: str


@dataclass(frozen=True, slots=True)
class ContextKind:
    """A string that is labelled in two ways between the same words.

    Args:
        task: task with the spans.
        before: up to two words on the left.
        string: the string.
        after: the word on the right.
        counts: rows by label. `O` stands for no span.
    """

    task: str
    before: str
    string: str
    after: str
    counts: dict[str, int]


@dataclass
class Health:
    """Everything that the checks found.

    `facts` are pairs of a term and a text for the head of the page, `notes` tell what was not checked.
    """

    findings: list[Finding] = field(default_factory=list)
    merges: list[Merge] = field(default_factory=list)
    warnings: list[ClassWarning] = field(default_factory=list)
    contexts: list[ContextKind] = field(default_factory=list)
    facts: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
