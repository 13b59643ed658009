"""Synonyms, lookups and patterns of Rasa training data, from the file to the answers of a real server."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2 as httpx
import pytest

from palm_serve.client import Client
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
vocab_size = 160
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
ACCOUNTS = ("credit", "credit card", "savings", "card", "12345")
NLU = """\
version: "3.1"
nlu:
- intent: balance
  examples: |
{examples}
- intent: ask
  examples: |
    - what is this
    - who are you
- synonym: Credit Account
  examples: |
    - credit card
    - CREDIT
- lookup: account
  examples: |
    - Savings
- regex: account-number
  examples: |
    - \\d{{5}}
"""
TEXTS = {
    "credit card": ("Credit Account", "synonym"),
    "credit": ("Credit Account", "synonym"),
    "card": ("Card", "synonym"),
    "savings": ("Savings", "value"),
    "12345": ("12345", "account-number"),
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rasa")
    examples = []
    for verb in ("show me", "what is in"):
        for account in ACCOUNTS:
            value = ":Card" if account == "card" else ""
            examples.append(f"    - {verb} [{account}](account{value}) please")
    (folder / "nlu.yml").write_text(NLU.format(examples="\n".join(examples)), encoding="utf-8")
    (folder / "nlu.toml").write_text(CONFIG, encoding="utf-8")
    list(train(load_config(folder / "nlu.toml", output=folder / "run")))
    code = "from palm_trainer.cli.export import main; main()"
    command = [sys.executable, "-c", code, folder / "run", "--output", folder / "bundle", "--precision", "fp32"]
    subprocess.run(command, check=True, cwd=ROOT)
    return folder / "bundle"


@pytest.mark.slow
def test_values_of_rasa_data_are_answered(bundle: Path, start_shared_server: Callable[..., Any]) -> None:
    process = start_shared_server(bundle, "--provider", "CPU", "--http-port", "0", "--drain-grace", "0")
    url = process.wait_for(r"listening on (http://\S+)$")
    with Client(process.target()) as client:
        for value, (canonical, kind) in TEXTS.items():
            text = f"show me {value} please"
            [slot] = client.parse(text).slots
            assert (slot.value, text[slot.start : slot.end]) == (value, value)
            assert (slot.resolved.canonical, slot.resolved.kind) == (canonical, kind)
            assert json.loads(slot.resolved.json) == canonical
            answer = httpx.post(f"{url}/model/parse", json={"text": text}, trust_env=False, timeout=60).json()
            [entity] = answer["entities"]
            assert text[entity["start"] : entity["end"]] == value
            if kind == "synonym":
                assert (entity["value"], entity["processors"]) == (canonical, ["EntitySynonymMapper"])
            else:  # as in Rasa, lists and expressions change nothing
                assert (entity["value"], entity.get("processors")) == (value, None)


def test_values_are_a_listed_file_of_the_bundle(bundle: Path) -> None:
    assert "values.json" in json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["files"]
    slots = json.loads((bundle / "values.json").read_text(encoding="utf-8"))["tasks"]["slots"]
    assert slots["account"] == {"synonyms": {"card": "Card"}, "values": ["Card", "Savings"]}
    assert slots[""]["patterns"] == [{"name": "account-number", "pattern": r"\d{5}"}]


def test_synonym_that_maps_two_ways_is_refused_by_the_command(tmp_path: Path) -> None:
    content = (
        NLU.format(examples="    - show me [card](account)") + "- synonym: Debit\n  examples: |\n    - Credit  Card\n"
    )
    (tmp_path / "nlu.yml").write_text(content, encoding="utf-8")
    (tmp_path / "nlu.toml").write_text(CONFIG, encoding="utf-8")
    code = "from palm_trainer.cli.train import main; main()"
    command = [sys.executable, "-c", code, "plan", tmp_path / "nlu.toml", "--data-only"]
    done = subprocess.run(command, capture_output=True, check=False, cwd=ROOT, text=True)
    assert done.returncode == 2
    assert re.search(
        r"nlu\.yml:22: a synonym must stand for one value, got 'Credit  Card' for 'Debit' here and for 'Credit Account' at \S*nlu\.yml:12",
        done.stdout + done.stderr,
    )
