"""palm-train compare inside this process: what it prints and writes, how it is stopped, what it refuses."""

import json
from pathlib import Path

import pytest

from palm_trainer.cli import train as cli
from palm_trainer.cli.train import app, command


@pytest.fixture
def compare(capsys):
    """`compare(...)` -> (exit code, standard output, standard error)."""

    def _compare(*arguments):
        code = command(app, ["compare", *(str(a) for a in arguments)])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return _compare


def test_table_json_page_and_again(compare, tiny_toml, tmp_path):
    path = tiny_toml()
    given = (path, "--set", "train.epochs=0.5", "--seeds", "5", "--json", tmp_path / "copy.json")
    code, out, err = compare(*given)
    assert (code, err) == (0, "")
    assert "joint (intent, slots): 3 batches of travel\nintent alone: 3 batches of travel" in out
    assert "[3/3] slots alone, seed 5" in out
    assert "intent accuracy" in out
    assert "exact_match" in out
    assert "note: 1 seed: the intervals do not include the variation between seeds." in out
    folder = tmp_path / "run-compare"
    written = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    assert written == json.loads((tmp_path / "copy.json").read_text(encoding="utf-8"))
    assert [one["task"] for one in written["comparisons"]] == ["intent", "slots", "intent + slots"]
    assert "<svg" in (folder / "compare.html").read_text(encoding="utf-8")
    assert not (tmp_path / "run").exists()
    code, again, err = compare(*given)
    assert (code, err) == (0, "")
    assert f"3 of 3 trainings are finished in {folder}" in again
    assert "step" not in again
    assert json.loads((folder / "compare.json").read_text(encoding="utf-8")) == written
    code, _, err = compare(path, "--seeds", "5")
    assert code == 2
    assert "was trained with other settings" in err


def test_ctrl_c_keeps_what_is_finished(compare, tiny_toml, tmp_path, monkeypatch):
    """Ctrl-C in the second of three trainings; the same command trains the rest of the second and the third."""
    asked = []

    class _Late(cli.StopRequest):
        def __call__(self):
            asked.append(1)
            return len(asked) > 6 + 1 + 3  # six steps and the checks before a training

    given = (tiny_toml(), "--set", "train.epochs=1", "--seeds", "5", "--output", tmp_path / "out")
    with monkeypatch.context() as patched:
        patched.setattr(cli, "StopRequest", _Late)
        code, out, err = compare(*given)
    assert code == 130
    assert f"stopped; what is finished is kept in {tmp_path / 'out'}. The same command goes on." in err
    assert "[2/3] intent alone" in out
    assert "[3/3]" not in out
    assert not (tmp_path / "out/compare.json").exists()
    code, out, err = compare(*given)
    assert (code, err) == (0, "")
    assert "1 of 3 trainings are finished" in out
    assert "[1/2] intent alone" in out
    assert "steps from step " in out
    assert (tmp_path / "out/compare.json").exists()


@pytest.mark.parametrize(
    ("seeds", "message"),
    [
        (
            "13,x",
            "--seeds must be whole numbers from 0 to 2^32 - 1, separated by commas, got '13,x'. Example: 13,14,15.",
        ),
        ("", "--seeds must be whole numbers from 0 to 2^32 - 1, separated by commas, got ''"),
        ("-1", "--seeds must be whole numbers from 0 to 2^32 - 1, separated by commas, got '-1'"),
        ("4294967296", "--seeds must be whole numbers from 0 to 2^32 - 1"),
        ("9" * 5000, "--seeds must be whole numbers from 0 to 2^32 - 1"),
        ("13,13", "--seeds must be different numbers, got '13,13'"),
    ],
)
def test_seeds_are_checked(compare, tiny_toml, seeds, message):
    code, out, err = compare(tiny_toml(), "--seeds", seeds)
    assert (code, out) == (2, "")
    assert message in err


def test_one_task_is_refused(compare, tiny_toml):
    path: Path = tiny_toml()
    text = path.read_text(encoding="utf-8")
    slots = text[text.index("[tasks.slots]") : text.index("[train]")]
    path.write_text(text.replace(slots, ""), encoding="utf-8")
    code, out, err = compare(path)
    assert (code, out) == (2, "")
    assert "tasks must contain at least two tasks, got only 'intent'" in err


def test_no_jobs_is_refused(compare, tiny_toml):
    code, _, err = compare(tiny_toml(), "--jobs", "0")
    assert code == 2
    assert "--jobs" in err
