"""Command `palm-export`: exit codes, messages and files."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import Gate
from palm_serve.engine.candidate import Candidate
from palm_trainer.cli import export as cli
from palm_trainer.errors import ParityError
from palm_trainer.export.gate import GateResult
from palm_trainer.export.report import CandidateReport, ExportReport, share_interval
from palm_trainer.model.multi_task import TrainedModel

ROOT = Path(__file__).parents[3]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs the command: exit code, standard output, standard error."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["palm-export", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        captured = capsys.readouterr()
        return int(ended.value.code or 0), captured.out, captured.err

    return run


@pytest.mark.usefixtures("few_shapes")
def test_export_prints_steps_gates_and_version(call: Call, run: Path, tmp_path: Path) -> None:
    code, out, err = call(run, "--output", tmp_path / "tiny", "--name", "travel", "--json", tmp_path / "tiny.json")
    assert code == 0, err
    manifest = load_bundle(tmp_path / "tiny").manifest
    assert err.splitlines() == [
        "palm-export: loading the run",
        "palm-export: exporting the graph",
        "palm-export: creating the graph variants",
        "palm-export: timing the variants",
        "palm-export: comparing the variants with the trained model",
        "palm-export: writing the bundle",
    ]
    header, row, *_, last = out.splitlines()
    assert header.split()[:5] == ["variant", "provider", "precision", "size", "max"]
    assert row.split()[:3] == ["plain", "CPU", "fp32"]
    assert row.split()[-2:] == ["passed", "yes"]
    written = json.loads((tmp_path / "tiny.json").read_text(encoding="utf-8"))
    assert written["written"] == sorted(manifest.variants)
    assert written["rows"][0]["passed"] is written["rows"][0]["written"] is True
    assert written["rows"][0]["figures"]["latency_ms"] > 0
    steps = [line.removeprefix("palm-export: ") for line in err.splitlines()]
    assert list(written["seconds"]) == steps
    assert min(written["seconds"].values()) > 0
    [seconds] = [line for line in out.splitlines() if " s in all: loading the run " in line]
    assert all(step in seconds for step in steps)
    assert last == f"travel {manifest.version[:12]} -> {tmp_path / 'tiny'}"
    assert manifest.name == "travel"
    assert "| dev | exact_match | 12.50 |" in (tmp_path / "tiny" / "README.md").read_text(encoding="utf-8")


def test_table_is_complete_in_a_narrow_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file gets all columns, whatever the width of the terminal."""
    monkeypatch.setenv("COLUMNS", "40")
    gate = Gate(
        provider="OpenVINO", precision="bf16", passed=False, figures={"max_logit_difference": 1e-6, "metric": 1}
    )
    row = CandidateReport(
        Candidate("plain", "OpenVINO", "bf16"), 10**9, GateResult(gate, "wrong"), (1.234, 1.0), "wrong"
    )
    cli.show(ExportReport((row,), ("a note " * 30,)))
    header, cells, note, *_ = capsys.readouterr().out.splitlines()
    assert header.split()[:3] == ["variant", "provider", "precision"]
    assert cells.split() == "plain OpenVINO bf16 1000.0 MB 1.0e-06 0.00 % 100.00 1234.00 ms 32/s failed no".split()  # noqa: SIM905
    assert note.strip() == ("a note " * 30).strip()


@pytest.mark.parametrize(
    ("share", "count", "low", "high"), [(0.5, 100, 0.404, 0.596), (1.0, 30, 0.886, 1.0), (0.0, 10, 0.0, 0.278)]
)
def test_interval_of_a_share_is_that_of_wilson(share: float, count: int, low: float, high: float) -> None:
    assert share_interval(share, count) == pytest.approx((low, high), abs=6e-4)


def test_table_shows_the_interval_of_a_share_of_examples(capsys: pytest.CaptureFixture[str]) -> None:
    gate = Gate(provider="CPU", precision="fp32", passed=True, figures={"metric": 0.5})
    row = CandidateReport(Candidate("plain", "CPU", "fp32"), 10**6, GateResult(gate, ""), (1.0, 1.0), "")
    cli.show(ExportReport((row,), (), "exact match", 100, size=12_300_000))
    out = capsys.readouterr().out
    assert " 50.00 (40.4 to 59.6) " in out.splitlines()[1]
    assert "exact match in percent of 100 dev examples, with its 95 % interval" in out
    assert "the bundle has 12.3 MB in all" in out
    cli.show(ExportReport((row,), (), "slots f1"))
    assert "(" not in capsys.readouterr().out.splitlines()[1]


def test_table_shows_the_instructions_of_int8(capsys: pytest.CaptureFixture[str]) -> None:
    gate = Gate(provider="CPU", precision="int8", passed=True, instructions="avx512_vnni")
    row = CandidateReport(Candidate("int8", "CPU", "int8"), 10**6, GateResult(gate, ""), (1.0, 1.0), "")
    cli.show(ExportReport((row,), ()))
    assert capsys.readouterr().out.splitlines()[1].split()[:5] == ["int8", "CPU", "int8", "(avx512_vnni)", "1.0"]
    assert row.as_json()["instructions"] == "avx512_vnni"


