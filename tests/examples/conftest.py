"""A tiny pretrained encoder as a directory, in the place of the packaged one, and the tiny bundle of tests/palm_serve."""

import importlib.util
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from safetensors.torch import save_file

import palm_trainer as palm

_PATH = Path(__file__).parents[1] / "palm_serve" / "conftest.py"
_spec = importlib.util.spec_from_file_location("palm_serve_fixtures", _PATH)
assert _spec is not None
assert _spec.loader is not None
_fixtures = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_fixtures)

tiny_bundle = _fixtures.tiny_bundle

PIECES = [*"abcdefghijklmnopqrstuvwxyz", *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]


def save_encoder(folder: Path, words: Sequence[str]) -> Path:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words, *(p for p in PIECES if p not in words)]
    config = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "vocab_size": len(vocabulary),
        "max_position_embeddings": 64,
        "type_vocab_size": 2,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1,
        "initializer_range": 0.02,
    }
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(palm.backbone.BERT.from_config(config).encoder.state_dict(), folder / "model.safetensors")
    return folder


@pytest.fixture(scope="session")
def encoder() -> Callable[[Path, Sequence[str]], Path]:
    """`encoder(folder, words)` writes config.json, vocab.txt and weights into a new folder."""
    return save_encoder
