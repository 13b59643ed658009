"""Small encoders without pretrained weights, for use without a download.

The vocabulary is learnt from the training text.
"""

from collections.abc import Iterable

from transformers import BertConfig

from palm_trainer.model.encoders.encoder import Encoder, Pooling
from palm_trainer.model.encoders.load_pretrained import LoadedEncoder, new_encoder
from palm_trainer.tokenization.learned import train_tokenizer


def build_scratch(
    texts: Iterable[str],
    *,
    layers: int = 4,
    hidden_size: int = 256,
    heads: int = 4,
    intermediate_size: int | None = None,
    vocab_size: int = 8000,
    dropout: float = 0.1,
    convolutions: int = 0,
    lowercase: bool = True,
    characters: bool = False,
    max_length: int = 128,
    pooling: Pooling = "cls",
) -> LoadedEncoder:
    """Build a BERT with random weights, from torch's generator, and a vocabulary of the texts' own tokens.

    Args:
        texts: training texts.
        layers: number of transformer blocks.
        hidden_size: size of the vectors.
        heads: number of attention heads.
        intermediate_size: inner size of a block. None: 4 x `hidden_size`.
        vocab_size: maximum size of the vocabulary.
        dropout: probability, also of attention.
        convolutions: number of convolutions between the embeddings and the blocks.
        lowercase: lower-case the texts.
        characters: make every character a token.
        max_length: maximum number of tokens.
        pooling: vector of the text.
    """
    tokenizer = train_tokenizer(texts, vocab_size=vocab_size, lowercase=lowercase, characters=characters)
    config = BertConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=intermediate_size or 4 * hidden_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        max_position_embeddings=max(max_length, 64),
        pad_token_id=0,
    )
    if convolutions:
        config.convolutions = convolutions  # read by `new_encoder`
    backbone = Encoder(new_encoder(config), pooling=pooling, takes_types=True)
    return LoadedEncoder(backbone, tokenizer.to_str(), 0, "scratch")
