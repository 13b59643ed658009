"""palm-train and palm-export as processes: pipes, closed and full outputs, terminals without UTF-8, hang-ups."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from palm_trainer.model.checkpoint import load_training_state

PALM = [sys.executable, "-c", "from palm_trainer.cli.train import main; main()"]
EXPORT = [sys.executable, "-c", "from palm_trainer.cli.export import main; main()"]
FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


@pytest.fixture
def shell(process_limit_s):
    """`shell(COMMAND, "... | head -1")` -> exit code, standard output and standard error of `COMMAND ...` in a shell."""

    def _shell(command, rest, **variables):
        line = "set -o pipefail; " + " ".join([*(f"'{word}'" for word in command), rest])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", **variables}
        result = subprocess.run(
            ["bash", "-c", line], capture_output=True, env=environment, timeout=process_limit_s, check=False
        )
        err = result.stderr.decode(errors="replace")
        assert "Traceback" not in err
        assert "Exception ignored" not in err
        return result.returncode, result.stdout, err

    return _shell


@pytest.mark.parametrize(
    ("program", "arguments"), [(PALM, "--help"), (PALM, "schema"), (EXPORT, "--help")], ids=["help", "schema", "export"]
)
def test_closed_pipe_ends_quietly_with_141(shell, program, arguments):
    assert shell(program, f"{arguments} | true") == (141, b"", "")


@pytest.mark.parametrize("program", [PALM, EXPORT], ids=["train", "export"])
def test_full_disk_behind_the_output_is_one_message(shell, program):
    code, _, err = shell(program, "--help > /dev/full")
    assert code == 2
    assert re.fullmatch(r"palm-\w+: standard output cannot be written: No space left on device\n", err)


def test_closed_output_is_no_error(shell, tmp_path, tiny_toml):
    assert shell(PALM, "schema >&-") == (0, b"", "")
    assert shell(PALM, f"plan --data-only {tiny_toml()} >&-") == (0, b"", "")
    assert shell(PALM, f"plan {tmp_path}/nowhere.toml 2>&-") == (2, b"", "")
    assert shell(PALM, f"plan {tmp_path}/nowhere.toml 2>/dev/full") == (2, b"", "")


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_text_that_a_terminal_lacks_is_escaped(shell, tiny_toml, encoding):
    path = tiny_toml().rename(tiny_toml().with_name("中文é😀.toml"))
    code, out, _ = shell(PALM, f"plan --data-only '{path}'", PYTHONIOENCODING=encoding)
    assert (code, b"travel" in out) == (0, True)
    code, out, err = shell(PALM, f"plan '{path}.no'", PYTHONIOENCODING=encoding)
    assert (code, out) == (2, b"")
    assert r"\u4e2d\u6587" in err
    assert r"\ud83d\ude00" in err


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_json_of_predict_is_right_in_every_encoding(shell, finished_run, encoding):
    text = "flights to 中文 é 😀"
    code, out, err = shell(PALM, f"predict {finished_run} --text '{text}'", PYTHONIOENCODING=encoding)
    assert (code, err) == (0, "")
    assert json.loads(out.decode(encoding))["text"] == text
    code, out, _ = shell(PALM, f"evaluate {finished_run} --split dev --json /dev/stderr", PYTHONIOENCODING=encoding)
    assert code == 0


@pytest.fixture
def start(start_process):
    """`start("run", ...)`: a `palm-train` process, with default signals whatever started the tests."""
    code = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        "signal.signal(signal.SIGHUP, signal.SIG_DFL); "
    )

    def _start(*arguments, **options):
        words = [sys.executable, "-c", code + PALM[2], *arguments]
        return start_process(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, **options)

    return _start


def wait_for_step(process, step):
    for line in process.stdout:
        if line.startswith(f"step {step}/"):
            return
    raise AssertionError(process.stderr.read())


LONG = ("--set", "train.log_every_steps=1", "--set", "train.epochs=200")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGINT], ids=["HUP", "TERM", "INT"])
def test_training_saves_and_tells_how_to_go_on(start, process_limit_s, tiny_toml, tmp_path, number):
    process = start("run", tiny_toml(), *LONG)
    wait_for_step(process, 8)
    process.send_signal(number)
    if number == signal.SIGHUP:  # a terminal that goes away sends it to the shell and to its processes
        process.send_signal(number)
    _, err = process.communicate(timeout=process_limit_s)
    run = tmp_path / "run"
    assert process.returncode == 128 + number
    assert err == f"stopped; continue with: palm-train run {run}/config.toml --output {run} --resume\n"
    assert load_training_state(run)["loop"]["step"] >= 8
    assert not list(run.glob("*.new"))


SLOW_PREPARATION = """
import time
from palm_trainer.cli.train import main
from palm_trainer.runs import job_from_config

