"""All checks of the data of a configuration."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from palm_serve.system.installation import how_to_install
from palm_trainer.config.loader import Config
from palm_trainer.config.schema import ScratchEncoderConfig
from palm_trainer.data.example import Example
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


def check_with_encoder(config: Config, tasks: Sequence[TaskRows], run: Path | None, health: Health) -> None:
    """Run the checks that need vectors of the texts, where an encoder can be had without training.

    Args:
        config: the configuration.
        tasks: the rows.
        run: run whose encoder is used. None: the encoder that the configuration begins with.
        health: gets what is found, and a note where nothing could be checked.

    Raises:
        PalmError: the encoder cannot be loaded.
    """
    if find_spec("torch") is None:
        health.notes.append(f"{_WITHOUT_ENCODER}: torch is not installed. To install it, {how_to_install('train')}")
        return
    if run is None and isinstance(config.encoder, ScratchEncoderConfig):
        health.notes.append(f"{_WITHOUT_ENCODER}: an encoder from scratch is not trained yet. Give --run RUN.")
        return
    from palm_trainer.health.model_checks import check_classes, check_spans  # torch takes seconds to load
    from palm_trainer.health.vectors import encode, load_encoder, stack_words

    checked = [rows for rows in tasks if rows.kind != "classes" and rows.rows["train"]]
    for rows in tasks:
        if rows.kind == "classes":
            health.notes.append(f"{rows.task}: several classes a row are not checked by confident learning.")
    examples = _all_examples(tasks)
    trained = load_encoder(config, run, examples)
    for rows in checked:
        vectors = encode(trained, [row.example for row in rows.rows["train"]], words=rows.kind == "spans")
        if rows.kind == "class":
            findings, merges = check_classes(rows, vectors, config.train.seed)
            health.findings += findings
            health.merges += merges
        else:
            health.findings += check_spans(rows, stack_words(vectors), config.train.seed)
    encoder = trained.encoder.name if run is None else str(run)
    health.facts.append(("encoder of confident learning and neighbours", encoder))


_WITHOUT_ENCODER = "confident learning and neighbours were not checked"


def _all_examples(tasks: Sequence[TaskRows]) -> list[Example]:
    examples = []
    for rows in tasks:
        examples += [row.example for row in rows.rows["train"]]
    return examples


def _describe_rows(tasks: Sequence[TaskRows]) -> str:
    described = []
    for rows in tasks:
        counts = ", ".join(f"{split} {len(split_rows):,}" for split, split_rows in rows.rows.items() if split_rows)
        described.append(f"{rows.task}: {counts}")
    return "; ".join(described)
