"""`palm-train run --resume`, `--resume auto`, PALM_TRAIN_RESUME and train.resume: which run begins and which goes on."""

import pytest

from palm_trainer.cli.resume_option import resume_mode
from palm_trainer.cli.train import app, command
from palm_trainer.config.loader import load_config
from palm_trainer.runs.directory import differences

SHORT = ("--set", "train.epochs=1")


@pytest.fixture(autouse=True)
def _no_variable(monkeypatch):
    monkeypatch.delenv("PALM_TRAIN_RESUME", raising=False)


@pytest.mark.parametrize("form", ["option", "variable", "key"])
def test_auto_begins_and_then_goes_on(tiny_toml, tmp_path, monkeypatch, form):
    """The same command twice: the second finds a finished run, and trains nothing."""
    arguments = ["run", str(tiny_toml()), *SHORT]
    if form == "option":
        arguments += ["--resume", "auto"]
    elif form == "key":
        arguments += ["--set", "train.resume=auto"]
    else:
        monkeypatch.setenv("PALM_TRAIN_RESUME", "auto")
    assert command(app, arguments) == 0
    log = (tmp_path / "run/events.jsonl").read_text()
    assert command(app, arguments) == 0
    assert (tmp_path / "run/events.jsonl").read_text() == log


def test_without_a_value_it_is_as_before(tiny_toml, tmp_path, capsys):
    config = str(tiny_toml())
    assert command(app, ["run", "--resume", config, *SHORT]) == 2  # the configuration is no value
    assert "holds no run to resume" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
    assert command(app, ["run", config, *SHORT]) == 0
    assert command(app, ["run", config, *SHORT]) == 2
    assert "holds a run already" in capsys.readouterr().err
    assert command(app, ["run", "--resume", config, *SHORT]) == 0
    # A key of the file does not count as another configuration.
    assert command(app, ["run", config, *SHORT, "--set", "train.resume=auto", "--resume"]) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--resume", "auto", "--overwrite"), "--resume continues a run and --overwrite replaces it"),
        (("--resume=sometimes",), "Invalid value for '--resume'"),
        (("--set", "train.resume=always"), "train.resume"),
        (("--patience", "0"), "Invalid value for '--patience'"),
    ],
)
def test_wrong_use_is_one_message(tiny_toml, tmp_path, capsys, arguments, message):
    assert command(app, ["run", str(tiny_toml()), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_wrong_variable_is_named(tiny_toml, monkeypatch, capsys):
    monkeypatch.setenv("PALM_TRAIN_RESUME", "1")
    assert command(app, ["run", str(tiny_toml())]) == 2
    assert "PALM_TRAIN_RESUME must be auto, got '1'" in capsys.readouterr().err


def test_the_command_line_comes_first(tiny_config, monkeypatch):
    train = tiny_config("train.resume=auto").train
    monkeypatch.setenv("PALM_TRAIN_RESUME", "auto")
    assert resume_mode(None, train, overwrite=False) == "auto"
    assert resume_mode("always", train, overwrite=False) is True
    assert resume_mode(None, train, overwrite=True) is False


def test_the_key_is_stored_and_makes_no_difference(tiny_config, tmp_path):
    config = tiny_config("train.resume=auto")
    (tmp_path / "stored.toml").write_text(config.dump_toml())
    stored = load_config(tmp_path / "stored.toml")
    assert stored.train.resume == "auto"
    assert differences(stored, tiny_config()) == []
