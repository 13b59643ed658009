"""Declare what fewshot.py compares. All of it was written down before any test text was answered.

Question: does an encoder that many tasks have trained learn a new set of intents from few examples better than the plain
encoder (primary), and better than one that a single task has trained (secondary)?

Every arm has the same few-shot recipe: configs/fewshot.toml for intents, chosen on BANKING77_train_5 with BANKING77_valid
alone, and configs/fewshot_slots.toml for intents with slots, chosen on a hundredth of SNIPS with its dev split alone.
The seed changes head, dropout and order. It changes neither the examples nor the encoders, of which there is one each:
what another training of the encoder would give is not in the intervals.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

SEEDS = tuple(range(13, 23))
BASE_SEED = 13
BASE_STEPS = 1_000
"""Steps of every encoder, of one task and of all."""


class Row(NamedTuple):
    """A corpus of which few examples are learned, with its files. Paths name environment variables.

    Args:
        name: in the table.
        corpus: its data set in examples/nlu_base.toml, which is left out of the encoders.
        train: texts to learn.
        valid: texts that recipes are chosen on.
        test: texts that the table is about.
        has_slots: it has intents and slots, and a text is right where both are.
        epochs: of `train`, where it is not those of the recipe.
    """

    name: str
    corpus: str
    train: str
    valid: str
    test: str
    has_slots: bool = False
    epochs: int | None = None

    def file(self, split: str) -> str:
        """Return the path of a split: `train`, `valid` or `test`."""
        return str(getattr(self, split))


def _intents(files: str, corpus: str, shots: int) -> Row:
    folder = "${PALM_DATA}/fewshot/"
    splits = [f"{folder}{files}_{split}.jsonl" for split in (f"train_{shots}", "valid", "test")]
    return Row(f"{files} {shots}", corpus, *splits)


def _snips(share: int, epochs: int) -> Row:
    train = f"${{PALM_WORK}}/snips_{share}/train"
    return Row(f"SNIPS {share} %", "snips", train, "${PALM_DATA}/snips/dev", "${PALM_DATA}/snips/test", True, epochs)


ROWS: Mapping[str, Row] = {
    "banking77_5": _intents("BANKING77", "banking77", 5),
    "banking77_10": _intents("BANKING77", "banking77", 10),
    "clinc150_5": _intents("CLINC150", "clinc150", 5),
    "clinc150_10": _intents("CLINC150", "clinc150", 10),
    "snips_1": _snips(1, 120),
    "snips_10": _snips(10, 15),
}
"""Rows of SNIPS have at least 600 steps, as `palm-train init` plans them."""


class Arm(NamedTuple):
    """A way to learn a row.

    Args:
        title: in the table.
        base: the encoder that it starts from, `multi`, `single`, or None for plain MiniLM-L6.
        seeds: that it is trained with. A deterministic arm has one.
        learns_slots: it answers the rows with slots, too.
    """

    title: str
    base: str | None = None
    seeds: Sequence[int] = SEEDS
    learns_slots: bool = False


ARMS: Mapping[str, Arm] = {
    "frozen_plain": Arm("plain MiniLM-L6, frozen, logistic regression", None, (BASE_SEED,)),
    "frozen_single": Arm("one task (SGD intents), frozen, logistic regression", "single", (BASE_SEED,)),
    "frozen_multi": Arm("many tasks (`nlu_base`), frozen, logistic regression", "multi", (BASE_SEED,)),
    "plain": Arm("plain MiniLM-L6", learns_slots=True),
    "single": Arm("pre-finetuned on one task (SGD intents)", "single", learns_slots=True),
    "multi": Arm("pre-finetuned on many tasks (`nlu_base`)", "multi", learns_slots=True),
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
