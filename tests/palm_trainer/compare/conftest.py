"""A comparison of the tiny data set that the tests of this folder share."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from palm_trainer.compare.trainings import Cell, make_cells, run_cell
from palm_trainer.compare.variants import Plan, plan_comparison
from palm_trainer.config.loader import load_config


@dataclass(frozen=True)
class Compared:
    """A finished comparison and its configuration's file."""

    path: Path
    plan: Plan
    cells: list[Cell]
    output: Path


@pytest.fixture(scope="session")
def compared(tmp_path_factory, write_config) -> Compared:
    """Two data sets, two seeds, one epoch; shared, so never written to."""
    folder = tmp_path_factory.mktemp("compared")
    path = write_config(folder, second=True)
    plan = plan_comparison(load_config(path, ["train.epochs=1"]))
    cells = make_cells(plan, [3, 4], folder / "compare")
    for cell in cells:
        assert list(run_cell(cell, plan))
    return Compared(path, plan, cells, folder / "compare")
