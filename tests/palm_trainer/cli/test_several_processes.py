"""palm-train run in several processes, as torchrun starts them: one voice, one evaluation, one end."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import torch

from palm_trainer.cli.train import app, command
from palm_trainer.config.loader import load_config
from palm_trainer.data.dataset import EncodedDataset
from palm_trainer.errors import PalmError
from palm_trainer.model.checkpoint import load_trained, load_training_state
from palm_trainer.runs.run import train


def record_draws(path: Path) -> None:
    """Writes down every example that is trained: its data set (told by its size), epoch and number."""
    original = EncodedDataset.batch

    def batch(self, indices, epoch=0):
        with path.open("a") as file:
            file.writelines(f"{len(self)} {epoch} {i}\n" for i in indices.tolist())
        return original(self, indices, epoch)

    EncodedDataset.batch = batch


def palm_train(folder: Path, *arguments: str) -> None:
    torch.set_num_threads(1)
    record_draws(folder / f"drawn-{os.getpid()}")
    sys.exit(command(app, ["run", str(folder / "tiny.toml"), *arguments]))


def palm_train_with_a_fault(folder: Path, fault: str) -> None:
    """The last process meets a fault in its third batch."""
    torch.set_num_threads(1)
    original, calls = EncodedDataset.batch, []

    def batch(self, indices, epoch=0):
        calls.append(1)
        if len(calls) == 3 and os.environ["RANK"] == "1":
            if fault == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise PalmError("the third batch is spoilt. Mend it.")
        return original(self, indices, epoch)

    EncodedDataset.batch = batch
    sys.exit(command(app, ["run", str(folder / "tiny.toml")]))


def drawn(folder: Path) -> Counter:
    return Counter(line for path in folder.glob("drawn-*") for line in path.read_text().splitlines())


def every_example(epochs: int, rows: int) -> Counter:
    return Counter(f"{rows} {epoch} {i}" for epoch in range(epochs) for i in range(rows))


@pytest.mark.slow
def test_evaluated_saved_and_told_once(tiny_toml, tmp_path, together):
    tiny_toml()
    options = []
    for setting in ("train.regularization.ema_decay=0.9", "train.batch_size=7", "tasks.slots.given=intent"):
        options += ["--set", setting]
    run = together(2, palm_train, tmp_path, *options)
    assert run.codes() == [0, 0]
    out, err = run.printed("out"), run.printed("err")
    assert (out[1], err) == ("", ["", ""])
    assert " on 2 x cpu in fp32" in out[0]
    assert out[0].count("report: ") == 1
    assert out[0].count("slots is decoded given intent: 0 of ") == 1
    assert load_trained(tmp_path / "run").tasks["slots"].decode.given == "intent"
    lines = [json.loads(line) for line in (tmp_path / "run/events.jsonl").read_text().splitlines()]
    assert lines[0]["processes"] == 2
    assert [line["epoch"] for line in lines if line["event"] == "evaluation"] == [1.0, 2.0, 3.0]
    assert {line["examples"] for line in lines if line["event"] == "step"} <= {7, 3}
    assert drawn(tmp_path) == every_example(3, 24)
    assert len(load_training_state(tmp_path / "run")["loop"]["other_generators"]) == 1


def test_stopped_by_a_signal_to_one_and_continued_by_fewer_and_more(tiny_toml, tmp_path, together):
    """Three processes, then one, then two: every example exactly once an epoch."""
    tiny_toml()
    options = [
        "--set",
        "train.log_every_steps=1",
        "--set",
        "train.epochs=6",
        "--set",
        "train.regularization.ema_decay=0.9",
    ]
    run = together(3, palm_train, tmp_path, *options)
    log = tmp_path / "run/events.jsonl"
    while not (log.exists() and '"step": 2' in log.read_text()):
        assert all(process.is_alive() for process in run.processes)
        time.sleep(0.005)
    os.kill(run.processes[1].pid, signal.SIGTERM)
    assert run.codes() == [130, 143, 130]  # the second got SIGTERM and stops the others
    assert run.printed("err") == [
        f"stopped; continue with: palm-train run {tmp_path}/run/config.toml --output {tmp_path}/run --resume\n",
        "",
        "",
    ]
    stopped = load_training_state(tmp_path / "run")["loop"]["step"]
    assert 2 <= stopped < 36
    config = load_config(tmp_path / "tiny.toml", [option for option in options if option != "--set"])
    asked = []
    original = EncodedDataset.batch
    try:
        record_draws(tmp_path / "drawn-here")
        list(train(config, resume=True, stop=lambda: asked.append(1) or len(asked) == 2))
    finally:
        EncodedDataset.batch = original
    assert load_training_state(tmp_path / "run")["loop"]["step"] == min(36, stopped + 2)
    assert together(2, palm_train, tmp_path, *options, "--resume").codes() == [0, 0]
    assert drawn(tmp_path) == every_example(6, 24)


@pytest.mark.parametrize(
    ("fault", "codes", "message"),
    [
        ("error", [2, 2], "error: the third batch is spoilt. Mend it.\n"),
        ("killed", [2, -signal.SIGKILL], "error: another training process exited unexpectedly (killed or out"),
    ],
)
def test_a_fault_in_one_ends_all_with_one_message(tiny_toml, tmp_path, together, fault, codes, message):
    tiny_toml()
    run = together(2, palm_train_with_a_fault, tmp_path, fault)
    assert run.codes() == codes
    told = "".join(run.printed("err"))
    assert told.startswith(message)
    assert told.count("\n") == 1


def test_a_fault_of_all_is_told_once(tiny_toml, tmp_path, together):
    tiny_toml()
    (tmp_path / "travel/train/label").unlink()
    run = together(2, palm_train, tmp_path)
    assert run.codes() == [2, 2]
    assert "".join(run.printed("err")).count("error: ") == 1


@pytest.mark.slow
def test_under_torchrun(tiny_toml, tmp_path):
    """The launcher itself, on a free port of its own choice."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", "palm_trainer.cli.train", "run", tiny_toml()],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("report: ") == 1
    assert (tmp_path / "run/last/training.pt").exists()


WORLD = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("WORLD_SIZE", value) for value in ("", "two", "-1", "0", "1.5", "9" * 5000)],
        *[("RANK", value) for value in (None, "", "x", "2", "-1")],
        *[("LOCAL_RANK", value) for value in ("", "x", "2")],
        *[("MASTER_PORT", value) for value in (None, "x", "0", "70000")],
        *[("MASTER_ADDR", value) for value in (None, "")],
    ],
)
def test_wrong_variable_of_torchrun_is_one_message(palm, tiny_toml, monkeypatch, name, value):
    for key, right in (WORLD | {name: value}).items():
        if right is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, right)
    code, out, err = palm("run", tiny_toml())
    assert (code, out) == (2, "")
    assert f"the environment variable {name} must be" in err
