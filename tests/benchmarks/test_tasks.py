"""The benchmark over the tasks: which cells there are, when one is trained again, what the table says."""

import json
import math
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

TINY = """
[encoder]
model = "scratch"
max_length = 16
layers = 1
hidden_size = 8
heads = 1
characters = true
[data.tiny]
format = "tsv"
columns = ["text", "label"]
train = "${PALM_DATA}/rows.tsv"
dev = "${PALM_DATA}/rows.tsv"
test = "${PALM_DATA}/rows.tsv"
[tasks.sentiment]
kind = "classify"
data = ["tiny"]
[train]
epochs = 1
precision = "fp32"
output = "runs/tiny"
"""


@pytest.fixture
def tasks(monkeypatch, tmp_path):
    """The script, with one task of four rows in the place of its own."""
    import tasks

    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/tiny.toml").write_text(TINY, encoding="utf-8")
    (tmp_path / "data").mkdir()
    (tmp_path / "data/rows.tsv").write_text("good\t1\nbad\t0\nfine\t1\nawful\t0\n", encoding="utf-8")
    monkeypatch.setattr(tasks, "CONFIGS", tmp_path / "configs")
    monkeypatch.setattr(tasks, "VARIANTS", {"sst2": {"single": "tiny"}})
    return tasks


@pytest.fixture
def place(tasks, tmp_path):
    return tasks.Place(tmp_path / "data", tmp_path / "work")


def cell(task, variant, seed, test, fold=None):
    return {"task": task, "variant": variant, "seed": seed, "fold": fold, "dev": test, "test": test}


def test_cells_are_all_that_the_issue_names():
    import tasks

    names = [one.name for one in tasks.cells_of([], [13, 14], [0, 1], [])]
    assert len(names) == len(set(names)) == 2 * (11 + 3 + 2 * 2)
    assert names[0] == "sst2/single/seed13"
    assert "xquad/dnet/fold1/seed14" in names
    assert all(one.config.exists() for one in tasks.cells_of([], [13], [0], []))


def test_only_takes_tasks_and_variants_and_names_what_there_is():
    import tasks

    assert [one.name for one in tasks.cells_of(["mrpc", "atis:api"], [13], [0], [])] == [
        "mrpc/single/seed13",
        "atis/api/seed13",
    ]
    with pytest.raises(SystemExit, match="--only sst: no such task; known: sst2, mrpc"):
        tasks.cells_of(["sst"], [13], [0], [])


def test_comments_do_not_change_settings_but_values_do(tasks):
    (one,) = tasks.cells_of([], [13], [], [])
    before = one.digest
    one.config.write_text("# a comment\n" + TINY, encoding="utf-8")
    assert one.digest == before
    one.config.write_text(TINY.replace("epochs = 1", "epochs = 2"), encoding="utf-8")
    assert one.digest != before
    (other,) = tasks.cells_of([], [13], [], ["train.epochs=1"])
    assert other.digest != one.digest


@pytest.mark.slow
def test_a_cell_is_trained_once_and_again_when_its_settings_change(tasks, place, tmp_path, capfd, monkeypatch):
    results = tmp_path / "results.json"
    cells = tasks.cells_of([], [13], [], [])
    assert tasks.train_cells(cells, tasks.measure, place, results, jobs=1, keep=False) == 0
    found = json.loads(results.read_text(encoding="utf-8"))["sst2/single/seed13"]
    assert set(found["dev"]) == set(found["test"]) == {"sentiment accuracy", "sentiment ece"}
    assert found["settings"] == cells[0].digest
    assert found["commit"]
    assert found["seconds"] >= 0
    assert str(tmp_path) not in results.read_text(encoding="utf-8")
    assert list((place.work / "runs").iterdir()) == []
    capfd.readouterr()
    assert tasks.train_cells(cells, tasks.measure, place, results, jobs=1, keep=False) == 0
    assert capfd.readouterr().out == "1 cells, 0 to train\n"
    cells[0].config.write_text(TINY.replace("epochs = 1", "epochs = 2"), encoding="utf-8")

    def refused(*_):
        raise subprocess.CalledProcessError(2, "palm-train")

    monkeypatch.setattr(tasks, "measure", refused)
    assert tasks.train_cells(cells, tasks.measure, place, results, jobs=1, keep=False) == 1
    said = capfd.readouterr()
    assert "1 cells, 1 to train" in said.out
    assert "sst2/single/seed13 failed with exit code 2" in said.err
    assert json.loads(results.read_text(encoding="utf-8"))["sst2/single/seed13"] == found


