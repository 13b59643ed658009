"""The bundled answers to questions: made by their script, whole, and with phrases that differ between the splits."""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest

from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.text_files import Defects, FormatOptions

DATA = Path(__file__).parents[2] / "examples/data"
COUNTS = {"train": 960, "dev": 160, "test": 384}


def rows(folder, split):
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def test_script_writes_the_same_bytes(tmp_path):
    subprocess.run([sys.executable, DATA / "make_dialogues.py", "--output", tmp_path], check=True, capture_output=True)
    for split in COUNTS:
        name = f"{split}.jsonl"
        assert (DATA / "assistant_dialogues" / name).read_bytes() == (tmp_path / name).read_bytes(), name


@pytest.mark.parametrize("split", COUNTS)
def test_every_row_is_read_with_its_context(split):
    defects = Defects()
    examples = list(FORMATS["jsonl"](DATA / "assistant_dialogues" / f"{split}.jsonl", FormatOptions(), defects))
    assert len(examples) == COUNTS[split]
    assert list(defects) == []
    readme = (DATA / "assistant_dialogues/README.md").read_text(encoding="utf-8")
    assert f"| `{split}.jsonl` | {COUNTS[split]:,} |" in readme
    for example in examples:
        assert example.context is not None
        assert 1 <= len(example.context.turns) <= 2
        assert example.fields["slots"]


def test_questions_differ_between_the_splits():
    questions = {split: {row["context"][-1] for row in rows(DATA / "assistant_dialogues", split)} for split in COUNTS}
    assert not questions["train"] & questions["dev"]
    assert not questions["train"] & questions["test"]
    assert not questions["dev"] & questions["test"]


def test_intents_and_slots_are_those_of_the_assistant():
    known = defaultdict(set)
    for row in rows(DATA / "assistant", "train"):
        known[row["intent"]].update(slot["label"] for slot in row["slots"])
    for split in COUNTS:
        for row in rows(DATA / "assistant_dialogues", split):
            assert row["intent"] in known
            assert {slot["label"] for slot in row["slots"]} <= set().union(*known.values())
