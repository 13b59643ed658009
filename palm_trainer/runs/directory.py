"""The run directory: whose it is, what of it a resumed run keeps, and files that are written as a whole."""

import json
import shutil
from pathlib import Path
from typing import Any

from palm_trainer.config.atomic_files import NEW_SUFFIX, write_file
from palm_trainer.config.loader import Config
from palm_trainer.errors import CheckpointError
from palm_trainer.model.checkpoint import remove_checkpoints
from palm_trainer.runs import weight_averaging as averaging
from palm_trainer.runs.event_log import TENSORBOARD

CONFIG, EVENTS, METRICS, REPORT = "config.toml", "events.jsonl", "metrics.json", "report.html"


def claim(output: Path, resume: bool, overwrite: bool) -> None:
    """Checks that the output directory is ours to use. Raises CheckpointError. A run that was killed as it began leaves half a configuration."""
    holds_run = (output / CONFIG).exists()
    if resume and not holds_run:
        raise CheckpointError(
            f"{output} holds no run to resume ({output / CONFIG} is missing). Start without --resume."
        )
    if output.exists() and not output.is_dir():
        raise CheckpointError(f"{output} is a file. Choose another output directory.")
    if holds_run and not resume:
        if not overwrite:
            raise CheckpointError(
                f"{output} holds a run already. Continue it with --resume, replace it with --overwrite, or choose another directory with --output."
            )
    elif output.is_dir() and not resume and any(path.name != CONFIG + NEW_SUFFIX for path in output.iterdir()):
        raise CheckpointError(
            f"{output} is not empty and holds no run. Choose an empty or new directory with --output."
        )


def forget_run(output: Path) -> None:
    """Deletes what another run left, so that nothing of it can be resumed or taken for the new one's."""
    remove_checkpoints(output)
    averaging.forget(output)
    for path in (*output.glob("best-*"), *output.glob(TENSORBOARD)):
        shutil.rmtree(path)
    for name in (EVENTS, METRICS):
        (output / name).unlink(missing_ok=True)


def differences(saved: Config, given: Config) -> list[str]:
    """Dotted names of what differs, the output directory aside."""
    one, other = _flat(saved.model_dump(mode="json")), _flat(given.model_dump(mode="json"))
    return sorted(key for key in one.keys() | other.keys() if one.get(key) != other.get(key) and key != "train.output")


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat.update(_flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value})
    return flat


def forget_later_events(path: Path, step: int) -> None:
    """Drops what was logged after the checkpoint: those steps are trained again."""
    if path.exists():
        write_file(path, "".join(line for line in whole_lines(path) if json.loads(line)["step"] <= step))


def whole_lines(path: Path) -> list[str]:
    """Lines of the log; a crash may have cut the last one, which is left out."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    return [line + "\n" for line in text.split("\n")[:-1]]
