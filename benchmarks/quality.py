"""Quality over seeds: trains every cell (set, variant, seed) once, keeps its scores in a JSON file, and prints the tables from it.

    python benchmarks/quality.py --work DIR [--only atis,snips:minilm] [--seeds 13,14,15] [--jobs 1] [--keep]
    python benchmarks/quality.py --table

The best checkpoint is chosen on dev; test is evaluated once, at the end, and every evaluation is kept. A cell whose settings are those of the
results file is not repeated, an interrupted one is resumed: the script may be stopped and started at any time. Needs PALM_DATA; splits that a data
set lacks are written to DIR (see splits.py), as are the runs, each deleted once its scores are in the results file, unless --keep.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import Cell, Place, numbers, read_results, train_cells
from common import ROOT, in_per_cent, train_run
from mixatis import by_base_utterance
from protocols import atis_intent
from quality_table import tables
from splits import write_splits

from palm_trainer.config.loader import load_config
from palm_trainer.runs.evaluate_run import evaluate_run

CONFIGS, EXAMPLES = ROOT / "benchmarks/configs", ROOT / "examples"
RESULTS = ROOT / "benchmarks/results/quality.json"
FIVE, THREE = (13, 14, 15, 16, 17), (13, 14, 15)


@dataclass(frozen=True)
class Variant:
    """A way to train a set: its configuration, what is changed in it, and the seeds that the table wants.

    `teachers` names the variant of the same set whose other seeds teach it.
    """

    config: Path
    seeds: Sequence[int] = THREE
    overrides: tuple[str, ...] = ()
    teachers: str | None = None


def tools(config: Path, base: str, data: str, seeds: Sequence[int] = THREE) -> dict[str, Variant]:
    """Every tool alone on a configuration: `base` is the variant of the set without any, `data` the data set."""
    changes = {
        "r_drop": "train.regularization.r_drop=1.0",
        "fgm": "train.regularization.fgm=1.0",
        "ema": "train.regularization.ema_decay=0.99",
        "layer_decay": "train.regularization.layer_decay=0.9",
        "label_smoothing": "train.regularization.label_smoothing=0.1",
        "word_dropout": "train.regularization.word_dropout=0.1",
        "average_best": "train.checkpoints.average_best=5",
        "substitute": f"data.{data}.substitute=0.5",
        "given": "tasks.slots.given=intent",
        "slot_weight": "tasks.slots.weight=4",
    }
    alone = {name: Variant(config, seeds, (change,)) for name, change in changes.items()}
    return {**alone, "teachers": Variant(config, seeds, teachers=base)}


SETS: Mapping[str, Mapping[str, Variant]] = {
    "atis": {
        "minilm": Variant(EXAMPLES / "atis.toml", FIVE),
        "minilm substitute": tools(EXAMPLES / "atis.toml", "minilm", "atis", FIVE)["substitute"],
        "scratch": Variant(CONFIGS / "atis_scratch.toml"),
        "scratch substitute": tools(CONFIGS / "atis_scratch.toml", "scratch", "atis")["substitute"],
        "intent alone": Variant(CONFIGS / "atis_intent.toml"),
        "slots alone": Variant(CONFIGS / "atis_slots.toml"),
        "masked words": Variant(CONFIGS / "atis_words.toml"),
    },
    "snips": {
        "minilm": Variant(EXAMPLES / "snips.toml", FIVE),
        "minilm substitute": tools(EXAMPLES / "snips.toml", "minilm", "snips", FIVE)["substitute"],
        "scratch": Variant(CONFIGS / "snips_scratch.toml"),
        "scratch substitute": tools(CONFIGS / "snips_scratch.toml", "scratch", "snips")["substitute"],
        "intent alone": Variant(CONFIGS / "snips_intent.toml"),
        "slots alone": Variant(CONFIGS / "snips_slots.toml"),
        "masked words": Variant(CONFIGS / "snips_words.toml"),
    },
    "demo": {"minilm": Variant(EXAMPLES / "demo.toml", FIVE)},
    "clinc150": {"minilm": Variant(CONFIGS / "clinc150.toml")},
    "three": {"minilm": Variant(CONFIGS / "three.toml")},
    "mixatis": {
        "minilm": Variant(CONFIGS / "mixatis.toml"),
        "with atis": Variant(CONFIGS / "mixatis_atis.toml"),
    },
    "tenth": {
        "joint": Variant(CONFIGS / "tenth.toml"),
        "intent alone": Variant(CONFIGS / "tenth_intent.toml"),
        "slots alone": Variant(CONFIGS / "tenth_slots.toml"),
        "masked words": Variant(CONFIGS / "tenth_words.toml"),
        "with snips": Variant(CONFIGS / "tenth_corpus.toml"),
        **tools(CONFIGS / "tenth.toml", "joint", "atis"),
    },
}

UNSEEN = {"atis": ("atis",), "snips": ("snips",), "three": ("atis", "snips")}
"""Sets whose runs are also scored on test utterances with slot values that training has not seen, and the data sets that have such a split."""
ATIS_INTENT = {"atis": "intent", "tenth": "intent", "three": "atis_intent"}
"""Sets with ATIS' intents, and the task that learns them: both protocols are reported."""


