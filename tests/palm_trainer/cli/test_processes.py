"""palm-train as a process: exit codes, signals, and nothing on standard error but the message."""

import os
import re
import signal
import sys

import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.config.loader import load_config

PALM = [sys.executable, "-c", "from palm_trainer.cli.train import main; main()"]


@pytest.fixture
def start(start_process):
    """`start("run", ...)`: a `palm-train` process."""

    def _start(*arguments):
        return start_process([*PALM, *arguments], env={**os.environ, "OMP_NUM_THREADS": "1"})

    return _start


@pytest.mark.slow
def test_interrupted_saved_and_continued(start, process_limit_s, tiny_toml, tmp_path, fit):
    path = tiny_toml()
    settings = ["train.log_every_steps=1", "train.epochs=12.5"]
    process = start("run", path, "--set", settings[0], "--set", settings[1])
    for line in process.stdout:
        if line.startswith("step 8/"):
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=process_limit_s)
    assert process.returncode == 130, err
    assert (
        err == f"stopped; continue with: palm-train run {tmp_path}/run/config.toml --output {tmp_path}/run --resume\n"
    )
    process = start(*re.search(r"palm-train (.*)", err)[1].split())
    out, err = process.communicate(timeout=process_limit_s)
    assert (process.returncode, err) == (0, "")
    assert " from step " in out
    fit(load_config(path, settings, tmp_path / "whole"))
    one, other = (load_file(tmp_path / run / "last/model.safetensors") for run in ("run", "whole"))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.slow
def test_bad_input_is_one_message_and_code_2(start, process_limit_s, tmp_path):
    process = start("run", tmp_path / "nowhere.toml")
    out, err = process.communicate(timeout=process_limit_s)
    assert (process.returncode, out) == (2, "")
    assert err == f"error: {tmp_path}/nowhere.toml: no such file. `palm-train init DATA` writes a configuration.\n"


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_error(start, finished_run, tmp_path):
    (tmp_path / "in.txt").write_text("to boston\n" * 1000)
    process = start("predict", finished_run, "--input", tmp_path / "in.txt")
    process.stdout.readline()
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
