"""Input layouts: how the examples of a data set become rows of the encoder.

Tasks that share a data set share its rows, so their layouts must be equal (`==`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from palm_serve.tokenization import TextTokenizer
from palm_serve.types import Encoding, InputTexts, RowLayout, Windows
from palm_trainer.data.example import Example

_PART = 4096  # examples; a tokenizer's own records of a text take kilobytes


class Feature(NamedTuple):
    """The unit that is sampled, counted and scored: the index of an example, and its encoder rows."""

    example: int
    rows: tuple[Encoding, ...]


class Inputs(Protocol):
    """A layout of encoder inputs. `str()` describes it in messages."""

    def features(self, examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Feature]:
        """Tokenize the examples, in order.

        Returns:
            Zero or more features for each example. All features have the same number of rows.
        """
        ...


def iterate_features(inputs: Inputs, examples: Sequence[Example], tokenizer: TextTokenizer) -> Iterator[Feature]:
    """Tokenize examples part by part, so that never more than a part is in memory.

    Args:
        inputs: input layout.
        examples: the examples.
        tokenizer: the tokenizer.

    Yields:
        The features that `inputs.features` returns for all examples, in order.
    """
    for start in range(0, len(examples), _PART):
        for feature in inputs.features(examples[start : start + _PART], tokenizer):
            yield feature._replace(example=start + feature.example)


@dataclass(frozen=True)
class Texts:
    """Each text, or text with its pair or context, as one row, truncated to the maximum length of the model."""

    def features(self, examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Feature]:
        """Tokenize each example into one feature of one row."""
        encoded = tokenizer.encode_rows([example.inputs for example in examples])
        return [Feature(index, rows) for index, rows in enumerate(encoded)]

    def __str__(self) -> str:
        return "texts"


@dataclass(frozen=True)
class MaskedTexts:
    """Texts of a masked-LM task, which masks some of their tokens. No other task can share them."""

    task: str

    def features(self, examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Feature]:
        """Tokenize each example into one feature of one row, not masked yet."""
        return Texts().features(examples, tokenizer)

    def __str__(self) -> str:
        return "texts with masked tokens"


@dataclass(frozen=True)
class PairAndNegative:
    """Each text twice: with its pair, and with the text of `field`, which should score lower.

    Other examples are left out.
    """

    field: str

    def features(self, examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Feature]:
        """Tokenize each example that has both texts into one feature of two rows."""
        indices: list[int] = []
        pairs: list[InputTexts] = []
        negatives: list[InputTexts] = []
        for index, example in enumerate(examples):
            if example.pair and self.field in example.fields:
                indices.append(index)
                pairs.append(InputTexts(example.text, example.pair))
                negatives.append(InputTexts(example.text, str(example.fields[self.field])))
        features = []
        encoded = zip(indices, tokenizer.encode_rows(pairs), tokenizer.encode_rows(negatives), strict=True)
        for index, positive_rows, negative_rows in encoded:
            features.append(Feature(index, (*positive_rows, *negative_rows)))
        return features

    def __str__(self) -> str:
        return f"texts with their pair and with '{self.field}'"


@dataclass(frozen=True)
class PassageWindows:
    """Each question with every window of its passage. Examples without a passage are left out."""

    windows: Windows

    def features(self, examples: Sequence[Example], tokenizer: TextTokenizer) -> list[Feature]:
        """Tokenize each example into one feature for each window of its passage."""
        indices = [index for index, example in enumerate(examples) if example.pair]
        inputs = [examples[index].inputs for index in indices]
        features = []
        for index, rows in zip(indices, tokenizer.encode_rows(inputs, RowLayout(self.windows)), strict=True):
            for row in rows:
                features.append(Feature(index, (row,)))
        return features

    def __str__(self) -> str:
        return f"windows of a passage (question {self.windows.max_query}, stride {self.windows.stride} tokens)"
