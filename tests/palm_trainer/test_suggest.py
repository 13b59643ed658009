"""`palm-train init`: what is found in data that nobody described, and a configuration that loads and wires."""

import json
from pathlib import Path

import pytest

from palm_trainer.config import load_config
from palm_trainer.errors import DataError
from palm_trainer.reader.formats.locate import find_splits
from palm_trainer.suggest import suggest

SAMPLES = Path(__file__).parents[2] / "examples" / "data"


def _load(text: str, folder: Path):
    path = folder / "found.toml"
    path.write_text(text, encoding="utf-8")
    return load_config(path)


def test_english_sample(tmp_path):
    text, found = suggest(SAMPLES / "assistant")
    config = _load(text, tmp_path)
    assert {name: (task.kind, task.role) for name, task in config.tasks.items()} == {
        "intent": ("classify", "intent"),
        "slots": ("sequence_label", "slots"),
    }
    data = config.data["assistant"]
    assert data.format == "jsonl"
    assert data.dev[0].name == "dev.jsonl"
    assert data.test[0].name == "test.jsonl"
    assert config.encoder.model == "minilm-l6-en"
    assert any("format jsonl" in line for line in found)


def test_chinese_sample_gets_characters(tmp_path):
    config = _load(suggest(SAMPLES / "assistant_zh")[0], tmp_path)
    assert (config.encoder.model, config.encoder.characters) == ("scratch", True)


def test_single_file_and_its_siblings(tmp_path):
    for split, rows in (("train", 8), ("test", 2)):
        lines = [json.dumps({"text": f"text number {i}", "topic": "ab"[i % 2]}) for i in range(rows)]
        (tmp_path / f"x.{split}.jsonl").write_text("\n".join(lines))
    text, found = suggest(tmp_path / "x.train.jsonl")
    config = _load(text, tmp_path)
    task = config.tasks["topic"]
    assert (task.kind, task.role) == ("classify", "")
    assert next(iter(config.data.values())).test[0].name == "x.test.jsonl"
    assert any("no dev split" in line for line in found)


def test_missing_data_is_named(tmp_path):
    with pytest.raises(DataError, match="nosuch: no such file or directory"):
        find_splits(tmp_path / "nosuch")


def test_nothing_to_learn_is_said(tmp_path):
    path = tmp_path / "plain.jsonl"
    path.write_text("\n".join(json.dumps({"text": f"t{i}", "id": f"row-{i}"}) for i in range(6)))
    with pytest.raises(DataError, match="no field that a task could learn; fields: id"):
        suggest(path)
