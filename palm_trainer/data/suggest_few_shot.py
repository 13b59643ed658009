"""Suggest how to train with few texts a class: the head and the schedule."""

from collections.abc import Mapping, Sequence
from typing import Any

from palm_trainer.config.tasks import TASK_KINDS
from palm_trainer.data.example import Example

FEW_TEXTS = 50
"""Texts of a class, on average, below which a head starts at class means.

With five, and the same 78 steps, one run gained 21 points of accuracy; where the gain ends was not measured.
"""
SCHEDULE: dict[str, Any] = {"epochs": 10.0, "freeze_embeddings": True}
"""Chosen on dev of BANKING77 with five texts a class, see `benchmarks/fewshot.py`."""

NO_DEV = (
    "no dev split found: all texts are trained on, since each counts, and the last checkpoint is taken; "
    "give `dev = ...` to choose the checkpoint and to detect out-of-scope text"
)
"""Remark on data without a dev split."""


def find_few_shot_tasks(tasks: Mapping[str, Mapping[str, Any]], examples: Sequence[Example]) -> dict[str, float]:
    """Return the texts a class of each classifier that has few, by task.

    Args:
        tasks: tables of the configuration by name of the task, which is also the field.
        examples: training examples.
    """
    few = {}
    for task, table in tasks.items():
        if "head" not in TASK_KINDS.members[table["kind"]].model_fields:
            continue
        classes = [example.fields[task] for example in examples if task in example.fields]
        texts = len(classes) / len(set(classes))
        if texts < FEW_TEXTS:
            few[task] = texts
    return few


def suggest_few_shot(tasks: dict[str, dict[str, Any]], few: Mapping[str, float]) -> list[str]:
    """Give the tasks with few texts a class a head that starts at class means.

    Args:
        tasks: tables of the configuration by name, changed in place.
        few: texts a class by task, of the tasks that have few.

    Returns:
        Remarks on what was chosen and why, a line each.
    """
    remarks = []
    for task, texts in few.items():
        tasks[task]["head"] = "prototype"
        remarks.append(
            f"task {task}: {texts:.0f} texts a class, so its head starts at class means and names (head = 'prototype')"
        )
    return remarks
