"""Small encoders without pretrained weights, for use without a download.

The vocabulary is learnt from the training text.
"""

from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer
from transformers import BertConfig

from palm_trainer.model.encoders.encoder import Encoder, Pooling
from palm_trainer.model.encoders.load_pretrained import LoadedEncoder, new_encoder

SPECIAL_TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def train_tokenizer(texts: Iterable[str], *, vocab_size: int, lowercase: bool, characters: bool) -> Tokenizer:
    """Learn a BERT-style WordPiece tokenizer. The result is a pure function of the arguments.

    The trainer of `tokenizers` alone is not deterministic: it numbers inner characters (`##a`) in
    the order of a hash map, and breaks ties of the merges by these numbers. So they are passed to
    it in sorted order.

    Args:
        texts: training texts.
        vocab_size: maximum size of the vocabulary.
        lowercase: lower-case the texts.
        characters: make every character a token.
    """
    texts = list(texts)
    learner = _bare_tokenizer({}, lowercase, characters)
    inner_characters: set[str] = set()
    for text in texts:
        for word in _words(learner, text):
            inner_characters.update(f"##{character}" for character in word[1:])
    trainer = WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *sorted(inner_characters)], show_progress=False
    )
    learner.train_from_iterator(texts, trainer)
    tokenizer = _bare_tokenizer(learner.get_vocab(), lowercase, characters)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    special_ids = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special_ids
    )
    return tokenizer


def _bare_tokenizer(vocabulary: dict[str, int], lowercase: bool, characters: bool) -> Tokenizer:
    """Return a WordPiece tokenizer without special tokens."""
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    if characters:
        tokenizer.pre_tokenizer = PreTokenizers([BertPreTokenizer(), Split("", "isolated")])
    else:
        tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _words(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    """Yield the words that the tokenizer divides into tokens."""
    normalized = tokenizer.normalizer.normalize_str(text)
    for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normalized):
        yield word


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
