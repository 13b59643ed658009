"""Parquet files and Hugging Face data sets, written by the real packages."""

import sys
from pathlib import Path

import pytest

from palm_trainer.config.schema import data_config
from palm_trainer.data.example import LabelledSpan
from palm_trainer.data.formats.detect import detect_format
from palm_trainer.data.formats.find_splits import find_splits
from palm_trainer.data.formats.rows import NOT_TAGS
from palm_trainer.data.formats.squad import ABSENT, MOVED, UNANSWERED
from palm_trainer.data.splits import read_split
from palm_trainer.errors import DataError

pytest.importorskip("datasets", reason="datasets and pyarrow are in the extra `datasets`")
import datasets
from datasets import ClassLabel, Dataset, DatasetDict, Features, List, Value

datasets.disable_progress_bars()


def conll():
    tags = List(ClassLabel(names=["O", "B-ORG", "I-ORG"]))
    features = {"id": Value("string"), "tokens": List(Value("string"))}
    features |= {"pos_tags": List(ClassLabel(names=["NN", "VB"])), "ner_tags": tags}
    rows = {
        "id": ["0", "1"],
        "tokens": [["the", "EU", "team"], ["hi"]],
        "pos_tags": [[0, 0, 0], [1]],
        "ner_tags": [[0, 1, 2], [0]],
    }
    return Dataset.from_dict(rows, features=Features(features))


@pytest.fixture(params=["parquet", "datasets"])
def saved(request, tmp_path):
    """`saved(dataset)` -> format, path."""

    def _saved(dataset):
        path = tmp_path / ("data.parquet" if request.param == "parquet" else "data")
        dataset.to_parquet(path) if request.param == "parquet" else dataset.save_to_disk(path)
        assert detect_format(path).format == request.param
        return request.param, path

    return _saved


def test_arrow_token_and_tag_columns_become_spans(saved, parse):
    examples, defects = parse(*saved(conll()))
    assert [(e.text, e.fields, e.words) for e in examples] == [
        ("the EU team", {"ner_tags": (LabelledSpan(4, 11, "ORG"),)}, ((0, 3), (4, 6), (7, 11))),
        ("hi", {"ner_tags": ()}, ((0, 2),)),
    ]
    assert examples[1].source.endswith(": row 2")
    assert defects == {NOT_TAGS.format("pos_tags", "bio"): 2, "'id' (passed over)": 2}


def test_arrow_class_label_numbers_become_names(saved, parse):
    features = Features({"sentence1": Value("string"), "sentence2": Value("string"), "idx": Value("int32")})
    features["label"] = ClassLabel(names=["no", "yes"])
    data = Dataset.from_dict(
        {"sentence1": ["a", "b"], "sentence2": ["c", "d"], "idx": [0, 1], "label": [1, -1]}, features=features
    )
    examples, _ = parse(*saved(data))
    assert [(e.text, e.pair, e.fields) for e in examples] == [("a", "c", {"label": "yes"}), ("b", "d", {})]


def test_arrow_squad_answers_become_spans(saved, parse):
    answers = [
        {"text": ["red"], "answer_start": [3]},
        {"text": [], "answer_start": []},
        {"text": ["owl"], "answer_start": [0]},
    ]
    data = Dataset.from_dict({"question": ["q"] * 3, "context": ["big red fox"] * 3, "answers": answers})
    examples, defects = parse(*saved(data))
    assert [e.fields for e in examples] == [{"answer": (LabelledSpan(4, 7, ""),)}, {"answer": ()}, {}]
    assert examples[0].pair == "big red fox"
    assert defects == {MOVED: 1, ABSENT: 1, UNANSWERED: 1}


def test_arrow_numbers_and_lists_become_classes(saved, parse):
    data = Dataset.from_dict(
        {"text": ["a", "b"], "stars": [4, None], "topics": [["x", "y"], []], "joined": ["p#q", ""], "extra": ["?", "?"]}
    )
    found = saved(data)
    examples, defects = parse(*found, columns=("text", "stars", "topics", "joined"), label_separator="#")
    assert [e.fields for e in examples] == [
        {"stars": ("4",), "topics": ("x", "y"), "joined": ("p", "q")},
        {"topics": (), "joined": ()},
    ]
    assert defects == {"'extra', which `columns` does not name (passed over)": 2}


