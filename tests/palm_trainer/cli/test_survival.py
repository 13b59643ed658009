"""Several processes of which one is killed, stopped or late: who ends, with which message, and what goes on."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.cli.train import app, command
from palm_trainer.data.dataset import EncodedDataset
from palm_trainer.errors import PalmError
from palm_trainer.runs.run import Run

PATIENCE = 12
SILENT = f"has been silent for {PATIENCE} s (--patience)"
LIMIT = 300


def palm_train(folder: Path, *arguments: str) -> None:
    torch.set_num_threads(1)
    sys.exit(command(app, ["run", str(folder / "tiny.toml"), "--patience", str(PATIENCE), *arguments]))


def train_and_stop_in_a_step(folder: Path, rank: str) -> None:
    """The third batch of a process does not come: SIGSTOP."""
    original, calls = EncodedDataset.batch, []

    def batch(self, indices, epoch=0):
        calls.append(1)
        if len(calls) == 3 and os.environ["RANK"] == rank:
            os.kill(os.getpid(), signal.SIGSTOP)
        return original(self, indices, epoch)

    EncodedDataset.batch = batch
    palm_train(folder)


def train_with(folder: Path, in_evaluation: Callable[[], None], *arguments: str) -> None:
    """The first process does something in its first evaluation."""
    original, calls = Run._score, []

    def score(self):
        calls.append(1)
        if len(calls) == 1:
            in_evaluation()
        return original(self)

    Run._score = score
    palm_train(folder, *arguments)


def train_with_a_long_evaluation(folder: Path) -> None:
    train_with(folder, lambda: time.sleep(2 * PATIENCE + 1))


def train_and_stop_in_evaluation(folder: Path) -> None:
    train_with(folder, lambda: os.kill(os.getpid(), signal.SIGSTOP))


def train_and_wait_in_evaluation(folder: Path) -> None:
    """Evaluation goes on once the file `go` is there."""

    def wait() -> None:
        (folder / "evaluates").touch()
        wait_until((folder / "go").exists)

    train_with(folder, wait)


def wait_until(holds: Callable[[], Any]) -> Any:
    """Returns the first value that is true."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        value = holds()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def codes_of_the_others(run: Any, rank: int) -> list[int | None]:
    """The exit codes of all but one, which is stopped and killed at the end."""
    others = [process for number, process in enumerate(run.processes) if number != rank]
    for process in others:
        process.join(LIMIT)
    run.processes[rank].kill()
    return [process.exitcode for process in others]


def train_on_machines_with_a_fault(folder: Path) -> None:
    """Each process is on a machine of its own, as torchrun says it, and the last meets an error."""
    os.environ["GROUP_RANK"] = os.environ["RANK"]
    original = EncodedDataset.batch

    def batch(self, indices, epoch=0):
        if os.environ["RANK"] == "1":
            raise PalmError("the batch is spoilt. Mend it.")
        return original(self, indices, epoch)

    EncodedDataset.batch = batch
    palm_train(folder)


def test_the_error_of_a_process_is_told_on_each_machine(tiny_toml, tmp_path, together):
    """Who looks at the output of one machine reads what happened on another."""
    tiny_toml()
    run = together(2, train_on_machines_with_a_fault, tmp_path)
    assert run.codes() == [2, 2]
    assert run.printed("err") == [
        "error: process 1 of 2 has stopped: the batch is spoilt. Mend it.\n",
        "error: the batch is spoilt. Mend it.\n",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_is_stopped_ends_the_step_of_the_others(tiny_toml, tmp_path, together, rank):
    tiny_toml()
    run = together(3, train_and_stop_in_a_step, tmp_path, str(rank))
    assert codes_of_the_others(run, rank) == [2, 2]
    told = "".join(run.printed("err"))
    assert f"error: process {rank} of 3 {SILENT}" in told
    errors = [line for line in told.splitlines() if line.startswith("error: ")]  # torch warns, too, when its store ends
    assert all("silent" in line for line in errors) or rank == 0  # the store went with the first, so both may tell


@pytest.mark.slow
def test_a_first_process_that_is_stopped_in_its_evaluation_is_noticed(tiny_toml, tmp_path, together):
    tiny_toml()
    run = together(2, train_and_stop_in_evaluation, tmp_path)
    assert codes_of_the_others(run, 0) == [2]
    assert run.printed("err")[1].startswith(f"error: process 0 of 2 {SILENT}")


@pytest.mark.slow
def test_evaluation_may_take_longer_than_the_patience(tiny_toml, tmp_path, together):
    tiny_toml()
    run = together(2, train_with_a_long_evaluation, tmp_path)
    assert run.codes() == [0, 0]
    assert "error" not in "".join(run.printed("err"))


def test_a_process_that_vanishes_while_the_first_evaluates(tiny_toml, tmp_path, together):
    tiny_toml()
    run = together(2, train_and_wait_in_evaluation, tmp_path)
    wait_until((tmp_path / "evaluates").exists)
    run.processes[1].kill()
    run.processes[1].join(LIMIT)
    (tmp_path / "go").touch()
    assert run.codes() == [2, -signal.SIGKILL]
    assert run.printed("err")[0].startswith(
        "error: another training process exited unexpectedly (killed or out of memory?"
    )
    assert (tmp_path / "run/best").exists()  # what it was about


@pytest.mark.slow
def test_processes_that_do_not_come_are_named(tiny_toml, tmp_path):
    """The store is that of torchrun, which the others never reach."""
    tiny_toml()
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    for number in range(3):  # torch counts those that connect, of any group
        store.add("init/", number)
    done = subprocess.run(
        [sys.executable, "-m", "palm_trainer.cli.train", "run", tmp_path / "tiny.toml", "--patience", "2"],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "RANK": "0",
            "WORLD_SIZE": "3",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
        },
        timeout=LIMIT,
    )
    assert done.returncode == 2
    assert "error: process 0 of 3 has waited 2 s (--patience) for process 1, 2, which has not come" in done.stderr


