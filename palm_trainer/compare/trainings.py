"""A cell: one variant trained with one seed, in a directory of its own, and what it got right.

A cell is resumed where it was stopped, and is not repeated once its `counts.json` is there:

    {"examples": {split: digest}, "counts": {split: {task: {"rows": ["atis:0", ...], "numerator": [...], "denominator": [...], "right": [0, 1, ...]}}}}

`rows` are positions in the data set's split, `numerator` and `denominator` what `statistics` wants.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from palm_serve.types import Match
from palm_trainer.compare.variants import Plan, Variant, only
from palm_trainer.config.loader import Config, load_config
from palm_trainer.errors import CheckpointError, PalmError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.evaluation.metrics import reading_scores
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.atomic_files import write_file
from palm_trainer.model.checkpoint import load_trained, read_json
from palm_trainer.report.rows import Judged, judge
from palm_trainer.runs.directory import CONFIG, differences
from palm_trainer.runs.events import Event, Finished, Started
from palm_trainer.runs.run import train

COUNTS = "counts.json"
_TELL_NOTHING = ("test", "out_of_domain", "log_every_steps")
"""Settings that change nothing in a training."""


@dataclass(frozen=True)
class Cell:
    """A variant with a seed; its `config` has both."""

    variant: Variant
    seed: int
    config: Config

    @property
    def name(self) -> str:
        """As the user reads it."""
        return f"{self.variant.name}, seed {self.seed}"

    @property
    def folder(self) -> Path:
        """Its run directory."""
        return self.config.train.output


def make_cells(plan: Plan, seeds: Sequence[int], output: Path) -> list[Cell]:
    """All cells, seed after seed, so that a comparison that is stopped has whole seeds.

    Raises CheckpointError where `output` is no directory for them, or holds cells that were trained with other settings.
    """
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"{output} is a file. Choose another directory with --output.")
    if (output / CONFIG).exists():
        raise CheckpointError(f"{output} holds a run. Choose another directory for the comparison with --output.")
    cells = []
    for seed in seeds:
        for variant in plan.variants:
            train_settings = variant.config.train.model_copy(
                update={"seed": seed, "output": output / variant.folder / str(seed)}
            )
            cells.append(Cell(variant, seed, variant.config.model_copy(update={"train": train_settings})))
    for cell in cells:
        _check_settings(cell)
    return cells


def is_finished(cell: Cell, plan: Plan) -> bool:
    """Whether it was trained, and judged on these very examples."""
    path = cell.folder / COUNTS
    return path.exists() and read_json(path)["examples"] == _digests(cell, plan)


def run_cell(cell: Cell, plan: Plan, stop: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Trains what is missing and judges the best checkpoint; the events of the training, the last `Finished`.

    When `stop` says so it ends with `Finished.interrupted`, and goes on from there the next time. Raises what `run.train` raises.
    """
    run = cell.folder
    if not (run / COUNTS).exists():
        for event in train(cell.config, resume=(run / CONFIG).exists(), stop=stop):
            if isinstance(event, Started):
                _check_budget(cell, event)
            yield event
            if isinstance(event, Finished) and event.interrupted:
                return
    counts = {split: count(Predictor(load_trained(run)), plan.kinds, own) for split, own in _sets(cell, plan).items()}
    write_file(run / COUNTS, json.dumps({"examples": _digests(cell, plan), "counts": counts}) + "\n")
    shutil.rmtree(run / "last", ignore_errors=True)  # three quarters of the space; what it resumes is finished


def read_counts(cell: Cell) -> Mapping[str, Mapping[str, Mapping[str, Any]]]:
    """The counts of a finished cell, by split and task."""
    counts: Mapping[str, Mapping[str, Mapping[str, Any]]] = read_json(cell.folder / COUNTS)["counts"]
    return counts


def count(predictor: Predictor, kinds: Mapping[str, str], sets: Sequence[EvaluationSet]) -> dict[str, dict[str, Any]]:
    """What each labelled example adds to its task's primary metric; see the head of this module."""
    found: dict[str, dict[str, Any]] = {}
    for one in sets:
        places = {id(example): f"{one.data}:{i}" for i, example in enumerate(one.examples)}
        for task, rows in judge(predictor, kinds, [one]).items():
            units = [rows] if not _ranks(rows) else [rows[::2], rows[1::2]]
            own = found.setdefault(task, {"rows": [], "numerator": [], "denominator": [], "right": []})
            for unit in zip(*units, strict=True):
                numerator, denominator, right = _figures(kinds[task], unit)
                own["rows"].append(places[id(unit[0].example)])
                own["numerator"].append(numerator)
                own["denominator"].append(denominator)
                own["right"].append(int(right))
    return found


def _ranks(rows: Sequence[Judged]) -> bool:
    """A ranker's rows are a pair and its negative in turn, and its answers scores."""
    return all(isinstance(row.answer, Match) and row.answer.label is None for row in rows)


def _figures(kind: str, unit: Sequence[Judged]) -> tuple[float, float, bool]:
    """Numerator, denominator, and whether all is right."""
    row = unit[0]
    if len(unit) == 2:
        right = bool(row.predicted > unit[1].predicted)
        return float(right), 1.0, right
    if kind == "sequence_label":
        return 2.0 * len(row.gold & row.predicted), float(len(row.gold) + len(row.predicted)), row.correct
    if kind == "mrc":
        return reading_scores([row.gold], [row.predicted])["f1"], 1.0, row.correct
    return float(row.correct), 1.0, row.correct


def _sets(cell: Cell, plan: Plan) -> dict[str, list[EvaluationSet]]:
    return {split: only(own, cell.variant.task) for split, own in plan.sets.items()}


def _digests(cell: Cell, plan: Plan) -> dict[str, str]:
    """What the examples and their labels are, by split: pairing wants the same ones in all cells."""
    return {
        split: hashlib.sha256(
            "\n".join(
                repr((one.data, e.text, e.pair, sorted((t, repr(e.fields.get(f))) for t, f in one.fields.items())))
                for one in own
                for e in one.examples
            ).encode("utf-8", "surrogatepass")
        ).hexdigest()
        for split, own in _sets(cell, plan).items()
    }


def _check_settings(cell: Cell) -> None:
    """Raises CheckpointError where the directory holds a cell of another training."""
    path = cell.folder / CONFIG
    if path.exists():
        changed = [
            key for key in differences(load_config(path), cell.config) if key.split(".")[-1] not in _TELL_NOTHING
        ]
        if changed:
            raise CheckpointError(
                f"{cell.folder} was trained with other settings ({', '.join(changed)} differ). "
                "Compare into another directory with --output, or delete this one to train it again."
            )


def _check_budget(cell: Cell, started: Started) -> None:
    found = dict(started.training.loop.mixing.quotas)
    if found != dict(cell.variant.batches):
        raise PalmError(
            f"{cell.name}: takes {found} batches of its data sets where {dict(cell.variant.batches)} would be an equal budget. "
            "Did the training data change since the comparison began? Start it anew in another directory with --output."
        )
