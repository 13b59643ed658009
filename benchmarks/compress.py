"""What compressed models gain and lose: students of a run beside their teacher, over seeds, in one run of the script.

    python benchmarks/compress.py [--only atis,snips] [--seeds 13,14,15] [--work DIR] [--json FILE] [--epochs N]

For each data set and seed it trains the teacher, compresses it in each of the ways in ARMS, exports all of them, and then
times every form of every bundle that passed its gate in interleaved rounds. `texts/s` is that of batches of 32 texts of 16
tokens. Ratios are against the teacher's plain graph in fp32 on the CPU provider, in the same rounds. Exact match is that of
test, measured once, at the end of each training, and the difference is paired by seed. What is finished in DIR is not made
again: the script may be stopped and started at any time. `atis` and `snips` need PALM_DATA, `demo` is the bundled sample.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cells import numbers, read_results, write_results
from common import PALM_TRAIN, ROOT, commit, in_per_cent, machine, mean_and_half_interval, train_run

from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.candidate import PLAIN
from palm_serve.engine.candidate_times import sample_batch
from palm_serve.engine.providers import available_providers, gated_candidates
from palm_serve.engine.session import open_engine
from palm_serve.engine.timing import SHAPES, measure

RESULTS = ROOT / "benchmarks/results/compress.json"
SETS = {
    "atis": ROOT / "examples/atis.toml",
    "snips": ROOT / "examples/snips.toml",
    "demo": ROOT / "examples/demo.toml",
}
TEACHER = "teacher"
ARMS: Mapping[str, tuple[str, ...]] = {
    "all layers": ("--layers", "6"),
    "3 layers": ("--layers", "3"),
    "3 layers, narrow": ("--layers", "3", "--feed-forward", "768"),
    "3 layers, pruned": ("--layers", "3", "--prune-vocabulary", "text"),
}
"""Options of `palm-train compress` for each way, declared before the run. The teacher, MiniLM, has 6 layers."""
PALM_EXPORT = (sys.executable, "-c", "from palm_trainer.cli.export import main; main()")

Record = dict[str, Any]


def make_runs(name: str, seed: int, work: Path, epochs: float | None) -> dict[str, Path]:
    """Train the teacher and its students, as far as that is not done. Return their runs by arm.

    Args:
        name: data set, a key of SETS.
        seed: of all trainings.
        work: folder of the runs.
        epochs: of all trainings. None: those of the configuration.
    """
    settings = [f"train.seed={seed}"] if epochs is None else [f"train.seed={seed}", f"train.epochs={epochs}"]
    folder = work / f"{name}-{seed}" if epochs is None else work / f"{name}-{seed}-{epochs:g}"
    runs = {TEACHER: folder / TEACHER}
    train_run(SETS[name], runs[TEACHER], settings)
    for arm, options in ARMS.items():
        runs[arm] = folder / arm.replace(" ", "_").replace(",", "")
        _compress(runs[TEACHER], runs[arm], options)
    return runs


def _compress(teacher: Path, run: Path, options: Sequence[str]) -> None:
    if (run / "metrics.json").exists():
        return
    if (run / "config.toml").exists():
        train_run(run / "config.toml", run, ())
        return
    command = [*PALM_TRAIN, "compress", str(teacher), "--output", str(run), *options]
    subprocess.run(command, check=True, cwd=ROOT)


def export(run: Path) -> tuple[Path, Record]:
    """Export a run, unless that is done. Return the bundle, and what `palm-export --json` wrote."""
    bundle, report = run / "bundle", run / "export.json"
    if not report.exists():
        command = [*PALM_EXPORT, str(run), "--output", str(bundle), "--name", "compressed", "--overwrite"]
        subprocess.run([*command, "--json", str(report)], check=True, cwd=ROOT)
    return bundle, json.loads(report.read_text(encoding="utf-8"))


def time_forms(bundles: Mapping[str, Path], seconds: float) -> dict[str, dict[str, Record]]:
    """Time all forms of all bundles that passed a gate, in interleaved rounds.

    Args:
        bundles: by arm.
        seconds: of all rounds.

    Returns:
        Milliseconds of one text, texts per second in batches, and both as ratios, by arm and form.
    """
    names = []
    engines = []
    for arm, path in bundles.items():
        bundle = load_bundle(path)
        for candidate in gated_candidates(bundle, available_providers()):
            graph = bundle.read_graph(candidate.variant)
            engines.append(open_engine(graph, candidate.provider, candidate.precision, variant=candidate.variant))
            names.append((arm, str(candidate)))
    teacher = load_bundle(bundles[TEACHER])
    batches = [sample_batch(teacher, rows, length) for rows, length in SHAPES]
    for batch in batches:
        batch.arrays["input_ids"] %= 100  # also in the smallest vocabulary
    times = dict(zip(names, measure(engines, batches, seconds), strict=True))
    base = times[TEACHER, str(PLAIN)]
    forms: dict[str, dict[str, Record]] = {arm: {} for arm in bundles}
    for (arm, form), (one, many) in times.items():
        forms[arm][form] = {
            "ms": 1e3 * one,
            "texts_per_second": SHAPES[1][0] / many,
            "times_teacher_1": base[0] / one,
            "times_teacher_32": base[1] / many,
        }
    return forms


def measure_seed(name: str, seed: int, work: Path, epochs: float | None, seconds: float) -> dict[str, Record]:
    """Return the record of each arm of a data set with one seed, by its name in the results."""
    began = time.monotonic()
    runs = make_runs(name, seed, work, epochs)
    bundles = {}
    reports = {}
    for arm, run in runs.items():
        bundles[arm], reports[arm] = export(run)
    forms = time_forms(bundles, seconds)
    records = {}
    for arm, run in runs.items():
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        for row in reports[arm]["rows"]:
            form = f"{row['provider']} in {row['precision']} ({row['variant']})"
            if form in forms[arm]:
                figures = row["figures"]
                forms[arm][form] |= {"dev_metric": figures.get("metric"), "answers_equal": figures.get("answers_equal")}
        records[f"{name}/{arm}/seed{seed}"] = {
            "task": name,
            "variant": arm,
            "seed": seed,
            "epochs": epochs,
            "commit": commit(),
            "machine": machine(),
            "seconds": round(time.monotonic() - began),
            "bytes": sum(path.stat().st_size for path in bundles[arm].rglob("*") if path.is_file()),
            "test": in_per_cent(metrics.get("test", {})),
            "dev": in_per_cent(metrics.get("dev", {})),
            "forms": forms[arm],
        }
    return records


def table(results: Mapping[str, Record]) -> str:
    """Return a table with a line for each data set and arm: mean over seeds, with 95 % intervals of the differences."""
    lines = [
        "| data | model | bundle MB | exact match (test) | difference | fp32, plain | best exact form | best form of all |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for name in SETS:
        for arm in (TEACHER, *ARMS):
            cells = {
                record["seed"]: record
                for record in results.values()
                if (record["task"], record["variant"]) == (name, arm)
            }
            teachers = {
                record["seed"]: record
                for record in results.values()
                if (record["task"], record["variant"]) == (name, TEACHER)
            }
            seeds = sorted(cells.keys() & teachers.keys())
            if seeds:
                lines.append(_line(name, arm, [cells[seed] for seed in seeds], [teachers[seed] for seed in seeds]))
    return "\n".join(lines) + "\n"


def _line(name: str, arm: str, cells: Sequence[Record], teachers: Sequence[Record]) -> str:
    size, _ = mean_and_half_interval([cell["bytes"] / 1e6 for cell in cells])
    scores = [cell["test"]["exact_match"] for cell in cells]
    score, _ = mean_and_half_interval(scores)
    gap = (
        ""
        if arm == TEACHER
        else _with_interval([s - t["test"]["exact_match"] for s, t in zip(scores, teachers, strict=True)])
    )
    speeds = []
    for is_meant in (
        lambda form: form == str(PLAIN),
        lambda form: " in fp32 " in form,
        lambda form: True,
    ):
        fastest = []
        for cell in cells:
            fastest.append(max(value["times_teacher_32"] for form, value in cell["forms"].items() if is_meant(form)))
        speeds.append(_with_interval(fastest))
    return f"| {name} | {arm} | {size:.1f} | {score:.2f} | {gap} | {' | '.join(speeds)} |"


def _with_interval(values: Sequence[float]) -> str:
    mean, half = mean_and_half_interval(values)
    return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what is missing, one seed of all data sets before the next, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=lambda text: text.split(","), default=["atis", "snips"], help="data sets")
    parser.add_argument("--seeds", type=numbers, default=(13, 14, 15))
    parser.add_argument("--work", type=Path, default=ROOT / "runs/compress", help="folder of runs and bundles")
    parser.add_argument("--json", type=Path, default=RESULTS, help="results, which are added to")
    parser.add_argument("--epochs", type=float, help="of all trainings; default: those of each configuration")
    parser.add_argument("--seconds", type=float, default=60.0, help="timing of all forms of one seed")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    options = parser.parse_args(arguments)
    for name in options.only:
        if name not in SETS:
            sys.exit(f"--only must be of {', '.join(SETS)}, got {name}.")
    os.environ.setdefault("PALM_DATA", str((ROOT / "../shared/data").resolve()))
    for seed in () if options.table else options.seeds:
        for name in options.only:
            found = measure_seed(name, seed, options.work.resolve(), options.epochs, options.seconds)
            write_results(options.json, read_results(options.json) | found)
    print(table(read_results(options.json)), end="")


if __name__ == "__main__":
    main()
