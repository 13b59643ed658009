"""From counts to what is told: verdicts, exact match, notes, warnings, JSON and page."""

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from palm_trainer.compare.page import forest, render, told
from palm_trainer.compare.result import as_json, make_result
from palm_trainer.compare.trainings import read_counts
from palm_trainer.errors import CheckpointError


@pytest.fixture
def rewritten(compared, tmp_path):
    """`rewritten(change)`: the cells with counts that `change(cell, counts)` has changed; their plan."""

    def _rewritten(change):
        cells = []
        for cell in compared.cells:
            folder = tmp_path / cell.variant.folder / str(cell.seed)
            folder.mkdir(parents=True)
            counts = json.loads(json.dumps(read_counts(cell)))
            change(cell, counts)
            (folder / "counts.json").write_text(json.dumps({"examples": {}, "counts": counts}), encoding="utf-8")
            settings = cell.config.train.model_copy(update={"output": folder})
            cells.append(replace(cell, config=cell.config.model_copy(update={"train": settings})))
        return make_result(compared.plan, cells, draws=300)

    return _rewritten


def set_right(own, right):
    """Counts of a task as if it had these answers right."""
    own["right"] = [int(value) for value in right]
    own["numerator"] = [d * value for d, value in zip(own["denominator"], own["right"], strict=True)]


def better_alone(cell, counts):
    """Alone, intent is always right; together it never is, and slots always are."""
    alone = cell.variant.task is not None
    for tasks in counts.values():
        for task, own in tasks.items():
            right = {"intent": alone, "slots": not alone, "mood": True}[task]
            set_right(own, [right] * len(own["rows"]))


def test_verdicts_and_warnings(rewritten):
    result = rewritten(better_alone)
    found = {one.question.task: one for one in result.comparisons}
    assert {task: one.verdict for task, one in found.items()} == {
        "intent": "hurt",
        "slots": "helped",
        "mood": "no difference shown",
        "intent + slots": "no difference shown",
    }
    assert (found["intent"].difference.mean, found["slots"].difference.mean) == (-1.0, 1.0)
    assert found["intent"].joint == {3: 0.0, 4: 0.0}
    [warning] = result.warnings
    assert warning.startswith("intent in domain: 100.00 points worse trained together (-100.00 to -100.00): negative")
    assert (
        "Ways out: lower tasks.slots.weight, or set train.balancing.method; lower data.reviews.mix_ratio; or train intent by itself."
        in warning
    )
    assert any("4 comparisons at 95 % each" in note and "slots in domain" in note for note in result.notes)
    assert any(note.startswith("2 seeds: how much seeds differ") for note in result.notes)
    assert any(note.startswith("mood: no labels in test, so scored on dev") for note in result.notes)
    assert any(note.startswith("No text from another domain: `out_of_domain") for note in result.notes)


def test_exact_match_of_models_alone_is_of_all_together(rewritten):
    def _half(cell, counts):
        """Joint: all right. Alone: intent errs on the first row, slots on the second."""
        for tasks in counts.values():
            for task, own in tasks.items():
                wrong = {"intent": 0, "slots": 1, "mood": None}[task] if cell.variant.task else None
                set_right(own, [i != wrong for i in range(len(own["rows"]))])

    exact = rewritten(_half).comparisons[-1]
    assert (exact.metric, exact.question.task, exact.examples) == ("exact_match", "intent + slots", 9)
    assert exact.alone == {3: pytest.approx(7 / 9), 4: pytest.approx(7 / 9)}
    assert exact.difference.mean == pytest.approx(2 / 9)


def test_a_hurt_exact_match_is_warned_of(rewritten):
    def _worse(cell, counts):
        for tasks in counts.values():
            for own in tasks.values():
                set_right(own, [cell.variant.task is not None] * len(own["rows"]))

    assert any(w.startswith("intent + slots in domain: 100.00 points worse") for w in rewritten(_worse).warnings)


def test_cells_of_other_examples_are_refused(rewritten):
    def _shorter(cell, counts):
        if cell.variant.task == "intent":
            counts["test"]["intent"] = {key: values[1:] for key, values in counts["test"]["intent"].items()}

    with pytest.raises(CheckpointError, match="intent: the models were not judged on the same examples"):
        rewritten(_shorter)


def test_json_holds_what_the_module_says(compared):
    result = make_result(compared.plan, compared.cells)
    written = json.loads(json.dumps(as_json(result, Path("tiny.toml"))))
    assert set(written) == {"config", "seeds", "level", "draws", "batches", "comparisons", "notes", "warnings"}
    assert written["batches"] == {
        "joint": {"travel": 6, "reviews": 3},
        "alone": {"intent": {"travel": 6}, "slots": {"travel": 6}, "mood": {"reviews": 3}},
    }
    for one in written["comparisons"]:
        assert set(one) == {"task", "metric", "domain", "split", "examples", "joint", "alone", "difference", "verdict"}
        assert set(one["difference"]) == {"mean", "low", "high", "p", "holds_with_holm"}
        assert one["joint"]["mean"] == pytest.approx(sum(one["joint"]["scores"].values()) / 2)
        assert set(one["joint"]["scores"]) == set(one["alone"]["scores"]) == {"3", "4"}
        assert one["difference"]["low"] <= one["difference"]["mean"] <= one["difference"]["high"]
    of_run = json.loads((compared.cells[0].folder / "metrics.json").read_text(encoding="utf-8"))
    assert written["comparisons"][0]["joint"]["scores"]["3"] == of_run["test"]["intent"]["accuracy"]
    assert written["comparisons"][-1]["joint"]["scores"]["3"] == pytest.approx(of_run["test"]["exact_match"])


def test_one_seed_is_noted(compared):
    result = make_result(compared.plan, [cell for cell in compared.cells if cell.seed == 3])
    assert any(note.startswith("1 seed: the intervals know nothing of other seeds.") for note in result.notes)


def test_page_is_whole_and_escaped(rewritten):
    result = rewritten(better_alone)
    page = render(result, Path("a<b>.toml"))
    assert "a&lt;b&gt;" in page
    assert "<b>.toml" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert all(one.verdict in page for one in result.comparisons)
    assert result.warnings[0] in page
    [first, *_] = result.comparisons
    evil = replace(first, question=replace(first.question, task="x" * 50 + "<&"))
    drawing = ElementTree.fromstring(forest([evil, *result.comparisons]))
    points = [node for node in drawing.iter() if node.get("class", "").startswith("point")]
    assert [node.get("class") for node in points] == ["point hurt", "point hurt", "point helped", "point ", "point "]
    assert all(0 < float(node.get("cx")) < 760 for node in points)
    assert told(first) == "-100.00 [-100.00, -100.00]"
