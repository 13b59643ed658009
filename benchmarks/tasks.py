"""Quality over the tasks: trains every cell (task, variant, fold, seed) once, keeps its scores in a JSON file, and prints the table from it.

    python benchmarks/tasks.py --work DIR [--only sst2,atis:api] [--seeds 13,14,15] [--folds 0,1,2,3,4] [--jobs 1] [--keep]
    python benchmarks/tasks.py --table

A cell trains benchmarks/configs/NAME.toml with `palm-train run`; the best checkpoint is chosen on dev, test is evaluated once, at the end.
A cell whose settings are those of the results file is not repeated, an interrupted one is resumed: the script may be stopped and started
at any time. Needs PALM_DATA; splits that a data set lacks are written to DIR (see splits.py), as are the
runs, each deleted once its scores are in the results file, unless --keep.
"""

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from threading import Event
from typing import Any

from common import ROOT, commit, in_per_cent, machine, train_run
from splits import FOLDS, write_splits
from tasks_table import table

from palm_trainer.config import load_config

CONFIGS = ROOT / "benchmarks/configs"
RESULTS = ROOT / "benchmarks/results/tasks.json"

VARIANTS: Mapping[str, Mapping[str, str]] = {
    "sst2": {"single": "sst2"},
    "mrpc": {"single": "mrpc"},
    "wnut17": {"single": "wnut17"},
    "chnsenticorp": {"single": "chnsenticorp"},
    "msra": {"single": "msra"},
    "atis": {"api": "atis", "config": "atis", "joint": "atis_joint"},
    "xquad": {"alone": "xquad", "dnet": "xquad_dnet"},
}
"""Task -> variant -> name of its configuration. `api` is examples/article.py, for as many epochs as the configuration says."""


@dataclass(frozen=True)
class Cell:
    """One training."""

    task: str
    variant: str
    seed: int
    fold: int | None = None
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Its key in the results file."""
        fold = "" if self.fold is None else f"/fold{self.fold}"
        return f"{self.task}/{self.variant}{fold}/seed{self.seed}"

    @property
    def config(self) -> Path:
        """What it trains."""
        return CONFIGS / f"{VARIANTS[self.task][self.variant]}.toml"

    @property
    def digest(self) -> str:
        """Of all settings; comments of the configuration do not count."""
        said: list[Any] = [tomllib.loads(self.config.read_text(encoding="utf-8")), self.overrides]
        if self.variant == "api":
            said.append((ROOT / "examples/article.py").read_text(encoding="utf-8"))
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Place:
    """Where the data sets are, and where runs and splits go."""

    data: Path
    work: Path

    def run(self, cell: Cell) -> Path:
        """Run directory of a cell; other settings have another."""
        return self.work / "runs" / f"{cell.name.replace('/', '-')}-{cell.digest}"

    def environment(self, cell: Cell) -> dict[str, str]:
        """What the configurations take from the environment."""
        paths = {"PALM_DATA": str(self.data), "PALM_WORK": str(self.work)}
        return paths if cell.fold is None else {**paths, "XQUAD_FOLD": str(cell.fold)}


def cells_of(only: Sequence[str], seeds: Sequence[int], folds: Sequence[int], overrides: Sequence[str]) -> list[Cell]:
    """Cells in the order in which they are trained: one seed of everything before the next. Exits for unknown names."""
    known = [f"{task}:{variant}" for task, variants in VARIANTS.items() for variant in variants]
    for name in only:
        if name not in known and name not in VARIANTS:
            sys.exit(f"--only {name}: no such task; known: {', '.join([*VARIANTS, *known])}")
    return [
        Cell(task, variant, seed, fold, tuple(overrides))
        for seed in seeds
        for task, variants in VARIANTS.items()
        for fold in (folds if task == "xquad" else (None,))
        for variant in variants
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
    about = {"task": cell.task, "variant": cell.variant, "seed": cell.seed, "fold": cell.fold, "settings": cell.digest}
    about |= {"commit": commit(), "machine": machine(), "seconds": seconds}
    return {**about, **{split: in_per_cent(metrics[split]) for split in ("dev", "test")}}


def train_article(cell: Cell, run: Path, environment: Mapping[str, str]) -> None:
    """A training in the article's own calls. It cannot be resumed: one that was cut off starts again."""
    shutil.rmtree(run, ignore_errors=True)
    settings = tomllib.loads(cell.config.read_text(encoding="utf-8"))["train"]
    settings |= dict(override.removeprefix("train.").split("=", 1) for override in cell.overrides)
    script = [sys.executable, str(ROOT / "examples/article.py"), "--data", str(Path(environment["PALM_DATA"], "atis"))]
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
    from palm_trainer.run import evaluate_run  # torch loads in seconds; `--table` need not wait for it

    os.environ.update(environment)
    settings = load_config(CONFIGS / "atis_joint.toml", output=run)
    return {split: evaluate_run(run, settings, split) for split in ("dev", "test")}


