"""Checkpoints are complete or absent, also after crashes and on a full disk."""

import errno
import json
import os
import random
import shutil
import signal
import sys
import time
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.cli.train import app, command
from palm_trainer.config.encoder_source import stored_max_length
from palm_trainer.config.loader import load_config
from palm_trainer.errors import CheckpointError, PalmError
from palm_trainer.model.checkpoint import load_trained, load_training_state, save_trained
from palm_trainer.model.checkpoint_files import checkpoint_directory, has_checkpoint
from palm_trainer.model.encoders.load_pretrained import load_pretrained
from palm_trainer.model.warm_start import load_starting_run
from palm_trainer.runs.run import train
from palm_trainer.training.loop import Step


def contents(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.fixture
def checkpoint(finished_run, tmp_path):
    """A run directory with both checkpoints, to damage at will."""
    return shutil.copytree(finished_run, tmp_path / "copy")


def test_checkpoint_round_trip_keeps_the_model(finished_run, tmp_path):
    trained = load_trained(finished_run, "last")
    save_trained(trained, tmp_path / "best")
    again = load_trained(tmp_path)
    one, other = trained.model.state_dict(), again.model.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert (again.tasks, again.tokenizer_json, again.max_length, again.encoder, again.auxiliary) == (
        trained.tasks,
        trained.tokenizer_json,
        trained.max_length,
        trained.encoder,
        trained.auxiliary,
    )
    assert again.arrays.keys() == {"slots.start", "slots.transitions", "slots.end"}
    assert not again.model.training


def full_disk(*_args, **_kwargs):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("what", ["save_file", "sync_to_disk", "torch.save"])
def test_save_trained_full_disk_keeps_previous(checkpoint, monkeypatch, what):
    before = contents(checkpoint / "last")
    trained = load_trained(checkpoint, "last")
    monkeypatch.setattr(f"palm_trainer.model.checkpoint.{what}", full_disk)
    with pytest.raises(CheckpointError, match=r"last could not be written: .*No space left on device. Free some space"):
        save_trained(trained, checkpoint / "last", {"step": 1})
    assert contents(checkpoint / "last") == before
    assert not (checkpoint / "last.new").exists()


def test_training_full_disk_run_resumes_later(tiny_config, monkeypatch, fit):
    """The second epoch's checkpoint cannot be written: the first one's stands, and the run goes on from it once there is room."""
    config = tiny_config()
    asked = []
    with monkeypatch.context() as patch:

        def fill_the_disk_at_step_7():
            asked.append(1)
            if len(asked) == 7:
                patch.setattr("palm_trainer.model.checkpoint.save_file", full_disk)
            return False

        with pytest.raises(CheckpointError, match="the previous checkpoint stands"):
            fit(config, stop=fill_the_disk_at_step_7)
    assert load_training_state(config.train.output)["loop"]["step"] == 6
    resumed = fit(config, resume=True)
    assert not resumed.interrupted
    assert load_training_state(config.train.output)["loop"]["step"] == 18


@pytest.mark.parametrize("which", ["best", "last"])
def test_checkpoint_directory_recovers_interrupted_rename(checkpoint, which):
    expected = contents(checkpoint / which)
    (checkpoint / which).rename(checkpoint / f"{which}.old")
    (checkpoint / f"{which}.new").mkdir()
    assert contents(checkpoint_directory(checkpoint, which)) == expected
    save_trained(load_trained(checkpoint, which), checkpoint / which)
    assert {p.name for p in checkpoint.iterdir() if p.is_dir()} == {"best", "last"}


@pytest.mark.parametrize("content", [b"", b"\x00\x00", None])
@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "tokenizer.json"])
def test_load_trained_damage_is_reported(checkpoint, name, content):
    path = checkpoint / "best" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"is damaged: .* Use the other of best and last|holds no 'best' checkpoint"
    ):
        load_trained(checkpoint)


