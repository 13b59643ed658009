"""`encoder.pooling = "auto"`: what the files beside an encoder say."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, XLNetConfig

from palm_trainer.errors import PalmError
from palm_trainer.model.encoders import build_scratch, load_pretrained
from palm_trainer.model.encoders.convert_pickle import convert_pickle
from palm_trainer.model.encoders.stored_pooling import read_pooling

POOLING = "sentence_transformers.models.Pooling"
NEW_POOLING = "sentence_transformers.sentence_transformer.modules.pooling.Pooling"


def write_json(path: Path, value: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")


def write_modules(folder: Path, *, place: str = "1_Pooling", kind: str = POOLING) -> None:
    transformer = {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"}
    write_json(folder / "modules.json", [transformer, {"idx": 1, "name": "1", "path": place, "type": kind}])


def pooling_of(folder: Path, **options: bool) -> str:
    def find(name: str) -> Path | None:
        return folder / name if (folder / name).is_file() else None

    return read_pooling("mine", find, **options)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "mean"}, "mean"),
        ({"pooling_mode": ["cls"]}, "cls"),
        ({"word_embedding_dimension": 16}, "mean"),
    ],
)
def test_pooling_is_what_the_folder_says(tmp_path, settings, expected):
    write_json(tmp_path / "1_Pooling" / "config.json", settings)
    assert pooling_of(tmp_path) == expected
    write_modules(tmp_path)
    assert pooling_of(tmp_path) == expected


def test_pooling_settings_are_found_at_their_place(tmp_path):
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "max"})
    write_json(tmp_path / "2_Pooling" / "config.json", {"pooling_mode": "mean"})
    write_modules(tmp_path, place="2_Pooling", kind=NEW_POOLING)
    assert pooling_of(tmp_path) == "mean"


def test_pooling_without_files_is_cls(tmp_path):
    assert pooling_of(tmp_path) == "cls"
    write_modules(tmp_path, kind="sentence_transformers.models.Normalize")
    assert pooling_of(tmp_path) == "cls"


@pytest.mark.parametrize(
    ("settings", "modes"),
    [
        ({"pooling_mode_max_tokens": True}, "max"),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "cls and mean"),
        ({"pooling_mode": ["cls", "mean"]}, "cls and mean"),
        ({"pooling_mode": "weightedmean"}, "weightedmean"),
        ({"pooling_mode_lasttoken": True}, "lasttoken"),
        ({"pooling_mode": []}, ""),
    ],
)
def test_pooling_that_palm_lacks_is_refused(tmp_path, settings, modes):
    write_json(tmp_path / "1_Pooling" / "config.json", settings)
    with pytest.raises(PalmError) as refused:
        pooling_of(tmp_path)
    assert str(refused.value) == (
        f"encoder 'mine': the pooling of 1_Pooling/config.json must be cls or mean, got {modes}. "
        "PALM has no other. Set encoder.pooling to 'cls' or 'mean'."
    )


@pytest.mark.parametrize("content", ["", "[1]", '{"pooling_mode"', "null"])
def test_damaged_pooling_settings_are_refused(tmp_path, content):
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(content, encoding="utf-8")
    with pytest.raises(PalmError, match=r"1_Pooling/config.json cannot be read: .*Set encoder.pooling to"):
        pooling_of(tmp_path)


def test_modules_of_a_missing_folder_are_refused(tmp_path):
    write_modules(tmp_path)
    with pytest.raises(PalmError, match=r"modules.json names 1_Pooling/config.json, which is missing. Set"):
        pooling_of(tmp_path)


@pytest.mark.parametrize("place", ["../1_Pooling", "/etc"])
def test_modules_outside_the_folder_are_refused(tmp_path, place):
    write_modules(tmp_path, place=place)
    with pytest.raises(PalmError, match=r"modules.json must name a folder of its own"):
        pooling_of(tmp_path)


def test_last_token_is_the_classification_token_of_xlnet(tmp_path):
    write_json(tmp_path / "1_Pooling" / "config.json", {"pooling_mode": "lasttoken"})
    assert pooling_of(tmp_path, cls_is_last=True) == "cls"


def test_packaged_encoder_is_pooled_by_the_mean():
    assert load_pretrained("minilm-l6-en", pooling="auto").backbone.pooling == "mean"
    assert load_pretrained("minilm-l6-en", pooling="cls").backbone.pooling == "cls"


@pytest.fixture
def pickled(tmp_path: Path) -> Path:
    """An encoder with pickled weights that was trained with the mean."""
    folder = tmp_path / "pickled"
    encoder = build_scratch(["fly to boston"], layers=1, hidden_size=16, heads=2)
    encoder.backbone.encoder.save_pretrained(folder)
    (folder / "model.safetensors").unlink()
    torch.save(encoder.backbone.encoder.state_dict(), folder / "pytorch_model.bin")
    (folder / "tokenizer.json").write_text(encoder.tokenizer_json, encoding="utf-8")
    write_modules(folder)
    write_json(folder / "1_Pooling" / "config.json", {"pooling_mode_mean_tokens": True})
    return folder


def test_converted_encoder_keeps_its_pooling(pickled, tmp_path):
    convert_pickle(pickled, tmp_path / "safe")
    assert load_pretrained(str(tmp_path / "safe"), pooling="auto").backbone.pooling == "mean"


def test_xlnet_without_files_keeps_its_last_token(tmp_path):
    encoder = build_scratch(["fly to boston"], layers=1, hidden_size=16, heads=2)
    config = XLNetConfig(vocab_size=100, d_model=16, n_layer=1, n_head=2, d_inner=32)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(encoder.tokenizer_json, encoding="utf-8")
    backbone = load_pretrained(str(tmp_path), pooling="auto").backbone
    assert (backbone.pooling, backbone.cls_is_last) == ("cls", True)
