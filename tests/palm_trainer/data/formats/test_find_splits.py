"""`palm-train init DIRECTORY`: what is named after tests is never trained on, and what is passed over is told."""

import json
from pathlib import Path

import pytest

from palm_trainer.config.loader import load_config
from palm_trainer.data.formats.find_splits import find_splits
from palm_trainer.data.formats.split_names import split_of
from palm_trainer.data.splits import read_split
from palm_trainer.data.suggest_config import suggest
from palm_trainer.errors import DataError

NLU = """version: "3.1"
nlu:
- intent: fly
  examples: |
    - {0} one
    - {0} two
- intent: stay
  examples: |
    - {0} three
    - {0} four
"""
STORIES = 'version: "3.1"\nstories:\n- story: happy\n  steps:\n  - user: |\n      tests of stories\n    intent: fly\n'


def write(folder: Path, *names: str) -> None:
    """Write files whose texts hold their own path."""
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".yml" and "domain" in name:
            path.write_text("intents: [fly, stay]\n")
        elif path.suffix == ".yml" and "stories" in name:
            path.write_text(STORIES)
        elif path.suffix == ".yml":
            path.write_text(NLU.format(name))
        elif path.suffix == ".py":
            path.write_text("assert True\n")
        elif path.suffix == ".csv":
            path.write_text("text,intent\n" + "".join(f"{name} {n},{'ab'[n % 2]}\n" for n in range(6)))
        else:
            rows = [json.dumps({"text": f"{name} {n}", "intent": "ab"[n % 2]}) for n in range(6)]
            path.write_text("\n".join(rows) + "\n")


def read(folder: Path) -> tuple[dict[str, set[str]], str]:
    """Return the files that each split of the suggested configuration reads, and the remarks."""
    toml, remarks = suggest(folder)
    (folder.parent / "found.toml").write_text(toml)
    [data] = load_config(folder.parent / "found.toml").data.values()
    files = {}
    for split in ("train", "dev", "test"):
        if data.paths(split):
            files[split] = {example.text.rpartition(" ")[0] for example in read_split(data, split).examples}
    return files, "\n".join(remarks)


@pytest.mark.parametrize(
    ("train", "dev", "test"),
    [
        (("data/nlu.yml",), (), ("tests/nlu.yml",)),
        (("data/nlu.yml",), (), ("test/nlu.yml",)),
        (("data/nlu.yml", "data/more/faq.yml"), (), ("tests/deep/er/nlu.yml",)),
        (("data/nlu.yml",), (), ("data/test/nlu.yml",)),
        (("data/nlu.yml",), (), ("data/nlu_test.yml",)),
        (("data/nlu.yml",), (), ("data/test_nlu.yml", "tests/nlu.yml")),
        (("data/nlu.yml",), ("data/dev/nlu.yml",), ("tests/nlu.yml",)),
        (("data/nlu.yml",), ("data/validation/nlu.yml",), ()),
        (("data/nlu.yml",), ("eval/nlu.yml",), ()),
        (("data/train/nlu.yml",), ("data/valid/nlu.yml",), ("data/tests/nlu.yml",)),
        (("nlu.yml",), (), ("nlu-tests.yml",)),
        (("data/latest.yml", "data/contest.yml", "data/devices.yml"), (), ("tests/nlu.yml",)),
    ],
)
def test_find_splits_of_rasa_project(train, dev, test, tmp_path):
    project = tmp_path / "bot"
    write(project, *train, *dev, *test, "domain.yml", "data/stories.yml", "tests/test_stories.yml", "actions/a.py")
    files, remarks = read(project)
    assert files == {split: set(names) for split, names in (("train", train), ("dev", dev), ("test", test)) if names}
    assert "passed over (no NLU examples): " in remarks
    assert "domain.yml" in remarks
    assert "splits by name: train " in remarks


def test_find_splits_reads_no_folder_of_programs(tmp_path):
    project = tmp_path / "bot"
    hidden = ("node_modules/rasa/nlu.yml", ".venv/lib/nlu.yml", ".git/nlu.yml", "models/nlu.yml", "venv/lib/nlu.yml")
    write(project, "data/nlu.yml", "domain.yml", *hidden)
    files, remarks = read(project)
    assert files == {"train": {"data/nlu.yml"}}
    for name in ("node_modules/", "models/", "venv/", "domain.yml"):
        assert name in remarks
    write(project, "tests/nlu.yml")
    assert read(project)[0] == {"train": {"data/nlu.yml"}, "test": {"tests/nlu.yml"}}


