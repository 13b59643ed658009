"""Declare what fewshot.py compares. All of it was written down before any test text was answered.

Question: does an encoder that many tasks have trained learn a new set of intents from few examples better than the plain
encoder (primary), and better than one that a single task has trained (secondary)?

Every arm has the same few-shot recipe (configs/fewshot.toml), chosen on BANKING77_train_5 with BANKING77_valid alone.
The seed changes head, dropout and order. It changes neither the examples nor the encoders, of which there is one each:
what another training of the encoder would give is not in the intervals.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

SEEDS = tuple(range(13, 23))
BASE_SEED = 13
BASE_STEPS = 1_000
"""Steps of every encoder, of one task and of all."""


class Target(NamedTuple):
    """A corpus that is learned from few examples."""

    files: str
    """Begin of its file names in PALM_DATA/fewshot."""
    corpus: str
    """Its data set in examples/nlu_base.toml, which is left out."""


class Row(NamedTuple):
    """A target with a number of examples a class."""

    target: Target
    shots: int

    @property
    def name(self) -> str:
        """Its name in the table and the results."""
        return f"{self.target.files} {self.shots}"

    def file(self, split: str) -> str:
        """Return the path of a split: `train`, `valid` or `test`. The configuration replaces the variable."""
        part = f"train_{self.shots}" if split == "train" else split
        return "${PALM_DATA}/fewshot/" + f"{self.target.files}_{part}.jsonl"


BANKING77, CLINC150 = Target("BANKING77", "banking77"), Target("CLINC150", "clinc150")
ROWS: Mapping[str, Row] = {
    f"{target.corpus}_{shots}": Row(target, shots) for target in (BANKING77, CLINC150) for shots in (5, 10)
}


class Arm(NamedTuple):
    """A way to learn a row.

    Args:
        title: in the table.
        base: the encoder that it starts from, `multi`, `single`, or None for plain MiniLM-L6.
        seeds: that it is trained with. A deterministic arm has one.
    """

    title: str
    base: str | None = None
    seeds: Sequence[int] = SEEDS


ARMS: Mapping[str, Arm] = {
    "frozen_plain": Arm("plain MiniLM-L6, frozen, logistic regression", None, (BASE_SEED,)),
    "frozen_single": Arm("one task (SGD intents), frozen, logistic regression", "single", (BASE_SEED,)),
    "frozen_multi": Arm("many tasks (`nlu_base`), frozen, logistic regression", "multi", (BASE_SEED,)),
    "plain": Arm("plain MiniLM-L6"),
    "single": Arm("pre-finetuned on one task (SGD intents)", "single"),
    "multi": Arm("pre-finetuned on many tasks (`nlu_base`)", "multi"),
    "joint": Arm("trained together with the tasks of `nlu_base`", None, SEEDS[:3]),
    "setfit": Arm("SetFit, plain MiniLM-L6", None, SEEDS[:3]),
}
"""`joint` and `setfit` have three seeds: a cell takes as long as twenty of the others."""

PRIMARY = ("multi", "plain")
SECONDARY = (("multi", "single"), ("joint", "plain"))
"""Differences of arms. The primary one is told row by row as it is, the p-values of the others by Holm's method over all rows."""

GOALS: Mapping[str, Mapping[str, float]] = {
    "plain": {"banking77_5": 82.5, "banking77_10": 87.5, "clinc150_5": 90.0, "clinc150_10": 92.3},
    "multi": {"banking77_5": 84.0, "banking77_10": 88.3, "clinc150_5": 91.5, "clinc150_10": 93.3},
}
"""Accuracy in per cent by arm and row."""
