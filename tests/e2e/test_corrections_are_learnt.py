"""A wrong answer is corrected over HTTP, the row is trained on as it stands, and the next version answers as corrected."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from palm_serve import Model
from palm_trainer.config.loader import load_config
from palm_trainer.runs.run import train

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
CONFIG = """
[encoder]
model = "scratch"
max_length = 24
layers = 2
hidden_size = 16
heads = 2
vocab_size = 120
[train]
epochs = 60
batch_size = 4
learning_rate = 1e-2
precision = "fp32"
device = "cpu"
output = "run"
[data.turns]
format = "jsonl"
train = FILES
dev = "turns.jsonl"
[tasks.intent]
kind = "classify"
role = "intent"
data = ["turns"]
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["turns"]
"""
PLACES = ("oslo", "rome", "bonn", "york", "lima")
TEXT = "\N{GRINNING FACE} what about rome"
OTHER = {"go": "ask", "ask": "go"}


def rows() -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for first, second in zip(PLACES * 2, PLACES[1:] * 2 + PLACES[:2], strict=True):
        spans = [
            {"start": 5, "end": 9, "label": "city", "role": "from"},
            {"start": 13, "end": 17, "label": "city", "role": "to"},
        ]
        made.append({"text": f"from {first} to {second}", "intent": "go", "slots": spans})
    made += [{"text": text, "intent": "ask", "slots": []} for text in ("what is this", "who are you", "what about it")]
    return made


def make_bundle(folder: Path, name: str, files: list[str]) -> Path:
    """Train on some files, and export."""
    config = folder / f"{name}.toml"
    config.write_text(CONFIG.replace("FILES", json.dumps(files)), encoding="utf-8")
    list(train(load_config(config, output=folder / name)))
    code = "from palm_trainer.cli.export import main; main()"
    command = [sys.executable, "-c", code, folder / name, "--output", folder / f"{name}-bundle", "--precision", "fp32"]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder / f"{name}-bundle"


def test_correction_changes_the_answer(tmp_path: Path, start_shared_server: Callable[..., Any]) -> None:
    (tmp_path / "turns.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows()), encoding="utf-8")
    bundle = make_bundle(tmp_path, "before", ["turns.jsonl"])
    file = tmp_path / "feedback.jsonl"
    server = start_shared_server(bundle, "--http-port", "0", "--feedback", file, "--provider", "CPU")
    server.target()
    url = server.wait_for(r"^palm-serve: playground at (http://\S+)$")
    with httpx.Client(base_url=url, timeout=60, trust_env=False) as client:
        answer = client.post("/palm_serve.v1.DialogueUnderstanding/Parse", json={"text": TEXT}).json()
        start = TEXT.index("rome")
        spans = [] if answer.get("slots") else [{"start": start, "end": start + 4, "label": "city", "role": "to"}]
        fields = {"intent": OTHER[answer["intent"]["name"]], "slots": spans}
        content = {"text": TEXT, "fields": fields, "model": answer["model"], "version": answer["version"]}
        response = client.post("/playground/feedback", json=content | {"answer": answer})
        assert response.status_code == 200, response.text
    with Model.open(make_bundle(tmp_path, "after", ["turns.jsonl", "feedback.jsonl"])) as model:
        learnt = model.parse(TEXT)
    assert learnt.intent.name == fields["intent"] != answer["intent"]["name"]
    assert [(span.start, span.end, span.name, span.role) for span in learnt.slots] == [
        (span["start"], span["end"], span["label"], span["role"]) for span in spans
    ]