def encode_for_minutes(*_):
    print("preparing", flush=True)
    for _ in range(6_000):  # a signal just before a single long sleep would wait for its end
        time.sleep(0.1)

job_from_config._assemble = encode_for_minutes
main()
"""


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_training_that_is_not_ready_ends_at_once(start_process, process_limit_s, tiny_toml, tmp_path, number):
    process = start_process([sys.executable, "-c", SLOW_PREPARATION, "run", tiny_toml()])
    assert process.stdout.readline() == "preparing\n"
    process.send_signal(number)
    process.communicate(timeout=process_limit_s)
    assert process.returncode == 128 + number
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_training_under_nohup_ignores_the_hangup(start_process, process_limit_s, tiny_toml, tmp_path):
    settings = ["--set", "train.log_every_steps=1", "--set", "train.epochs=3"]
    words = ["nohup", *PALM, "run", tiny_toml(), *settings]
    process = start_process(words, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for_step(process, 2)
    process.send_signal(signal.SIGHUP)
    out, err = process.communicate(timeout=process_limit_s)
    assert process.returncode == 0, err
    assert "report: " in out


@pytest.mark.slow
def test_training_whose_reader_goes_away_saves(start, process_limit_s, tiny_toml, tmp_path):
    process = start("run", tiny_toml(), *LONG)
    wait_for_step(process, 4)
    process.stdout.close()
    process.wait(timeout=process_limit_s)
    run = tmp_path / "run"
    assert process.stderr.read() == (
        f"stopped; continue with: palm-train run {run}/config.toml --output {run} --resume\n"
    )
    assert process.returncode == 141
    assert load_training_state(run)["loop"]["step"] >= 4


@pytest.mark.slow
def test_training_with_a_full_disk_behind_its_output_saves(start, process_limit_s, tiny_toml, tmp_path):
    with FULL.open("w") as full:
        process = start("run", tiny_toml(), *LONG, stdout=full)
        _, err = process.communicate(timeout=process_limit_s)
    assert process.returncode == 2
    first, second = err.splitlines()
    assert first == "error: standard output cannot be written: No space left on device"
    assert second.startswith("stopped; continue with: ")
    assert load_training_state(tmp_path / "run")["loop"]["step"] >= 1


def test_resumed_training_removes_what_a_killed_one_left(tiny_config, fit):
    config = tiny_config("train.epochs=2")
    count = []
    fit(config, stop=lambda: bool(count.append(1)) or len(count) > 6)
    run = config.train.output
    (run / "last.new").mkdir()
    (run / "last.new/model.safetensors").write_bytes(b"half")
    (run / "metrics.json.new").write_text("{")
    fit(config, resume=True)
    assert not list(run.glob("*.new"))


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=["HUP", "TERM"])
def test_conversion_that_is_ended_leaves_nothing(start, process_limit_s, tmp_path, number):
    line = json.dumps({"text": "turn the lamp on " * 20, "intent": "on"}) + "\n"
    (tmp_path / "in.jsonl").write_text(line * 20_000)
    process = start("convert", tmp_path / "in.jsonl", tmp_path / "out.csv")
    while not list(tmp_path.glob("out.csv*")):
        assert process.poll() is None, process.stderr.read()
    process.send_signal(number)
    _, err = process.communicate(timeout=process_limit_s)
    assert (process.returncode, err) == (128 + number, "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]
