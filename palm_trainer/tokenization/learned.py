"""Vocabularies that are learnt from the training text, for encoders without pretrained weights."""

from collections.abc import Iterable, Iterator

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, Split
from tokenizers.pre_tokenizers import Sequence as PreTokenizers
from tokenizers.processors import TemplateProcessing
from tokenizers.trainers import WordPieceTrainer

from palm_trainer.tokenization.vocabulary_files import SPECIAL_TOKENS


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
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
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
