"""Trainings of a comparison: counts, resuming, and directories and settings that are rejected."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from palm_trainer.compare.statistics import ScoreCounts
from palm_trainer.compare.trainings import count_correct, is_finished, plan_trainings, read_counts, run_training
from palm_trainer.compare.variants import plan_comparison
from palm_trainer.compare.workers import run_trainings
from palm_trainer.config.loader import load_config
from palm_trainer.errors import CheckpointError, PalmError
from palm_trainer.evaluation.evaluate import evaluate
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.events import Finished, Started
from palm_trainer.runs.job_from_config import evaluation_sets, job_from_config, task_kinds
from palm_trainer.tasks import task_kind
from palm_trainer.training.loop import Step


def compute_score(task_counts):
    numerator = np.array([task_counts["numerator"]])
    denominator = np.array([task_counts["denominator"]])
    return float(ScoreCounts(numerator, denominator).scores()[0])


def test_counts_of_a_training_match_its_metrics_json(compared):
    assert len(compared.trainings) == 8
    for training in compared.trainings:
        metrics = json.loads((training.folder / "metrics.json").read_text(encoding="utf-8"))
        for split, tasks in read_counts(training).items():
            assert set(tasks) <= set(training.variant.config.tasks)
            for task, task_counts in tasks.items():
                metric = task_kind(compared.plan.kinds[task]).primary_metric
                assert compute_score(task_counts) == pytest.approx(metrics[split][task][metric])
    joint = read_counts(compared.trainings[0])
    assert joint["test"]["intent"]["rows"][:2] == ["travel:0", "travel:1"]
    right = [i and s for i, s in zip(joint["test"]["intent"]["right"], joint["test"]["slots"]["right"], strict=True)]
    metrics = json.loads((compared.trainings[0].folder / "metrics.json").read_text(encoding="utf-8"))
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


def test_counts_of_every_task_kind_match_evaluate(kind):
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
    training = job_from_config(kind.config(ALL_KINDS))
    config, predictor = training.config, Predictor(training.trained)
    sets, kinds = evaluation_sets(config, "dev"), task_kinds(config)
    metrics = evaluate(predictor, kinds, sets)
    counts = count_correct(predictor, kinds, sets)
    assert {task: len(task_counts["rows"]) for task, task_counts in counts.items()} == {
        "same": 9,
        "rank": 6,
        "topic": 9,
        "reading": 2,
    }
    for task, task_counts in counts.items():
        assert compute_score(task_counts) == pytest.approx(metrics[task][task_kind(kinds[task]).primary_metric]), task
    assert counts["rank"]["rows"] == [f"ranks:{i}" for i in range(0, 12, 2)]


def test_finished_training_is_not_repeated(compared):
    again = plan_trainings(compared.plan, [3, 4], compared.output)
    assert [training.folder for training in again] == [training.folder for training in compared.trainings]
    assert all(is_finished(training, compared.plan) for training in again)
    assert not (again[0].folder / "last").exists()
    assert not is_finished(plan_trainings(compared.plan, [5], compared.output)[0], compared.plan)


def test_finished_training_with_new_texts_is_only_evaluated(compared, tmp_path):
    copy = tmp_path / "compare"
    shutil.copytree(compared.output, copy)
    plan = plan_comparison(load_config(compared.path, ["train.epochs=1", "data.travel.out_of_domain=travel/dev"]))
    training = plan_trainings(plan, [3], copy)[0]
    assert not is_finished(training, plan)
    assert list(run_training(training, plan)) == []
    assert is_finished(training, plan)
    assert set(read_counts(training)) == {"test", "dev", "out_of_domain"}
    assert set(read_counts(training)["out_of_domain"]) == {"intent", "slots"}


def test_training_with_other_settings_is_rejected(compared):
    plan = plan_comparison(load_config(compared.path, ["train.epochs=2", "train.batch_size=3"]))
    with pytest.raises(
        CheckpointError,
        match=r"was trained with other settings \(train.batch_size, train.epochs, train.evaluations dif",
    ):
        plan_trainings(plan, [3], compared.output)


def test_older_comparison_keeps_its_rate_of_crf_scores(compared, tmp_path):
    copy = tmp_path / "compare"
    shutil.copytree(compared.output, copy)
    path = plan_trainings(compared.plan, [3], copy)[0].folder / "config.toml"
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(line for line in lines if "crf_learning_rate" not in line), encoding="utf-8")
    for other in sorted(copy.rglob("config.toml")):
        if other != path:
            shutil.rmtree(other.parent)
    rates = [training.config.train.crf_learning_rate for training in plan_trainings(compared.plan, [3, 4], copy)]
    assert set(rates) == {None}


def test_output_that_is_a_run_or_a_file_is_rejected(compared, tmp_path):
    with pytest.raises(CheckpointError, match=r"must be the directory of a comparison, got the directory of a run\."):
        plan_trainings(compared.plan, [3], compared.trainings[0].folder)
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(
        CheckpointError, match=r"file must be a directory, got a file\. Choose another directory with --output"
    ):
        plan_trainings(compared.plan, [3], tmp_path / "file")


def test_stopped_training_resumes_to_the_same_weights(compared, tmp_path):
    training = plan_trainings(compared.plan, [3], tmp_path / "compare")[0]
    steps: list[int] = []
    for event in run_training(training, compared.plan, lambda: len(steps) >= 4):
        if isinstance(event, Step):
            steps.append(event.step)
    assert isinstance(event, Finished)
    assert event.interrupted
    assert not is_finished(training, compared.plan)
    events = list(run_training(training, compared.plan))
    assert isinstance(events[0], Started)
    assert events[0].first_step == 4
    assert is_finished(training, compared.plan)
    resumed = load_file(training.folder / "best/model.safetensors")
    uninterrupted = load_file(compared.trainings[0].folder / "best/model.safetensors")
    assert [name for name in resumed if not torch.equal(resumed[name], uninterrupted[name])] == []
    assert load_trained(training.folder).tasks.keys() == {"intent", "slots", "mood"}


def test_training_on_changed_data_is_rejected(tiny_toml, tmp_path):
    path = tiny_toml(second=True)
    plan = plan_comparison(load_config(path, ["train.epochs=1"]))
    training = plan_trainings(plan, [3], tmp_path / "compare")[1]
    for name in ("seq.in", "seq.out", "label"):
        lines = (tmp_path / "travel/train" / name).read_text(encoding="utf-8").splitlines(keepends=True)
        (tmp_path / "travel/train" / name).write_text("".join(lines[:8]), encoding="utf-8")
    with pytest.raises(
        PalmError, match=r"intent alone, seed 3 must take \{'travel': 6\} batches .* got \{'travel': 2\}"
    ):
        list(run_training(training, plan))


@pytest.mark.slow
def test_parallel_trainings_match_sequential_ones(compared, tmp_path):
    trainings = plan_trainings(compared.plan, [3], tmp_path / "compare")
    done = list(run_trainings(trainings, compared.plan, 2, lambda: False))
    assert {training.name for training in done} == {training.name for training in trainings}
    for training, other in zip(trainings, compared.trainings, strict=False):
        assert read_counts(training) == read_counts(other)
    seed_4_trainings = plan_trainings(compared.plan, [4], tmp_path / "compare")
    assert list(run_trainings(seed_4_trainings, compared.plan, 2, lambda: True)) == []
