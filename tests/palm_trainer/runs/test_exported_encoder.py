"""`palm-train models export RUN DIRECTORY`, and trainings that start from such a directory."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.cli.train import app, command
from palm_trainer.config.loader import load_config
from palm_trainer.errors import ConfigError
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.job_from_config import job_from_config

SCRATCH_KEYS = ("layers", "hidden_size", "heads", "vocab_size", "max_length")
FILES = {
    "1_Pooling/config.json",
    "README.md",
    "config.json",
    "model.safetensors",
    "modules.json",
    "palm-export.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
}


@pytest.fixture
def export(capsys):
    """`export(RUN, DIRECTORY)` -> (exit code, standard output, standard error)."""

    def call(run: Path, folder: Path) -> tuple[int, str, str]:
        code = command(app, ["models", "export", str(run), str(folder)])
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def exported(export, finished_run, tmp_path) -> Path:
    assert export(finished_run, tmp_path / "nlu")[0] == 0
    return tmp_path / "nlu"


@pytest.fixture
def toml(write_config, tmp_path):
    """`toml(MODEL)`: the tiny configuration, which starts from a run or an exported encoder."""

    def write(model: Path, *keys: str) -> Path:
        path = write_config(tmp_path)
        lines = path.read_text(encoding="utf-8").splitlines()
        lines = [line for line in lines if not line.startswith(SCRATCH_KEYS)]
        encoder = "\n".join([f'model = "{model}"', *keys])
        path.write_text("\n".join(lines).replace('model = "scratch"', encoder), encoding="utf-8")
        return path

    return write


def digest(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def test_command_writes_the_folder(export, finished_run, tmp_path):
    code, out, err = export(finished_run, tmp_path / "encoders" / "nlu")
    folder = tmp_path / "encoders" / "nlu"
    assert (code, err) == (0, "")
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()} == FILES
    assert f"weights of run with the SHA-256 {digest(finished_run / 'best')}" in out
    assert [path.name for path in folder.parent.iterdir()] == ["nlu"]
    record = json.loads((folder / "palm-export.json").read_text(encoding="utf-8"))
    assert record == {
        "format_version": 1,
        "max_length": 24,
        "checkpoint_sha256": digest(finished_run / "best"),
        "started_from": "",
    }


def test_card_tells_data_and_digests(exported, finished_run, tmp_path):
    card = (exported / "README.md").read_text(encoding="utf-8")
    assert "| `slots` | sequence_label | 5 |" in card
    assert "| `travel` | joint | intent, slots | unknown |" in card
    assert "The training started from scratch." in card
    assert f"SHA-256 of the checkpoint that was exported: `{digest(finished_run / 'best')}`" in card
    assert f"SHA-256 of model.safetensors: `{digest(exported)}`" in card
    assert str(tmp_path) not in card
    assert str(finished_run.parent) not in card


def test_card_tells_known_licences(toml, write_config, fit, export, finished_run, tmp_path):
    write_config(tmp_path)
    (tmp_path / "travel" / "LICENSE").write_text("\nMIT License\n\nCopyright\n", encoding="utf-8")
    fit(load_config(toml(finished_run), ["train.epochs=0.5"]))
    assert export(tmp_path / "run", tmp_path / "second")[0] == 0
    card = (tmp_path / "second" / "README.md").read_text(encoding="utf-8")
    assert "| `travel` | joint | intent, slots | MIT License |" in card
    assert f"started from the run `run`, whose weights have the SHA-256 `{digest(finished_run / 'best')}`" in card


def test_training_from_the_folder_is_that_from_the_run(toml, exported, finished_run, fit, tmp_path):
    runs = {}
    for name, model in (("from_run", finished_run), ("from_folder", exported)):
        fit(load_config(toml(model), ["train.epochs=1"], tmp_path / name))
        runs[name] = load_file(tmp_path / name / "last" / "model.safetensors")
    assert runs["from_run"].keys() == runs["from_folder"].keys()
    differing = [key for key in runs["from_run"] if not torch.equal(runs["from_run"][key], runs["from_folder"][key])]
    assert differing == []
    stored = load_config(tmp_path / "from_folder" / "config.toml").encoder
    assert (stored.max_length, stored.pooling, stored.digest) == (24, "cls", digest(exported))
    info = load_trained(tmp_path / "from_folder").encoder
    assert (info.name, info.started_from) == ("nlu", digest(exported))
    shutil.rmtree(exported)
    fit(load_config(tmp_path / "from_folder" / "config.toml"), resume=True)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ('pooling = "mean"', r"encoder.pooling must be 'cls', with which .*nlu was trained, got 'mean'. Remove it."),
        ("heads = true", r"encoder.heads needs a run as encoder.model, got '.*nlu', which has no heads. Remove it."),
        ("max_length = 65", r"encoder.max_length: 65 tokens, but '.*nlu' has positions for 64"),
    ],
)
def test_key_that_contradicts_the_folder_is_refused(toml, exported, key, message):
    with pytest.raises(ConfigError, match=message):
        job_from_config(load_config(toml(exported, key)))


def test_encoder_with_convolutions_is_refused(tiny_config, fit, export, tmp_path):
    fit(tiny_config("encoder.convolutions=1", "train.epochs=0.5"))
    code, _, err = export(tmp_path / "run", tmp_path / "out")
    assert code == 2
    assert "its encoder has convolutions (encoder.convolutions), which transformers cannot build." in err
    assert not (tmp_path / "out").exists()


def test_directory_in_use_is_refused(export, finished_run, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    code, _, err = export(finished_run, tmp_path / "out")
    assert code == 2
    assert "exists and is not empty. Choose another directory, or remove it first." in err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_what_is_no_run_is_refused(export, exported, tmp_path):
    for source in (exported, tmp_path / "nowhere", tmp_path):
        code, _, err = export(source, tmp_path / "out")
        assert (code, err) == (
            2,
            f"error: RUN must be a run of `palm-train run` or one of its checkpoints, got {source}. Name such a directory.\n",
        )
        assert not (tmp_path / "out").exists()


def test_damaged_run_is_refused(export, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "x")
    (tmp_path / "x" / "best" / "model.safetensors").write_bytes(b"")
    code, _, err = export(tmp_path / "x", tmp_path / "out")
    assert code == 2
    assert err.startswith(f"error: RUN: checkpoint {tmp_path / 'x' / 'best'} is damaged: ")
    assert not (tmp_path / "out").exists()


def test_models_ls_tells_what_may_be_named(capsys):
    assert command(app, ["models", "ls"]) == 0
    out = capsys.readouterr().out
    assert "RUN    a run of `palm-train run`" in out
    assert "`palm-train models export RUN DIRECTORY` writes such a directory" in out
