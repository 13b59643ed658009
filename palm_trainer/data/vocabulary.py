"""A vocabulary file -> a tokenizer: the original's `vocab.txt` (WordPiece), or a `tokenizer.json`."""

from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer
from tokenizers.processors import TemplateProcessing

from palm_serve.tokenization import bare_tokenizer_json
from palm_trainer.errors import DataError

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def load_tokenizer(path: Path, lowercase: bool | None = None) -> str:
    """Contents of a `tokenizer.json` for a vocabulary.

    Args:
        path: `vocab.txt` (a token a line, or `token<TAB>id`), a `tokenizer.json`, or a directory with one of them.
        lowercase: of a `vocab.txt`; None: yes where no token of it has a capital letter.

    Raises:
        DataError: missing, unreadable, or without the special tokens.
    """
    if path.is_dir():
        found = [path / name for name in ("vocab.txt", "tokenizer.json") if (path / name).is_file()]
        if not found:
            raise DataError(f"{path}: neither vocab.txt nor tokenizer.json there. Give the model's vocabulary file.")
        path = found[0]
    try:
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".json":
            return bare_tokenizer_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a vocabulary: {error}. Give the model's vocab.txt.") from None
    except Exception as error:  # tokenizers raises Exception itself
        raise DataError(f"{path}: no tokenizer: {error}. Give the model's tokenizer.json or vocab.txt.") from None
    return _word_piece(_parse(path, text), lowercase)


def pad_token_id(tokenizer_json: str) -> int:
    """Id of the padding token; 0 where there is none."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    return next((i for name in ("[PAD]", "<pad>") if (i := tokenizer.token_to_id(name)) is not None), 0)


def vocabulary_size(tokenizer_json: str) -> int:
    """One more than the largest id."""
    return 1 + max(Tokenizer.from_str(tokenizer_json).get_vocab().values())


def _parse(path: Path, text: str) -> dict[str, int]:
    vocabulary: dict[str, int] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n")):
        token, tab, identity = line.removesuffix("\r").partition("\t")
        if tab and not identity.strip().isdecimal():
            raise DataError(f"{path}:{number + 1}: '{identity}' is no id; write a token a line, or token<TAB>id")
        vocabulary.setdefault(token.strip(), int(identity) if tab else number)
    missing = [token for token in SPECIAL_TOKENS if token not in vocabulary]
    if missing:
        raise DataError(
            f"{path}: the vocabulary lacks {', '.join(missing)}. Give the vocab.txt of a BERT or ERNIE model."
        )
    return vocabulary


def _word_piece(vocabulary: dict[str, int], lowercase: bool | None) -> str:
    if lowercase is None:
        lowercase = not any(token != token.lower() for token in vocabulary if not token.startswith("["))
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    special = [(name, vocabulary[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=special
    )
    return str(tokenizer.to_str())
