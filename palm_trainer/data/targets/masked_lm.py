"""Target: the tokens that are masked, drawn anew in every epoch.

The choice is a pure function of (seed, epoch, feature), so that a resumed run continues to the bit.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import SPECIAL, Encoding
from palm_trainer.data.example import Example
from palm_trainer.data.inputs import Inputs, MaskedTexts
from palm_trainer.data.targets.base import collate_rows
from palm_trainer.errors import ConfigError
from palm_trainer.tensors import IGNORE

if TYPE_CHECKING:  # commands that only read data need no torch, which takes seconds to load
    from torch import Tensor

Unit = tuple[int, ...]
"""Positions of the tokens that are masked together."""

_MASKS = ("[MASK]", "<mask>")
_ALONE = re.compile(r"[\u2e80-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
"""Characters of scripts without blanks, each a word here."""


def _find_mask(tokenizer: Tokenizer) -> int | None:
    """Return the id of the mask token; None if the tokenizer has none."""
    for name in _MASKS:
        token_id: int | None = tokenizer.token_to_id(name)
        if token_id is not None:
            return token_id
    return None


@dataclass(frozen=True)
class MaskVocabulary:
    """Ids that masking needs: that of the mask, and those that may replace a token at random (no special ones)."""

    mask: int
    ordinary: npt.NDArray[np.int64]

    @classmethod
    def of(cls, task: str, tokenizer_json: str) -> "MaskVocabulary":
        """Read a `tokenizer.json`. Raise ConfigError where the tokenizer has no mask."""
        tokenizer = Tokenizer.from_str(tokenizer_json)
        mask = _find_mask(tokenizer)
        if mask is None:
            raise ConfigError(
                f"tasks.{task}: the encoder's tokenizer has no mask token ({' or '.join(_MASKS)}), which masked_lm needs. Choose another encoder."
            )
        special = {mask}
        for token_id, token in tokenizer.get_added_tokens_decoder().items():
            if token.special:
                special.add(token_id)
        ordinary = sorted(set(tokenizer.get_vocab().values()) - special)
        return cls(mask, np.array(ordinary, dtype=np.int64))


class MaskedLMTarget:
    """Masked tokens: 80 % become the mask, 10 % another token and 10 % stay (Devlin et al. 2019, 3.1).

    Args:
        task: task name.
        vocabulary: ids of the encoder's tokenizer.
        share: share of the tokens that are masked, at least one.
        whole_word: mask the tokens of a word together.
        seed: decides everything, with epoch and feature.
    """

    field = ""

    def __init__(
        self, task: str, vocabulary: MaskVocabulary, *, share: float = 0.15, whole_word: bool = False, seed: int = 0
    ) -> None:
        self.info = TaskInfo(kind="masked_lm", outputs=())
        self.inputs: Inputs = MaskedTexts(task)
        self._vocabulary = vocabulary
        self._share = share
        self._whole_word = whole_word
        self._seed = seed

    def encode(self, example: Example, encoding: Encoding) -> list[Unit]:
        """Return the units that are masked together: tokens, or words."""
        positions = [i for i, segment in enumerate(encoding.segments) if segment != SPECIAL]
        units: list[Unit] = []
        for i in positions:
            if self._whole_word and units and _continues(example, encoding, units[-1][-1], i):
                units[-1] = (*units[-1], i)
            else:
                units.append((i,))
        return units

    def draw(self, encoding: Encoding, units: Sequence[Unit], epoch: int, feature: int) -> tuple[Encoding, list[int]]:
        """Return the row as the model sees it in this epoch, and its targets.

        Args:
            encoding: the row.
            units: as `encode` returned them.
            epoch: number of the epoch.
            feature: position of the row in the data set.

        Returns:
            The row with masked tokens, and the ids that stood there, IGNORE elsewhere.
        """
        generator = np.random.default_rng((self._seed, epoch, feature))
        positions = self._choose(units, generator)
        ids, targets = list(encoding.input_ids), [IGNORE] * len(encoding)
        replacements = generator.choice(self._vocabulary.ordinary, size=len(positions))
        fates = generator.random(len(positions))
        for i, fate, replacement in zip(positions, fates.tolist(), replacements.tolist(), strict=True):
            targets[i] = ids[i]
            if fate < 0.8:
                ids[i] = self._vocabulary.mask
            elif fate < 0.9:
                ids[i] = replacement
        return replace(encoding, input_ids=ids), targets

    def collate(self, targets: Sequence[Sequence[int]], length: int) -> "Tensor":
        """Return int64 [B, S] of rows from `draw`, IGNORE beyond a row's end."""
        return collate_rows(targets, length)

    def _choose(self, units: Sequence[Unit], generator: np.random.Generator) -> list[int]:
        """Return positions of random units, as many as fit into the share, and one unit at least."""
        limit = round(self._share * sum(map(len, units)))
        positions: list[int] = []
        for index in generator.permutation(len(units)).tolist():
            if not positions or len(positions) + len(units[index]) <= limit:
                positions += units[index]
            if len(positions) >= limit:
                break
        return positions


def _continues(example: Example, encoding: Encoding, previous: int, token: int) -> bool:
    """Return True if a token belongs to the word of the token before it.

    Letters, digits or marks are on both sides and nothing between, or both are parts of one character.
    """
    if encoding.segments[previous] != encoding.segments[token]:
        return False
    text = example.text if encoding.segments[token] == 0 else example.inputs.second or ""
    (begin, end), start = encoding.offsets[previous], encoding.offsets[token][0]
    if start < end:  # pieces of bytes that make up a character together
        return True
    if end != start or not 0 < start < len(text):
        return False
    if begin < end and text[begin:end].isspace():  # DeBERTa's mark of a word's beginning
        return True
    before, after = text[end - 1], text[start]
    return _in_word(before) and _in_word(after) and not _ALONE.match(before) and not _ALONE.match(after)


def _in_word(character: str) -> bool:
    """Return True for letters, digits, and the marks that belong to a letter (accents, vowels of Indic scripts)."""
    return character.isalnum() or unicodedata.category(character).startswith("M")
