"""Word dropout: hidden tokens, their replacement, and their share."""

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from palm_trainer.errors import ConfigError
from palm_trainer.tokenization.learned import train_tokenizer
from palm_trainer.training.regularization import WordDropout


def test_word_dropout_keeps_special_tokens():
    tokenizer = train_tokenizer(["fly to boston"], vocab_size=100, lowercase=True, characters=False)
    dropout = WordDropout.of(tokenizer.to_str(), 0.3)
    assert dropout.stand_in == tokenizer.token_to_id("[UNK]")
    special = [tokenizer.token_to_id(name) for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")]
    ordinary = max(special) + 1
    ids = torch.full((400, 60), ordinary)
    ids[:, :5] = torch.tensor(special)
    torch.manual_seed(1)
    seen = dropout(ids)
    assert torch.equal(seen[:, :5], ids[:, :5])
    hidden = seen[:, 5:] == dropout.stand_in
    assert ((seen[:, 5:] == ordinary) | hidden).all()
    assert hidden.float().mean().item() == pytest.approx(0.3, abs=4 * (0.3 * 0.7 / hidden.numel()) ** 0.5)
    assert (ids[:, 5:] == ordinary).all(), "the batch itself is left alone"
    torch.manual_seed(1)
    assert torch.equal(dropout(ids), seen)


@pytest.mark.parametrize(("pieces", "wanted"), [(["<mask>", "<unk>", "a"], "<unk>"), (["a", "[MASK]"], "[MASK]")])
def test_word_dropout_uses_mask_without_unknown_token(pieces, wanted):
    tokenizer = Tokenizer(WordLevel({piece: i for i, piece in enumerate(pieces)}))
    assert WordDropout.of(tokenizer.to_str(), 0.1).stand_in == pieces.index(wanted)


def test_word_dropout_without_replacement_is_refused():
    tokenizer = Tokenizer(WordLevel({"a": 0}))
    with pytest.raises(
        ConfigError, match=r"train.regularization.word_dropout: .* no token to replace others \(\[UNK\], <unk>"
    ):
        WordDropout.of(tokenizer.to_str(), 0.1)
