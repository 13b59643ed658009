"""Few examples an intent: does an encoder that many tasks have trained learn a new set better than the plain one?

    python benchmarks/fewshot.py --work DIR [--rows banking77_5,clinc150_10] [--arms plain,multi] [--seeds 13,14] [--jobs 1] [--keep]
    python benchmarks/fewshot.py --work DIR --without banking77     # only writes the configuration of the encoder
    python benchmarks/fewshot.py --table

Arms, rows, seeds and contrasts are declared in fewshot_arms.py, the recipes in configs/fewshot.toml and fewshot_slots.toml. A cell (row, arm, seed) whose
settings are those of the results file is not repeated: the script may be stopped and started at any time. Encoders are
trained when a cell needs them, and kept in DIR. The corpus of the row is left out of them, and so are near-duplicates of
its test texts, which are counted in the results.

    python benchmarks/fewshot.py --work DIR --split valid --rows banking77_5 --arms plain --set train.epochs=10 --results FILE

--split valid answers BANKING77_valid (banking77_5 only) or the dev split of SNIPS (snips_1 only): recipes are chosen so, and
such results are kept in a file of their own.
Needs PALM_DATA.
"""

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
import tomllib
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import tomli_w
from cells import Cell, Place, numbers, read_results, train_cells
from common import ROOT, train_run
from fewshot_arms import ARMS, BASE_SEED, BASE_STEPS, ROWS, Row
from fewshot_bases import JOINT, MULTI, NLU_BASE, TARGET_DATA, Base, mix_target_in, read_texts, write_base
from fewshot_table import tables
from splits import write_splits

RECIPE = ROOT / "benchmarks/configs/fewshot.toml"
SLOTS_RECIPE = ROOT / "benchmarks/configs/fewshot_slots.toml"
RESULTS = ROOT / "benchmarks/results/fewshot.json"
SETFIT_SCRIPT = ROOT / "benchmarks/peers_fewshot/setfit_cell.py"
BASE = "encoder"
"""Name in the results of what is no row: the encoders."""
CHOICE_ROWS = ("banking77_5", "snips_1")
FROZEN = "frozen_"


@dataclasses.dataclass(frozen=True)
class Plan:
    """Choice of what a call of the script trains.

    Args:
        rows: keys of `ROWS`.
        arms: keys of `ARMS`.
        seeds: None: those of each arm.
        split: that is answered, `test` or `valid`.
        overrides: of the recipe, `KEY=VALUE`.
        steps: of the encoders.
    """

    rows: Sequence[str]
    arms: Sequence[str]
    seeds: Sequence[int] | None = None
    split: str = "test"
    overrides: tuple[str, ...] = ()
    steps: int = BASE_STEPS

    def __post_init__(self) -> None:
        for option, given, known in (("--rows", self.rows, ROWS), ("--arms", self.arms, ARMS)):
            for name in given:
                if name not in known:
                    sys.exit(f"{option} {name}: must be one of {', '.join(known)}")
        if self.split != "test" and not set(self.rows) <= set(CHOICE_ROWS):
            sys.exit(f"--split valid needs --rows {' or '.join(CHOICE_ROWS)}: recipes are chosen on these alone")
        if self.split == "test" and self.overrides:
            sys.exit("--set needs --split valid: the recipe of the test is fixed")

    def cells(self) -> list[Cell]:
        """Return the cells in the order in which they are trained: one seed of everything before the next."""
        seeds_by_arm = {}
        for arm in self.arms:
            own_seeds = ARMS[arm].seeds
            seeds_by_arm[arm] = own_seeds if self.seeds is None or len(own_seeds) == 1 else self.seeds
        cells = []
        for seed in sorted(set(chain.from_iterable(seeds_by_arm.values()))):
            for row in self.rows:
                for arm, seeds in seeds_by_arm.items():
                    if seed in seeds and (ARMS[arm].learns_slots or not ROWS[row].has_slots):
                        cells.append(self._cell(row, arm, seed))
        return cells

    def _cell(self, row: str, arm: str, seed: int) -> Cell:
        base = ARMS[arm].base
        needs = () if base is None else (base_cell(base, ROWS[row], self.steps),)
        variant = " ".join((arm, *self.overrides))
        about = ROWS[row]
        epochs = () if about.epochs is None else (f"train.epochs={about.epochs}",)
        steps = (f"steps={self.steps}",) if arm == JOINT else ()
        overrides = (f"data.{TARGET_DATA}.train={about.train}", *epochs, *self.overrides, *steps)
        script = SETFIT_SCRIPT if arm == "setfit" else None
        config = NLU_BASE if arm == JOINT else recipe_of(about)
        return Cell(row, variant, config, seed, None, overrides, script, needs)


def recipe_of(row: Row) -> Path:
    """Return the configuration that every arm learns a row with."""
    return SLOTS_RECIPE if row.has_slots else RECIPE


def base_cell(kind: str, row: Row, steps: int) -> Cell:
    """Return the cell of the encoder for a row."""
    return Cell(BASE, f"{kind} without {row.corpus}", NLU_BASE, BASE_SEED, overrides=(f"steps={steps}",))


def write_encoder_config(kind: str, corpus: str, place: Place, steps: int) -> Base:
    """Write the configuration of an encoder without a corpus, see fewshot_bases.py."""
    (row, *_) = (row for row in ROWS.values() if row.corpus == corpus)
    texts = read_texts(row.test)
    return write_base(kind, corpus, texts, place.work / "encoders" / f"{kind}-{corpus}-{steps}", steps)


