"""How the examples of a data set become rows of the encoder. Tasks that share a data set share its rows, so they must read it alike (==)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding, Windows
from palm_trainer.data.example import Example


class Feature(NamedTuple):
    """What is drawn, counted and scored as one: an example's position in the data set, and the rows that belong together."""

    example: int
    rows: tuple[Encoding, ...]


class Inputs(Protocol):
    """A way to read examples. `str()` says which, for messages."""

    def features(self, examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Feature]:
        """None, one or several features an example, in the order of the examples; all have the same number of rows."""
        ...


@dataclass(frozen=True)
class Texts:
    """Each text, or text with its pair, once, cut to what the model takes."""

    def features(self, examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Feature]:
        """One feature of one row an example."""
        rows = tokenizer.encode_rows([(e.text, e.pair) for e in examples])
        return [Feature(i, row) for i, row in enumerate(rows)]

    def __str__(self) -> str:
        return "texts"


@dataclass(frozen=True)
class MaskedTexts:
    """Texts that a masked-LM task hides pieces of, so that no other task can share them."""

    task: str

    def features(self, examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Feature]:
        """One feature of one row an example, not masked yet."""
        return Texts().features(examples, tokenizer)

    def __str__(self) -> str:
        return "texts with pieces masked"


@dataclass(frozen=True)
class PairAndNegative:
    """Each text twice: with its pair, and with the second text of `field`, which should score lower. Examples without one are left out."""

    field: str

    def features(self, examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Feature]:
        """One feature of two rows an example."""
        chosen = [(i, e, e.fields[self.field]) for i, e in enumerate(examples) if e.pair and self.field in e.fields]
        positive = tokenizer.encode_rows([(e.text, e.pair) for _, e, _ in chosen])
        negative = tokenizer.encode_rows([(e.text, str(other)) for _, e, other in chosen])
        return [Feature(i, (*p, *n)) for (i, _, _), p, n in zip(chosen, positive, negative, strict=True)]

    def __str__(self) -> str:
        return f"texts with their pair and with '{self.field}'"


@dataclass(frozen=True)
class PassageWindows:
    """Each question with every window of its passage. Examples without a passage are left out."""

    windows: Windows

    def features(self, examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Feature]:
        """One feature of one row a window."""
        chosen = [(i, e) for i, e in enumerate(examples) if e.pair]
        found = tokenizer.encode_rows([(e.text, e.pair) for _, e in chosen], self.windows)
        return [Feature(i, (row,)) for (i, _), rows in zip(chosen, found, strict=True) for row in rows]

    def __str__(self) -> str:
        return f"windows of a passage (question {self.windows.max_query}, stride {self.windows.stride} tokens)"