@pytest.mark.usefixtures("few_shapes")
def test_include_exports_an_auxiliary_task(
    call: Call,
    make_trained: Callable[..., TrainedModel],
    make_run: Callable[[Path, TrainedModel], Path],
    tmp_path: Path,
) -> None:
    run = make_run(tmp_path / "data", make_trained(auxiliary=frozenset({"slots", "sentiment"})))
    code, _, err = call(run, "-o", tmp_path / "out", "--include", "sentiment", "--precision", "fp32")
    assert code == 0, err
    assert set(load_bundle(tmp_path / "out").manifest.tasks) == {"intent", "sentiment"}
    code, _, err = call(run, "-o", tmp_path / "other", "--include", "mood")
    assert code == 2
    assert err.endswith(
        "palm-export: --include must be a task of the run (intent, sentiment, slots), got mood. Choose another.\n"
    )
    assert not (tmp_path / "other").exists()


@pytest.mark.usefixtures("few_shapes")
def test_existing_bundle_needs_overwrite(call: Call, run: Path, tmp_path: Path) -> None:
    output = tmp_path / "tiny"
    assert call(run, "-o", output)[0] == 0
    before = (output / "manifest.json").read_bytes()
    code, out, err = call(run, "-o", output)
    assert (code, out) == (2, "")
    assert (
        err.splitlines()[-1]
        == f"palm-export: {output} exists. Replace it with --overwrite, or choose another --output."
    )
    assert (output / "manifest.json").read_bytes() == before
    assert call(run, "-o", output, "--overwrite", "--name", "second")[0] == 0
    assert load_bundle(output).manifest.name == "second"
    assert list(tmp_path.iterdir()) == [output]


@pytest.mark.parametrize(
    ("prepare", "message"),
    [
        (lambda path: None, "no such run directory. Train one with `palm-train run CONFIG"),
        (lambda path: path.mkdir(), "holds no 'best' checkpoint"),
        (lambda path: path.write_text("x", encoding="utf-8"), "must be a run directory, got a file"),
    ],
)
def test_directory_without_run_is_rejected(
    call: Call, tmp_path: Path, prepare: Callable[[Path], object], message: str
) -> None:
    prepare(tmp_path / "run")
    code, out, err = call(tmp_path / "run", "--output", tmp_path / "out")
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def test_checkpoint_without_configuration_is_rejected(call: Call, run: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "best").symlink_to(run / "best")
    code, _, err = call(tmp_path / "run", "--output", tmp_path / "out")
    assert code == 2
    assert "must be a run directory of `palm-train run`, got a directory without config.toml" in err


def test_failed_parity_exits_with_1(call: Call, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ParityError("parity failed on CPU in fp32: somewhere")

    monkeypatch.setattr("palm_trainer.export.exporter.export_bundle", fail)
    code, _, err = call(run, "--output", tmp_path / "out")
    assert code == 1
    assert err.endswith("palm-export: parity failed on CPU in fp32: somewhere\n")


def test_help_shows_an_example_without_torch() -> None:
    code = "import sys; sys.modules['torch'] = None; sys.argv = ['palm-export', '--help']; from palm_trainer.cli.export import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert "palm-export runs/atis --output bundles/atis" in result.stdout


@pytest.mark.parametrize("arguments", [[], ["RUN"], ["RUN", "--output", "out", "--precision", "int4"]])
def test_wrong_usage_exits_with_2(call: Call, arguments: list[str]) -> None:
    code, _, err = call(*arguments)
    assert code == 2
    assert "Usage" in err


def palm_export(run: Path, output: Path) -> None:
    # `nohup make test &` ignores interrupts and hang-ups, and what it starts would do so too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    sys.argv = ["palm-export", str(run), "--output", str(output)]
    cli.main()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupted_export_leaves_nothing(
    together: Callable[..., Any], process_limit_s: float, run: Path, tmp_path: Path, number: signal.Signals
) -> None:
    parent = tmp_path / "new"
    started = together(1, palm_export, run, parent / "out")
    [process] = started.processes
    deadline = time.monotonic() + process_limit_s
    while not parent.exists() and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, number)
    codes = started.codes()
    assert codes == [128 + number], started.printed("err")
    [errors] = started.printed("err")
    assert "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.err", "0.out"]


@pytest.mark.usefixtures("few_shapes")
def test_without_dev_the_gate_runs_over_training_examples(call: Call, run: Path, tmp_path: Path) -> None:
    bare = tmp_path / "run"
    shutil.copytree(run, bare)
    lines = (bare / "config.toml").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("dev = ["))
    end = next(i for i in range(start, len(lines)) if lines[i].endswith("]"))
    (bare / "config.toml").write_text("\n".join(lines[:start] + lines[end + 1 :]) + "\n", encoding="utf-8")
    code, _, err = call(bare, "--output", tmp_path / "tiny")
    assert (code, load_bundle(tmp_path / "tiny").manifest.name) == (0, "tiny")
    assert "palm-export: the data has no dev split: comparing on the first 500 training examples" in err.splitlines()
