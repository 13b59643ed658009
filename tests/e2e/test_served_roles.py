"""Roles and groups of Rasa training data, learnt and answered by a real server over each of its protocols."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from palm_serve.client import Client
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs
from palm_trainer.config.loader import load_config
from palm_trainer.runs.run import train

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
[data.nlu]
format = "rasa"
train = "nlu.yml"
dev = "nlu.yml"
[tasks.intent]
kind = "classify"
role = "intent"
data = ["nlu"]
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["nlu"]
"""
PLACES = ("oslo", "rome", "bonn", "york", "lima")
TEXT = "from bonn to rome 🎉"
EXPECTED = [("city", "bonn", "from", "1"), ("city", "rome", "to", "")]


def rasa_yaml() -> str:
    lines = ['version: "3.1"', "nlu:", "- intent: go", "  examples: |"]
    for number, place in enumerate(PLACES * 2):
        target = PLACES[(number + 1 + number // 5) % 5]
        start = json.dumps({"entity": "city", "role": "from", "group": "1"})
        lines.append(f'    - from [{place}]{start} to [{target}]{{"entity": "city", "role": "to"}}')
    lines += ["- intent: ask", "  examples: |", "    - what is this", "    - who are you"]
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rasa")
    (folder / "nlu.yml").write_text(rasa_yaml(), encoding="utf-8")
    (folder / "nlu.toml").write_text(CONFIG, encoding="utf-8")
    list(train(load_config(folder / "nlu.toml", output=folder / "run")))
    code = "from palm_trainer.cli.export import main; main()"
    command = [sys.executable, "-c", code, folder / "run", "--output", folder / "bundle", "--precision", "fp32"]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder / "bundle"


@pytest.fixture(scope="module")
def target(bundle: Path, start_shared_server: Callable[..., Any]) -> Iterator[str]:
    address: str = start_shared_server(bundle, "--provider", "CPU", "--log-level", "error").target()
    return address


def facts(spans: Any) -> list[tuple[str, str, str, str]]:
    return [(span.name, span.value, span.role, span.group) for span in spans]


@pytest.mark.slow
def test_parse_and_predict_answer_roles(target: str) -> None:
    with Client(target) as client:
        assert facts(client.parse(TEXT).slots) == EXPECTED
        assert facts(client.predict("slots", TEXT).result.spans.spans) == EXPECTED
        [model] = client.models()
    [task] = [task for task in model.tasks if task.name == "slots"]
    assert list(task.labels) == ["city"]
    assert [(t.name, t.role, t.group) for t in task.span_types] == [("city", "from", "1"), ("city", "to", "")]
    with grpc.insecure_channel(target) as channel:
        batch = stubs.DialogueUnderstandingStub(channel).ParseBatch(
            pb.ParseBatchRequest(requests=[pb.ParseRequest(text=TEXT), pb.ParseRequest(text="who are you")])
        )
    assert facts(batch.items[0].response.slots) == EXPECTED


OPEN_INFERENCE = """
import sys, grpc
from palm_serve.oip import inference_pb2 as pb, inference_pb2_grpc as stubs
with grpc.insecure_channel(sys.argv[1]) as channel:
    text = pb.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1])
    text.contents.bytes_contents.append(sys.argv[2].encode())
    request = pb.ModelInferRequest(model_name="bundle", inputs=[text])
    request.outputs.add(name="slots.json")
    answer = stubs.GRPCInferenceServiceStub(channel).ModelInfer(request)
    sys.stdout.buffer.write(answer.outputs[0].contents.bytes_contents[0])
"""


def test_open_inference_answers_roles(target: str) -> None:
    command = [sys.executable, "-c", OPEN_INFERENCE, target, TEXT]
    done = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)
    spans = json.loads(done.stdout)["spans"]
    assert [(span["name"], span["value"], span["role"], span["group"]) for span in spans] == EXPECTED


def test_call_prints_roles(target: str) -> None:
    command = [sys.executable, "-m", "palm_serve.cli", "call", TEXT, "--target", target]
    environment = {**os.environ, "COLUMNS": "200"}
    table = subprocess.run(command, capture_output=True, check=True, cwd=ROOT, text=True, env=environment).stdout
    assert "city (role from, group 1)" in table
    assert "city (role to)" in table
    printed = subprocess.run([*command, "--json"], capture_output=True, check=True, cwd=ROOT, text=True).stdout
    assert [(slot["role"], slot["group"]) for slot in json.loads(printed)["slots"]] == [("from", "1"), ("to", "")]
