"""Word dropout (Iyyer et al. 2015; with a stand-in as in Bowman et al. 2016): pieces of the input are hidden, so that no single one is relied on."""

import torch
from tokenizers import Tokenizer
from torch import Tensor

from palm_trainer.errors import ConfigError

_STAND_INS = ("[UNK]", "<unk>", "[MASK]", "<mask>")


class WordDropout:
    """Each piece of a text becomes the unknown piece with some probability, special tokens never; anew in each pass.

    Args:
        probability: of each piece for itself.
        stand_in: id of the piece that replaces it.
        special: ids that are never replaced.
    """

    def __init__(self, probability: float, stand_in: int, special: tuple[int, ...]) -> None:
        self._probability = probability
        self._special = torch.tensor(special, dtype=torch.int64)
        self.stand_in = stand_in

    @classmethod
    def of(cls, tokenizer_json: str, probability: float) -> "WordDropout":
        """Reads a `tokenizer.json`: the unknown piece, or the mask where there is none. Raises ConfigError where there is neither."""
        tokenizer = Tokenizer.from_str(tokenizer_json)
        stand_in = next((i for name in _STAND_INS if (i := tokenizer.token_to_id(name)) is not None), None)
        if stand_in is None:
            raise ConfigError(
                f"train.regularization.word_dropout: the encoder's tokenizer has no piece that could stand in ({', '.join(_STAND_INS)}). "
                "Leave it out, or choose another encoder."
            )
        special = tuple(i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special)
        return cls(probability, stand_in, special)

    def __call__(self, input_ids: Tensor) -> Tensor:
        """int64 [B, S] -> the same with pieces hidden. Draws from torch's CPU generator, whatever the device, so that a resumed run draws the same."""
        hidden = (torch.rand(input_ids.shape) < self._probability).to(input_ids.device)
        hidden &= ~torch.isin(input_ids, self._special.to(input_ids.device))
        return input_ids.masked_fill(hidden, self.stand_in)
