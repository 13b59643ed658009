"""A comparison of tasks that share two data sets."""

import json

import pytest

from palm_trainer.cli.train import app, command


def test_comparison_scores_all_data_sets_and_each(tmp_path, write_config, capsys):
    path = write_config(tmp_path)
    home = '[data.home]\nformat = "joint"\ntrain = "travel/train"\ntest = "travel/dev"\n\n[tasks.intent]'
    text = path.read_text().replace('data = ["travel"]', 'data = ["travel", "home"]')
    path.write_text(text.replace("[tasks.intent]", home))
    output = tmp_path / "compare"
    settings = ("--set", "train.epochs=1", "--seeds", "3", "--output", str(output))
    assert command(app, ["compare", str(path), *settings]) == 0
    out = capsys.readouterr().out
    comparisons = json.loads((output / "compare.json").read_text())["comparisons"]
    metrics = json.loads((output / "joint/3/metrics.json").read_text())["test"]
    names = {"intent": ("intent", "accuracy"), "slots": ("slots", "f1"), "intent + slots": ("exact_match", None)}
    assert [comparison["task"] for comparison in comparisons] == list(names)
    for comparison in comparisons:
        name, metric = names[comparison["task"]]
        assert comparison["examples"] == 17
        overall = metrics[name] if metric is None else metrics[name][metric]
        assert comparison["joint"]["mean"] == pytest.approx(overall)
        assert {data: scores["examples"] for data, scores in comparison["by_data_set"].items()} == {
            "travel": 9,
            "home": 8,
        }
        for data, scores in comparison["by_data_set"].items():
            expected = metrics["by_data_set"][data][name]
            assert scores["joint"]["scores"] == {"3": pytest.approx(expected if metric is None else expected[metric])}
            assert 0 <= scores["alone"]["mean"] <= 1
    assert "exact_match (home)" in out
    assert "Scores of each data set" in (output / "compare.html").read_text()