def test_arrow_invalid_columns_are_refused(saved, parse):
    name, path = saved(Dataset.from_dict({"question": ["a"], "premise": ["b"]}))
    with pytest.raises(
        DataError, match="columns question and premise could both be the text; say which with `columns`"
    ):
        parse(name, path)
    with pytest.raises(DataError, match=r"no column 'txt' \(it has question, premise\); change `columns`"):
        parse(name, path, columns=("txt",))


def test_arrow_invalid_rows_are_refused(saved, parse):
    name, path = saved(Dataset.from_dict({"text": ["a", " "]}))
    with pytest.raises(DataError, match=r'row 2: "text" is .*at least one character'):
        parse(name, path)


def test_arrow_rows_without_text_are_refused(tmp_path, parse):
    Dataset.from_dict({"body": ["a"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no text among the columns body; rename one to `text`"):
        parse("parquet", tmp_path / "a.parquet")
    Dataset.from_dict({"tokens": [["a"], [""]]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"row 2: 'tokens' is \[''\]; it must be a list of words"):
        parse("parquet", tmp_path / "b.parquet")


def test_parquet_directory_is_read_in_name_order(tmp_path, parse):
    for number in (1, 0):
        Dataset.from_dict({"text": [f"t{number}"]}).to_parquet(tmp_path / f"train-0000{number}.parquet")
    assert detect_format(tmp_path).format == "parquet"
    assert [e.text for e in parse("parquet", tmp_path)[0]] == ["t0", "t1"]


def test_datasets_without_split_lists_the_splits(tmp_path, parse):
    DatasetDict({"train": conll(), "test": conll()}).save_to_disk(tmp_path / "ner")
    assert len(parse("datasets", tmp_path / "ner/test")[0]) == 2
    with pytest.raises(DataError, match=r"several splits; name one: .*ner/train, .*ner/test"):
        parse("datasets", tmp_path / "ner")
    with pytest.raises(DataError, match=r"no state\.json; format 'datasets' reads a directory written by save_to_disk"):
        parse("datasets", tmp_path / "absent")


def test_find_splits_reads_parquet_file_names(tmp_path):
    DatasetDict({"train": conll(), "test": conll()}).save_to_disk(tmp_path / "saved")
    saved = {split: [tmp_path / "saved" / split] for split in ("train", "test")}
    assert find_splits(tmp_path / "saved")[0] == saved
    files = {"train": ["train-0.parquet", "train-1.parquet"], "dev": ["validation-0.parquet"]}
    for name in [name for names in files.values() for name in names]:
        conll().to_parquet(tmp_path / name)
    found, _ = find_splits(tmp_path)
    assert {split: [path.name for path in paths] for split, paths in found.items()} == files


def test_datasets_hub_address_is_loaded(tmp_path, parse, monkeypatch):
    """The package takes a directory for a name: the same code without a network."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner/ner").mkdir(parents=True)
    conll().to_parquet(tmp_path / "owner/ner/train.parquet")
    config = data_config({"format": "datasets", "train": "hf://owner/ner#train"})
    assert [e.text for e in read_split(config, "train").examples] == ["the EU team", "hi"]
    with pytest.raises(DataError, match=r"hf://owner/ner: no split; write hf://owner/ner#train"):
        parse("datasets", config.train[0].with_name("ner"))
    with pytest.raises(DataError, match=r"hf://owner/ner#dev: cannot be loaded: .*; check name, split and network"):
        parse("datasets", config.train[0].with_name("ner#dev"))


def test_arrow_broken_files_are_refused(tmp_path, parse):
    (tmp_path / "a.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match=r"a\.parquet: not a Parquet file, or a broken one"):
        parse("parquet", tmp_path / "a.parquet")
    with pytest.raises(DataError, match="no such file"):
        parse("parquet", tmp_path / "b.parquet")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no \*\.parquet file in this directory"):
        parse("parquet", tmp_path / "empty")
    conll().save_to_disk(tmp_path / "saved")
    (tmp_path / "saved/data-00000-of-00001.arrow").write_bytes(b"nothing")
    with pytest.raises(DataError, match="not an Arrow file, or a broken one"):
        parse("datasets", tmp_path / "saved")


def test_arrow_missing_packages_are_named(tmp_path, parse, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(
        DataError, match=r"needs the package pyarrow; to install it, .*pip install -c constraints\.txt '\.\[parquet\]'"
    ):
        parse("parquet", tmp_path / "a.parquet")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        DataError,
        match=r"needs the package datasets; to install it, .*pip install -c constraints\.txt '\.\[datasets\]'",
    ):
        parse("datasets", Path("hf:/owner/ner#train"))
