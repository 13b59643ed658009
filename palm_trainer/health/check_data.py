"""All checks of the data of a configuration."""

from collections.abc import Sequence

from palm_trainer.config.loader import Config
from palm_trainer.errors import DataError
from palm_trainer.health.classes import find_class_warnings
from palm_trainer.health.contexts import find_contexts
from palm_trainer.health.duplicates import find_duplicates, find_leaks
from palm_trainer.health.findings import Health
from palm_trainer.health.rows import TaskRows, read_rows


def check_files(config: Config) -> tuple[Health, list[TaskRows]]:
    """Read the data of a configuration and run the checks that need no model.

    Args:
        config: the configuration.

    Returns:
        What was found, and the rows for further checks.

    Raises:
        DataError: a file cannot be used, or no task has labels that are classes or spans.
    """
    tasks = read_rows(config)
    if not tasks:
        kinds = ", ".join(f"{name} ({task.kind})" for name, task in config.tasks.items())
        raise DataError(f"tasks must have one with classes or spans, got {kinds}. There is nothing to check.")
    health = Health()
    for rows in tasks:
        health.findings += find_duplicates(rows)
        health.findings += find_leaks(rows)
        health.warnings += find_class_warnings(rows)
        if rows.kind == "spans":
            findings, contexts = find_contexts(rows)
            health.findings += findings
            health.contexts += contexts
    health.facts.append(("rows", _describe_rows(tasks)))
    return health, tasks


def _describe_rows(tasks: Sequence[TaskRows]) -> str:
    described = []
    for rows in tasks:
        counts = ", ".join(f"{split} {len(split_rows):,}" for split, split_rows in rows.rows.items() if split_rows)
        described.append(f"{rows.task}: {counts}")
    return "; ".join(described)
