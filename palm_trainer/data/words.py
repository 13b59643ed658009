"""Words of a text, where no tokenizer is at hand."""

import re
from collections.abc import Sequence

from palm_trainer.data.example import Example

_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|\w+|[^\w\s]")
"""A word. Scripts without blanks between words have one character each."""


def word_ranges(example: Example) -> Sequence[tuple[int, int]]:
    """Return the ranges of the words of a text: those that were tagged, else those that its letters tell."""
    if example.words is not None:
        return example.words
    return [match.span() for match in _WORD.finditer(example.text)]
