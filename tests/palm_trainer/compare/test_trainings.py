"""Cells: what they count, that they are resumed and not repeated, and what is refused."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.compare.statistics import Counts
from palm_trainer.compare.trainings import count, is_finished, make_cells, read_counts, run_cell
from palm_trainer.compare.variants import plan_comparison
from palm_trainer.compare.workers import run_cells
from palm_trainer.config.loader import load_config
from palm_trainer.errors import CheckpointError, PalmError
from palm_trainer.evaluation.evaluate import PRIMARY, evaluate
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.events import Finished, Started
from palm_trainer.runs.job_from_config import build_training, evaluation_sets, task_kinds
from palm_trainer.training.loop import Step


def score(own):
    return float(Counts(np.array([own["numerator"]]), np.array([own["denominator"]])).scores()[0])


def test_counts_give_the_run_s_own_metrics(compared):
    assert len(compared.cells) == 8
    for cell in compared.cells:
        metrics = json.loads((cell.folder / "metrics.json").read_text(encoding="utf-8"))
        for split, tasks in read_counts(cell).items():
            assert set(tasks) <= set(cell.variant.config.tasks)
            for task, own in tasks.items():
                assert score(own) == pytest.approx(metrics[split][task][PRIMARY[compared.plan.kinds[task]]])
    joint = read_counts(compared.cells[0])
    assert joint["test"]["intent"]["rows"][:2] == ["travel:0", "travel:1"]
    right = [i and s for i, s in zip(joint["test"]["intent"]["right"], joint["test"]["slots"]["right"], strict=True)]
    metrics = json.loads((compared.cells[0].folder / "metrics.json").read_text(encoding="utf-8"))
    assert np.mean(right) == pytest.approx(metrics["test"]["exact_match"])


ALL_KINDS = """
[data.pairs]
format = "jsonl"
train = "pairs.jsonl"
dev = "pairs.jsonl"
[data.ranks]
format = "tsv"
train = "ranks.tsv"
dev = "ranks.tsv"
[data.topics]
format = "jsonl"
train = "topics.jsonl"
dev = "topics.jsonl"
[data.passages]
format = "jsonl"
train = "passages.jsonl"
dev = "passages.jsonl"
[tasks.same]
kind = "match"
data = ["pairs"]
[tasks.rank]
kind = "match"
learning_strategy = "pairwise"
data = ["ranks"]
[tasks.topic]
kind = "multi_label"
data = ["topics"]
[tasks.reading]
kind = "mrc"
data = ["passages"]
"""


def test_every_kind_is_counted_as_it_is_measured(kind):
    things = ("boats", "cakes", "birds")
    kind.rows(
        "pairs.jsonl",
        [
            {"text": f"of {a}", "text_pair": f"on {b}", "label": "yes" if a == b else "no"}
            for a in things
            for b in things
        ],
    )
    ranks = "".join(f"about {a}\tall on {a}\tall on {b}\n" for a in things for b in things if a != b)
    (kind.folder / "ranks.tsv").write_text("text_a\ttext_b\ttext_b_neg\n" + ranks, encoding="utf-8")
    kind.rows("topics.jsonl", [{"text": f"{a} {b}", "topic": sorted({a, b})} for a in things for b in things])
    passage = "anna lives in paris and then bob lives in rome"
    kind.rows(
        "passages.jsonl",
        [
            {"text": f"where is {name} ?", "text_pair": passage, "answer": [{"start": s, "end": s + n, "label": "a"}]}
            for name, s, n in (("anna", 14, 5), ("bob", 42, 4))
        ],
    )
    training = build_training(kind.config(ALL_KINDS))
    config, predictor = training.config, Predictor(training.trained)
    sets, kinds = evaluation_sets(config, "dev"), task_kinds(config)
    metrics = evaluate(predictor, kinds, sets)
    counts = count(predictor, kinds, sets)
    assert {task: len(own["rows"]) for task, own in counts.items()} == {"same": 9, "rank": 6, "topic": 9, "reading": 2}
    for task, own in counts.items():
        assert score(own) == pytest.approx(metrics[task][PRIMARY[kinds[task]]]), task
    assert counts["rank"]["rows"] == [f"ranks:{i}" for i in range(0, 12, 2)]


def test_a_finished_cell_is_not_repeated(compared):
    again = make_cells(compared.plan, [3, 4], compared.output)
    assert [cell.folder for cell in again] == [cell.folder for cell in compared.cells]
    assert all(is_finished(cell, compared.plan) for cell in again)
    assert not (again[0].folder / "last").exists()
    assert not is_finished(make_cells(compared.plan, [5], compared.output)[0], compared.plan)


def test_other_test_text_is_judged_without_training(compared, tmp_path):
    copy = tmp_path / "compare"
    shutil.copytree(compared.output, copy)
    plan = plan_comparison(load_config(compared.path, ["train.epochs=1", "data.travel.out_of_domain=travel/dev"]))
    cell = make_cells(plan, [3], copy)[0]
    assert not is_finished(cell, plan)
    assert list(run_cell(cell, plan)) == []
    assert is_finished(cell, plan)
    assert set(read_counts(cell)) == {"test", "dev", "out_of_domain"}
    assert set(read_counts(cell)["out_of_domain"]) == {"intent", "slots"}


def test_other_settings_are_refused(compared):
    plan = plan_comparison(load_config(compared.path, ["train.epochs=2", "train.batch_size=3"]))
    with pytest.raises(
        CheckpointError,
        match=r"was trained with other settings \(train.batch_size, train.epochs, train.evaluations dif",
    ):
        make_cells(plan, [3], compared.output)


def test_a_run_or_a_file_is_no_place_for_cells(compared, tmp_path):
    with pytest.raises(CheckpointError, match=r"holds a run. Choose another directory for the comparison"):
        make_cells(compared.plan, [3], compared.cells[0].folder)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"file is a file. Choose another directory with --output"):
        make_cells(compared.plan, [3], tmp_path / "file")


def test_a_stopped_cell_goes_on_to_the_same_weights(compared, tmp_path):
    cell = make_cells(compared.plan, [3], tmp_path / "compare")[0]
    seen: list[int] = []
    for event in run_cell(cell, compared.plan, lambda: len(seen) >= 4):
        if isinstance(event, Step):
            seen.append(event.step)
    assert isinstance(event, Finished)
    assert event.interrupted
    assert not is_finished(cell, compared.plan)
    events = list(run_cell(cell, compared.plan))
    assert isinstance(events[0], Started)
    assert events[0].first_step == 4
    assert is_finished(cell, compared.plan)
    one, other = (load_file(c.folder / "best/model.safetensors") for c in (cell, compared.cells[0]))
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    assert load_trained(cell.folder).tasks.keys() == {"intent", "slots", "mood"}


def test_changed_training_data_is_told(tiny_toml, tmp_path):
    path = tiny_toml(second=True)
    plan = plan_comparison(load_config(path, ["train.epochs=1"]))
    cell = make_cells(plan, [3], tmp_path / "compare")[1]
    for name in ("seq.in", "seq.out", "label"):
        lines = (tmp_path / "travel/train" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / "travel/train" / name).write_text("".join(lines[:8]), encoding="utf-8")
    with pytest.raises(
        PalmError, match=r"intent alone, seed 3: takes \{'travel': 2\} batches .* where \{'travel': 6\}"
    ):
        list(run_cell(cell, plan))


@pytest.mark.slow
def test_jobs_do_what_one_after_the_other_does(compared, tmp_path):
    cells = make_cells(compared.plan, [3], tmp_path / "compare")
    done = list(run_cells(cells, compared.plan, 2, lambda: False))
    assert {cell.name for cell in done} == {cell.name for cell in cells}
    for cell, other in zip(cells, compared.cells, strict=False):
        assert read_counts(cell) == read_counts(other)
    more = make_cells(compared.plan, [4], tmp_path / "compare")
    assert list(run_cells(more, compared.plan, 2, lambda: True)) == []
