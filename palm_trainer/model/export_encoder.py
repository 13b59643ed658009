"""Write the encoder of a run as a folder that transformers and sentence-transformers open."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from palm_trainer.config.atomic_files import new_directory
from palm_trainer.config.encoder_source import EXPORT_RECORD
from palm_trainer.config.loader import Config, load_config
from palm_trainer.errors import ExportError
from palm_trainer.model.checkpoint import TOKENIZER, WEIGHTS
from palm_trainer.model.encoder_card import CardFacts, render_encoder_card
from palm_trainer.model.encoders import Encoder, LoadedEncoder
from palm_trainer.model.encoders.load_pretrained import quiet_transformers
from palm_trainer.model.encoders.stored_pooling import MODULES, POOLING_CONFIG
from palm_trainer.model.warm_start import StartingRun, find_starting_checkpoint, load_starting_run

_RUN_CONFIG = "config.toml"
_CARD = "README.md"
_SPECIAL_TOKENS = {
    "unk_token": ("[UNK]", "<unk>"),
    "sep_token": ("[SEP]", "</s>", "<sep>"),
    "cls_token": ("[CLS]", "<s>", "<cls>"),
    "mask_token": ("[MASK]", "<mask>"),
}
"""Special tokens by the names that transformers gives them: the first that the vocabulary has."""


def export_encoder(run: Path, target: Path) -> LoadedEncoder:
    """Write the encoder of a run. The folder appears as a whole or not at all.

    Args:
        run: a run, or one of its checkpoints.
        target: folder to write. It must not exist, or be empty.

    Returns:
        The encoder, with the digest of the checkpoint's weights.

    Raises:
        ConfigError, CheckpointError: `run` is no run, has parts that the user wrote, or is damaged.
        ExportError: transformers cannot build the encoder.
        PalmError: `target` exists.
    """
    checkpoint = find_starting_checkpoint(str(run.resolve()), "RUN")
    if checkpoint is None:
        raise ExportError(
            f"RUN must be a run of `palm-train run` or one of its checkpoints, got {run}. Name such a directory."
        )
    start = load_starting_run(checkpoint, "RUN")
    backbone = start.encoder.backbone
    if getattr(backbone.encoder.config, "convolutions", 0):
        raise ExportError(
            f"{run}: its encoder has convolutions (encoder.convolutions), which transformers cannot build. "
            "Train one with convolutions = 0, or name the run itself in encoder.model."
        )
    config = load_config(checkpoint.parent / _RUN_CONFIG) if (checkpoint.parent / _RUN_CONFIG).is_file() else None
    with new_directory(target) as folder:
        with quiet_transformers():
            backbone.encoder.save_pretrained(folder)  # type: ignore[operator]
        (folder / TOKENIZER).write_text(start.encoder.tokenizer_json, encoding="utf-8")
        _write_settings(folder, start)
        (folder / _CARD).write_text(_render_card(target.resolve().name, folder, start, config), encoding="utf-8")
    return start.encoder


def _write_settings(folder: Path, start: StartingRun) -> None:
    """Write the files beside the weights that the libraries read, and the record that `encoder.model` reads."""
    max_length = start.description.max_length
    backbone = start.encoder.backbone
    module = "sentence_transformers.models."
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": f"{module}Transformer"},
        {"idx": 1, "name": "1", "path": str(Path(POOLING_CONFIG).parent), "type": f"{module}Pooling"},
    ]
    settings: dict[str, Any] = {
        "tokenizer_config.json": _tokenizer_settings(start.encoder, max_length),
        MODULES: modules,
        POOLING_CONFIG: _pooling_settings(backbone),
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        EXPORT_RECORD: {
            "format_version": 1,
            "max_length": max_length,
            "checkpoint_sha256": start.encoder.digest,
            "started_from": start.description.encoder.started_from,
        },
    }
    for name, content in settings.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _tokenizer_settings(encoder: LoadedEncoder, max_length: int) -> dict[str, Any]:
    """Return the settings with which transformers takes tokenizer.json as it is."""
    tokenizer = Tokenizer.from_str(encoder.tokenizer_json)
    vocabulary = tokenizer.get_vocab()
    inputs = [spec.name for spec in encoder.backbone.inputs]
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "model_input_names": inputs,
        "padding_side": "right",
        "clean_up_tokenization_spaces": False,
        "pad_token": tokenizer.id_to_token(encoder.pad_token_id),
    }
    for key, names in _SPECIAL_TOKENS.items():
        known_names = [name for name in names if name in vocabulary]
        if known_names:
            settings[key] = known_names[0]
    return settings


def _pooling_settings(backbone: Encoder) -> dict[str, Any]:
    is_last = backbone.pooling == "cls" and backbone.cls_is_last
    return {
        "word_embedding_dimension": backbone.hidden_size,
        "pooling_mode_cls_token": backbone.pooling == "cls" and not is_last,
        "pooling_mode_mean_tokens": backbone.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_weightedmean_tokens": False,
        "pooling_mode_lasttoken": is_last,
    }


def _render_card(name: str, folder: Path, start: StartingRun, config: Config | None) -> str:
    weights = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
    return render_encoder_card(CardFacts(name, start.description, start.encoder.digest, weights), config)
