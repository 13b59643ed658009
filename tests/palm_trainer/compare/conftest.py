"""Comparison of the tiny data set, shared by the tests of this folder."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from palm_trainer.compare.trainings import VariantTraining, plan_trainings, run_training
from palm_trainer.compare.variants import ComparisonPlan, plan_comparison
from palm_trainer.config.loader import load_config


@dataclass(frozen=True)
class FinishedComparison:
    """A finished comparison with the file of its configuration and its output directory."""

    path: Path
    plan: ComparisonPlan
    trainings: list[VariantTraining]
    output: Path


@pytest.fixture(scope="session")
def compared(tmp_path_factory, write_config) -> FinishedComparison:
    """Compare on two data sets with two seeds for one epoch. Tests must not change it."""
    folder = tmp_path_factory.mktemp("compared")
    path = write_config(folder, second=True)
    plan = plan_comparison(load_config(path, ["train.epochs=1"]))
    trainings = plan_trainings(plan, [3, 4], folder / "compare")
    for training in trainings:
        assert list(run_training(training, plan))
    return FinishedComparison(path, plan, trainings, folder / "compare")
