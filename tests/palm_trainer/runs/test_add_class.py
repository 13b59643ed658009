"""`palm-train add-class`: a class more in a finished run, without training."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from palm_trainer.cli.train import app, command
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.evaluation.out_of_scope import collect
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from tests.palm_trainer.conftest import Kind, run_to_end

TABLES = """
[data.d]
format = "jsonl"
train = "train.jsonl"
dev = "train.jsonl"

[tasks.intent]
kind = "classify"
role = "intent"
data = ["d"]
head = "prototype"
out_of_scope_score = "{score}"

[tasks.second]
kind = "classify"
data = ["d"]
field = "intent"
{second}
"""
PLACES = ("boston", "denver", "home", "my town", "oslo please", "the coast now")
OPENINGS = {"book_flight": "fly to {}", "play_music": "play a jazz song of {}", "transfer": "send {} money"}
ROWS = [(opening.format(place), label) for label, opening in OPENINGS.items() for place in PLACES]
NEW = ["denver to boston money", "boston denver boston"]


def make_run(folder: Path, score: str = "softmax", second: str = "") -> Kind:
    made = Kind(folder)
    made.rows("train.jsonl", [{"text": text, "intent": label} for text, label in ROWS])
    made.config(TABLES.format(score=score, second=second), epochs=1)
    run_to_end(load_config(folder / "tiny.toml", ["train.learning_rate=1e-6", "encoder.pooling=mean"]))
    return made


@pytest.fixture(scope="module")
def trained_runs(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Kind]:
    """`trained_runs("mahalanobis")`: a finished run, made once."""
    made: dict[tuple[str, ...], Kind] = {}

    def _run(*options: str) -> Kind:
        if options not in made:
            made[options] = make_run(tmp_path_factory.mktemp("run"), *options)
        return made[options]

    return _run


@pytest.fixture
def finished(trained_runs, tmp_path) -> Callable[..., Kind]:
    """`finished("mahalanobis")`: a copy of it."""

    def _copy(*options: str) -> Kind:
        shutil.copytree(trained_runs(*options).run, tmp_path / "run")
        return Kind(tmp_path)

    return _copy


def add(kind: Kind, label: str, texts: list[str], *arguments: str) -> int:
    path = kind.folder / "new.txt"
    path.write_text("".join(text + "\n" for text in texts), encoding="utf-8")
    return command(app, ["add-class", str(kind.run), label, "--examples", str(path), *arguments])


def logits(run: Path, texts: list[str]) -> np.ndarray:
    return collect(load_trained(run), "intent", [Example(text) for text in texts])[0]


@pytest.mark.parametrize("score", ["softmax", "energy", "mahalanobis"])
def test_the_class_is_answered_and_the_others_are_as_they_were(finished, score, capsys):
    kind = finished(score)
    texts = [*NEW, *(text for text, _ in ROWS)]
    before, old = logits(kind.run, texts), load_trained(kind.run)
    assert add(kind, "hop_cities", NEW) == 0
    after, new = logits(kind.run, texts), load_trained(kind.run)
    assert np.array_equal(after[:, :-1], before)
    info, old_info = new.tasks["intent"], old.tasks["intent"]
    assert info.labels == (*old_info.labels, "hop_cities")
    assert info.thresholds == old_info.thresholds
    assert info.calibration == old_info.calibration.model_copy(update={"ece": None})
    answers = Predictor(new).answers([Example(text) for text in NEW], ["intent"])
    assert [answer["intent"].label.name for answer in answers] == ["hop_cities"] * 2
    said = capsys.readouterr().out
    assert "hop_cities: a class of 'intent' from 2 texts\n" in said
    assert f"Export it again: palm-export {kind.run} --output BUNDLE --overwrite" in said.replace("\n", " ")
    kind.serve()


def test_a_mahalanobis_score_gets_the_mean_of_the_class(finished):
    kind = finished("mahalanobis")
    old = load_trained(kind.run)
    add(kind, "hop_cities", NEW)
    new = load_trained(kind.run)
    for name in ("intent.centre", "intent.whitening"):
        assert np.array_equal(new.arrays[name], old.arrays[name])
    features = collect(old, "intent", [Example(text) for text in NEW])[1].mean(axis=0)
    expected = (features - old.arrays["intent.centre"]) @ old.arrays["intent.whitening"].T
    np.testing.assert_allclose(new.arrays["intent.means"][-1], expected, rtol=1e-3, atol=1e-3)
    assert np.array_equal(new.arrays["intent.means"][:-1], old.arrays["intent.means"])


def test_the_run_is_evaluated_again_and_tells_what_it_was_trained_with(finished):
    kind = finished("softmax")
    (kind.run / "report.html").write_text("of before")
    kept = {name: (kind.run / name).read_bytes() for name in ("config.toml", "events.jsonl", "last/model.safetensors")}
    (kind.run / "metrics.json").write_text(json.dumps({"dev": {}, "test": {"of": "before"}}))
    assert add(kind, "hop_cities", NEW) == 0
    for name, content in kept.items():
        assert (kind.run / name).read_bytes() == content
    metrics = json.loads((kind.run / "metrics.json").read_text())
    assert "accuracy" in metrics["dev"]["intent"]
    assert "of before" not in (kind.run / "report.html").read_text()
    assert command(app, ["evaluate", str(kind.run), "--split", "dev"]) == 0


def test_a_second_class_and_a_resumed_run(finished):
    kind = finished("softmax")
    assert add(kind, "hop_cities", NEW) == 0
    assert add(kind, "查天气", ["song of denver"]) == 0
    best = (kind.run / "best/model.safetensors").read_bytes()
    assert command(app, ["run", str(kind.run / "config.toml"), "--output", str(kind.run), "--resume"]) == 0
    assert (kind.run / "best/model.safetensors").read_bytes() == best
    assert load_trained(kind.run).tasks["intent"].labels[-2:] == ("hop_cities", "查天气")


@pytest.mark.parametrize(("label", "has_name"), [("play_money", True), ("???", False), ("天气", False)])
def test_the_name_is_a_text_where_it_has_words(finished, label, has_name, capsys):
    kind = finished("softmax")
    trained = load_trained(kind.run)
    assert add(kind, label, ["song of denver"]) == 0
    vector = load_trained(kind.run).model.head("intent").linear.weight[-1].detach().numpy()
    text = collect_vector(trained, "song of denver")
    votes = text + collect_vector(trained, "play money") if has_name else text
    np.testing.assert_allclose(vector, votes / np.linalg.norm(votes), atol=1e-5)
    assert ("and its name" in capsys.readouterr().out) == has_name


def collect_vector(trained, text: str) -> np.ndarray:
    from palm_trainer.runs.class_vectors import pooled_vectors, to_unit

    return to_unit(next(pooled_vectors(trained, [Example(text)]))[1])[0]


FILES = {
    "new.txt": "denver to boston money\n\nboston denver boston\n",
    "new.jsonl": '{"text": "denver to boston money"}\n{"text": "boston denver boston", "intent": "hop_cities"}\n',
    "new.csv": "text,intent\ndenver to boston money,hop_cities\nboston denver boston,hop_cities\n",
    "one.csv": "text\ndenver to boston money\nboston denver boston\n",
    "new.json": '[{"text": "denver to boston money"}, {"text": "boston denver boston"}]',
    "new.tsv": "text\tintent\ndenver to boston money\thop_cities\nboston denver boston\thop_cities\n",
}


@pytest.mark.parametrize("name", FILES)
def test_formats_of_the_texts(finished, name):
    kind = finished("softmax")
    path = kind.folder / name
    path.write_text(FILES[name], encoding="utf-8")
    assert command(app, ["add-class", str(kind.run), "hop_cities", "--examples", str(path)]) == 0
    vector = load_trained(kind.run).model.head("intent").linear.weight[-1].detach().numpy()
    trained = load_trained(kind.run)
    votes = collect_vector(trained, NEW[0]) + collect_vector(trained, NEW[1])
    np.testing.assert_allclose(vector, votes / np.linalg.norm(votes), atol=1e-5)


@pytest.mark.parametrize(
    ("label", "content", "message"),
    [
        ("transfer", "x\n", "NAME must be new to task 'intent', got 'transfer', which it has. Choose another name."),
        (" ", "x\n", "NAME must be a label in one line without control characters, got ' '."),
        ("a\nb", "x\n", "NAME must be a label in one line without control characters, got 'a\\nb'."),
        ("new", "\n \n", "new.txt: an empty file; a data file holds at least one example"),
    ],
)
def test_refusals_change_nothing(finished, capsys, label, content, message):
    kind = finished("softmax")
    best = (kind.run / "best/model.safetensors").read_bytes()
    assert add(kind, label, content.splitlines()) == 2
    assert message in capsys.readouterr().err
    assert (kind.run / "best/model.safetensors").read_bytes() == best


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (
            {"text": "x", "intent": "transfer"},
            "texts of 'new' must have its label or none, got 'transfer' in 'intent'.",
        ),
        ({"text": "x", "text_pair": "y"}, "a row must hold one text, as the task reads. Mend the row."),
    ],
)
def test_rows_that_do_not_fit_are_named(finished, capsys, row, message):
    kind = finished("softmax")
    kind.rows("new.jsonl", [{"text": "fine"}, row])
    assert command(app, ["add-class", str(kind.run), "new", "--examples", str(kind.folder / "new.jsonl")]) == 2
    assert f"new.jsonl:2: {message}" in capsys.readouterr().err


def test_several_prototype_heads_need_a_task(finished, capsys):
    kind = finished("softmax", 'head = "prototype"')
    assert add(kind, "new", NEW) == 2
    assert "--task must name one of several tasks (intent, second), got none." in capsys.readouterr().err
    assert add(kind, "new", NEW, "--task", "third") == 2
    assert "--task must be a task with head = 'prototype' (intent, second), got 'third'." in capsys.readouterr().err
    assert add(kind, "new", NEW, "--task", "second") == 0
    tasks = load_trained(kind.run).tasks
    assert ("new" in tasks["intent"].labels, "new" in tasks["second"].labels) == (False, True)


def test_a_run_without_a_prototype_head_is_refused(finished_run, tmp_path, capsys):
    (tmp_path / "new.txt").write_text("a text\n")
    assert command(app, ["add-class", str(finished_run), "new", "--examples", str(tmp_path / "new.txt")]) == 2
    assert "must have a task with head = 'prototype', got none (intent, slots, mood)." in capsys.readouterr().err


def test_an_unfinished_run_is_refused(finished, capsys):
    kind = finished("softmax")
    (kind.run / "metrics.json").unlink()
    assert add(kind, "new", NEW) == 2
    assert "must be a finished run" in capsys.readouterr().err


def test_missing_files_are_refused(finished, tmp_path, capsys):
    kind = finished("softmax")
    assert command(app, ["add-class", str(tmp_path / "no"), "new", "--examples", "x.txt"]) == 2
    assert "no such run directory" in capsys.readouterr().err
    assert command(app, ["add-class", str(kind.run), "new", "--examples", str(tmp_path / "no.txt")]) == 2
    assert "no.txt" in capsys.readouterr().err
