"""ATIS's intents, counted in the field's two ways."""

import importlib
from itertools import product

import pytest

from palm_trainer.config.loader import load_config
from palm_trainer.tasks.metrics import accuracy

LABELS = ("a", "b", "c", "a#b", "b#c", "a#b#c")


@pytest.fixture
def protocols():
    return importlib.import_module("protocols")


@pytest.mark.parametrize(
    ("gold", "predicted", "right"),
    [
        ("atis_flight", "atis_flight", True),
        ("atis_flight#atis_airfare", "atis_flight#atis_airfare", True),
        ("atis_flight#atis_airfare", "atis_airfare", True),
        ("atis_flight#atis_airfare", "atis_airline", False),
        ("atis_flight_no#atis_airfare", "atis_flight", False),  # a part of a name is no intent
        ("atis_flight", "atis_flight#atis_airfare", False),
        ("atis_flight#atis_airfare", "atis_airfare#atis_flight_no", False),
    ],
)
def test_what_counts(protocols, gold, predicted, right):
    assert protocols.any_of_accuracy([gold], [predicted]) == right


def test_any_of_is_never_below_the_whole_label(protocols):
    gold, predicted = zip(*product(LABELS, LABELS), strict=True)
    # six are equal; a, b, c are told for 2, 3, 2 labels of several intents
    assert accuracy(gold, predicted) == 6 / 36
    assert protocols.any_of_accuracy(gold, predicted) == (6 + 2 + 3 + 2) / 36


def test_both_counts_of_a_run(protocols, benchmark_run):
    told = protocols.atis_intent(benchmark_run, benchmark_run / "config.toml", "dev")
    assert told == protocols.atis_intent(benchmark_run, load_config(benchmark_run / "config.toml"), "dev")
    dev = (benchmark_run.parent / "dev/label").read_text(encoding="utf-8").split()
    single, whole = dev.count("a"), dev.count("a#b")
    # a single-layer model that saw one intent in nearly all rows answers with it
    assert told == {
        "intent accuracy": pytest.approx(100 * single / len(dev)),
        "intent any-of accuracy": pytest.approx(100 * (single + whole) / len(dev)),
    }
    with pytest.raises(ValueError, match="no data set has labels of 'mood' in dev"):
        protocols.atis_intent(benchmark_run, benchmark_run / "config.toml", "dev", task="mood")


@pytest.fixture
def benchmark_run(tmp_path):
    """A run whose dev holds one utterance of two intents."""
    from palm_trainer.runs.run import train

    def write(split, labels):
        folder = tmp_path / split
        folder.mkdir()
        (folder / "seq.in").write_text("to boston\n" * len(labels), encoding="utf-8")
        (folder / "seq.out").write_text("O B-city\n" * len(labels), encoding="utf-8")
        (folder / "label").write_text("".join(f"{label}\n" for label in labels), encoding="utf-8")

    write("train", ["a"] * 30 + ["b"])
    write("dev", ["a", "a", "a#b", "b"])
    (tmp_path / "c.toml").write_text(
        f"""
[encoder]
model = "scratch"
max_length = 8
layers = 1
hidden_size = 8
heads = 2
vocab_size = 64
[data.atis]
format = "joint"
train = "train"
dev = "dev"
[tasks.intent]
kind = "classify"
data = ["atis"]
[train]
epochs = 2
batch_size = 8
learning_rate = 1e-2
output = "{(tmp_path / "run").as_posix()}"
""",
        encoding="utf-8",
    )
    list(train(load_config(tmp_path / "c.toml")))
    return tmp_path / "run"
