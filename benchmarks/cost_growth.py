"""How cost grows with the length of a text, tasks, labels, models in one server, callers, and rows of training data.

    python benchmarks/cost_growth.py --work DIR [--only length,tasks,labels,models,callers,rows] [--json FILE]

Models are MiniLM-L6 with heads that were trained for one step: what they answer does not matter here. DIR keeps the bundles, so a part that was
ended goes on, and FILE keeps the parts that are finished. `length`, `tasks` and `labels` call `Model.parse` in this process, one text at a time;
each round goes through all points, so that another load meets all of them. `models` and `callers` ask a server; `rows` runs `palm-train run` for one
step in a process of its own. Processor times are those of the whole process.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parent / "serving"))

from common import PALM_TRAIN, ROOT, commit, machine, today
from processes import PATIENT_S, copies, measured, palm

from palm_serve import Model
from palm_serve.bench.load import Load
from palm_serve.bench.sweep import sweep_callers

_LENGTHS = (4, 8, 16, 32, 64, 128, 256, 500)  # words, each one token
_TASKS = (1, 4, 16, 64)
_LABELS = (2, 10, 100, 1_000, 10_000)
_MODELS = (1, 2, 4, 8, 16, 32)
_CALLERS = 1_024
_ROWS = (1_000, 10_000, 100_000, 1_000_000)
_ROUNDS = 5
_CALLS = 20
_TEXT = "wake me up at seven tomorrow morning and play some music"
_PALM_EXPORT = (sys.executable, "-c", "from palm_trainer.cli.export import main; main()")

Figures = dict[str, list[float]]


def main() -> None:
    """Measure the chosen parts; print and write each when it is finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default=",".join(_PARTS))
    parser.add_argument("--json", type=Path, help="read the finished parts from there, and write all")
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    told: dict[str, Any] = {"parts": {}}
    if arguments.json is not None and arguments.json.exists():
        told = json.loads(arguments.json.read_text(encoding="utf-8"))
    for part in arguments.only.split(","):
        if part not in _PARTS:
            sys.exit(f"--only must name parts among {', '.join(_PARTS)}, got {part!r}")
        if part in told["parts"]:
            continue
        figures = _PARTS[part](arguments.work)
        told["parts"][part] = {"machine": machine(), "commit": commit(), "date": today(), **figures}
        show(part, figures)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps(told, indent=2) + "\n", encoding="utf-8")


def show(part: str, figures: Figures) -> None:
    """Print the table of a part: a line for each point."""
    print(f"\n{part}: " + "  ".join(figures))
    for row in zip(*figures.values(), strict=True):
        print("  ".join(f"{value:,.2f}" for value in row), flush=True)


def make_bundle(work: Path, name: str, tasks: int, labels: int) -> Path:
    """Train one step on made-up rows and export, unless the bundle is there.

    Args:
        work: folder of runs and bundles.
        name: of the bundle.
        tasks: `classify` tasks, the first with the role of the intent.
        labels: classes of each task.
    """
    bundle = work / name
    if (bundle / "manifest.json").exists():
        return bundle
    folder = work / f"{name}-files"
    folder.mkdir(exist_ok=True)
    data = folder / "rows.jsonl"
    write_rows(data, max(labels, 200), labels, [f"task{number}" for number in range(tasks)])
    dev = folder / "dev.jsonl"
    write_rows(dev, 100, labels, [f"task{number}" for number in range(tasks)])
    lines = [*_encoder(512), *_data(data, dev)]
    for number in range(tasks):
        lines += [f"[tasks.task{number}]", 'kind = "classify"', 'data = ["rows"]', f'field = "task{number}"']
        if number == 0:
            lines.append('role = "intent"')
    config = folder / "config.toml"
    config.write_text("\n".join([*lines, *_one_step(folder / "run")]) + "\n", encoding="utf-8")
    run_quietly(*PALM_TRAIN, "run", str(config), "--overwrite")
    run_quietly(*_PALM_EXPORT, str(folder / "run"), "--output", str(bundle), "--overwrite", "--precision", "fp32")
    return bundle


