"""Splits of one data set: `dev_share`, and `palm-train convert --split`."""

import json
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_trainer.config.loader import load_config
from palm_trainer.config.schema import data_config
from palm_trainer.data.convert import convert_split
from palm_trainer.data.divide import divide, parse_shares
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.formats import FORMATS
from palm_trainer.data.formats.find_splits import find_splits
from palm_trainer.data.formats.text_files import Defects, FormatOptions
from palm_trainer.data.splits import Splits, read_split
from palm_trainer.errors import ConfigError, DataError

THREE = {"train": 0.8, "dev": 0.1, "test": 0.1}


def examples(counts):
    return [Example(f"{label} {n}", {"intent": label}) for label, count in counts.items() for n in range(count)]


def test_divide_keeps_the_share_of_each_label():
    rows = examples({"often": 400, "seldom": 50, "rare": 20, "twice": 2, "once": 1})
    splits = divide(rows, THREE, 13)
    counts = {split: Counter(row.fields["intent"] for row in part) for split, part in splits.items()}
    assert sum(map(len, splits.values())) == len(rows)
    for split in ("dev", "test"):
        assert abs(counts[split]["often"] - 40) <= 1
        assert abs(counts[split]["seldom"] - 5) <= 1
        assert abs(counts[split]["rare"] - 2) <= 1
        assert counts[split]["once"] == 0
    assert counts["train"]["twice"] >= 1


def test_divide_depends_on_the_seed_and_not_on_the_order():
    rows = examples({"a": 60, "b": 40})

    def dev_texts(content, seed):
        return {row.text for row in divide(content, {"train": 0.9, "dev": 0.1}, seed)["dev"]}

    assert dev_texts(rows, 1) == dev_texts(rows[::-1], 1)
    assert dev_texts(rows, 1) != dev_texts(rows, 2)
    assert len(dev_texts(rows, 1)) == 10


LABELS = st.sampled_from("abc")
ROW = st.builds(
    lambda word, pair, label, span, topics: Example(
        word,
        {"intent": label, "slots": (LabelledSpan(0, 1, span),) if span else (), "topics": tuple(sorted(topics))},
        pair=pair,
    ),
    st.sampled_from(["Fly", "fly ", "ＦＬＹ", "a  b", "A b", *"cdefghijk"]),
    st.sampled_from([None, "x", "X"]),
    LABELS,
    st.sampled_from(["", "s", "t"]),
    st.sets(LABELS),
)


@settings(max_examples=100, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=60), seed=st.integers(0, 99))
def test_divide_keeps_equal_texts_together_and_loses_no_row(rows, seed):
    try:
        splits = divide(rows, THREE, seed)
    except DataError:  # a split without a row: few texts
        assert len({row.text for row in rows}) < 60
        return
    assert Counter(map(id, rows)) == Counter(id(row) for part in splits.values() for row in part)

    def key(row):
        return tuple(" ".join(t.replace("ＦＬＹ", "fly").lower().split()) for t in (row.text, row.pair or ""))

    keys = {split: set(map(key, part)) for split, part in splits.items()}
    assert not keys["train"] & keys["dev"]
    assert not keys["train"] & keys["test"]
    assert not keys["dev"] & keys["test"]
    trained = {row.fields["intent"] for row in splits["train"]}
    if 2 * len({row.fields["intent"] for row in rows}) <= len(rows):
        assert {row.fields["intent"] for row in rows} == trained


def test_divide_labels_that_do_not_repeat_decide_nothing():
    rows = [Example(f"text {n}", {"key": f"k{n}", "intent": "ab"[n % 2]}) for n in range(100)]
    splits = divide(rows, {"train": 0.9, "dev": 0.1}, 13)
    assert Counter(row.fields["intent"] for row in splits["dev"]) == {"a": 5, "b": 5}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train=0.8,dev=0.1", "shares that sum to 1, got 0.9"),
        ("train=1", "share between 0 and 1, got 'train=1'"),
        ("train=0.5,train=0.5", "once each"),
        ("train=0.5,rest=0.5", "got 'rest=0.5'"),
        ("train=x,dev=0.1", "got 'train=x'"),
        ("train=nan,dev=0.1", "got 'train=nan'"),
        ("", "got ''"),
    ],
)
def test_invalid_shares_are_refused(text, message):
    with pytest.raises(DataError, match=message):
        parse_shares(text)
    assert parse_shares("train=0.8, dev=0.1,test=0.1") == THREE


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "all.jsonl"
    rows = [{"text": f"to city {n}", "intent": "ab"[n % 2], "id": n} for n in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_dev_share_sets_rows_of_train_apart(source):
    data = data_config({"format": "jsonl", "train": str(source), "dev_share": 0.25})
    splits = Splits({"x": data}, seed=7)
    assert splits.data_sets("dev") == ["x"]
    train, dev = splits.read("x", "train"), splits.read("x", "dev")
    assert (len(train.examples), len(dev.examples)) == (30, 10)
    assert not {e.text for e in train.examples} & {e.text for e in dev.examples}
    assert [e.text for e in read_split(data, "dev", 7).examples] == [e.text for e in dev.examples]
    assert [e.text for e in read_split(data, "dev", 8).examples] != [e.text for e in dev.examples]
    kinds = {defect.kind: defect.count for defect in train.defects}
    assert kinds == {
        "'id' (passed over)": 40,
        "row that dev_share = 0.25 sets apart as dev, drawn with seed 7": 10,
    }


def test_dev_share_of_too_few_rows_is_refused(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a", "intent": "x"}\n')
    with pytest.raises(DataError, match="split 'dev' must get at least one row, got none of 1 different texts"):
        read_split(data_config({"format": "jsonl", "train": str(path), "dev_share": 0.1}), "train", 13)


def test_dev_share_beside_dev_is_refused(tmp_path, source):
    config = tmp_path / "c.toml"
    config.write_text(
        f'[encoder]\nmodel = "scratch"\n[data.x]\nformat = "jsonl"\ntrain = "{source}"\ndev = "{source}"\n'
        'dev_share = 0.1\n[tasks.intent]\nkind = "classify"\ndata = ["x"]\n'
    )
    with pytest.raises(ConfigError, match=r"data\.x must have dev or dev_share, got both"):
        load_config(config, (), tmp_path / "run")


@pytest.mark.parametrize("target_format", ["jsonl", "csv", "conll", "joint", "parquet"])
def test_convert_split_writes_a_directory_of_splits(tmp_path, source, target_format):
    if target_format == "parquet":
        pytest.importorskip("pyarrow")
    reports = convert_split(source, tmp_path / "out", THREE, target_format=target_format)
    assert {split: report.count for split, report in reports.items()} == {"train": 32, "dev": 4, "test": 4}
    splits, _ = find_splits(tmp_path / "out")
    texts = []
    for split in THREE:
        [path] = splits[split]
        texts += [e.text for e in FORMATS[target_format](path, FormatOptions(), Defects())]
    assert sorted(texts) == sorted(f"to city {n}" for n in range(40))
    assert [defect.kind for defect in reports["train"].defects] == ["'id' (passed over)"]


def test_convert_split_leaves_nothing_on_failure(tmp_path, source):
    with pytest.raises(DataError, match="no passage"):
        convert_split(source, tmp_path / "out", THREE, target_format="squad")
    with pytest.raises(DataError, match=r"--to must be one of jsonl, .* with --split, got 'clinc'"):
        convert_split(source, tmp_path / "out", THREE, target_format="clinc")
    assert not (tmp_path / "out").exists()
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="out: exists"):
        convert_split(source, tmp_path / "out", THREE)
