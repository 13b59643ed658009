"""A small encoder without pretrained weights, for those who can download nothing: its vocabulary is learnt from the training text."""

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
    """A BERT-style WordPiece tokenizer learnt from `texts`; with `characters`, every character is a piece of its own.

    A pure function of its arguments. The trainer alone is not: it numbers inner characters (`##a`) in the order of a hash map, and breaks
    ties of the merges by these numbers. So they are handed to it in order.
    """
    texts = list(texts)
    learner = _bare_tokenizer({}, lowercase, characters)
    inner = sorted({f"##{c}" for text in texts for word in _words(learner, text) for c in word[1:]})
    trainer = WordPieceTrainer(vocab_size=vocab_size, special_tokens=[*SPECIAL_TOKENS, *inner], show_progress=False)
    learner.train_from_iterator(texts, trainer)
    tokenizer = _bare_tokenizer(learner.get_vocab(), lowercase, characters)
    tokenizer.add_special_tokens(SPECIAL_TOKENS)
    cls, sep = tokenizer.token_to_id("[CLS]"), tokenizer.token_to_id("[SEP]")
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", cls), ("[SEP]", sep)]
    )
    return tokenizer


def _bare_tokenizer(vocabulary: dict[str, int], lowercase: bool, characters: bool) -> Tokenizer:
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    if characters:
        tokenizer.pre_tokenizer = PreTokenizers([BertPreTokenizer(), Split("", "isolated")])
    else:
        tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _words(tokenizer: Tokenizer, text: str) -> Iterator[str]:
    return (word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(tokenizer.normalizer.normalize_str(text)))


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
    """A BERT of the given size with random weights (draws from torch's generator) and a vocabulary of the texts' own pieces.

    `convolutions` of them stand between its embeddings and its blocks.
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
        config.convolutions = convolutions  # what `new_encoder` looks for
    backbone = Encoder(new_encoder(config), pooling=pooling, takes_types=True)
    return LoadedEncoder(backbone, tokenizer.to_str(), 0, "scratch")
