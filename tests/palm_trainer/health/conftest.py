"""Rows of tasks, written as lists."""

import json

import pytest

from palm_trainer.config.loader import load_config
from palm_trainer.health.rows import read_rows

CONFIG = """
[encoder]
model = "scratch"

[data.bank]
format = "jsonl"
train = "train.jsonl"
{splits}

[tasks.{task}]
kind = "{kind}"
data = ["bank"]

[train]
output = "run"
"""


@pytest.fixture
def write_rows(tmp_path):
    """`write_rows("classify", "intent", train=[...], test=[...])` -> the configuration of such data."""

    def _write(kind, task, **splits):
        for split, rows in splits.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (tmp_path / f"{split}.jsonl").write_text(text, encoding="utf-8")
        lines = "\n".join(f'{split} = "{split}.jsonl"' for split in splits if split != "train")
        path = tmp_path / "bank.toml"
        path.write_text(CONFIG.format(splits=lines, task=task, kind=kind))
        return load_config(path)

    return _write


@pytest.fixture
def intents(write_rows):
    """`intents(train=[("text", "intent"), ...])` -> the rows of the task."""

    def _rows(**splits):
        written = {}
        for split, pairs in splits.items():
            written[split] = [{"text": text, "intent": intent} for text, intent in pairs]
        [rows] = read_rows(write_rows("classify", "intent", **written))
        return rows

    return _rows


def bracketed(text):
    """A row from `[six](time)`."""
    plain, spans = "", []
    for number, part in enumerate(text.split("[")):
        if number:
            value, _, rest = part.partition("](")
            label, _, part = rest.partition(")")
            spans.append({"start": len(plain), "end": len(plain) + len(value), "label": label})
            plain += value
        plain += part
    return {"text": plain, "slots": spans}


@pytest.fixture
def slots(write_rows):
    """`slots(train=["wake me at [six](time)", ...])` -> the rows of the task."""

    def _rows(**splits):
        written = {split: list(map(bracketed, texts)) for split, texts in splits.items()}
        [rows] = read_rows(write_rows("sequence_label", "slots", **written))
        return rows

    return _rows
