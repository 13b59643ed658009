"""The whole chain: train, export, serve, and what is served is what was evaluated, answer by answer."""

import json
import re
import signal
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

from palm_serve.client import Client
from palm_serve.types import Spans
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import LabelledSpan
from palm_trainer.evaluation.evaluate import comparable, evaluate
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.job_from_config import evaluation_sets, task_kinds
from palm_trainer.runs.run import train
from palm_trainer.tasks.metrics import accuracy, span_scores, to_units

ROOT = Path(__file__).parents[2]
SMALL = """
[encoder]
model = "scratch"
max_length = 48
layers = 2
hidden_size = 64
heads = 2
[tasks.intent]
kind = "classify"
role = "intent"
data = ["joint"]
[tasks.slots]
kind = "sequence_label"
role = "slots"
data = ["joint"]
[train]
epochs = {epochs}
batch_size = 32
learning_rate = 2e-3
head_learning_rate = 4e-3
precision = "fp32"
output = "unused"
[data.joint]
"""


@contextmanager
def server(bundle: Path):
    """Address of a `palm-serve run` process on the CPU in fp32, which ends with exit code 0."""
    command = [sys.executable, "-m", "palm_serve.cli", "run", str(bundle), "--port", "0", "--provider", "CPU"]
    process = subprocess.Popen([*command, "--precision", "fp32"], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        target = None
        for line in process.stdout:
            target = found[1] if (found := re.search(r"listening on (\S+)", line)) else target
            if "ready" in line:
                break
        assert target, f"the server ended with {process.wait()}"
        yield target
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def chain(tmp_path: Path, data: str, epochs: float) -> tuple[Path, Path]:
    """A run and its bundle."""
    config = tmp_path / "small.toml"
    config.write_text(SMALL.format(epochs=epochs) + data, encoding="utf-8")
    run, bundle = tmp_path / "run", tmp_path / "bundle"
    for _ in train(load_config(config, output=run)):
        pass
    command = [
        sys.executable,
        "-c",
        "from palm_trainer.cli.export import main; main()",
        str(run),
        "--output",
        str(bundle),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    return run, bundle


def compare(run: Path, bundle: Path) -> dict[str, object]:
    """Asks a real server every test utterance and compares with the evaluation's answers; the metrics of both."""
    config = load_config(run / "config.toml")
    (one,) = evaluation_sets(config, "test")
    predictor = Predictor(load_trained(run))
    expected = predictor.answers(one.examples)
    served = []
    with server(bundle) as target, Client(target) as client:
        for begin in range(0, len(one.examples), 64):
            chunk = [example.text for example in one.examples[begin : begin + 64]]
            served += client.parse_batch(chunk)
    gold_intents, intents, gold_units, units = [], [], [], []
    for example, want, have in zip(one.examples, expected, served, strict=True):
        assert have.intent.name == want["intent"].label.name, example.text
        assert have.intent.confidence == pytest.approx(want["intent"].label.confidence, abs=1e-4)
        spans = want["slots"]
        assert isinstance(spans, Spans)
        assert [(s.name, s.value, s.start, s.end) for s in have.slots] == [
            (s.name, s.value, s.start, s.end) for s in spans.spans
        ], example.text
        assert [s.confidence for s in have.slots] == pytest.approx([s.confidence for s in spans.spans], abs=1e-4)
        gold_intents.append(example.fields["intent"])
        intents.append(have.intent.name)
        gold_units.append(comparable("sequence_label", example, "slots", spans)[0])
        units.append(to_units([LabelledSpan(s.start, s.end, s.name) for s in have.slots], example.words))
    metrics = {"intent": {"accuracy": accuracy(gold_intents, intents)}, "slots": span_scores(gold_units, units)}
    right = [g == p and a == b for g, p, a, b in zip(gold_intents, intents, gold_units, units, strict=True)]
    evaluated = evaluate(predictor, task_kinds(config), [one])
    assert 0 < evaluated["slots"].pop("token_accuracy") <= 1  # of tags, which no server tells
    assert evaluated == {**metrics, "exact_match": sum(right) / len(right)}
    return json.loads((run / "metrics.json").read_text())["test"]


@pytest.mark.slow
def test_bundled_sample(tmp_path):
    folder = ROOT / "examples" / "data" / "assistant"
    files = "".join(f'{split} = "{folder / split}.jsonl"\n' for split in ("train", "dev", "test"))
    metrics = compare(*chain(tmp_path, 'format = "jsonl"\n' + files, 5))
    assert (
        metrics["intent"]["accuracy"] > 0.2
    )  # of 18 classes: it has learnt something, so the answers differ from row to row


@pytest.mark.slow
def test_atis(palm_data, tmp_path):
    files = "".join(f'{split} = "{palm_data}/atis/{split}"\n' for split in ("train", "dev", "test"))
    metrics = compare(*chain(tmp_path, 'format = "joint"\n' + files, 3))
    assert metrics["intent"]["accuracy"] > 0.8
    assert metrics["slots"]["f1"] > 0.6
