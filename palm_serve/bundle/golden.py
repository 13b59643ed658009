"""Golden examples: inputs with the answers that the exporter saw."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

SCORE_TOLERANCE = 0.05
"""Of a ranker's score: what bf16 may change, and another model does not keep."""


class GoldenSpan(BaseModel):
    """An expected span, in code points."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=0)]


class GoldenAnswer(BaseModel):
    """What a task must answer. The probabilities of an answer may differ between providers, what it says may not."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    label: str | None = None
    """The top label (classify, match)."""
    labels: tuple[str, ...] | None = None
    """All labels, in alphabetical order (multi_label)."""
    spans: tuple[GoldenSpan, ...] | None = None
    """Spans of the text (sequence_label); or the answer as a span of the pair, none where it holds no answer (mrc)."""
    score: float | None = None
    """Of a ranker, which has no labels (match)."""

    def agrees(self, other: "GoldenAnswer") -> bool:
        """Whether both say the same; scores within SCORE_TOLERANCE."""
        near = (self.score is None) == (other.score is None)
        near = near and abs((self.score or 0) - (other.score or 0)) <= SCORE_TOLERANCE
        return near and self.model_copy(update={"score": other.score}) == other

    def __str__(self) -> str:
        if self.spans is not None:
            return ", ".join(f"{s.name}[{s.start}:{s.end}]" for s in self.spans) or "no spans"
        if self.labels is not None:
            return ", ".join(f"'{label}'" for label in self.labels) or "no labels"
        return f"'{self.label}'" if self.score is None else f"a score of {self.score:g}"


class GoldenExample(BaseModel):
    """One line of golden.jsonl: an input and the answers, by task, that the exporter saw."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str
    pair: str | None = None
    answers: dict[str, GoldenAnswer]
