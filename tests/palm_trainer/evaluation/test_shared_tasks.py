"""Scores of tasks that share several data sets: over all rows, and on each data set."""

import json
from types import SimpleNamespace

import pytest

from palm_serve.types import Classification, Label, Span, Spans
from palm_trainer.cli.train import app, command
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.evaluation.evaluate import EvaluationSet, evaluate, flatten, score_of
from palm_trainer.export.model_card import _list_metrics
from palm_trainer.report.history import read_history
from palm_trainer.report.overview import make_metrics_tables
from palm_trainer.report.training_section import make_training_section

KINDS = {"intent": "classify", "slots": "sequence_label"}
FIELDS = {"intent": "intent", "slots": "slots"}
CITY = (LabelledSpan(3, 9, "city"),)
SWAPPED = {"go": "stay", "stay": "go"}


class Oracle:
    """Answers every text with the intent of its pair, and `boston` as a city."""

    def answers(self, examples, tasks=None):
        answers = []
        for example in examples:
            label = Label(example.pair, 1.0)
            spans = Spans((Span("city", "boston", 3, 9, 1.0),))
            answers.append({"intent": Classification(label, (label,)), "slots": spans})
        return answers


def make_set(name, rows, fields=FIELDS):
    """EvaluationSet of pairs (what the oracle answers, gold intent)."""
    examples = []
    for answer, gold in rows:
        labels = {"intent": gold, "slots": CITY}
        examples.append(Example("to boston", {field: labels[field] for field in fields}, pair=answer))
    return EvaluationSet(name, examples, fields)


RIGHT = [("go", "go"), ("stay", "stay")]
WRONG = [(answer, SWAPPED[gold]) for answer, gold in RIGHT]


@pytest.mark.parametrize("names", [("a", "b"), ("b", "a")])
def test_exact_match_counts_the_rows_of_all_data_sets(names):
    rows = {"a": RIGHT, "b": WRONG}
    metrics = evaluate(Oracle(), KINDS, [make_set(name, rows[name]) for name in names])
    assert metrics["intent"]["accuracy"] == 0.5
    assert metrics["slots"]["f1"] == 1.0
    assert metrics["exact_match"] == 0.5
    assert score_of(metrics, "exact_match", KINDS) == 0.5
    by_data_set = metrics["by_data_set"]
    assert by_data_set["a"]["intent"] == {"accuracy": 1.0}
    assert by_data_set["b"]["intent"] == {"accuracy": 0.0}
    assert {name: scores["exact_match"] for name, scores in by_data_set.items()} == {"a": 1.0, "b": 0.0}
    assert by_data_set["b"]["slots"]["f1"] == 1.0
    flat = flatten(metrics)
    assert (flat["exact_match"], flat["intent accuracy (b)"], flat["exact_match (a)"]) == (0.5, 0.0, 1.0)


def test_exact_match_weighs_rows_and_not_data_sets():
    metrics = evaluate(Oracle(), KINDS, [make_set("a", RIGHT[:1]), make_set("b", [*WRONG, *WRONG[:1]])])
    assert metrics["exact_match"] == 0.25


def test_exact_match_leaves_out_rows_without_any_label():
    sets = [make_set("a", WRONG)]
    sets[0].examples.append(Example("to boston", {}, pair="go"))
    assert evaluate(Oracle(), KINDS, sets)["exact_match"] == 0.0


def test_exact_match_of_own_tasks_counts_every_data_set():
    """Data sets with tasks of their own: their rows count too, and only exact match is told of each."""
    kinds = {"intent": "classify", "slots": "sequence_label", "other": "classify", "more": "sequence_label"}
    other = make_set("b", WRONG)
    other = EvaluationSet("b", other.examples, {"other": "intent", "more": "slots"})

    class Both(Oracle):
        def answers(self, examples, tasks=None):
            return [{**one, "other": one["intent"], "more": one["slots"]} for one in super().answers(examples)]

    metrics = evaluate(Both(), kinds, [make_set("a", RIGHT), other])
    assert metrics["exact_match"] == 0.5
    assert metrics["by_data_set"] == {"a": {"exact_match": 1.0}, "b": {"exact_match": 0.0}}


def test_scores_of_data_sets_only_where_they_share_something():
    assert "by_data_set" not in evaluate(Oracle(), KINDS, [make_set("a", RIGHT)])
    one = make_set("a", RIGHT, {"intent": "intent"})
    other = make_set("b", WRONG, {"slots": "slots"})
    assert "by_data_set" not in evaluate(Oracle(), KINDS, [one, other])
    shared = evaluate(Oracle(), KINDS, [make_set("a", RIGHT), make_set("b", WRONG, {"intent": "intent"})])
    assert shared["exact_match"] == 1.0
    assert shared["by_data_set"] == {"a": {"intent": {"accuracy": 1.0}}, "b": {"intent": {"accuracy": 0.0}}}


def test_model_card_has_the_scores_of_each_data_set():
    metrics = evaluate(Oracle(), KINDS, [make_set("a", RIGHT), make_set("b", WRONG)])
    lines = _list_metrics({"dev": {**metrics, "words": {"perplexity": 9.0}}})
    assert "| dev | exact_match | 50.00 |" in lines
    assert "| dev | intent accuracy (b) | 0.00 |" in lines
    assert not any("perplexity" in line for line in lines)


