"""Checkpoints: whole or not at all, whatever the disk does."""

import errno
import json
import shutil
import signal
from multiprocessing import get_context
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.checkpoint import checkpoint_directory, load_trained, load_training_state, save_trained
from palm_trainer.config import load_config
from palm_trainer.errors import CheckpointError
from palm_trainer.loop import Step
from palm_trainer.run import Evaluated, train


def contents(directory):
    return {p.name: p.read_bytes() for p in directory.iterdir()}


@pytest.fixture
def checkpoint(finished_run, tmp_path):
    """A run directory with both checkpoints, to damage at will."""
    return shutil.copytree(finished_run, tmp_path / "copy")


def test_round_trip(finished_run, tmp_path):
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


@pytest.mark.parametrize("what", ["save_file", "sync", "torch.save"])
def test_a_full_disk_leaves_the_previous_one(checkpoint, monkeypatch, what):
    before = contents(checkpoint / "last")
    trained = load_trained(checkpoint, "last")
    monkeypatch.setattr(f"palm_trainer.checkpoint.{what}", full_disk)
    with pytest.raises(CheckpointError, match=r"last could not be written: .*No space left on device. Free some space"):
        save_trained(trained, checkpoint / "last", {"step": 1})
    assert contents(checkpoint / "last") == before
    assert not (checkpoint / "last.new").exists()


def test_a_disk_that_fills_during_training(tiny_config, monkeypatch, fit):
    """The second epoch's checkpoint cannot be written: the first one's stands, and the run goes on from it once there is room."""
    config = tiny_config()
    asked = []
    with monkeypatch.context() as patch:

        def fill_the_disk_at_step_7():
            asked.append(1)
            if len(asked) == 7:
                patch.setattr("palm_trainer.checkpoint.save_file", full_disk)
            return False

        with pytest.raises(CheckpointError, match="the previous checkpoint stands"):
            fit(config, stop=fill_the_disk_at_step_7)
    assert load_training_state(config.train.output)["loop"]["step"] == 6
    resumed = fit(config, resume=True)
    assert not resumed.interrupted
    assert load_training_state(config.train.output)["loop"]["step"] == 18


@pytest.mark.parametrize("which", ["best", "last"])
def test_a_crash_between_the_two_renames(checkpoint, which):
    expected = contents(checkpoint / which)
    (checkpoint / which).rename(checkpoint / f"{which}.old")
    (checkpoint / f"{which}.new").mkdir()
    assert contents(checkpoint_directory(checkpoint, which)) == expected
    save_trained(load_trained(checkpoint, which), checkpoint / which)
    assert {p.name for p in checkpoint.iterdir() if p.is_dir()} == {"best", "last"}


@pytest.mark.parametrize("content", [b"", b"\x00\x00", None])
@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "tokenizer.json"])
def test_damage_is_said(checkpoint, name, content):
    path = checkpoint / "best" / name
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(
        CheckpointError, match=r"is damaged: .* Use the other of best and last|holds no 'best' checkpoint"
    ):
        load_trained(checkpoint)


def test_weights_of_another_model(checkpoint):
    path = checkpoint / "best" / "model.json"
    description = json.loads(path.read_text())
    description["tasks"]["mood"]["labels"] = ["a", "b", "c"]
    path.write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match=r"does not fit its own model.json"):
        load_trained(checkpoint)


@pytest.mark.parametrize("content", [b"", b"no torch file", None])
def test_damaged_training_state(checkpoint, content):
    path = checkpoint / "last" / "training.pt"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"training.pt cannot be read: .*Start again with --overwrite"):
        load_training_state(checkpoint)


def test_what_is_not_there(tmp_path):
    with pytest.raises(CheckpointError, match=r"nowhere: no such run directory. Train one with `palm-train run"):
        load_trained(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="holds no 'best' checkpoint"):
        load_trained(tmp_path)


def _train_in_a_process(config: Path, resume: bool, told) -> None:
    torch.set_num_threads(1)
    for event in train(load_config(config), resume=resume):
        if isinstance(event, Step | Evaluated):
            told.send(event.step)


def test_killed_at_any_moment_and_resumed_is_unbroken_to_the_bit(tiny_toml, tmp_path, fit):
    """Real processes, SIGKILL. An epoch is two steps, so most of the time goes into checkpoints, and kills fall into them too."""
    path = tiny_toml(second=True)
    text = path.read_text().replace("batch_size = 4", "batch_size = 12").replace("epochs = 3", "epochs = 6")
    path.write_text(text)
    unbroken = tmp_path / "unbroken.toml"
    unbroken.write_text(text.replace((tmp_path / "run").as_posix(), (tmp_path / "unbroken").as_posix()))
    fit(load_config(unbroken))
    processes = get_context("forkserver")
    processes.set_forkserver_preload(["palm_trainer.run"])
    resume = False
    for number, moment in enumerate((0.0, 0.013, 0.031)):
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=_train_in_a_process, args=(path, resume, sender))
        process.start()
        sender.close()
        for _ in range(3 + number):  # lets it do something, then strikes some way into what comes next
            receiver.recv()
        process.join(moment)
        process.kill()
        process.join()
        assert process.exitcode in (-signal.SIGKILL, 0)
        resume = True
    assert (tmp_path / "run/config.toml").exists()
    fit(load_config(path), resume=True)
    for which in ("best", "last"):
        one, other = (load_file(tmp_path / run / which / "model.safetensors") for run in ("run", "unbroken"))
        assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert {p.name for p in (tmp_path / "run").iterdir()} == {p.name for p in (tmp_path / "unbroken").iterdir()}
