"""Understanding in context: the answers of examples/data/assistant_dialogues with what was said before them, and without.

    python benchmarks/context.py --work DIR [--seeds 13,14] [--results FILE]
    python benchmarks/context.py --table

Both arms train configs/context.toml, with the same rows in the same order: the sample of the assistant, whose rows have no
context, and the answers, with their contexts or with these removed. Declared before the first run: seeds 13 to 17; primary
score: exact match on the test rows of the answers; beside it intent accuracy and slot F1 there, and exact match on the test rows of the
assistant, which must not fall. A cell that the results hold is not repeated.
"""

import argparse
import json
import os
import shutil
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cells import Cell, Place, numbers, read_results, train_cells
from common import ROOT, in_per_cent, train_run
from tables import difference

CONFIG = ROOT / "benchmarks/configs/context.toml"
RESULTS = ROOT / "benchmarks/results/context.json"
SAMPLE = ROOT / "examples/data/assistant_dialogues"
SEEDS = (13, 14, 15, 16, 17)
ARMS = ("with", "without")
SCORES = (
    ("exact_match (dialogues)", "answers: exact match"),
    ("intent accuracy (dialogues)", "answers: intent accuracy"),
    ("slots f1 (dialogues)", "answers: slot F1"),
    ("exact_match (assistant)", "first turns: exact match"),
)


def write_arms(work: Path) -> None:
    """Write the rows of the answers with and without their contexts."""
    for split in ("train", "dev", "test"):
        lines = (SAMPLE / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
        for arm in ARMS:
            rows = []
            for line in lines:
                row = json.loads(line)
                if arm == "without":
                    row.pop("context")
                    row.pop("requested_slots", None)
                rows.append(json.dumps(row, ensure_ascii=False) + "\n")
            path = work / arm / f"{split}.jsonl"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(rows), encoding="utf-8")


def measure(cell: Cell, place: Place, threads: int | None) -> dict[str, Any]:
    """Train a cell, and return its scores on the test rows in per cent. Raises CalledProcessError when the training fails."""
    environment = {**place.environment(cell), "PALM_WORK": str(place.work / cell.variant)}
    if threads is not None:
        environment["OMP_NUM_THREADS"] = str(threads)
    os.environ.update(environment)
    began = time.monotonic()
    train_run(cell.config, place.run(cell), [f"train.seed={cell.seed}"])
    metrics = json.loads((place.run(cell) / "metrics.json").read_text(encoding="utf-8"))
    shutil.rmtree(place.run(cell), ignore_errors=True)
    return {**cell.about(round(time.monotonic() - began)), "test": in_per_cent(metrics["test"])}


def scores_of(results: Mapping[str, Any], arm: str, key: str) -> dict[int, float]:
    """Return a score of an arm by seed."""
    return {cell["seed"]: cell["test"][key] for cell in results.values() if cell["variant"] == arm}


def differences(results: Mapping[str, Any], key: str) -> list[float]:
    """Return a score with context minus that without, for each seed that both arms have."""
    with_context, without = scores_of(results, "with", key), scores_of(results, "without", key)
    return [with_context[seed] - without[seed] for seed in sorted(with_context.keys() & without.keys())]


def table(results: Mapping[str, Any]) -> str:
    """Return the means over the seeds of each arm, and the paired difference with its 95 % interval."""
    lines = ["| test | without | with | difference |", "|---|---:|---:|---:|"]
    for key, title in SCORES:
        with_context, without = scores_of(results, "with", key), scores_of(results, "without", key)
        seeds = sorted(with_context.keys() & without.keys())
        if not seeds:
            continue
        means = [f"{statistics.mean(scores[seed] for seed in seeds):.2f}" for scores in (without, with_context)]
        lines.append(f"| {title} | {' | '.join(means)} | {difference(differences(results, key))} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Train what is missing, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=ROOT / "runs/context", help="directory for runs")
    parser.add_argument("--seeds", type=numbers, default=SEEDS)
    parser.add_argument("--jobs", type=int, default=1, help="cells at a time; they share the cores")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    failed = 0
    if not options.table:
        place = Place(ROOT, options.work.resolve())
        write_arms(place.work)
        cells = []
        for seed in options.seeds:
            for arm in ARMS:
                cells.append(Cell("context", arm, CONFIG, seed))
        failed = train_cells(cells, measure, place, options.results, options.jobs, keep=True)
    print(table(read_results(options.results)), end="")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