def cells_of(only: Sequence[str], seeds: Sequence[int] | None) -> list[Cell]:
    """Cells in the order in which they are trained: one seed of everything before the next. Exits for unknown names."""
    known = [f"{name}:{variant}" for name, variants in SETS.items() for variant in variants]
    for name in only:
        if name not in known and name not in SETS:
            sys.exit(f"--only {name}: no such set; known: {', '.join([*SETS, *known])}")
    return [
        _cell(name, variant, seed)
        for seed in seeds or FIVE
        for name, variants in SETS.items()
        for variant, how in variants.items()
        if (seeds or seed in how.seeds) and (not only or name in only or f"{name}:{variant}" in only)
    ]


def _cell(name: str, variant: str, seed: int) -> Cell:
    how = SETS[name][variant]
    others = [other for other in SETS[name][how.teachers].seeds if other != seed] if how.teachers else []
    needs = tuple(_cell(name, str(how.teachers), other) for other in others)
    return Cell(name, variant, how.config, seed, overrides=how.overrides, needs=needs)


def measure(cell: Cell, place: Place, threads: int | None) -> dict[str, Any]:
    """Trains a cell and returns what the results file keeps of it. Raises CalledProcessError when the training fails."""
    run, environment = place.run(cell), place.environment(cell)
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    began, resumed = time.monotonic(), run.exists()
    teachers = [str(place.run(other)) for other in cell.needs]
    learned_from = [f"train.distillation.teachers={json.dumps(teachers)}"] if teachers else []
    train_run(cell.config, run, [*cell.overrides, *learned_from, f"train.seed={cell.seed}"], environment)
    seconds = None if resumed else round(time.monotonic() - began)
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {
        **cell.about(seconds),
        **{split: in_per_cent(metrics[split]) for split in metrics},
        **_further(cell, run, place),
    }


def _further(cell: Cell, run: Path, place: Place) -> dict[str, Any]:
    """Scores that `palm-train run` does not give."""
    os.environ.update(place.environment(cell))
    found: dict[str, Any] = {}
    own = load_config(run / "config.toml")
    if cell.task in UNSEEN:
        names = [name for name in UNSEEN[cell.task] if name in own.data]
        paths = [f"data.{name}.test={place.work / f'{name}_unseen'}" for name in names]
        found["unseen"] = in_per_cent(evaluate_run(run, load_config(run / "config.toml", paths, output=run), "test"))
    task = ATIS_INTENT.get(cell.task)
    if task in own.tasks:
        found["protocols"] = atis_intent(run, own, task=str(task))
    if cell.task == "mixatis":
        found["weighted"] = by_base_utterance(run, own, place.data / "atis/test")
    return found


def main() -> None:
    """Trains what is missing, then prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/quality", help="directory for splits and runs")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="sets, or SET:VARIANT")
    parser.add_argument("--seeds", type=numbers, help="default: what the table wants of each")
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time; they share the cores")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--keep", action="store_true", help="keep the run directories")
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    failed = 0
    if not options.table:
        place = Place.found(options.work)
        write_splits(place.data, place.work)
        cells = cells_of(options.only, options.seeds)
        failed = train_cells(cells, measure, place, options.results, options.jobs, keep=options.keep)
    print(tables(read_results(options.results)), end="")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
