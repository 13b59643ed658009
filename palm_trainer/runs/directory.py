"""The run directory: checks before it is used, what a resumed run keeps of it, and its log lines."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm_trainer.config.atomic_files import NEW_SUFFIX, check_output_place, write_file
from palm_trainer.config.section import ConfigSection
from palm_trainer.errors import CheckpointError
from palm_trainer.model.checkpoint import reading
from palm_trainer.model.checkpoint_files import remove_checkpoints
from palm_trainer.runs import weight_averaging as averaging
from palm_trainer.runs.event_log import TENSORBOARD
from palm_trainer.runs.file_names import CONFIG, EVENTS, METRICS, REPORT, VALUES


def check_output_directory(output: Path, resume: bool, overwrite: bool) -> None:
    """Check that a training may use the output directory.

    A run that was killed when it began leaves an unfinished configuration, which does not count as content.

    Args:
        output: run directory.
        resume: a run in it is continued.
        overwrite: a run in it is replaced.

    Raises:
        CheckpointError: there is nothing to resume, or something that would be overwritten.
    """
    has_run = holds_run(output)
    if resume and not has_run:
        raise CheckpointError(
            f"{output} holds no run to resume ({output / CONFIG} is missing). Start without --resume, or with --resume auto."
        )
    check_output_place(output)
    if has_run and not resume:
        if not overwrite:
            raise CheckpointError(
                f"{output} holds a run already. Continue it with --resume, replace it with --overwrite, or choose another directory with --output."
            )
    elif output.is_dir() and not resume and any(path.name != CONFIG + NEW_SUFFIX for path in output.iterdir()):
        raise CheckpointError(
            f"{output} is not empty and holds no run. Choose an empty or new directory with --output."
        )


def holds_run(output: Path) -> bool:
    """Return True if a training has begun in a directory."""
    return (output / CONFIG).exists()


def remove_unfinished(output: Path) -> None:
    """Delete what a killed training was writing: files and checkpoints beside those that they were to replace."""
    for name in ("best*", "last"):
        for path in output.glob(name + NEW_SUFFIX):
            shutil.rmtree(path)
    for name in (CONFIG, EVENTS, METRICS, REPORT, VALUES):
        (output / (name + NEW_SUFFIX)).unlink(missing_ok=True)


def forget_run(output: Path) -> None:
    """Delete the files of an earlier run, so that none is resumed or taken for the new run's."""
    remove_unfinished(output)
    remove_checkpoints(output)
    averaging.forget(output)
    for path in (*output.glob("best-*"), *output.glob(TENSORBOARD)):
        shutil.rmtree(path)
    for name in (EVENTS, METRICS, VALUES):
        (output / name).unlink(missing_ok=True)


def differences(saved: ConfigSection, current: ConfigSection, prefix: str = "") -> list[str]:
    """Return the dotted keys whose values differ, without the output directory, its mirror and how it is resumed.

    Args:
        saved: a configuration, or a section of it.
        current: the same of another training.
        prefix: name of the section and a dot.
    """
    saved_values = _flat(saved.model_dump(mode="json"), prefix)
    current_values = _flat(current.model_dump(mode="json"), prefix)
    keys = []
    for key in sorted(saved_values.keys() | current_values.keys()):
        if key not in ("train.output", "train.resume", "train.mirror") and saved_values.get(key) != current_values.get(
            key
        ):
            keys.append(key)
    return keys


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def forget_later_events(path: Path, step: int) -> None:
    """Remove log lines of steps after the checkpoint, since those steps are trained again."""
    if not path.exists():
        return
    lines = whole_lines(path)
    kept_lines = []
    for line, event in zip(lines, _parse_events(path, lines), strict=True):
        if event["step"] <= step:
            kept_lines.append(line)
    write_file(path, "".join(kept_lines))


def read_events(path: Path) -> list[dict[str, Any]]:
    """Return the events of a log, each with its step.

    Raises:
        CheckpointError: a line is no event. The message names it.
    """
    return _parse_events(path, whole_lines(path))


def _parse_events(path: Path, lines: Sequence[str]) -> list[dict[str, Any]]:
    """Parse the lines of a log. `path` is for messages."""
    events = []
    for number, line in enumerate(lines, start=1):
        with reading(f"{path}:{number} is damaged", "Remove the line, or train again."):
            event = json.loads(line)
            if not isinstance(event.get("step"), int):
                raise ValueError("an event has no whole number 'step'")
        events.append(event)
    return events


def whole_lines(path: Path) -> list[str]:
    """Return the complete lines of the log. A crash may have cut the last line, which is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [line + "\n" for line in text.split("\n")[:-1]]
