"""MixATIS by base utterance: rows are taken apart, and every utterance counts once."""

import os
from pathlib import Path

import pytest

from palm_trainer.config.loader import load_config

KNOWN = {"list fares", "list fares and flights", "show flights", "what is mco", "also show trains"}


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("list fares", ["list fares"]),
        ("list fares and show flights", ["list fares", "show flights"]),
        ("list fares and flights", ["list fares and flights"]),
        (
            "what is mco , list fares and flights and then show flights",
            ["what is mco", "list fares and flights", "show flights"],
        ),
        ("list fares and also show trains", ["list fares", "also show trains"]),
    ],
)
def test_base_utterances_are_found(text, parts):
    import mixatis

    assert mixatis.base_utterances(text, KNOWN) == parts


@pytest.mark.parametrize("text", ["list fares and", "list fares show flights", "", "book a table and list fares"])
def test_base_utterances_of_other_text_are_refused(text):
    import mixatis

    with pytest.raises(ValueError, match="must be made of utterances of ATIS and conjunctions"):
        mixatis.base_utterances(text, KNOWN)


def test_row_weights_give_each_utterance_one():
    import mixatis

    rows = [["a", "b"], ["a"], ["a", "c"], ["b", "a"]]
    weights = mixatis.row_weights(rows)
    assert weights == pytest.approx([1 / 4 + 1 / 2, 1 / 4, 1 / 4 + 1, 1 / 2 + 1 / 4])
    assert sum(weights) == pytest.approx(3)


def write(folder, rows):
    folder.mkdir(parents=True)
    for name, column in zip(("seq.in", "seq.out", "label"), zip(*rows, strict=True), strict=True):
        (folder / name).write_text("".join(f"{line}\n" for line in column), encoding="utf-8")


def test_by_base_utterance_weighs_the_rows_that_are_right(tmp_path, monkeypatch):
    """A run that has learnt its rows by heart is asked rows of which one has a wrong label."""
    import mixatis

    rows = [
        ("go to rome", "O O B-city", "go"),
        ("list fares", "O O", "fare"),
        ("go to rome and list fares", "O O B-city O O O", "go#fare"),
    ]
    for split in ("train", "dev"):
        write(tmp_path / "mixatis" / split, rows * 4)
    write(tmp_path / "mixatis/test", [*rows[:1] * 3, ("list fares", "O O", "go")])
    write(tmp_path / "atis/test", rows[:2])
    monkeypatch.setenv("PALM_DATA", str(tmp_path))
    text = (Path(mixatis.__file__).parent / "configs/mixatis.toml").read_text(encoding="utf-8")
    scratch = 'model = "scratch"\nlayers = 1\nhidden_size = 32\nheads = 2\ndropout = 0.0'
    path = tmp_path / "tiny.toml"
    path.write_text(text.replace('model = "minilm-l6-en"', scratch), encoding="utf-8")
    overrides = ["train.epochs=60", "train.learning_rate=1e-2", "train.head_learning_rate=1e-2", "train.evaluations=1"]
    config = load_config(path, overrides, output=tmp_path / "run")
    from palm_trainer.runs.run import train

    list(train(config))
    found = mixatis.by_base_utterance(
        tmp_path / "run", load_config(tmp_path / "run/config.toml"), tmp_path / "atis/test"
    )
    assert found == {"exact_match": pytest.approx(50.0), "utterances": 2}


@pytest.mark.slow
@pytest.mark.skipif("PALM_DATA" not in os.environ, reason="needs the public data sets")
def test_mixatis_test_is_made_of_309_utterances():
    import mixatis

    data = Path(os.environ["PALM_DATA"])
    known = {" ".join(line.split()) for line in (data / "atis/test/seq.in").read_text(encoding="utf-8").splitlines()}
    texts = (data / "mixatis/test/seq.in").read_text(encoding="utf-8").splitlines()
    parts = [mixatis.base_utterances(text, known) for text in texts]
    assert (len(parts), sum(map(len, parts)), len({part for row in parts for part in row})) == (828, 1713, 309)