def test_find_splits_of_rasa_project_with_stories_only_as_tests(tmp_path):
    project = tmp_path / "bot"
    write(project, "data/nlu.yml", "tests/test_stories.yml")
    files, remarks = read(project)
    assert files == {"train": {"data/nlu.yml"}}
    assert "tests/test_stories.yml" in remarks


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train.jsonl", "tests/a.jsonl"), {"train": "train.jsonl", "test": "tests/a.jsonl"}),
        (("rows.jsonl", "test.jsonl"), {"train": "rows.jsonl", "test": "test.jsonl"}),
        (("rows.jsonl", "rows_test.jsonl"), {"train": "rows.jsonl", "test": "rows_test.jsonl"}),
        (("rows.jsonl", "tests/test_rows.jsonl"), {"train": "rows.jsonl", "test": "tests/test_rows.jsonl"}),
        (("rows.jsonl", "tests/test_rows.py"), {"train": "rows.jsonl"}),
        (("train.jsonl", "tests/test_rows.py"), {"train": "train.jsonl"}),
        (("dev.jsonl", "test.jsonl"), {"train": "dev.jsonl", "test": "test.jsonl"}),
        (("eval.jsonl", "tests/a.jsonl"), {"train": "eval.jsonl", "test": "tests/a.jsonl"}),
        (
            ("train.csv", "validation.csv", "testing.csv", "latest.csv"),
            {"train": "train.csv", "dev": "validation.csv", "test": "testing.csv"},
        ),
        (
            ("a_train.csv", "a_test.csv", "b_train.csv", "b_dev.csv", "b_test.csv", "a_dev.csv"),
            {"train": "a_train.csv", "dev": "a_dev.csv", "test": "a_test.csv"},
        ),
        (("train.csv", "tests/a.yml"), {"train": "train.csv"}),
    ],
)
def test_find_splits_of_folder(names, expected, tmp_path):
    write(tmp_path / "set", *names)
    files, remarks = read(tmp_path / "set")
    assert files == {split: {name} for split, name in expected.items()}
    for name in names:
        assert name in expected.values() or Path(name).parts[0] in remarks


@pytest.mark.parametrize(
    "names", [("test.jsonl",), ("tests/a.jsonl",), ("tests/nlu.yml", "domain.yml"), ("test-0.parquet",)]
)
def test_find_splits_refuses_a_test_split_alone(names, tmp_path):
    for name in names:
        if name.endswith(".parquet"):
            (tmp_path / name).write_bytes(b"PAR1")
        else:
            write(tmp_path, name)
    with pytest.raises(DataError, match=r"no training data, only a test split \(test.*which is not trained on"):
        find_splits(tmp_path)


def test_find_splits_trains_on_dev_before_test(tmp_path):
    write(tmp_path / "set", "dev.jsonl", "test.jsonl")
    _, remarks = read(tmp_path / "set")
    assert "no train split found: the dev split (dev.jsonl) is used to train" in remarks


def test_find_splits_given_test_file_is_used_and_told(tmp_path):
    write(tmp_path, "test.jsonl", "train.jsonl")
    splits, [remark] = find_splits(tmp_path / "test.jsonl")
    assert splits == {"train": [tmp_path / "test.jsonl"]}
    assert "named like a test split, and is used to train since it was given" in remark


def test_find_splits_of_parquet_shards(tmp_path):
    names = ("train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001", "test-00000-of-00001")
    for name in names:
        (tmp_path / f"{name}.parquet").write_bytes(b"PAR1")
    splits, _ = find_splits(tmp_path)
    assert {split: len(paths) for split, paths in splits.items()} == {"train": 2, "dev": 1, "test": 1}


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("eng.testa", "dev"),
        ("eng.testb", "test"),
        ("validate_GetWeather.json", "dev"),
        ("contesta.csv", None),
        ("wnut17train.conll", "train"),
        ("MyTrain.csv", "train"),
        ("BANKING77_train_10.jsonl", "train"),
        ("cmrc2018_trial.json", "train"),
        ("dev-v1.1.json", "dev"),
        ("oos_val", "dev"),
        ("emerging.test.annotated", "test"),
        ("testset.txt", "test"),
        ("latest.csv", None),
        ("contest.json", None),
        ("devices.jsonl", None),
        ("valentine.csv", None),
        ("constraints.txt", None),
    ],
)
def test_split_of_reads_whole_words(name, split):
    assert split_of(name) == split