def test_an_interrupt_ends_the_script_before_the_next_cell(tasks, place, tmp_path, monkeypatch):
    begun = []

    def stopped(cell, *_):
        begun.append(cell)
        raise subprocess.CalledProcessError(130, "palm-train")

    monkeypatch.setattr(tasks, "measure", stopped)
    cells = tasks.cells_of([], [13, 14, 15], [], [])
    with pytest.raises(SystemExit) as stop:
        tasks.train_cells(cells, tasks.measure, place, tmp_path / "r.json", jobs=1, keep=False)
    assert stop.value.code == 130
    assert begun == cells[:1]
    assert not (tmp_path / "r.json").exists()


def test_a_fault_of_the_script_itself_is_told_at_once(tasks, place, tmp_path, monkeypatch):
    begun = []

    def broken(cell, *_):
        begun.append(cell)
        raise KeyError("dev")

    monkeypatch.setattr(tasks, "measure", broken)
    cells = tasks.cells_of([], [13, 14, 15], [], [])
    with pytest.raises(KeyError, match="dev"):
        tasks.train_cells(cells, tasks.measure, place, tmp_path / "r.json", jobs=1, keep=False)
    assert begun == cells[:1]


def test_table_shows_mean_interval_and_goal():
    from tasks_table import table

    cells = [cell("sst2", "single", seed, {"sentiment accuracy": value}) for seed, value in ((13, 90.0), (14, 92.0))]
    line = next(line for line in table(cells).splitlines() if "SST-2" in line)
    half = 12.71 * math.sqrt(2) / math.sqrt(2)  # the standard deviation of 90 and 92 is the root of 2, over two seeds
    assert [part.strip() for part in line.strip("|").split("|")] == [
        "SST-2 accuracy",
        "90.0 met",
        f"91.00 ± {half:.2f}",
        f"91.00 ± {half:.2f}",
        "2",
    ]
    missed = table([cell("wnut17", "single", 13, {"entities f1": 39.99})])
    assert "40.0 missed" in missed
    assert "±" not in missed


def test_differences_are_paired_by_seed_and_fold():
    """Articles of a fold are hard or easy for both; only the difference within the fold counts, and a cell without its twin does not."""
    from tables import of, paired
    from tasks_table import table

    cells = []
    for fold, base in enumerate((10.0, 30.0, 50.0)):
        for seed, noise in ((13, 0.5), (14, -0.5)):
            cells.append(cell("xquad", "alone", seed, {"answer f1": base, "answer exact_match": 0.0}, fold))
            dnet = {"answer f1": base + 2.0 + noise + fold, "answer exact_match": 0.0}
            cells.append(cell("xquad", "dnet", seed, dnet, fold))
    cells.append(cell("xquad", "dnet", 15, {"answer f1": 99.0, "answer exact_match": 99.0}, 0))
    dnet, alone = (of(cells, "xquad", variant, "answer f1") for variant in ("dnet", "alone"))
    assert paired(dnet, alone, "answer f1") == pytest.approx([2.0, 3.0, 4.0])
    assert "XQuAD-en F1, D-Net - alone: +3.00 (+0.52 to +5.48) over 3 folds" in table(cells)


def test_folds_are_averaged_before_seeds():
    from tables import by_seed

    cells = [cell("xquad", "alone", seed, {"f1": 10.0 * fold + seed}, fold) for seed in (1, 2) for fold in (0, 1, 2)]
    assert by_seed(cells, "test", "f1") == [11.0, 12.0]


def test_article_is_trained_as_long_as_its_configuration(monkeypatch, tmp_path):
    import tasks

    called = SimpleNamespace()
    monkeypatch.setattr(tasks.subprocess, "run", lambda command, **_: setattr(called, "command", command))
    (one,) = tasks.cells_of(["atis:api"], [14], [], ["train.epochs=2"])
    tasks.train_article(one, tmp_path / "run", {"PALM_DATA": "data"})
    options = dict(zip(called.command[2::2], called.command[3::2], strict=True))
    assert Path(called.command[1]).name == "article.py"
    assert (options["--epochs"], options["--batch-size"], options["--seed"]) == ("2", "32", "14")
