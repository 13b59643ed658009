"""Tokenizers from vocabulary files: `vocab.txt` (WordPiece) of the original PALM, or `tokenizer.json`."""

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
    """Read a vocabulary and return the contents of a `tokenizer.json`.

    Args:
        path: `vocab.txt` (a token a line, or `token<TAB>id`), a `tokenizer.json`, or a directory
            with one of them.
        lowercase: lower-case the text, for a `vocab.txt`. None: if no token has a capital letter.

    Raises:
        DataError: the file is missing, unreadable or lacks the special tokens.
    """
    if path.is_dir():
        path = _file_in(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            return bare_tokenizer_json(text)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read as a vocabulary: {error}. Give the model's vocab.txt.") from None
    except Exception as error:  # tokenizers raises Exception itself
        raise DataError(f"{path}: no tokenizer: {error}. Give the model's tokenizer.json or vocab.txt.") from None
    return _word_piece(_parse(path, text), lowercase)


def _file_in(folder: Path) -> Path:
    """Return the vocabulary file of a directory."""
    for name in ("vocab.txt", "tokenizer.json"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: neither vocab.txt nor tokenizer.json there. Give the model's vocabulary file.")


def pad_token_id(tokenizer_json: str) -> int:
    """Return the id of the padding token, or 0 without one."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    for name in ("[PAD]", "<pad>"):
        token_id: int | None = tokenizer.token_to_id(name)
        if token_id is not None:
            return token_id
    return 0


def vocabulary_size(tokenizer_json: str) -> int:
    """Return one more than the largest id."""
    return 1 + max(Tokenizer.from_str(tokenizer_json).get_vocab().values())


def _parse(path: Path, text: str) -> dict[str, int]:
    """Return the ids of the tokens of a `vocab.txt`."""
    vocabulary: dict[str, int] = {}
    for number, line in enumerate(text.removesuffix("\n").split("\n")):
        token, tab, token_id = line.removesuffix("\r").partition("\t")
        if tab and not token_id.strip().isdecimal():
            raise DataError(f"{path}:{number + 1}: '{token_id}' is no id; write a token a line, or token<TAB>id")
        vocabulary.setdefault(token.strip(), int(token_id) if tab else number)
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
