"""Encoders with pretrained weights: a known name, a local directory, or a Hugging Face id."""

import hashlib
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from palm_serve.system.files import check_regular_files
from palm_serve.system.installation import how_to_install
from palm_trainer.errors import PalmError
from palm_trainer.model.encoders.convert_pickle import CONVERT_PICKLE, has_pickled_weights_only
from palm_trainer.model.encoders.convolution import ConvolvedEmbeddings
from palm_trainer.model.encoders.encoder import Encoder, takes_types
from palm_trainer.model.encoders.stored_pooling import PoolingSetting, read_pooling
from palm_trainer.tensors import SEQUENCE_OUTPUT
from palm_trainer.tokenization.encoder_files import NAMES, TOKENIZER, locate_encoder

_log = logging.getLogger(__name__)

PACKAGED_SHA256 = {
    "minilm-l6-en": {
        "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
    }
}
"""Files that are read of a packaged encoder: name -> file -> SHA-256. A new release of the package is a change here."""
CONVERT_PADDLE = "It holds parameters of Paddle: convert them with `palm-train models convert PADDLE_DIR DIR`."
_NEEDS_CODE = "needs Python code of its own, which PALM does not run."
_CHOOSE_ANOTHER = "Choose an encoder such as BERT, RoBERTa, XLNet, ELECTRA, DeBERTa-v2 or ModernBERT."


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder with its tokenizer (contents of a `tokenizer.json`) and name.

    `digest`: SHA-256 of the file of weights, where a training of PALM wrote them.
    """

    backbone: Encoder
    tokenizer_json: str
    pad_token_id: int
    name: str
    digest: str = ""


def has_paddle_parameters(location: str) -> bool:
    """Return True if a directory holds parameters of an original archive that are not converted yet."""
    return (Path(location) / "params").is_dir() or (Path(location) / "word_embedding").is_file()


def load_pretrained(name: str, *, pooling: PoolingSetting = "cls") -> LoadedEncoder:
    """Load an encoder with its weights and tokenizer.

    Args:
        name: a packaged encoder, a directory, or a Hugging Face id.
        pooling: vector of a text. `auto`: what the encoder's folder says, else `cls`.

    Raises:
        PalmError: they cannot be loaded, or the model is no encoder of text.
    """
    location = locate_encoder(name)
    if Path(location).is_dir():
        check_regular_files(Path(location), PalmError)
    check_packaged_files(name, location)
    with quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(location, trust_remote_code=False)
            if config.is_encoder_decoder:
                raise PalmError(
                    f"encoder '{name}' is an encoder with a decoder ({config.model_type}), which PALM cannot use. "
                    f"{_CHOOSE_ANOTHER}"
                )
            encoder = AutoModel.from_pretrained(location, use_safetensors=True, **_options(config))
            tokenizer_json = _tokenizer_json(location)
        except PalmError:
            raise
        except Exception as error:  # a damaged file makes transformers raise nearly anything
            if has_paddle_parameters(location):
                raise PalmError(f"encoder '{name}': {CONVERT_PADDLE}") from error
            if has_pickled_weights_only(Path(location)):
                raise PalmError(f"encoder '{name}': {CONVERT_PICKLE}") from error
            if "trust_remote_code" in str(error):
                raise PalmError(f"encoder '{name}' {_NEEDS_CODE} {_CHOOSE_ANOTHER}") from error
            raise PalmError(
                f"encoder '{name}' could not be loaded: {_first_line(error)} "
                "Give a directory with config.json, weights and tokenizer, the directory of a run (both relative to the "
                "configuration), an id that the hub (HF_ENDPOINT) has, "
                f"or one of: {', '.join(NAMES)}, scratch."
            ) from error
    if tokenizer_json is None:
        raise PalmError(
            f"encoder '{name}' has no fast tokenizer ({TOKENIZER}), which character offsets need. "
            "Convert it with transformers first."
        )
    backbone = Encoder(encoder, pooling="cls", takes_types=takes_types(encoder))
    if pooling == "auto":
        pooling = read_pooling(name, partial(_find_stored_file, location), cls_is_last=backbone.cls_is_last)
    backbone.pooling = pooling
    pad = int(getattr(config, "pad_token_id", None) or 0)
    _check_reads_text(name, backbone, pad)
    check_vocabulary(name, backbone, tokenizer_json)
    _log.info("encoder %s: %s parameters", name, sum(parameter.numel() for parameter in encoder.parameters()))
    return LoadedEncoder(backbone, tokenizer_json, pad, name)


def check_packaged_files(name: str, location: str) -> None:
    """Check that the files of a packaged encoder are those that PALM was built with. Other encoders pass.

    Raises:
        PalmError: a file is missing or has another SHA-256.
    """
    for file, expected in PACKAGED_SHA256.get(name, {}).items():
        path = Path(location) / file
        try:
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise PalmError(
                f"{path} cannot be read: {error.strerror}. To install it again, {how_to_install('train')}"
            ) from error
        if digest != expected:
            raise PalmError(
                f"{path} must have the SHA-256 {expected}, got {digest}. The weights of '{name}' were changed, or are of "
                f"another release. To install them again, {how_to_install('train')}"
            )


def new_encoder(config: Any) -> nn.Module:
    """Build the encoder of a transformers configuration with random weights, as `load_pretrained` does."""
    encoder = AutoModel.from_config(config, **_options(config))  # of a class of transformers, never of `auto_map`
    count = getattr(config, "convolutions", 0)  # not an option of transformers: `build_scratch` sets it
    if count:
        encoder.embeddings = ConvolvedEmbeddings(config, count).apply(encoder._init_weights)
    built: nn.Module = encoder
    return built


def _options(config: Any) -> dict[str, Any]:
    """Return the options for fp32, attention that can be exported, no code of the model's own, and no pooler, since its output is not used."""
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager", "trust_remote_code": False}
    model: Any = MODEL_MAPPING.get(type(config), None)
    if inspect.isclass(model) and "add_pooling_layer" in inspect.signature(model).parameters:
        options["add_pooling_layer"] = False
    return options


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Silence progress bars and the load report of transformers, which mentions heads that are not used."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _tokenizer_json(location: str) -> str | None:
    """Return the tokenizer, or None if it has no fast one.

    Raises OSError or ValueError if there is no tokenizer.

    `tokenizer.json` is read unchanged. transformers 5 takes only its vocabulary and builds
    normalizer and pre-tokenizer from the tokenizer's class, so text would be split differently than
    in the encoder's own training. Without the file, transformers converts what is there.
    """
    path = _find_file(location, TOKENIZER)
    if path is not None:
        text = path.read_text(encoding="utf-8-sig")
        try:
            Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises Exception itself
            raise ValueError(f"{path} is no tokenizer: {error}.") from error
        return text
    tokenizer = AutoTokenizer.from_pretrained(location, use_fast=True, trust_remote_code=False)
    if not tokenizer.is_fast:
        return None
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # the result of transformers without a vocabulary
        raise ValueError(f"{location} holds no vocabulary.")
    return str(tokenizer.backend_tokenizer.to_str())


