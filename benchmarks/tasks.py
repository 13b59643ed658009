"""Quality over the tasks: trains every cell (task, variant, fold, seed) once, keeps its scores in a JSON file, and prints the table from it.

    python benchmarks/tasks.py --work DIR [--only sst2,atis:api] [--seeds 13,14,15] [--folds 0,1,2,3,4] [--jobs 1] [--keep]
    python benchmarks/tasks.py --table

A cell trains benchmarks/configs/NAME.toml with `palm-train run`; the best checkpoint is chosen on dev, test is evaluated once, at the end.
A cell whose settings are those of the results file is not repeated, an interrupted one is resumed: the script may be stopped and started
at any time. Needs PALM_DATA; splits that a data set lacks are written to DIR (see splits.py), as are the
runs, each deleted once its scores are in the results file, unless --keep.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cells import Cell, Place, numbers, read_results, train_cells
from common import ROOT, in_per_cent, train_run
from splits import FOLDS, write_splits
from tasks_table import table

from palm_trainer.config.loader import load_config

CONFIGS = ROOT / "benchmarks/configs"
ARTICLE = ROOT / "examples/article.py"
RESULTS = ROOT / "benchmarks/results/tasks.json"

VARIANTS: Mapping[str, Mapping[str, str]] = {
    "sst2": {"single": "sst2"},
    "mrpc": {"single": "mrpc"},
    "wnut17": {"single": "wnut17"},
    "chnsenticorp": {"single": "chnsenticorp", "e5": "chnsenticorp_e5"},
    "msra": {"single": "msra", "e5": "msra_e5"},
    "cais": {"single": "cais", "e5": "cais_e5"},
    "lcqmc": {"single": "lcqmc", "e5": "lcqmc_e5"},
    "atis": {"api": "atis", "config": "atis", "joint": "atis_joint"},
    "xquad": {"alone": "xquad", "dnet": "xquad_dnet"},
}
"""Task -> variant -> name of its configuration. `api` is examples/article.py, for as many epochs as the configuration says.
`e5` needs the extra e5-small-zh: python benchmarks/tasks.py --only cais,msra,chnsenticorp,lcqmc"""


def cells_of(only: Sequence[str], seeds: Sequence[int], folds: Sequence[int], overrides: Sequence[str]) -> list[Cell]:
    """Cells in the order in which they are trained: one seed of everything before the next. Exits for unknown names."""
    known = [f"{task}:{variant}" for task, variants in VARIANTS.items() for variant in variants]
    for name in only:
        if name not in known and name not in VARIANTS:
            sys.exit(f"--only {name}: no such task; known: {', '.join([*VARIANTS, *known])}")
    return [
        Cell(
            task,
            variant,
            CONFIGS / f"{config}.toml",
            seed,
            fold,
            tuple(overrides),
            ARTICLE if variant == "api" else None,
        )
        for seed in seeds
        for task, variants in VARIANTS.items()
        for fold in (folds if task == "xquad" else (None,))
        for variant, config in variants.items()
        if not only or task in only or f"{task}:{variant}" in only
    ]


def measure(cell: Cell, place: Place, threads: int | None) -> dict[str, Any]:
    """Trains a cell and returns what the results file keeps of it. Raises CalledProcessError when a command fails."""
    run, environment = place.run(cell), place.environment(cell)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    began, resumed = time.monotonic(), run.exists() and cell.variant != "api"
    if cell.variant == "api":
        train_article(cell, run, environment)
        run /= "outputs"
    else:
        train_run(cell.config, run, [*cell.overrides, f"train.seed={cell.seed}"], environment)
    seconds = None if resumed else round(time.monotonic() - began)
    metrics = scored(run, environment) if cell.task == "atis" else json.loads((run / "metrics.json").read_text())
    return {**cell.about(seconds), **{split: in_per_cent(metrics[split]) for split in ("dev", "test")}}


def train_article(cell: Cell, run: Path, environment: Mapping[str, str]) -> None:
    """A training in the article's own calls. It cannot be resumed: one that was cut off starts again."""
    shutil.rmtree(run, ignore_errors=True)
    settings = tomllib.loads(cell.config.read_text(encoding="utf-8"))["train"]
    settings |= dict(override.removeprefix("train.").split("=", 1) for override in cell.overrides)
    script = [sys.executable, str(ARTICLE), "--data", str(Path(environment["PALM_DATA"], "atis"))]
    options = {
        "--work": run,
        "--epochs": settings["epochs"],
        "--batch-size": settings["batch_size"],
        "--seed": cell.seed,
    }
    path = {"PYTHONPATH": str(ROOT)}
    command = [*script, *(str(part) for option in options.items() for part in option)]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **path, **environment})


def scored(run: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """Dev and test metrics of ATIS' best checkpoint, slots and intents on the same rows, so that the exact match is known too."""
    from palm_trainer.runs.evaluate_run import evaluate_run  # torch loads in seconds; `--table` need not wait for it

    os.environ.update(environment)
    settings = load_config(CONFIGS / "atis_joint.toml", output=run)
    return {split: evaluate_run(run, settings, split) for split in ("dev", "test")}


def main() -> None:
    """Trains what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/tasks", help="directory for splits and runs")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="tasks, or TASK:VARIANT")
    parser.add_argument("--seeds", type=numbers, default=[13, 14, 15])
    parser.add_argument("--folds", type=numbers, default=list(range(FOLDS)), help="of XQuAD")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time; they share the cores")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", action="store_true", help="keep the run directories")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    failed = 0
    if not options.table:
        place = Place.found(options.work)
        write_splits(place.data, place.work)
        cells = cells_of(options.only, options.seeds, options.folds, options.overrides)
        failed = train_cells(cells, measure, place, options.results, options.jobs, keep=options.keep)
    print(table(list(read_results(options.results).values())), end="")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