def test_report_has_the_scores_of_each_data_set():
    metrics = evaluate(Oracle(), KINDS, [make_set("a", RIGHT), make_set("b", WRONG)])
    facts = SimpleNamespace(metrics={"dev": metrics}, trained=SimpleNamespace(tasks=KINDS))
    overall, of_data_sets = make_metrics_tables(facts)
    assert [cell.text for cell in overall.rows[-1]] == ["all tasks", "exact match", "50.00"]
    assert "by" not in {cell.text for row in overall.rows for cell in row}
    rows = [[cell.text for cell in row] for row in of_data_sets.rows]
    assert ["a", "all tasks", "exact match", "100.00"] in rows
    assert ["b", "intent", "accuracy", "0.00"] in rows
    event = {"event": "evaluation", "step": 1, "epoch": 1.0, "metrics": metrics, "best": True}
    section = make_training_section(read_history([event]), KINDS)
    [evaluations] = [block for block in section.blocks if getattr(block, "folded", False)]
    assert {"intent accuracy", "intent accuracy (b)", "exact match (a)"} <= set(evaluations.columns)


@pytest.mark.parametrize("name", ["by_data_set", "exact_match"])
def test_names_that_metrics_use_are_refused_for_tasks(tiny_toml, capsys, name):
    path = tiny_toml()
    path.write_text(path.read_text().replace("[tasks.slots]", f"[tasks.{name}]"))
    code = command(app, ["plan", str(path)])
    assert code == 2
    assert f"tasks.{name} must have another name" in capsys.readouterr().err


def test_perplexity_is_told_for_each_data_set(tmp_path, write_config, fit):
    path = write_config(tmp_path)
    lines = path.read_text().replace('data = ["travel"]', 'data = ["home"]')
    lines = lines.replace("[data.travel]", "[data.home]")
    texts = {"travel": "flights from boston\n" * 4, "news": "a fare to denver now\nlist hotels\n"}
    for name, text in texts.items():
        (tmp_path / f"{name}.txt").write_text(text)
        lines += f'\n[data.{name}]\nformat = "text"\ntrain = "{name}.txt"\ndev = "{name}.txt"\n'
    lines += '\n[tasks.words]\nkind = "masked_lm"\ndata = ["travel", "news"]\n'
    path.write_text(lines)
    metrics = fit(load_config(path, ["train.epochs=1"])).metrics["dev"]
    scores = [data_metrics["words"]["perplexity"] for data_metrics in metrics["by_data_set"].values()]
    assert metrics["by_data_set"].keys() == {"travel", "news"}
    assert min(scores) < metrics["words"]["perplexity"] < max(scores)


@pytest.fixture(scope="module")
def shared_toml(tmp_path_factory, write_config):
    """A configuration whose tasks share two data sets. In dev and test of the second every intent is `other`."""
    folder = tmp_path_factory.mktemp("shared")
    path = write_config(folder)
    for split in ("dev", "test"):
        source = folder / "travel" / split
        target = folder / "home" / split
        target.mkdir(parents=True)
        for name in ("seq.in", "seq.out"):
            (target / name).write_text((source / name).read_text())
        labels = (source / "label").read_text().splitlines()
        (target / "label").write_text("other\n" * len(labels))
    text = path.read_text().replace('data = ["travel"]', 'data = ["travel", "home"]')
    second = (
        '[data.home]\nformat = "joint"\ntrain = "travel/train"\ndev = "home/dev"\ntest = "home/test"\n\n[tasks.intent]'
    )
    text = text.replace("[tasks.intent]", second)
    path.write_text(text.replace("epochs = 3", 'epochs = 3\ncheckpoints.select = "exact_match"'))
    return path


@pytest.fixture(scope="module")
def shared_run(shared_toml, fit):
    """The finished run of that configuration."""
    fit(load_config(shared_toml, ["train.epochs=6"]))
    return shared_toml.parent / "run"


def test_run_stores_the_scores_of_each_data_set(shared_run):
    metrics = json.loads((shared_run / "metrics.json").read_text())
    for split_metrics in metrics.values():
        scores = split_metrics["by_data_set"]
        assert scores.keys() == {"travel", "home"}
        assert scores["home"]["exact_match"] == scores["home"]["intent"]["accuracy"] == 0.0
        mean = (scores["travel"]["exact_match"] + scores["home"]["exact_match"]) / 2  # as many rows in both
        assert split_metrics["exact_match"] == pytest.approx(mean)
    events = [json.loads(line) for line in (shared_run / "events.jsonl").read_text().splitlines()]
    evaluations = [event for event in events if event["event"] == "evaluation"]
    assert all(event["score"] == event["metrics"]["exact_match"] for event in evaluations)
    assert all("home" in event["metrics"]["by_data_set"] for event in evaluations)
    assert "Metrics of each data set" in (shared_run / "report.html").read_text()


def test_evaluate_shows_the_scores_of_each_data_set(shared_run, capsys, tmp_path):
    code = command(app, ["evaluate", str(shared_run), "--json", str(tmp_path / "m.json")])
    out = capsys.readouterr().out
    assert code == 0
    assert "intent accuracy (home)" in out
    assert "exact_match (travel)" in out
    stored = json.loads((shared_run / "metrics.json").read_text())["test"]
    assert json.loads((tmp_path / "m.json").read_text())["test"] == stored
