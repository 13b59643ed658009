"""Results of comparisons: verdicts, exact match, notes, warnings, compare.json and compare.html."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from palm_trainer.compare.compare_trainings import compare_trainings
from palm_trainer.compare.forest_plot import draw_forest_plot, format_difference
from palm_trainer.compare.page import render_comparison
from palm_trainer.compare.result import as_json
from palm_trainer.compare.trainings import read_counts
from palm_trainer.errors import CheckpointError


@pytest.fixture
def compare_changed(compared, tmp_path):
    """Return a function that compares after `change(training, counts)` of each training."""

    def _compare_changed(change):
        trainings = []
        for training in compared.trainings:
            folder = tmp_path / training.variant.folder / str(training.seed)
            folder.mkdir(parents=True)
            counts = json.loads(json.dumps(read_counts(training)))
            change(training, counts)
            (folder / "counts.json").write_text(json.dumps({"examples": {}, "counts": counts}), encoding="utf-8")
            settings = training.config.train.model_copy(update={"output": folder})
            trainings.append(replace(training, config=training.config.model_copy(update={"train": settings})))
        return compare_trainings(compared.plan, trainings, draws=300)

    return _compare_changed


def set_right(task_counts, right):
    """ScoreCounts of a task as if it had these answers right."""
    task_counts["right"] = [int(value) for value in right]
    pairs = zip(task_counts["denominator"], task_counts["right"], strict=True)
    task_counts["numerator"] = [denominator * value for denominator, value in pairs]


def better_alone(training, counts):
    """Set intent to right alone and wrong in joint training, slots the other way around."""
    alone = training.variant.task is not None
    for tasks in counts.values():
        for task, task_counts in tasks.items():
            right = {"intent": alone, "slots": not alone, "mood": True}[task]
            set_right(task_counts, [right] * len(task_counts["rows"]))


def test_result_of_clear_differences_has_verdicts_and_warning(compare_changed):
    result = compare_changed(better_alone)
    comparisons = {comparison.scored_task.task: comparison for comparison in result.comparisons}
    assert {task: comparison.verdict for task, comparison in comparisons.items()} == {
        "intent": "hurt",
        "slots": "helped",
        "mood": "no difference shown",
        "intent + slots": "no difference shown",
    }
    assert comparisons["intent"].difference.mean == -1.0
    assert comparisons["slots"].difference.mean == 1.0
    assert comparisons["intent"].joint_scores == {3: 0.0, 4: 0.0}
    [warning] = result.warnings
    assert warning.startswith(
        "intent in domain: joint training is 100.00 percentage points worse "
        "(-100.00 to -100.00), which is negative transfer."
    )
    assert (
        "Possible remedies: lower tasks.slots.weight, or set train.balancing.method; "
        "lower data.reviews.mix_ratio; or train intent separately." in warning
    )
    assert any("4 comparisons at 95 % each" in note and "slots in domain" in note for note in result.notes)
    assert any(note.startswith("2 seeds: the variation between seeds is uncertain") for note in result.notes)
    assert any(note.startswith("mood: scored on dev, because test has no labels.") for note in result.notes)
    assert any(note.startswith("No out-of-domain text: add `out_of_domain") for note in result.notes)


def test_exact_match_of_tasks_alone_combines_their_models(compare_changed):
    def _half(training, counts):
        """Set all joint answers to right. Alone, intent errs on row 0 and slots on row 1."""
        for tasks in counts.values():
            for task, task_counts in tasks.items():
                wrong = {"intent": 0, "slots": 1, "mood": None}[task] if training.variant.task else None
                set_right(task_counts, [i != wrong for i in range(len(task_counts["rows"]))])

    exact = compare_changed(_half).comparisons[-1]
    assert (exact.metric, exact.scored_task.task, exact.examples) == ("exact_match", "intent + slots", 9)
    assert exact.alone_scores == {3: pytest.approx(7 / 9), 4: pytest.approx(7 / 9)}
    assert exact.difference.mean == pytest.approx(2 / 9)


def test_warnings_include_a_hurt_exact_match(compare_changed):
    def _worse(training, counts):
        for tasks in counts.values():
            for task_counts in tasks.values():
                alone = training.variant.task is not None
                set_right(task_counts, [alone] * len(task_counts["rows"]))

    warnings = compare_changed(_worse).warnings
    start = "intent + slots in domain: joint training is 100.00 percentage points worse"
    assert any(warning.startswith(start) for warning in warnings)


def test_comparison_with_different_examples_is_rejected(compare_changed):
    def _shorter(training, counts):
        if training.variant.task == "intent":
            counts["test"]["intent"] = {key: values[1:] for key, values in counts["test"]["intent"].items()}

    with pytest.raises(CheckpointError, match="intent: all trainings must be evaluated on the same examples"):
        compare_changed(_shorter)


def test_compare_json_has_the_documented_keys(compared):
    result = compare_trainings(compared.plan, compared.trainings)
    written = json.loads(json.dumps(as_json(result, Path("tiny.toml"))))
    assert set(written) == {"config", "seeds", "level", "draws", "batches", "comparisons", "notes", "warnings"}
    assert written["batches"] == {
        "joint": {"travel": 6, "reviews": 3},
        "alone": {"intent": {"travel": 6}, "slots": {"travel": 6}, "mood": {"reviews": 3}},
    }
    for comparison in written["comparisons"]:
        assert set(comparison) == {
            "task",
            "metric",
            "domain",
            "split",
            "examples",
            "joint",
            "alone",
            "difference",
            "verdict",
        }
        assert set(comparison["difference"]) == {"mean", "low", "high", "p", "holds_with_holm"}
        joint_scores = comparison["joint"]["scores"]
        assert comparison["joint"]["mean"] == pytest.approx(sum(joint_scores.values()) / 2)
        assert set(joint_scores) == set(comparison["alone"]["scores"]) == {"3", "4"}
        difference = comparison["difference"]
        assert difference["low"] <= difference["mean"] <= difference["high"]
    run_metrics = json.loads((compared.trainings[0].folder / "metrics.json").read_text(encoding="utf-8"))
    assert written["comparisons"][0]["joint"]["scores"]["3"] == run_metrics["test"]["intent"]["accuracy"]
    assert written["comparisons"][-1]["joint"]["scores"]["3"] == pytest.approx(run_metrics["test"]["exact_match"])


def test_notes_mention_a_single_seed(compared):
    result = compare_trainings(compared.plan, [training for training in compared.trainings if training.seed == 3])
    assert any(
        note.startswith("1 seed: the intervals do not include the variation between seeds.") for note in result.notes
    )


def test_page_is_a_single_file_with_escaped_names(compare_changed):
    result = compare_changed(better_alone)
    page = render_comparison(result, Path("a<b>.toml"))
    assert "a&lt;b&gt;" in page
    assert "<b>.toml" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert all(comparison.verdict in page for comparison in result.comparisons)
    assert result.warnings[0] in page
    [first, *_] = result.comparisons
    evil = replace(first, scored_task=replace(first.scored_task, task="x" * 50 + "<&"))
    drawing = ElementTree.fromstring(draw_forest_plot([evil, *result.comparisons]))
    points = [node for node in drawing.iter() if node.get("class", "").startswith("point")]
    assert [node.get("class") for node in points] == ["point hurt", "point hurt", "point helped", "point ", "point "]
    assert all(0 < float(node.get("cx")) < 760 for node in points)
    assert format_difference(first) == "-100.00 [-100.00, -100.00]"