def _first_line(error: Exception) -> str:
    """Return the first line of a message. A bare KeyError or the like gets its class in front."""
    text = str(error).strip()
    line = text.splitlines()[0] if text else "no message"
    return line if isinstance(error, (OSError, ValueError, SafetensorError)) else f"{type(error).__name__}: {line}."


def _find_file(location: str, name: str, *, must_connect: bool = True) -> Path | None:
    """Return a file of a directory or of the hub, or None.

    Args:
        location: a directory or Hub id.
        name: path of the file in it.
        must_connect: raise OSError where the hub cannot be asked and the file is not in its cache.
    """
    if Path(location).is_dir():
        path = Path(location) / name
        return path if path.is_file() else None
    cached = cached_file(
        location,
        name,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=must_connect,
    )
    return None if cached is None else Path(str(cached))


def _find_stored_file(location: str, name: str) -> Path | None:
    """Return a file that an encoder may lack. Without the hub, the files in its cache count."""
    return _find_file(location, name, must_connect=False)


@torch.no_grad()
def _check_reads_text(name: str, backbone: Encoder, pad: int) -> None:
    """Check that each token's vector depends on the whole text and not on its padding.

    Raises PalmError otherwise.
    """
    first, second, third, fourth = [token_id for token_id in range(5) if token_id != pad][:4]
    ids = torch.tensor([[first, second, third], [first, second, fourth], [first, second, pad]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0]])
    description = f"encoder '{name}' ({type(backbone.encoder).__name__})"
    try:
        hidden = backbone.eval()(ids, mask)[SEQUENCE_OUTPUT.name]
        unpadded = backbone(ids[2:, :2], mask[2:, :2])[SEQUENCE_OUTPUT.name]
        width = backbone.hidden_size
    except Exception as error:  # models made for other purposes may raise anything
        raise PalmError(f"{description} cannot be run on token ids with a mask: {error}. {_CHOOSE_ANOTHER}") from error
    if hidden.shape != (*ids.shape, width):
        raise PalmError(
            f"{description} gives vectors of the shape {list(hidden.shape)} for 3 texts of 3 tokens, "
            f"not [3, 3, {width}]. {_CHOOSE_ANOTHER}"
        )
    if torch.equal(hidden[0, 0], hidden[1, 0]):
        raise PalmError(f"{description} is a decoder: a token depends only on those before it. {_CHOOSE_ANOTHER}")
    if not torch.allclose(hidden[2, :2], unpadded[0], rtol=1e-3, atol=1e-3):
        raise PalmError(
            f"{description} ignores the mask: its output for a text would depend on the padding. {_CHOOSE_ANOTHER}"
        )


def check_vocabulary(name: str, backbone: Encoder, tokenizer_json: str) -> None:
    """Check that the embedding table has a row for every id of the tokenizer.

    Args:
        name: of the encoder, for messages.
        backbone: the encoder.
        tokenizer_json: contents of `tokenizer.json`.

    Raises:
        PalmError: a row is missing.
    """
    rows = len(backbone.embedding_table)
    largest_id = max(Tokenizer.from_str(tokenizer_json).get_vocab().values(), default=0)
    if largest_id >= rows:
        raise PalmError(
            f"encoder '{name}': its tokenizer has the id {largest_id}, but the embedding table {rows} rows. "
            "Take the tokenizer that the encoder was trained with, "
            "or enlarge the table (resize_token_embeddings of transformers) and save it."
        )
