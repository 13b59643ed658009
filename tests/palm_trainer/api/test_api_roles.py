"""Roles and groups of spans in the Python API."""

import json
from pathlib import Path
from typing import Any

import pytest

import palm_trainer as palm
from palm_trainer.api.reader.label_maps import tags_of
from palm_trainer.config.loader import load_config
from palm_trainer.errors import DataError, WiringError
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.evaluate_run import evaluate_run

TAGS = ("O", "B-city (role from)", "I-city (role from)", "B-city (role to)", "I-city (role to)")
CITIES = ("boston", "denver", "monday", "hotel")


@pytest.fixture
def trips(tmp_path: Path) -> Path:
    rows = []
    for i in range(12):
        start, end = CITIES[i % 4], CITIES[(i + 1 + i // 4) % 4]
        text = f"from {start} to {end}"
        first = {"start": 5, "end": 5 + len(start), "label": "city", "role": "from"}
        second = {"start": len(text) - len(end), "end": len(text), "label": "city", "role": "to"}
        rows.append(json.dumps({"text": text, "slots": [first, second]}) + "\n")
    path = tmp_path / "trips.jsonl"
    path.write_text("".join(rows))
    return path


def joint_reader(vocab_path: Path, path: Path, **options: Any) -> Any:
    reader = palm.reader.JointReader(vocab_path, 24, **options)
    reader.load_data(path, batch_size=4, file_format="jsonl", num_epochs=25)
    return reader


def trainer_on(reader: Any, config: dict[str, Any], head: Any) -> Any:
    trainer = palm.Trainer("slots", say=lambda line: None)
    loss = trainer.build_forward(palm.backbone.BERT.from_config(config), head)
    trainer.build_backward(palm.optimizer.Adam(loss, 1e-2), device="cpu", precision="fp32")
    trainer.fit_reader(reader)
    return trainer


def test_trainer_learns_predicts_and_saves_roles(vocab_path, config, trips, tmp_path) -> None:
    reader = joint_reader(vocab_path, trips)
    trainer = trainer_on(reader, config, palm.head.SequenceLabel(5, 16))
    trainer.set_evaluator(reader)
    trainer.train(print_steps=100)
    assert trainer.evaluate()["slots"]["f1"] == 1.0
    trainer.save(tmp_path / "run")
    assert load_trained(tmp_path / "run").tasks["slots"].labels == TAGS
    assert evaluate_run(tmp_path / "run", load_config(tmp_path / "run/config.toml"), "dev")["slots"]["f1"] == 1.0
    assert trainer.export(tmp_path / "bundle", precision="fp32").tasks["slots"].labels == TAGS
    trainer.fit_reader(reader, phase="predict")
    [record, *_] = trainer.predict()
    assert record["tags"] == ["O", TAGS[1], "O", TAGS[3]]
    assert record["label"] == [0, 1, 0, 3]
    assert [(span["label"], span["role"]) for span in record["spans"]] == [("city", "from"), ("city", "to")]


def test_label_map_of_the_data_names_roles(vocab_path, trips) -> None:
    reader = joint_reader(vocab_path, trips)
    label_map = tags_of(reader.examples)
    assert tuple(label_map) == TAGS
    target = joint_reader(vocab_path, trips, label_map=label_map).target("slots", "sequence_label")
    assert target.info.labels == TAGS
    assert target.info.decode.span_types["city (role to)"].role == "to"
    assert tuple(tags_of(reader.examples, "ignore")) == ("O", "B-city", "I-city")


def test_label_map_without_the_roles_of_the_data_is_refused(vocab_path, trips) -> None:
    reader = joint_reader(vocab_path, trips, label_map={"O": 0, "B-city": 1, "I-city": 2})
    message = (
        r"trips.jsonl:1: tag 'B-city \(role from\)' is not in the label map, .* declare the head with roles='ignore'"
    )
    with pytest.raises(DataError, match=message):
        reader.target("slots", "sequence_label")


@pytest.mark.parametrize("label_map", [None, {"O": 0, "B-city": 1, "I-city": 2}])
def test_ignored_roles_are_not_learnt(vocab_path, config, trips, tmp_path, label_map) -> None:
    reader = joint_reader(vocab_path, trips, label_map=label_map)
    trainer = trainer_on(reader, config, palm.head.SequenceLabel(3, 16, roles="ignore"))
    trainer.set_evaluator(reader)
    trainer.train(print_steps=100)
    assert trainer.evaluate()["slots"]["f1"] > 0.9
    trainer.save(tmp_path / "run")
    assert load_config(tmp_path / "run/config.toml").tasks["slots"].roles == "ignore"
    assert load_trained(tmp_path / "run").tasks["slots"].labels == ("O", "B-city", "I-city")


def test_unknown_value_of_roles_is_refused() -> None:
    with pytest.raises(WiringError, match=r"SequenceLabel: roles must be 'learn' or 'ignore', got 'maybe'\."):
        palm.head.SequenceLabel(3, 16, roles="maybe")  # type: ignore[arg-type]
