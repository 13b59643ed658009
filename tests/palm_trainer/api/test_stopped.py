"""A program that trains in Python and is ended by a signal: what it has saved is whole, and a new one goes on from it."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

# A suite that was started in the background ignores SIGINT, and so would the program.
_PROGRAM = """
import json, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import torch
import palm_trainer as palm
torch.set_num_threads(1)
settings = json.loads(sys.argv[1])
reader = palm.reader.ClassifyReader(settings["vocab"], 32, seed=1)
reader.load_data(settings["data"], batch_size=4, num_epochs=settings["epochs"])
bert = palm.backbone.BERT.from_config(settings["config"])
reader.register_with(bert)
trainer = palm.Trainer("intent")
loss = trainer.build_forward(bert, palm.head.Classify(3, 16, 0.1))
trainer.build_backward(optimizer=palm.optimizer.Adam(loss, 1e-4), device="cpu", precision="fp32")
trainer.fit_reader(reader)
trainer.set_saver(settings["output"], save_steps=5)
if settings["resume"]:
    trainer.load_ckpt(settings["resume"], resume=True)
trainer.train()
print("steps", trainer.cur_train_step)
"""


@pytest.fixture
def start(
    start_process: Callable[..., "subprocess.Popen[str]"],
    tmp_path: Path,
    vocab_path: Path,
    config: dict[str, Any],
    files: SimpleNamespace,
) -> Callable[..., subprocess.Popen[str]]:
    """`start(epochs, resume)`: a program that trains two steps an epoch and saves after every fifth step."""
    data = files.intent(tmp_path, 8)

    def begin(epochs: int, resume: Path | None = None) -> subprocess.Popen[str]:
        settings = {"vocab": str(vocab_path), "data": str(data), "config": config, "output": str(tmp_path / "out")}
        settings |= {"epochs": epochs, "resume": None if resume is None else str(resume)}
        return start_process([sys.executable, "-c", _PROGRAM, json.dumps(settings)])

    return begin


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_program_ended_by_a_signal_goes_on(
    start: Callable[..., subprocess.Popen[str]], tmp_path: Path, number: signal.Signals, process_limit_s: float
) -> None:
    program = start(10_000)
    assert program.stdout is not None
    for line in program.stdout:
        if "checkpoint has been saved at" in line and "step10" in line:
            break
    program.send_signal(number)
    _, err = program.communicate(timeout=process_limit_s)
    assert program.returncode == -number
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    saved = sorted((tmp_path / "out").glob("ckpt.step*[0-9]"), key=lambda path: int(path.name[9:]))
    step = int(saved[-1].name[9:])
    assert step % 5 == 0
    again = start((step + 5) // 2 + 1, resume=saved[-1])
    out, err = again.communicate(timeout=process_limit_s)
    assert again.returncode == 0, err
    assert f"steps {2 * ((step + 5) // 2 + 1)}\n" in out
