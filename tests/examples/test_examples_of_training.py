"""`examples/three_files.toml` and `examples/custom_parts.py` train, export and answer, with a tiny encoder."""

import runpy
import sys
from pathlib import Path

from typer.testing import CliRunner

from palm_serve import Model
from palm_serve.bundle.loader import load_bundle
from palm_trainer.cli.export import app as export
from palm_trainer.config.loader import load_config
from palm_trainer.runs.run import train

EXAMPLES = Path(__file__).parents[2] / "examples"


SMALL = ("model=scratch", "layers=1", "hidden_size=16", "heads=2", "max_length=32")


def test_three_files_become_one_model(tmp_path):
    overrides = [*(f"encoder.{setting}" for setting in SMALL), "train.epochs=1", "train.precision=fp32"]
    config = load_config(EXAMPLES / "three_files.toml", overrides, tmp_path / "run")
    steps = [event.data for event in train(config) if hasattr(event, "losses")]
    assert {*steps} == {"teams", "urgency", "duplicates"}
    arguments = [str(tmp_path / "run"), "--output", str(tmp_path / "bundle"), "--precision", "fp32"]
    done = CliRunner().invoke(export, arguments)
    assert done.exit_code == 0, done.output
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert {name: task.kind for name, task in manifest.tasks.items()} == {
        "team": "classify",
        "urgent": "classify",
        "same": "match",
    }
    assert manifest.tasks["team"].labels == ("billing", "privacy", "sales", "technical")
    with Model.open(tmp_path / "bundle") as model:
        answer = model.parse("our shop is down")
        assert answer.intent.name in manifest.tasks["team"].labels
        assert [result.task for result in answer.results] == ["urgent"]
        pair = model.predict("same", "I forgot my password", "how do I reset my password")
        assert pair.result.match.label.name in ("same", "other")


def test_a_head_of_ones_own_is_served(encoder, tmp_path, monkeypatch, capsys):
    tiny_encoder = encoder(tmp_path / "encoder", ["invoice", "app", "price", "data"])
    arguments = ["--pretrain", str(tiny_encoder), "--output", str(tmp_path / "bundle"), "--epochs", "2"]
    monkeypatch.setattr(sys, "argv", ["custom_parts.py", *arguments])
    runpy.run_path(str(EXAMPLES / "custom_parts.py"), run_name="__main__")
    assert "'accuracy'" in capsys.readouterr().out
    with Model.open(tmp_path / "bundle") as model:
        answer = model.predict("team", "I was charged twice")
        assert answer.result.classification.label.name in ("billing", "privacy", "sales", "technical")
