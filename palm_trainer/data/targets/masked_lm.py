"""Task input: text with some pieces masked, anew in every epoch; the target is what stood there.

What is masked is a pure function of (seed, epoch, feature), so that a resumed run continues to the bit.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from torch import Tensor

from palm_serve.bundle.manifest import TaskInfo
from palm_serve.types import SPECIAL, Encoding
from palm_trainer.data.example import Example
from palm_trainer.data.inputs import Inputs, MaskedTexts
from palm_trainer.data.targets.base import collate_rows
from palm_trainer.errors import ConfigError
from palm_trainer.tensors import IGNORE

Unit = tuple[int, ...]
"""Positions of the pieces that are masked together."""

_MASKS = ("[MASK]", "<mask>")
_ALONE = re.compile(r"[\u2e80-\u30ff\u3400-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff]")
"""Characters that are words by themselves here: those of scripts without blanks."""


@dataclass(frozen=True)
class MaskVocabulary:
    """Ids that masking needs: that of the mask, and all that may stand in for a piece at random (no special ones)."""

    mask: int
    ordinary: npt.NDArray[np.int64]

    @classmethod
    def of(cls, task: str, tokenizer_json: str) -> "MaskVocabulary":
        """Reads a `tokenizer.json`. Raises ConfigError where the tokenizer has no mask."""
        tokenizer = Tokenizer.from_str(tokenizer_json)
        mask = next((i for name in _MASKS if (i := tokenizer.token_to_id(name)) is not None), None)
        if mask is None:
            raise ConfigError(
                f"tasks.{task}: the encoder's tokenizer has no mask token ({' or '.join(_MASKS)}), which masked_lm needs. Choose another encoder."
            )
        special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special} | {mask}
        ordinary = sorted(set(tokenizer.get_vocab().values()) - special)
        return cls(mask, np.array(ordinary, dtype=np.int64))


class MaskedLMTarget:
    """Of the chosen pieces 80 % become the mask, 10 % another piece and 10 % stay (Devlin et al. 2019, 3.1).

    Args:
        task: its name.
        vocabulary: of the encoder.
        share: of the pieces that are chosen; at least one is.
        whole_word: the pieces of a word are chosen together.
        seed: with epoch and feature, decides everything.
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
        """What is chosen together: pieces, or words."""
        positions = [i for i, segment in enumerate(encoding.segments) if segment != SPECIAL]
        units: list[Unit] = []
        for i in positions:
            if self._whole_word and units and _continues(example, encoding, units[-1][-1], i):
                units[-1] = (*units[-1], i)
            else:
                units.append((i,))
        return units

    def draw(self, encoding: Encoding, units: Sequence[Unit], epoch: int, feature: int) -> tuple[Encoding, list[int]]:
        """The row as the model sees it in this epoch, and its targets: what stood at the chosen positions, IGNORE elsewhere."""
        generator = np.random.default_rng((self._seed, epoch, feature))
        chosen = self._choose(units, generator)
        ids, targets = list(encoding.input_ids), [IGNORE] * len(encoding)
        others = generator.choice(self._vocabulary.ordinary, size=len(chosen))
        for i, fate, other in zip(chosen, generator.random(len(chosen)).tolist(), others.tolist(), strict=True):
            targets[i] = ids[i]
            if fate < 0.8:
                ids[i] = self._vocabulary.mask
            elif fate < 0.9:
                ids[i] = other
        return replace(encoding, input_ids=ids), targets

    def collate(self, targets: Sequence[Sequence[int]], length: int) -> Tensor:
        """int64 [B, S], IGNORE beyond a row's end; of rows from `draw`."""
        return collate_rows(targets, length)

    def _choose(self, units: Sequence[Unit], generator: np.random.Generator) -> list[int]:
        """Positions of units in random order, as many as fit into the share, and one unit at least."""
        wanted = round(self._share * sum(map(len, units)))
        chosen: list[int] = []
        for index in generator.permutation(len(units)).tolist():
            if not chosen or len(chosen) + len(units[index]) <= wanted:
                chosen += units[index]
            if len(chosen) >= wanted:
                break
        return chosen


def _continues(example: Example, encoding: Encoding, before: int, piece: int) -> bool:
    """Whether a piece belongs to the word of the piece before it: letters, digits or marks on both sides and nothing between, or one character."""
    if encoding.segments[before] != encoding.segments[piece]:
        return False
    text = example.text if encoding.segments[piece] == 0 else example.pair or ""
    (begin, end), start = encoding.offsets[before], encoding.offsets[piece][0]
    if start < end:  # pieces of bytes that make up a character together
        return True
    if end != start or not 0 < start < len(text):
        return False
    if begin < end and text[begin:end].isspace():  # DeBERTa's mark of a word's beginning
        return True
    left, right = text[end - 1], text[start]
    return _in_word(left) and _in_word(right) and not _ALONE.match(left) and not _ALONE.match(right)


def _in_word(character: str) -> bool:
    """Letters and digits, and the marks that belong to a letter: accents, vowels of Indic scripts."""
    return character.isalnum() or unicodedata.category(character).startswith("M")