# -- machines that differ ---------------------------------------------------------------------------------------------


def train_on_another_machine(folder: Path, *arguments: str) -> None:
    """The second process has data, arguments and a directory of its own."""
    if os.environ["RANK"] == "0":
        palm_train(folder, *(argument for argument in arguments if argument in ("--resume", "auto")))
    palm_train(folder / "other", *arguments)


def other_machine(folder: Path, write_config: Callable[..., Path]) -> Path:
    """The same data, configuration and output directory, in `folder/other`."""
    write_config(folder / "other")
    return folder / "other"


def refused(run: Any) -> str:
    """The one message of two processes."""
    assert run.codes() == [2, 2]
    told = "".join(run.printed("err"))
    assert told.count("error: ") == 1, told  # torch may add what it thinks of the end of the first one's store
    return told


def test_other_texts_of_equal_number_are_refused(tiny_toml, tmp_path, together, write_config):
    """Two texts of one class have changed places: rows, labels and vocabulary are equal."""
    tiny_toml()
    texts = other_machine(tmp_path, write_config) / "travel/train/seq.in"
    first, second, *others = texts.read_text().splitlines(keepends=True)
    tags = texts.with_name("seq.out")
    first_tags, second_tags, *other_tags = tags.read_text().splitlines(keepends=True)
    texts.write_text("".join([second, first, *others]))
    tags.write_text("".join([second_tags, first_tags, *other_tags]))
    run = together(2, train_on_another_machine, tmp_path)
    assert "process 1 of 2 has read other data, labels or pieces than process 0" in refused(run)


def test_other_settings_are_refused(tiny_toml, tmp_path, together, write_config):
    tiny_toml()
    other_machine(tmp_path, write_config)
    run = together(2, train_on_another_machine, tmp_path, "--set", "train.learning_rate=0.1")
    assert "process 1 of 2 must have the settings of process 0, and has others (train.learning_rate differ)" in refused(
        run
    )


def test_a_run_that_only_another_process_sees_is_refused(tiny_toml, tmp_path, together, write_config):
    """A first process without the run would begin anew, beside what was trained."""
    tiny_toml()
    output = other_machine(tmp_path, write_config) / "run"
    output.mkdir()
    (output / "config.toml").write_text((tmp_path / "other/tiny.toml").read_text())
    run = together(2, train_on_another_machine, tmp_path, "--resume", "auto")
    assert "must be one directory for all processes, and holds a run for process 1, but none for process 0" in refused(
        run
    )


# -- under torchrun ---------------------------------------------------------------------------------------------------

OPTIONS = []
for _setting in (
    "train.epochs=100",
    "train.log_every_steps=1",
    "train.evaluations=4",
    "train.checkpoints.save_every_steps=40",
    "train.regularization.ema_decay=0.9",
):
    OPTIONS += ["--set", _setting]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