def read_results(path: Path) -> dict[str, Any]:
    """Cells by name; none where there is no file yet."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def write_results(path: Path, results: Mapping[str, Any]) -> None:
    """Replaces the file as a whole, sorted by name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".new")
    temporary.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def train_cells(cells: Sequence[Cell], place: Place, results: Path, jobs: int, keep: bool) -> int:
    """Trains the cells that the results do not hold, and returns how many failed. A failure does not stop the others; Ctrl-C does."""
    known = read_results(results)
    missing = [cell for cell in cells if known.get(cell.name, {}).get("settings") != cell.digest]
    print(f"{len(cells)} cells, {len(missing)} to train", flush=True)
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    stop, failed = Event(), 0

    def train(cell: Cell) -> dict[str, Any] | None:
        if stop.is_set():
            return None
        try:
            return measure(cell, place, threads)
        except subprocess.CalledProcessError as error:
            if error.returncode in (130, -SIGINT):
                stop.set()  # before this thread takes the next cell
            raise
        except BaseException:
            stop.set()  # no fault of the cell: the others would meet it too
            raise

    with ThreadPoolExecutor(jobs) as pool:
        running = {pool.submit(train, cell): cell for cell in missing}
        try:
            for done in as_completed(running):
                failed += not _store(done, running[done], place, results, keep)
        except KeyboardInterrupt:
            stop.set()  # what runs was interrupted with this process, and saves what it has
    if stop.is_set():
        sys.exit(130)
    return failed


def _store(done: Future[dict[str, Any] | None], cell: Cell, place: Place, results: Path, keep: bool) -> bool:
    """Writes a finished cell into the results; False when it failed."""
    try:
        found = done.result()
    except subprocess.CalledProcessError as error:
        print(f"{cell.name} failed with exit code {error.returncode}", file=sys.stderr, flush=True)
        return False
    if found is not None:
        write_results(results, {**read_results(results), cell.name: found})
        print(f"{cell.name}: {json.dumps(found['test'])}", flush=True)
        if not keep:
            shutil.rmtree(place.run(cell))
    return True


def main() -> None:
    """Trains what is missing, then prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/tasks", help="directory for splits and runs")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="tasks, or TASK:VARIANT")
    parser.add_argument("--seeds", type=_numbers, default=[13, 14, 15])
    parser.add_argument("--folds", type=_numbers, default=list(range(FOLDS)), help="of XQuAD")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time; they share the cores")
    parser.add_argument("--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", action="store_true", help="keep the run directories")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    failed = 0
    if not options.table:
        data = Path(os.environ.get("PALM_DATA", ROOT / "../shared/data")).resolve()
        if not data.is_dir():
            sys.exit(f"{data}: no such directory; set PALM_DATA to that of the data sets")
        place = Place(data, options.work.resolve())
        write_splits(data, place.work)
        cells = cells_of(options.only, options.seeds, options.folds, options.overrides)
        failed = train_cells(cells, place, options.results, options.jobs, options.keep)
    print(table(list(read_results(options.results).values())), end="")
    sys.exit(1 if failed else 0)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


if __name__ == "__main__":
    main()