class Measure:
    """Trains cells, and returns what the results file keeps of each.

    Args:
        split: that is answered, `test` or `valid`.
        keep: do not delete the runs of cells.
    """

    def __init__(self, split: str = "test", *, keep: bool = False) -> None:
        self._split = split
        self._keep = keep

    def __call__(self, cell: Cell, place: Place, threads: int | None) -> dict[str, Any]:
        """Train a cell. Raises CalledProcessError when a command fails."""
        environment = place.environment(cell)
        if threads is not None:
            environment["OMP_NUM_THREADS"] = str(threads)
        os.environ.update(environment)
        began, resumed = time.monotonic(), place.run(cell).exists()
        if cell.task == BASE:
            scores = self._train_encoder(cell, place)
        else:
            scores = self._learn_row(cell, place)
            if not self._keep:
                shutil.rmtree(place.run(cell), ignore_errors=True)
        return {**cell.about(None if resumed else round(time.monotonic() - began)), **scores}

    def _train_encoder(self, cell: Cell, place: Place) -> dict[str, Any]:
        kind, _, corpus = cell.variant.split()
        base = write_encoder_config(kind, corpus, place, _steps(cell))
        print(f"{cell.name}: near-duplicates of test texts left out: {json.dumps(base.removed)}", flush=True)
        train_run(base.config, place.run(cell), [f"train.seed={cell.seed}"])
        return {"test": {}, "removed": base.removed, "rows": base.rows, "steps": _steps(cell)}

    def _learn_row(self, cell: Cell, place: Place) -> dict[str, Any]:
        from fewshot_scores import frozen_scores, run_scores, setfit_scores

        row, run = ROWS[cell.task], place.run(cell)
        arm, texts = cell.variant.split()[0], row.file(self._split)
        base = place.run(cell.needs[0]) if cell.needs else None
        if arm.startswith(FROZEN):
            return frozen_scores(base, row.train, texts)
        if arm == "setfit":
            return setfit_scores(row.train, texts, cell.seed, place.work, {})
        if arm == JOINT:
            config, overrides = self._joint_config(cell, place), [f"train.seed={cell.seed}"]
        else:
            config = cell.config
            start = [] if base is None else [f"encoder.model={base}"]
            overrides = [*cell.overrides, f"data.{TARGET_DATA}.test=[]", *start, f"train.seed={cell.seed}"]
        train_run(config, run, overrides)
        return run_scores(run, texts)

    def _joint_config(self, cell: Cell, place: Place) -> Path:
        """Write the configuration that trains a row together with the corpora of its encoder."""
        row = ROWS[cell.task]
        base = write_encoder_config(MULTI, row.corpus, place, _steps(cell))
        few_shot = tomllib.loads(RECIPE.read_text(encoding="utf-8"))
        few_shot["data"][TARGET_DATA]["train"] = row.train
        table = tomllib.loads(base.config.read_text(encoding="utf-8"))
        path = base.config.with_name(f"{cell.task}.toml")
        mixed = mix_target_in(table, base.rows, few_shot, len(read_texts(row.train)))
        path.write_text(tomli_w.dumps(mixed), encoding="utf-8")
        return path


def _steps(cell: Cell) -> int:
    (steps,) = (text.removeprefix("steps=") for text in cell.overrides if text.startswith("steps="))
    return int(steps)


def main() -> None:
    """Train what is missing, then print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = {"type": lambda text: text.split(",")}
    parser.add_argument("--work", type=Path, default=ROOT / "runs/fewshot", help="directory for encoders and runs")
    parser.add_argument("--rows", **names, default=list(ROWS), help=f"of {', '.join(ROWS)}")
    parser.add_argument("--arms", **names, default=list(ARMS), help=f"of {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=numbers, help="default: those that the table wants of each arm")
    parser.add_argument("--steps", type=int, default=BASE_STEPS, help="of the encoders")
    parser.add_argument("--split", choices=("test", "valid"), default="test")
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE", help="of the recipe"
    )
    parser.add_argument(
        "--without", metavar="CORPUS", help="write the configuration of the encoder without it, and end"
    )
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time; they share the cores")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", action="store_true", help="keep the run directories of cells")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    if options.split == "valid" and options.results == RESULTS:
        parser.error("--split valid needs --results: only test scores belong into the results of the table")
    failed = 0
    if options.without:
        _write_without(options.without, Place.found(options.work), options.steps)
        return
    if not options.table:
        plan = Plan(options.rows, options.arms, options.seeds, options.split, tuple(options.overrides), options.steps)
        measure = Measure(options.split, keep=options.keep)
        place = Place.found(options.work)
        write_splits(place.data, place.work)
        failed = train_cells(plan.cells(), measure, place, options.results, options.jobs, keep=True)
    print(tables(read_results(options.results)), end="")
    sys.exit(1 if failed else 0)


def _write_without(corpus: str, place: Place, steps: int) -> None:
    known = dict.fromkeys(row.corpus for row in ROWS.values())
    if corpus not in known:
        sys.exit(f"--without {corpus}: must be one of {', '.join(known)}")
    os.environ["PALM_DATA"] = str(place.data)
    base = write_encoder_config(MULTI, corpus, place, steps)
    print(f"near-duplicates of test texts left out: {json.dumps(base.removed)}\n{base.config}")


if __name__ == "__main__":
    main()
