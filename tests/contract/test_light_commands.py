"""The first commands of a new user load what they need and nothing that takes seconds: asserted on modules, not on time."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "examples" / "data"
# Each takes from a third of a second to several seconds to load.
HEAVY = (
    *("torch", "transformers", "accelerate", "safetensors", "huggingface_hub", "datasets", "pyarrow", "pandas"),
    *("onnx", "onnxruntime", "onnxscript", "openvino", "grpc", "scipy", "sklearn", "seqeval", "jinja2", "spacy"),
)
PROGRAMS = {
    "palm-train": "palm_trainer.cli.train",
    "palm-export": "palm_trainer.cli.export",
    "palm-serve": "palm_serve.cli",
}
RUN = """
import json, sys
from {module} import main
sys.argv = {arguments}
code = 0
try:
    main()
except SystemExit as stop:
    code = stop.code or 0
print(json.dumps([code, sorted(set({heavy}) & set(sys.modules))]), file=sys.stderr)
"""


def run(*arguments: object) -> tuple[int, list[str], str]:
    """Run a program in a process of its own; return its exit code, the heavy modules that it loaded, and its output."""
    words = list(map(str, arguments))
    code = RUN.format(module=PROGRAMS[words[0]], arguments=words, heavy=HEAVY)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "80"}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    status, loaded = json.loads(result.stderr.splitlines()[-1])
    return status, loaded, result.stdout + result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("palm-train", "--help"),
        ("palm-train", "plan", "--help"),
        ("palm-train", "models", "--help"),
        ("palm-train", "health", "--help"),
        ("palm-export", "--help"),
        ("palm-serve", "--help"),
        ("palm-serve", "run", "--help"),
        ("palm-serve", "batch", "--help"),
        ("palm-serve", "plan", "--help"),
    ],
    ids=" ".join,
)
def test_help_loads_no_library(arguments: tuple[str, ...]) -> None:
    code, loaded, output = run(*arguments)
    assert (code, loaded) == (0, [])
    assert "Usage: palm-" in output


@pytest.mark.parametrize("program", ["palm-train", "palm-serve"])
def test_help_cuts_no_description_of_a_command(program: str) -> None:
    _, _, output = run(program, "--help")
    listed = output.partition("Commands:")[2].partition("Example:")[0]
    assert len(re.findall(r"^  \w+ +[A-Z].*\.$", listed, re.MULTILINE)) >= 6
    assert "..." not in listed


def test_help_of_run_keeps_groups_of_options() -> None:
    _, _, output = run("palm-serve", "run", "--help")
    for heading in ("Arguments:", "Models:", "TLS:", "Limits:", "Configuration:"):
        assert f"\n{heading}\n" in output


@pytest.mark.parametrize(
    "name", ["assistant/train.jsonl", "assistant", "assistant_zh", "intents.csv", "nlu.yml", "squad.json", "plain.txt"]
)
def test_plan_and_init_load_no_torch(name: str, tmp_path: Path) -> None:
    data = SAMPLES / name
    if not data.exists():
        data = tmp_path / name
        data.write_text(CONTENTS[name], encoding="utf-8")
    config = tmp_path / "found.toml"
    code, loaded, output = run("palm-train", "init", data, "--output", config)
    assert (code, loaded) == (0, []), output
    code, loaded, output = run("palm-train", "plan", config, "--data-only")
    assert (code, loaded) == (0, []), output
    assert "train" in output


def _csv() -> str:
    rows = ["text,intent"]
    for number in range(8):
        rows.append(f"wake me at {number},{'ab'[number % 2]}")
    return "\n".join(rows) + "\n"


def _rasa() -> str:
    lines = ['version: "3.1"', "nlu:"]
    for intent, verb in (("fly", "fly to"), ("stay", "a room in")):
        lines += [f"- intent: {intent}", "  examples: |"]
        lines += [f"    - {verb} [{city}](city)" for city in ("rome", "oslo", "bonn", "riga")]
    return "\n".join(lines) + "\n"


def _squad() -> str:
    questions = []
    for number in range(8):
        answer = {"text": "six", "answer_start": 11}
        questions.append({"id": str(number), "question": f"when, {number}?", "answers": [answer]})
    paragraph = {"context": "wake me at six please", "qas": questions}
    return json.dumps({"version": "1.1", "data": [{"title": "t", "paragraphs": [paragraph]}]})


CONTENTS = {"intents.csv": _csv(), "nlu.yml": _rasa(), "squad.json": _squad(), "plain.txt": "wake me at six\n" * 3}


def test_plan_with_every_task_kind_loads_no_torch(tmp_path: Path) -> None:
    rows = []
    for number in range(8):
        label = "01"[number % 2]
        row = {"text": f"a {number}", "text_pair": f"b {number}", "label": label, "topics": [label]}
        rows.append(json.dumps(row))
    (tmp_path / "pairs.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (tmp_path / "plain.txt").write_text("wake me at six\n" * 3, encoding="utf-8")
    (tmp_path / "all.toml").write_text(
        '[data.a]\nformat = "jsonl"\ntrain = "pairs.jsonl"\n'
        '[data.b]\nformat = "text"\ntrain = "plain.txt"\n'
        '[tasks.label]\nkind = "match"\ndata = ["a"]\n'
        '[tasks.topics]\nkind = "multi_label"\ndata = ["a"]\n'
        '[tasks.mlm]\nkind = "masked_lm"\ndata = ["b"]\n'
        '[train]\noutput = "runs/all"\n',
        encoding="utf-8",
    )
    code, loaded, output = run("palm-train", "plan", tmp_path / "all.toml", "--data-only")
    assert (code, loaded) == (0, []), output


def test_checks_of_files_load_no_torch(tmp_path: Path) -> None:
    config = tmp_path / "found.toml"
    assert run("palm-train", "init", SAMPLES / "assistant", "--output", config)[0] == 0
    code, loaded, output = run("palm-train", "health", config, "--data-only", "--output", tmp_path / "health")
    assert (code, loaded) == (0, ["jinja2"]), output  # the page is a template
    assert (tmp_path / "health" / "health.html").is_file()


def test_convert_schema_and_models_load_no_torch(tmp_path: Path) -> None:
    source = SAMPLES / "assistant" / "dev.jsonl"
    for name in ("out.conll", "out.yml", "out.csv"):
        assert run("palm-train", "convert", source, tmp_path / name, "--field", "intent")[:2] == (0, [])
    assert run("palm-train", "schema")[:2] == (0, [])
    assert run("palm-train", "models", "ls")[:2] == (0, [])


def test_plan_of_a_fleet_loads_no_grpc_and_no_engine(tmp_path: Path) -> None:
    times = {"p50": 10.0, "p90": 12.0, "p99": 15.0, "p99.9": 16.0, "max": 20.0}
    levels = []
    for callers in (1, 8):
        levels.append({"callers": callers, "answered": 50.0 * callers, "codes": {"OK": 9}, "answered_ms": times})
    server = {"cpu_ms_per_call": 3.0, "memory_mib": 250.0}
    (tmp_path / "bench.json").write_text(json.dumps({"levels": levels, "server": server}), encoding="utf-8")
    code, loaded, output = run("palm-serve", "plan", "--rate", 1e5, "--p99", 0.2, "--from", tmp_path / "bench.json")
    assert (code, loaded) == (0, []), output
    assert "418, one of them to spare" in output


@pytest.mark.parametrize(
    "arguments",
    [
        ("palm-train", "plan", "nosuch.toml"),
        ("palm-train", "init", "nosuch"),
        ("palm-train", "evaluate", "nosuch"),
        ("palm-train", "report", "nosuch"),
        ("palm-export", "nosuch", "--output", "out"),
    ],
    ids=" ".join,
)
def test_wrong_path_is_told_without_torch(arguments: tuple[str, ...], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    code, loaded, output = run(*arguments)
    assert (code, loaded) == (2, [])
    assert "nosuch" in output