def write_rows(path: Path, rows: int, labels: int, fields: Sequence[str]) -> None:
    """Write rows whose texts differ, with a class in each field."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            label = f"class {number % labels}"
            row = {"text": f"{_TEXT} {number}", **dict.fromkeys(fields, label)}
            file.write(json.dumps(row) + "\n")


def _encoder(max_length: int) -> list[str]:
    return ["[encoder]", 'model = "minilm-l6-en"', f"max_length = {max_length}"]


def _data(train: Path, dev: Path) -> list[str]:
    return ["[data.rows]", 'format = "jsonl"', f"train = {json.dumps(str(train))}", f"dev = {json.dumps(str(dev))}"]


def _one_step(run: Path) -> list[str]:
    return ["[train]", "epochs = 1e-6", f"output = {json.dumps(str(run))}"]


def run_quietly(*command: str) -> None:
    """Run a command in the repository; end with its output where it fails."""
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command)} ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")


def measure_calls(points: Sequence[tuple[float, Model, str]]) -> Figures:
    """Return the milliseconds and processor milliseconds of a call at each point, medians over the rounds.

    Args:
        points: value on the axis, model, and the text that it answers.
    """
    times: list[list[float]] = [[] for _ in points]
    processor: list[list[float]] = [[] for _ in points]
    for _ in range(_ROUNDS):
        for position, (_, model, text) in enumerate(points):
            model.parse(text)
            began = time.perf_counter(), time.process_time()
            for _ in range(_CALLS):
                model.parse(text)
            times[position].append(1e3 * (time.perf_counter() - began[0]) / _CALLS)
            processor[position].append(1e3 * (time.process_time() - began[1]) / _CALLS)
    return {
        "x": [x for x, _, _ in points],
        "ms": list(map(statistics.median, times)),
        "cpu_ms": list(map(statistics.median, processor)),
    }


def measure_length(work: Path) -> Figures:
    """Measure a call against the words of its text."""
    with Model.open(make_bundle(work, "tasks1", 1, 10), max_text_bytes=100_000) as model:
        return measure_calls([(words, model, " ".join(["time"] * words)) for words in _LENGTHS])


def measure_bundles(bundles: Sequence[tuple[float, Path]]) -> Figures:
    """Measure a call of each bundle, and its size in MiB."""
    models = [(x, Model.open(bundle), _TEXT) for x, bundle in bundles]
    figures = measure_calls(models)
    for _, model, _ in models:
        model.close()
    figures["mib"] = [sum(file.stat().st_size for file in bundle.iterdir()) / 2**20 for _, bundle in bundles]
    return figures


def measure_tasks(work: Path) -> Figures:
    """Measure a call against the tasks that it answers."""
    return measure_bundles([(count, make_bundle(work, f"tasks{count}", count, 10)) for count in _TASKS])


def measure_labels(work: Path) -> Figures:
    """Measure a call against the classes of its task."""
    return measure_bundles([(count, make_bundle(work, f"labels{count}", 1, count)) for count in _LABELS])


def measure_models(work: Path) -> Figures:
    """Measure memory, time until ready and processor time of a call against the models of a server, which are asked in turn."""
    bundle = make_bundle(work, "tasks1", 1, 10)
    figures: Figures = {"x": [], "memory_mib": [], "ready_s": [], "cpu_ms": []}
    for count in _MODELS:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            for number, copy in enumerate(copies(bundle, Path(folder) / "copies", count)):
                (Path(folder) / "models").mkdir(exist_ok=True)
                copy.rename(Path(folder) / "models" / f"model{number}")
            began = time.perf_counter()
            with palm("--watch", Path(folder) / "models") as server:
                figures["x"].append(count)
                figures["ready_s"].append(time.perf_counter() - began)
                figures["cpu_ms"].append(1e3 * _ask_in_turn(server.target, count, lambda: server.usage().cpu_s))
                figures["memory_mib"].append(server.usage().memory_mib)
    return figures


def _ask_in_turn(target: str, models: int, cpu_s: Callable[[], float]) -> float:
    """Return the processor seconds of a call where each call asks the next model."""
    from palm_serve.client import Client

    calls = max(128, 4 * models)
    with Client(target) as client:
        for number in range(models):
            client.parse(_TEXT, model=f"model{number}", timeout=PATIENT_S)
        before = cpu_s()
        for number in range(calls):
            client.parse(_TEXT, model=f"model{number % models}", timeout=PATIENT_S)
        return (cpu_s() - before) / calls


def measure_callers(work: Path) -> Figures:
    """Measure calls answered in a second and their p99 against the callers, each of which sends its next call after an answer."""
    figures: Figures = {"x": [], "per_s": [], "p99_ms": [], "cpu_ms": []}
    with palm(make_bundle(work, "tasks1", 1, 10)) as server:
        for callers in sweep_callers(_CALLERS):
            load = Load(
                server.target, texts=(_TEXT,), concurrency=callers, duration_s=4.0, warm_up_s=2.0, deadline_s=PATIENT_S
            )
            report, cpu = measured(server, load)
            figures["x"].append(callers)
            figures["per_s"].append(report.answered)
            figures["p99_ms"].append(report.answered_ms["p99"])
            figures["cpu_ms"].append(1e3 * cpu)
    return figures


def measure_rows(work: Path) -> Figures:
    """Measure seconds and the most memory of a training that ends after its first step, against its rows."""
    figures: Figures = {"x": [], "seconds": [], "memory_mib": []}
    for rows in _ROWS:
        with tempfile.TemporaryDirectory(dir=work) as folder:
            train = Path(folder) / "train.jsonl"
            dev = Path(folder) / "dev.jsonl"
            write_labelled_rows(train, rows)
            write_labelled_rows(dev, 100)
            lines = [*_encoder(64), *_data(train, dev)]
            lines += ["[tasks.intent]", 'kind = "classify"', 'role = "intent"', 'data = ["rows"]']
            lines += ["[tasks.slots]", 'kind = "sequence_label"', 'role = "slots"', 'data = ["rows"]']
            config = Path(folder) / "config.toml"
            config.write_text("\n".join([*lines, *_one_step(Path(folder) / "run")]) + "\n", encoding="utf-8")
            seconds, memory_mib = in_child((*PALM_TRAIN, "run", str(config)))
        figures["x"].append(rows)
        figures["seconds"].append(seconds)
        figures["memory_mib"].append(memory_mib)
    return figures


def write_labelled_rows(path: Path, rows: int) -> None:
    """Write rows with an intent and two slots, whose texts differ."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(rows):
            text = f"wake me at {number} tomorrow and play {number % 977} songs"
            hour = [11, 11 + len(str(number))]
            songs = [text.index(" songs") - len(str(number % 977)), text.index(" songs")]
            spans = []
            for (start, end), label in ((hour, "hour"), (songs, "count")):
                spans.append({"start": start, "end": end, "label": label})
            file.write(json.dumps({"text": text, "intent": f"intent {number % 50}", "slots": spans}) + "\n")


def in_child(command: Sequence[str]) -> tuple[float, float]:
    """Run a command; return its seconds and the most memory that it had, in MiB. The system counts it for this child alone."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=errors)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            errors.seek(0)
            sys.exit(f"{' '.join(command)} failed:\n{errors.read().decode()[-2000:]}")
    return time.perf_counter() - began, _kib(used) / 1024


def _kib(used: resource.struct_rusage) -> int:
    return used.ru_maxrss if sys.platform != "darwin" else used.ru_maxrss // 1024


_PARTS: dict[str, Callable[[Path], Figures]] = {
    "length": measure_length,
    "tasks": measure_tasks,
    "labels": measure_labels,
    "models": measure_models,
    "callers": measure_callers,
    "rows": measure_rows,
}

if __name__ == "__main__":
    main()
