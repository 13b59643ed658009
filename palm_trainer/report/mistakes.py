"""Wrong answers of a task that the report shows, the most confident first."""

from collections.abc import Iterable

from palm_trainer.tasks import task_kind
from palm_trainer.tasks.base import Judged
from palm_trainer.tasks.mistakes import Mistake

MAX_MISTAKES = 50
"""Wrong answers of one task that the report shows."""


def select_mistakes(kind: str, rows: Iterable[Judged], limit: int = MAX_MISTAKES) -> tuple[list[Mistake], int]:
    """Select the most confident wrong answers. Also return the number of all wrong answers.

    A third is reserved for answers that only miss something, because these have no confidence.

    Args:
        kind: kind of the task.
        rows: its judged examples.
        limit: largest number of mistakes to select.
    """
    mistakes = task_kind(kind).mistakes(list(rows))
    confident = [mistake for mistake in mistakes if mistake.confidence is not None]
    confident.sort(key=lambda mistake: -(mistake.confidence or 0))
    incomplete = [mistake for mistake in mistakes if mistake.confidence is None]
    incomplete = incomplete[: max(limit // 3, limit - len(confident))]
    return confident[: limit - len(incomplete)] + incomplete, len(mistakes)