def test_load_trained_other_weights_are_refused(checkpoint):
    path = checkpoint / "best" / "model.json"
    description = json.loads(path.read_text())
    description["tasks"]["mood"]["labels"] = ["a", "b", "c"]
    path.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"does not fit its own model.json"):
        load_trained(checkpoint)


@pytest.mark.parametrize("content", [b"", b"no torch file", None])
def test_load_training_state_damage_is_reported(checkpoint, content):
    path = checkpoint / "last" / "training.pt"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"training.pt cannot be read: .*Start again with --overwrite"):
        load_training_state(checkpoint)


def test_load_trained_missing_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such run directory. Train one with `palm-train run"):
        load_trained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no 'best' checkpoint"):
        load_trained(tmp_path)


def _palm_train_run(config: Path, resume: bool) -> None:
    torch.set_num_threads(1)
    sys.exit(command(app, ["run", str(config), *(["--resume"] if resume else [])]))


def _strike(process, run: Path, place: str, pause: float) -> None:
    """Waits until the run stands where it shall be killed, and a little longer, then kills it."""
    last, begun = run / "last", time.monotonic()
    before = last.stat().st_ino if last.exists() else None

    def there() -> bool:
        if place == "write":
            return last.with_name("last.new").exists()
        return last.exists() and last.stat().st_ino != before  # a checkpoint more: it is among the steps again

    while not there() and process.is_alive():
        assert time.monotonic() - begun < 60
        time.sleep(0.0005)
    time.sleep(pause)
    process.kill()
    process.join()


def test_training_killed_anywhere_resumes_bit_exact(tiny_toml, tmp_path, fit):
    """Real `palm-train run` processes, SIGKILL: among steps of several parts, and within a checkpoint's write; dropout, average, weights."""
    path = tiny_toml(second=True)
    sections = "[train.checkpoints]\nsave_every_steps = 2\n[train.regularization]\nema_decay = 0.9\n"
    settings = f'{sections}[train.balancing]\nmethod = "dwa"\n[train]\naccumulate_steps = 2\n'
    text = path.read_text().replace("epochs = 3", "epochs = 5").replace("[train]\n", settings)
    path.write_text(text)
    unbroken = tmp_path / "unbroken.toml"
    unbroken.write_text(text.replace((tmp_path / "run").as_posix(), (tmp_path / "unbroken").as_posix()))
    fit(load_config(unbroken))
    processes, moment = get_context("forkserver"), random.Random(7)
    processes.set_forkserver_preload(["palm_trainer.runs.run"])
    cut_short = 0
    for place in ("write", "step", "write"):
        process = processes.Process(target=_palm_train_run, args=(path, (tmp_path / "run/config.toml").exists()))
        process.start()
        _strike(process, tmp_path / "run", place, moment.uniform(0, 0.004 if place == "write" else 0.1))
        assert process.exitcode in (-signal.SIGKILL, 0)
        cut_short += process.exitcode != 0
    assert cut_short
    fit(load_config(path), resume=True)
    for which in ("best", "last"):
        one, other = (load_file(tmp_path / run / which / "model.safetensors") for run in ("run", "unbroken"))
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert {p.name for p in (tmp_path / "run").iterdir()} == {p.name for p in (tmp_path / "unbroken").iterdir()}


def test_training_killed_at_configuration_starts_again(tiny_config, fit):
    """Nothing was trained yet; it starts as if it had never been."""
    config = tiny_config("train.epochs=1")
    config.train.output.mkdir()
    (config.train.output / "config.toml.new").write_text("[enc")
    assert fit(config).metrics


def test_training_saves_between_evaluations(tiny_config):
    """Every four steps, but not where an evaluation saves anyway."""
    config = tiny_config("train.checkpoints.save_every_steps=4", "train.epochs=2")
    held = []
    for event in train(config):
        if isinstance(event, Step):
            saved = has_checkpoint(config.train.output, "last")
            held.append(load_training_state(config.train.output)["loop"]["step"] if saved else 0)
    assert held == [0, 0, 0, 0, 4, 4, 6, 6, 8, 8, 8, 8]


DAMAGE = {
    "nested": b"[" * 100_000,
    "null": b"null",
    "list": b"[1]",
    "empty object": b"{}",
    "huge number": b'{"format_version": ' + b"9" * 5000 + b"}",
    "surrogate": b'{"format_version": "\\ud83d"}',
    "not UTF-8": b"\xff\xfe{",
    "pickle opcodes": b"\x80\x02(K\x01K\x02u.",
    "short pickle": b"\x80",
}


@pytest.mark.parametrize("content", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize(
    "name", ["best/model.json", "best/tokenizer.json", "best/model.safetensors", "last/training.pt"]
)
def test_any_file_of_a_checkpoint_is_read_or_refused(checkpoint, name, content):
    (checkpoint / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=r"is damaged|cannot be read|does not fit"):
        (load_training_state if name.startswith("last") else load_trained)(checkpoint)


@pytest.mark.parametrize(
    "change",
    [
        {"model_type": "of-its-own"},
        {"model_type": 3},
        {"hidden_size": 0},
        {"hidden_size": "x"},
        {"num_attention_heads": 0},
        {"hidden_act": "of-its-own"},
        {"num_hidden_layers": -1},
        {"vocab_size": 10**15},
    ],
    ids=str,
)
def test_impossible_encoder_of_a_checkpoint_is_refused(checkpoint, change):
    path = checkpoint / "best" / "model.json"
    description = json.loads(path.read_text())
    description["encoder_config"] |= change
    path.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"does not fit its own model.json: .* Train again"):
        load_trained(checkpoint)


@pytest.mark.parametrize("missing", ["loop", "progress", "rows"])
def test_training_state_without_a_part_is_refused(tiny_config, fit, missing):
    config = tiny_config("train.epochs=1")
    fit(config)
    run = config.train.output
    state = load_training_state(run)
    del state[missing]
    torch.save(state, run / "last" / "training.pt")
    with pytest.raises(CheckpointError, match=r"training.pt (is damaged|does not fit the run): KeyError"):
        fit(config, resume=True)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("events.jsonl", b"[]\n"),
        ("events.jsonl", b'{"event": "step"}\n'),
        ("events.jsonl", b"[" * 100_000 + b"\n"),
        ("metrics.json", b"{"),
    ],
)
def test_damaged_records_of_a_run_are_told(checkpoint, capsys, name, content):
    (checkpoint / name).write_bytes(content)
    code = command(app, ["report", str(checkpoint)])
    err = capsys.readouterr().err
    assert code == 2
    assert err.startswith(f"error: {checkpoint / name}"), err
    assert "Traceback" not in err


@pytest.mark.parametrize("name", ["metrics.json", "events.jsonl", "best/model.safetensors", "best/tokenizer.json"])
@pytest.mark.parametrize("arguments", [("evaluate",), ("predict", "--text", "a"), ("report",)])
def test_pipe_in_a_run_is_refused_and_not_waited_for(checkpoint, capsys, name, arguments):
    (checkpoint / name).unlink(missing_ok=True)
    os.mkfifo(checkpoint / name)
    command_name, *options = arguments
    assert command(app, [command_name, str(checkpoint), *options]) == 2
    assert f"{checkpoint / name} must be a regular file, got a pipe or device" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "palm-export.json"])
def test_pipe_in_an_encoder_is_refused_and_not_waited_for(tmp_path, name):
    os.mkfifo(tmp_path / name)
    assert stored_max_length(tmp_path) is None
    with pytest.raises(PalmError, match="must be a regular file, got a pipe or device"):
        load_pretrained(str(tmp_path))


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json"])
def test_pipe_in_a_checkpoint_to_start_from_is_refused(checkpoint, name):
    (checkpoint / "last" / name).unlink()
    os.mkfifo(checkpoint / "last" / name)
    with pytest.raises(CheckpointError, match="must be a regular file, got a pipe or device"):
        load_starting_run(checkpoint / "last")