def torchrun(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """`torchrun(launcher options, command options)` starts one on `tiny.toml`, with its output in `N.log`."""
    started: list[subprocess.Popen] = []

    def _start(launch: list[str], *arguments: str) -> subprocess.Popen:
        launcher = [sys.executable, "-m", "torch.distributed.run", *launch, "-m", "palm_trainer.cli.train"]
        words = [*launcher, "run", str(tmp_path / "tiny.toml"), *arguments, "--resume", "auto"]
        with (tmp_path / f"{len(started)}.log").open("w") as log:
            environment = {**os.environ, "OMP_NUM_THREADS": "1"}
            started.append(subprocess.Popen(words, stdout=log, stderr=log, env=environment))
        return started[-1]

    yield _start
    for process in started:
        for worker in workers(process):
            os.kill(worker, signal.SIGKILL)
        process.kill()
        process.wait()


def workers(launcher: subprocess.Popen) -> dict[int, int]:
    """Rank of each training process of a torchrun, by its number."""
    found = {}
    try:
        children = Path(f"/proc/{launcher.pid}/task/{launcher.pid}/children").read_text().split()
    except FileNotFoundError:
        return {}
    for child in children:
        try:
            lines = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        for line in lines:
            if line.startswith(b"RANK="):
                found[int(child)] = int(line.removeprefix(b"RANK="))
    return found


def lines(run: Path) -> list[str]:
    """The whole lines of the log of a run."""
    log = run / "events.jsonl"
    return log.read_text().split("\n")[:-1] if log.exists() else []


def last_step(run: Path) -> int:
    logged = lines(run)
    return int(json.loads(logged[-1])["step"]) if logged else 0


def starts(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines(run) if '"event": "start"' in line]


def kill_at(launcher: subprocess.Popen, run: Path, rank: int, step: int, killed: set[int], number: int) -> None:
    """Sends a signal to a training process, which it has not sent it to before, once a step is done."""

    def find() -> int | None:
        assert launcher.poll() is None, "torchrun has ended"
        if last_step(run) < step:
            return None
        return next((worker for worker, its in workers(launcher).items() if its == rank and worker not in killed), None)

    worker = wait_until(find)
    killed.add(worker)
    os.kill(worker, number)


@pytest.mark.slow
@pytest.mark.parametrize("rendezvous", ["c10d", "static"])
def test_killed_three_times_ends_as_unbroken(tiny_toml, tmp_path, together, torchrun, rendezvous):
    """The documented command line alone: torchrun starts the processes again, and the weights are equal to the bit."""
    tiny_toml()
    unbroken = together(2, palm_train, tmp_path, *OPTIONS, "--output", str(tmp_path / "unbroken"))
    assert unbroken.codes() == [0, 0]
    meeting = (
        ["--standalone"] if rendezvous == "c10d" else ["--master-addr", "127.0.0.1", "--master-port", str(free_port())]
    )
    launcher = torchrun([*meeting, "--nproc-per-node", "2", "--max-restarts", "3"], *OPTIONS)
    killed: set[int] = set()
    for rank, step in ((1, 100), (0, 250), (1, 400)):
        kill_at(launcher, tmp_path / "run", rank, step, killed, signal.SIGKILL)
    assert launcher.wait(LIMIT) == 0, (tmp_path / "0.log").read_text()
    steps = [event["step"] for event in starts(tmp_path / "run")]
    assert len(steps) == 4
    assert steps[0] == 0 < steps[1] <= steps[2] <= steps[3]
    for name in ("best/model.safetensors", "last/model.safetensors"):
        expected, found = load_file(tmp_path / "unbroken" / name), load_file(tmp_path / "run" / name)
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[key], found[key]) for key in expected)


@pytest.mark.slow
def test_torchrun_replaces_a_process_that_is_stopped(tiny_toml, tmp_path, torchrun):
    """The exit of who waited cannot wait for the operation with the stopped one."""
    tiny_toml()
    launcher = torchrun(
        ["--standalone", "--nproc-per-node", "2", "--max-restarts", "1"], *OPTIONS, "--patience", str(PATIENCE)
    )
    kill_at(launcher, tmp_path / "run", 1, 100, set(), signal.SIGSTOP)
    assert launcher.wait(LIMIT) == 0, (tmp_path / "0.log").read_text()
    assert f"error: process 1 of 2 {SILENT}" in (tmp_path / "0.log").read_text()


@pytest.mark.slow
def test_machines_come_and_go(tiny_toml, tmp_path, torchrun, monkeypatch):
    """One, two, and again one, as torchrun counts machines; the run goes on with each number."""
    monkeypatch.setenv(
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE", "1"
    )  # else a machine that joins does not learn the address
    tiny_toml()
    options = [*OPTIONS, "--set", "train.epochs=2000", "--patience", str(PATIENCE)]
    elastic = ["--nnodes", "1:2", "--nproc-per-node", "1", "--max-restarts", "3", "--rdzv-backend", "c10d"]
    elastic += ["--rdzv-id", "survival", "--rdzv-endpoint", f"127.0.0.1:{free_port()}"]
    first = torchrun([*elastic, "--rdzv-conf", "is_host=1,last_call_timeout=3"], *options)
    run = tmp_path / "run"
    wait_until(lambda: last_step(run) > 100)
    second = torchrun([*elastic, "--rdzv-conf", "is_host=0,last_call_timeout=3"], *options)

    def sizes() -> list[int]:
        return [event["processes"] for event in starts(run)]

    wait_until(lambda: sizes()[-1:] == [2])
    joined_at = last_step(run)
    wait_until(lambda: last_step(run) > joined_at + 100)
    [worker] = workers(second)
    second.kill()
    os.kill(worker, signal.SIGKILL)
    wait_until(lambda: sizes() == [1, 2, 1])
    resumed_at = last_step(run)
    wait_until(lambda: last_step(run) > resumed_at + 100)
    assert first.poll() is None
