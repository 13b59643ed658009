"""The wrong answers of a task that the report shows, the most confident first."""

from collections.abc import Iterable

from palm_trainer.tasks import task_kind
from palm_trainer.tasks.base import Judged
from palm_trainer.tasks.mistakes import Mistake

SHOWN = 50
"""Errors of one task that the report holds."""


def worst(kind: str, rows: Iterable[Judged], shown: int = SHOWN) -> tuple[list[Mistake], int]:
    """Return the most confident errors, and how many there are in all.

    A third is kept for those that only left something out, which have no confidence.

    Args:
        kind: of the task.
        rows: its judged examples.
        shown: errors to return at most.
    """
    errors = task_kind(kind).mistakes(list(rows))
    confident = [error for error in errors if error.confidence is not None]
    confident.sort(key=lambda error: -(error.confidence or 0))
    silent = [error for error in errors if error.confidence is None]
    silent = silent[: max(shown // 3, shown - len(confident))]
    return confident[: shown - len(silent)] + silent, len(errors)
