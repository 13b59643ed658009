"""Cards at the top of the page."""

from types import SimpleNamespace

from palm_trainer.report.overview import Card, make_cards


def test_cards_show_the_values_of_all_splits():
    metrics = {
        "dev": {"intent": {"accuracy": 0.984, "ece": 0.01}, "exact_match": 0.914},
        "test": {"intent": {"accuracy": 0.9787}, "exact_match": 0.879},
    }
    kinds = {"intent": "classify", "slots": "sequence_label"}
    assert make_cards(SimpleNamespace(metrics=metrics), kinds, "dev") == [
        Card("intent", "98.4", "accuracy, dev; test 97.9"),
        Card("all tasks", "91.4", "all tasks right, dev; test 87.9"),
    ]
    assert make_cards(SimpleNamespace(metrics={"dev": metrics["dev"]}), {}, "dev")[0].note == "all tasks right, dev"
    assert make_cards(SimpleNamespace(metrics={}), kinds, None) == []
