"""The D-Net recipe, as configuration and in the API, on a few lines of text and tiny encoders: what trains, what is saved, what is exported."""

import json
import runpy
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from palm_serve.bundle.loader import load_bundle
from palm_trainer.cli.export import app
from palm_trainer.config.loader import Config, load_config
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.events import Finished
from palm_trainer.runs.run import train
from palm_trainer.training.loop import Step

ROOT = Path(__file__).parents[2]
RIVERS = {"elbe": "hamburg", "rhine": "cologne", "danube": "vienna", "seine": "paris"}
SENTENCE = "the flows through and a town on it where does flow ?"
WORDS = [*SENTENCE.split(), *RIVERS, *RIVERS.values()]
EPOCHS = 3


@pytest.fixture
def files(tmp_path: Path) -> SimpleNamespace:
    """Four questions, six lines of text, eight pairs: our own."""
    articles = []
    for number, (river, town) in enumerate(RIVERS.items()):
        passage = f"the {river} flows through {town} and a town on it"
        asked = {"id": f"q{number}", "question": f"where does the {river} flow ?"}
        asked["answers"] = [{"text": town, "answer_start": passage.index(town)}]
        articles.append({"title": river, "paragraphs": [{"context": passage, "qas": [asked]}]})
    (tmp_path / "squad.json").write_text(json.dumps({"version": "1.1", "data": articles}), encoding="utf-8")
    text = [f"the {river} flows through {town}" for river, town in RIVERS.items()] * 2
    _table(tmp_path / "text.tsv", ["text_a", *text[:6]])
    pairs = [
        f"{int(asked == river)}\twhere does the {asked} flow ?\tthe {river} flows through {RIVERS[river]}"
        for river in RIVERS
        for asked in (river, "elbe" if river != "elbe" else "seine")
    ]
    _table(tmp_path / "pairs.tsv", ["label\ttext_a\ttext_b", *pairs])
    return SimpleNamespace(**{name.split(".")[0]: tmp_path / name for name in ("squad.json", "text.tsv", "pairs.tsv")})


def _table(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch, files: SimpleNamespace, tmp_path: Path) -> Callable[..., Config]:
    """`recipe(*overrides)`: examples/dnet.toml with our text and a tiny encoder."""
    monkeypatch.setenv("PALM_DATA", str(tmp_path))
    tiny = {
        "encoder.model": "scratch",
        "encoder.max_length": 32,
        "encoder.layers": 1,
        "encoder.hidden_size": 16,
        "encoder.heads": 2,
        "tasks.answer.max_query_tokens": 10,
        "tasks.answer.doc_stride_tokens": 8,
        "data.squad.train": files.squad,
        "data.squad.dev": files.squad,
        "data.text.train": files.text,
        "data.pairs.train": files.pairs,
        "train.epochs": EPOCHS,
        "train.batch_size": 2,
        "train.device": "cpu",
        "train.precision": "fp32",
    }
    settings = [f"{key}={value}" for key, value in tiny.items()]
    return lambda *more: load_config(ROOT / "examples/dnet.toml", [*settings, *more], tmp_path / "run")


def test_recipe_is_dnets(recipe):
    """The published mix: 1 : 2.0 : 0.8, weight decay 0.1, a tenth of warm-up, averaged weights."""
    config = recipe()
    assert [data.mix_ratio for data in config.data.values()] == [1.0, 2.0, 0.8]
    assert [task.auxiliary for task in config.tasks.values()] == [False, True, True]
    assert (config.train.weight_decay, config.train.warmup_ratio, config.train.regularization.ema_decay) == (
        0.1,
        0.1,
        0.9999,
    )


def test_config_trains_in_the_mix_and_exports_the_main_task_alone(recipe, tmp_path):
    events = list(train(recipe()))
    steps = Counter(event.data for event in events if isinstance(event, Step))
    assert steps == {"squad": EPOCHS * 2, "text": EPOCHS * 2 * 2, "pairs": round(EPOCHS * 2 * 0.8)}
    assert isinstance(events[-1], Finished)
    assert set(events[-1].metrics["dev"]) == {"answer"}
    assert load_trained(tmp_path / "run").auxiliary == {"words", "passage"}
    _assert_exports_answers_only(tmp_path / "run", tmp_path / "bundle")


def test_auxiliary_data_does_not_lengthen_the_training(recipe, files):
    """Ten times the text, and the training ends at the same step: only ratios and the main task's data count."""
    length = next(train(recipe())).job.loop.total_steps
    lines = files.text.read_text(encoding="utf-8").splitlines()
    _table(files.text, [lines[0], *lines[1:] * 10])
    events = list(train(recipe(), overwrite=True))
    assert sum(isinstance(event, Step) for event in events) == length
    assert isinstance(events[-1], Finished)
    assert not events[-1].interrupted


def test_script_trains_and_saves_the_main_task(
    files: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    encoder: Callable[[Path, Sequence[str]], Path],
) -> None:
    run = tmp_path / "api"
    options = {"--squad": files.squad, "--dev": files.squad, "--text": files.text, "--pairs": files.pairs}
    options |= {"--pretrain": encoder(tmp_path / "bert", WORDS), "--output": run, "--max-length": 32}
    options |= {"--epochs": EPOCHS, "--batch-size": 2}
    monkeypatch.setattr(sys, "argv", ["dnet.py", *(str(part) for pair in options.items() for part in pair)])
    runpy.run_path(str(ROOT / "examples/dnet.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert "answer: expected train steps 6." in said
    assert "answer train finish!" in said
    assert "words train finish!" not in said
    assert load_trained(run).auxiliary == {"words", "passage"}
    assert set(json.loads((run / "metrics.json").read_text())["dev"]) == {"answer"}
    _assert_exports_answers_only(run, tmp_path / "bundle")


def _assert_exports_answers_only(run: Path, bundle: Path) -> None:
    result = CliRunner().invoke(app, [str(run), "--output", str(bundle), "--precision", "fp32"])
    assert result.exit_code == 0, result.output
    assert list(load_bundle(bundle).manifest.tasks) == ["answer"]
