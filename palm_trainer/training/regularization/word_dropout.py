"""Word dropout (Iyyer et al. 2015; with a replacement as in Bowman et al. 2016)."""

import torch
from tokenizers import Tokenizer
from torch import Tensor

from palm_trainer.errors import ConfigError

_REPLACEMENTS = ("[UNK]", "<unk>", "[MASK]", "<mask>")


class WordDropout:
    """Replaces each token, except special tokens, by the unknown token with some probability, anew in each pass.

    Args:
        probability: for each token, independently.
        stand_in: id of the replacement.
        special: ids that are never replaced.
    """

    def __init__(self, probability: float, stand_in: int, special: tuple[int, ...]) -> None:
        self._probability = probability
        self._special = torch.tensor(special, dtype=torch.int64)
        self.stand_in = stand_in

    @classmethod
    def of(cls, tokenizer_json: str, probability: float) -> "WordDropout":
        """Create word dropout for a `tokenizer.json`, with its unknown token or else its mask token.

        Raises:
            ConfigError: the tokenizer has neither.
        """
        tokenizer = Tokenizer.from_str(tokenizer_json)
        stand_in = _find_stand_in(tokenizer)
        if stand_in is None:
            raise ConfigError(
                "train.regularization.word_dropout: "
                f"the encoder's tokenizer has no token to replace others ({', '.join(_REPLACEMENTS)}). "
                "Leave it out, or choose another encoder."
            )
        added_tokens = tokenizer.get_added_tokens_decoder()
        special = []
        for token_id, token in added_tokens.items():
            if token.special:
                special.append(token_id)
        return cls(probability, stand_in, tuple(special))

    def __call__(self, input_ids: Tensor) -> Tensor:
        """Hide tokens of int64 [batch, tokens].

        Random numbers come from torch's CPU generator for all devices, so that a resumed run draws
        the same.
        """
        hidden = (torch.rand(input_ids.shape) < self._probability).to(input_ids.device)
        hidden &= ~torch.isin(input_ids, self._special.to(input_ids.device))
        return input_ids.masked_fill(hidden, self.stand_in)


def _find_stand_in(tokenizer: Tokenizer) -> int | None:
    """Return the id of the first replacement token that a tokenizer has; None if it has none."""
    for token in _REPLACEMENTS:
        token_id: int | None = tokenizer.token_to_id(token)
        if token_id is not None:
            return token_id
    return None
