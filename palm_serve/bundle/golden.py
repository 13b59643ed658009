"""Golden examples: inputs with the answers of the export."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from palm_serve.bundle.span_types import span_label
from palm_serve.types import InputTexts

SCORE_TOLERANCE = 0.05
"""Largest difference of a ranker's score. bf16 stays below it, and another model does not."""


class GoldenSpan(BaseModel):
    """An expected span, in code points. Without a role or group these are not set, and golden.jsonl does not hold them."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str
    start: Annotated[int, Field(ge=0)]
    end: Annotated[int, Field(ge=0)]
    role: str = ""
    group: str = ""

    def __str__(self) -> str:
        return f"{span_label(self.name, self.role, self.group)}[{self.start}:{self.end}]"


class GoldenAnswer(BaseModel):
    """Expected answer of a task. Its probabilities may differ between execution providers, its contents may not."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    label: str | None = None
    """The top label (classify, match)."""
    labels: tuple[str, ...] | None = None
    """All labels, in alphabetical order (multi_label)."""
    spans: tuple[GoldenSpan, ...] | None = None
    """Spans of the text (sequence_label), or the answer as a span of the pair (mrc). Empty: the pair holds no answer."""
    score: float | None = None
    """Score of a ranker, which has no labels (match)."""

    def agrees(self, answer: "GoldenAnswer") -> bool:
        """Return True if both answers are equal. Scores may differ by SCORE_TOLERANCE."""
        if self.score is not None and answer.score is not None:
            if abs(self.score - answer.score) > SCORE_TOLERANCE:
                return False
        elif self.score is not answer.score:
            return False
        return self.model_copy(update={"score": answer.score}) == answer

    def __str__(self) -> str:
        if self.spans is not None:
            return ", ".join(map(str, self.spans)) or "no spans"
        if self.labels is not None:
            return ", ".join(f"'{label}'" for label in self.labels) or "no labels"
        return f"'{self.label}'" if self.score is None else f"a score of {self.score:g}"


class GoldenExample(BaseModel):
    """One line of golden.jsonl: an input and the answers of the export, by task."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    text: str
    pair: str | None = None
    context: str = ""
    """What was said before the text, as `context_text` writes it. golden.jsonl holds it where there is any."""
    answers: dict[str, GoldenAnswer]

    @property
    def inputs(self) -> InputTexts:
        """Texts of the example."""
        return InputTexts(self.text, self.pair, self.context)

    @model_serializer(mode="wrap")
    def _leave_out_no_context(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Servers from before contexts refuse unknown fields.
        fields: dict[str, Any] = serialize(self)
        if not self.context:
            fields.pop("context", None)
        return fields


def example_texts(
    examples: Iterable[GoldenExample], limit: int = 12, max_length: int = 120
) -> tuple[dict[str, str], ...]:
    """Choose texts to try: short ones, with different answers where there are.

    Args:
        examples: the golden examples.
        limit: largest number of texts.
        max_length: code points of a text with its pair and its context.

    Returns:
        `text` of each, and `text_pair` where it has one.
    """
    short = [example for example in examples if example.inputs.characters <= max_length]
    seen_labels: set[str] = set()
    distinct: list[GoldenExample] = []
    further: list[GoldenExample] = []
    for example in short:
        labels = {answer.label for answer in example.answers.values() if answer.label is not None}
        (further if labels <= seen_labels else distinct).append(example)
        seen_labels |= labels
    texts: dict[str, dict[str, str]] = {}
    for example in [*distinct, *further]:
        if len(texts) == limit:
            break
        pair = {} if example.pair is None else {"text_pair": example.pair}
        texts.setdefault(example.text, {"text": example.text, **pair})
    return tuple(texts.values())
