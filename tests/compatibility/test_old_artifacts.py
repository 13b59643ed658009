"""What users have on disk from before version 0.2 still opens, resumes, exports and serves.

`before_0_2/` holds runs, a bundle and checkpoints of the Python API. The code of that time made them and recorded what
they answered. The tests use the three commands and the Python API only, so moved modules do not concern them.
"""

import hashlib
import importlib
import importlib.util
import json
import math
import shutil
import signal
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
STORED = Path(__file__).parent / "before_0_2"
EXPECTED = STORED / "expected"
STORED_FOLDERS = ("run", "bundle", "api_checkpoint", "expected", "data", "configurations")
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["scripts"]

RELATIVE_TOLERANCE = 2e-4
ABSOLUTE_TOLERANCE = 2e-4
"""On the kind of processor that made the files all figures are equal to the bit.

Another one adds numbers in another order, and training carries the difference on. With the oldest kernels of torch
and MKL, losses differ by less than 5e-6 and the figures after training by 3e-5. Some probabilities are rounded to
four digits, where a small difference becomes 1e-4.
"""

Command = Callable[..., str]


def _load(name: str) -> ModuleType:
    """Load one of the scripts that lie beside the stored files."""
    specification = importlib.util.spec_from_file_location(f"before_0_2_{name}", STORED / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules[specification.name] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    return module


def _entry_point(program: str) -> tuple[str, str]:
    """Return the module and the function of a command."""
    module, _, function = SCRIPTS[program].partition(":")
    return module, function


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """`command("palm-train", "evaluate", RUN)` calls a command's entry point and returns its output."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(program: str, *arguments: object) -> str:
        module, function = _entry_point(program)
        monkeypatch.setattr(sys, "argv", [program, *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            getattr(importlib.import_module(module), function)()
        printed = capsys.readouterr()
        assert end.value.code in (0, None), printed.err
        return printed.out

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Copy the stored files for tests that write. The copy is the working directory."""
    for name in STORED_FOLDERS:
        shutil.copytree(STORED / name, tmp_path / name)
    monkeypatch.setenv("PALM_BEFORE_0_2", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _differences(actual: object, expected: object, place: str = "") -> list[str]:
    """Return each expected value that is missing or differs. Later versions may have added keys."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        faults = [f"{place}/{key} is missing" for key in expected.keys() - actual.keys()]
        for key in expected.keys() & actual.keys():
            faults += _differences(actual[key], expected[key], f"{place}/{key}")
        return faults
    if isinstance(expected, list) and isinstance(actual, list) and len(expected) == len(actual):
        faults = []
        for position, (actual_item, expected_item) in enumerate(zip(actual, expected, strict=True)):
            faults += _differences(actual_item, expected_item, f"{place}/{position}")
        return faults
    if isinstance(expected, float) and isinstance(actual, int | float):
        close = math.isclose(actual, expected, rel_tol=RELATIVE_TOLERANCE, abs_tol=ABSOLUTE_TOLERANCE)
        return [] if close else [f"{place} is {actual}, not {expected}"]
    same = actual == expected and type(actual) is type(expected)
    return [] if same else [f"{place} is {actual!r}, not {expected!r}"]


def _without_times(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the logged events without the starts and the clock."""
    steps_and_evaluations = [event for event in events if event["event"] != "start"]
    return [
        {key: value for key, value in event.items() if key not in ("time", "seconds")}
        for event in steps_and_evaluations
    ]


def test_stored_files_are_unchanged() -> None:
    lines = (STORED / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    expected = {}
    for line in lines:
        digest, name = line.split(maxsplit=1)
        expected[name] = digest
    actual = {}
    for folder in STORED_FOLDERS:
        for path in (STORED / folder).rglob("*"):
            if path.is_file():
                actual[path.relative_to(STORED).as_posix()] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert actual == expected


@pytest.mark.parametrize("changed", [{"a": 1.1}, {}, {"a": "1.0"}, {"a": [1.0]}])
def test_differences_are_seen(changed: dict[str, object]) -> None:
    assert _differences({"a": 1.00001, "b": 2}, {"a": 1.0}) == []
    assert len(_differences(changed, {"a": 1.0})) == 1


def test_finished_run_opens(copy: Path, command: Command) -> None:
    for split in ("dev", "test"):
        command("palm-train", "evaluate", "run/finished", "--split", split, "--json", "metrics.json")
        assert _differences(_read_json(copy / "metrics.json"), _read_json(EXPECTED / f"evaluate_{split}.json")) == []
    command("palm-train", "predict", "run/finished", "--input", "data/texts.jsonl", "--output", "answers.jsonl")
    assert _differences(_read_lines(copy / "answers.jsonl"), _read_lines(EXPECTED / "predict.jsonl")) == []


def test_stopped_run_resumes_to_its_end(copy: Path, command: Command) -> None:
    run = copy / "run/stopped"
    assert not (run / "metrics.json").exists()
    command("palm-train", "run", "run/stopped/config.toml", "--resume")
    events = _without_times(_read_lines(run / "events.jsonl"))
    for event in events:
        if event["event"] == "evaluation":
            _restore_exact_match(event["metrics"])
    expected_events = _without_times(_read_lines(EXPECTED / "resumed_events.jsonl"))
    assert _differences(events, expected_events) == []
    metrics = _read_json(run / "metrics.json")
    for split_metrics in metrics.values():
        _restore_exact_match(split_metrics)
    assert _differences(metrics, _read_json(EXPECTED / "resumed_metrics.json")) == []


def _restore_exact_match(metrics: dict[str, Any]) -> None:
    """Put back the exact match of the first data set, which that version gave for all of them."""
    by_data_set = metrics.get("by_data_set")  # missing in the events from before the run was stopped
    if by_data_set is not None:
        metrics["exact_match"] = by_data_set["garden"]["exact_match"]


def test_finished_run_exports(copy: Path, command: Command) -> None:
    command("palm-export", "run/finished", "--output", "exported", "--precision", "fp32")
    manifest = _read_json(copy / "exported/manifest.json")
    expected_manifest = _read_json(STORED / "bundle/manifest.json")
    for section in ("encoder", "max_length", "inputs", "tasks"):
        assert _differences(manifest[section], expected_manifest[section], section) == []
    printed = command("palm-serve", "check", "exported", "--provider", "CPU", "--precision", "fp32")
    assert _task_rows(printed) == _task_rows((EXPECTED / "check.txt").read_text(encoding="utf-8"))


def _task_rows(printed: str) -> list[list[str]]:
    """Return the words of each row about a task that `palm-serve check` printed."""
    rows = [line.split() for line in printed.splitlines()]
    names = ("intent", "slots", "topics", "same", "answer")
    task_rows = [row for row in rows if row and row[0] in names]
    assert [row[0] for row in task_rows] == list(names)
    return task_rows


def test_bundle_checks(command: Command) -> None:
    printed = command("palm-serve", "check", STORED / "bundle", "--provider", "CPU", "--precision", "fp32")
    assert _task_rows(printed) == _task_rows((EXPECTED / "check.txt").read_text(encoding="utf-8"))
    assert _read_json(STORED / "bundle/manifest.json")["version"][:12] in printed


def test_bundle_is_served() -> None:
    served = _load("served")
    module, function = _entry_point("palm-serve")
    process = [sys.executable, "-c", f"from {module} import {function}; {function}()"]
    with served.server(process, STORED / "bundle") as target:
        answers = served.ask(target, STORED / "data/texts.jsonl")
    assert _differences(answers, _read_lines(EXPECTED / "served.jsonl")) == []


def test_api_checkpoint_resumes(copy: Path) -> None:
    two_heads = _load("two_heads")
    # An old program works, and is told the new spelling of its options.
    with pytest.warns(FutureWarning, match=r"options\.(balancing|r_drop) is now options\."):
        answers = two_heads.load_and_continue(copy / "data", copy / "api_checkpoint")
    assert _differences(answers, _read_json(EXPECTED / "two_heads.json")) == []


def test_commands_read_what_the_api_saved(copy: Path, command: Command) -> None:
    text = _read_lines(EXPECTED / "predict_api.jsonl")[0]["text"]
    printed = command("palm-train", "predict", "api_checkpoint/pred.step6", "--text", text)
    assert _differences(json.loads(printed), _read_lines(EXPECTED / "predict_api.jsonl")[0]) == []
    for run in ("api_checkpoint", "api_checkpoint/pred.step12"):
        command("palm-train", "evaluate", run, "--split", "dev", "--json", "metrics.json")
        expected = _read_json(STORED / run / "metrics.json")
        assert _differences(_read_json(copy / "metrics.json"), expected) == []
