"""Cells of a benchmark: each is one training with one seed, kept in a results file that later runs of the script add to."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from signal import SIGINT
from threading import Event
from typing import Any

from common import ROOT, commit, machine, today


@dataclass(frozen=True)
class Cell:
    """One training.

    Args:
        task: what the table calls it, a data set in most cases.
        variant: which way it is trained.
        config: what `palm-train run` takes.
        seed: of the training.
        fold: of cross-validation; None without.
        overrides: `KEY=VALUE` for `--set`.
        script: what it trains with in the place of `palm-train run`.
        needs: cells whose runs it learns from: they are trained before it, and kept until it is.
    """

    task: str
    variant: str
    config: Path
    seed: int
    fold: int | None = None
    overrides: tuple[str, ...] = ()
    script: Path | None = None
    needs: tuple["Cell", ...] = ()

    @property
    def name(self) -> str:
        """Its key in the results file."""
        fold = "" if self.fold is None else f"/fold{self.fold}"
        return f"{self.task}/{self.variant}{fold}/seed{self.seed}"

    @property
    def digest(self) -> str:
        """Of all settings; comments of the configuration do not count."""
        said: list[Any] = [tomllib.loads(self.config.read_text(encoding="utf-8")), self.overrides]
        if self.script is not None:
            said.append(self.script.read_text(encoding="utf-8"))
        if self.needs:
            said.append([(cell.name, cell.digest) for cell in self.needs])
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]

    def about(self, seconds: int | None) -> dict[str, Any]:
        """What the results file says of it beside its scores; `seconds` None: not known, for it was resumed."""
        what = {"task": self.task, "variant": self.variant, "seed": self.seed, "fold": self.fold}
        return {
            **what,
            "settings": self.digest,
            "commit": commit(),
            "date": today(),
            "machine": machine(),
            "seconds": seconds,
        }


@dataclass(frozen=True)
class Place:
    """Where the data sets are, and where runs and splits go."""

    data: Path
    work: Path

    @classmethod
    def found(cls, work: Path) -> "Place":
        """With the data sets of PALM_DATA. Exits where it names no directory."""
        data = Path(os.environ.get("PALM_DATA", ROOT / "../shared/data")).resolve()
        if not data.is_dir():
            sys.exit(f"{data}: no such directory; set PALM_DATA to that of the data sets")
        return cls(data, work.resolve())

    def run(self, cell: Cell) -> Path:
        """Run directory of a cell; other settings have another."""
        name = cell.name.replace("/", "-").replace(" ", "-")
        return self.work / "runs" / f"{name}-{cell.digest}"

    def environment(self, cell: Cell) -> dict[str, str]:
        """What the configurations take from the environment."""
        paths = {"PALM_DATA": str(self.data), "PALM_WORK": str(self.work)}
        return paths if cell.fold is None else {**paths, "XQUAD_FOLD": str(cell.fold)}


Measure = Callable[[Cell, Place, int | None], dict[str, Any]]
"""Trains a cell on so many threads (None: as the machine has it); what the results file keeps. Raises CalledProcessError when a command fails."""


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


def train_cells(
    cells: Sequence[Cell], measure: Measure, place: Place, results: Path, jobs: int, *, keep: bool = False
) -> int:
    """Trains the cells that the results do not hold, and returns how many failed. A failure does not stop the others; Ctrl-C does.

    What a missing cell needs is trained again where its scores are known and its run is gone.
    """
    known = read_results(results)
    missing = [cell for cell in cells if known.get(cell.name, {}).get("settings") != cell.digest]
    ordered = list(dict.fromkeys(one for cell in missing for one in (*cell.needs, cell)))
    print(f"{len(cells)} cells, {len(missing)} to train", flush=True)
    threads = max(1, (os.cpu_count() or 1) // jobs) if jobs > 1 else None
    stop, failed, waiting = Event(), 0, set(ordered)
    begun: dict[Cell, Future[dict[str, Any] | None]] = {}

    def train(cell: Cell) -> dict[str, Any] | None:
        for other in cell.needs:
            begun[other].result()
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
        for cell in ordered:  # what is needed goes first, so that no thread waits for what none has begun
            begun[cell] = pool.submit(train, cell)
        cell_of = {future: cell for cell, future in begun.items()}
        try:
            for done in as_completed(cell_of):
                waiting.remove(cell_of[done])
                failed += not _store(done, cell_of[done], results)
                if not keep:
                    _clear(set(ordered) - waiting, waiting, place, results)
        except KeyboardInterrupt:
            stop.set()  # what runs was interrupted with this process, and saves what it has
    if stop.is_set():
        sys.exit(130)
    return failed


def _store(done: Future[dict[str, Any] | None], cell: Cell, results: Path) -> bool:
    """Writes a finished cell into the results, unless they hold it; False when it failed."""
    try:
        found = done.result()
    except subprocess.CalledProcessError as error:
        print(f"{cell.name} failed with exit code {error.returncode}", file=sys.stderr, flush=True)
        return False
    known = read_results(results)
    if found is not None and known.get(cell.name, {}).get("settings") != cell.digest:
        write_results(results, {**known, cell.name: found})
        print(f"{cell.name}: {json.dumps(found['test'])}", flush=True)
    return True


def _clear(finished: Set[Cell], waiting: Set[Cell], place: Place, results: Path) -> None:
    """Deletes the runs whose scores are in the results and that no cell waits for. Those of failed cells stay, to be resumed."""
    known = read_results(results)
    awaited = {needed for cell in waiting for needed in cell.needs}
    for cell in finished - awaited:
        if known.get(cell.name, {}).get("settings") == cell.digest:
            shutil.rmtree(place.run(cell), ignore_errors=True)


def numbers(text: str) -> list[int]:
    """`13,14` -> [13, 14], for an option."""
    return [int(number) for number in text.split(",")]
