"""Record of the rows that `dev_share` sets apart, so that no later evaluation takes other rows for them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from palm_trainer.config.atomic_files import write_file
from palm_trainer.config.loader import Config
from palm_trainer.data.example import Example
from palm_trainer.data.splits import Splits
from palm_trainer.errors import DataError
from palm_trainer.model.checkpoint import read_json

DEV_ROWS = "dev_rows.json"


def record_dev_rows(run: Path, config: Config, splits: Splits) -> None:
    """Write the places of the rows that are set apart, for each data set with `dev_share`.

    Args:
        run: the run directory.
        config: its configuration.
        splits: of its data.
    """
    (run / DEV_ROWS).unlink(missing_ok=True)
    records = {}
    for name, data in config.data.items():
        if data.dev_share:
            records[name] = _record(data.dev_share, config.train.seed, splits.examples(name, "dev"))
    if records:
        write_file(run / DEV_ROWS, json.dumps(records, indent=2, ensure_ascii=False) + "\n")


def check_dev_rows(run: Path, config: Config, splits: Splits) -> None:
    """Check that the same rows are set apart now as when the run began.

    Args:
        run: the run directory.
        config: its configuration.
        splits: of its data, as they are now.

    Raises:
        DataError: the files have changed, so that rows of dev may have been trained on.
    """
    if not (run / DEV_ROWS).exists():
        return
    records = read_json(run / DEV_ROWS)
    for name, data in config.data.items():
        record = records.get(name) if isinstance(records, dict) else None
        if data.dev_share and isinstance(record, dict):
            current = _record(data.dev_share, config.train.seed, splits.examples(name, "dev"))
            if current["texts_sha256"] != record.get("texts_sha256"):
                raise DataError(
                    f"data.{name}: the training files have changed since the run began, so that dev_share sets other "
                    f"rows apart than {run / DEV_ROWS} lists. Restore the files, or name the rows in a file as `dev`."
                )


def _record(dev_share: float, seed: int, examples: Sequence[Example]) -> dict[str, Any]:
    digest = hashlib.sha256()
    sources = []
    for example in examples:
        texts = example.inputs
        digest.update(json.dumps([*texts] if texts.context else [texts.text, texts.pair]).encode())
        sources.append(example.source)
    return {"dev_share": dev_share, "seed": seed, "texts_sha256": digest.hexdigest(), "rows": sources}
