"""What the head of the page says first."""

from types import SimpleNamespace

from palm_trainer.report.overview import Card, cards


def test_cards_tell_the_other_splits_too():
    metrics = {
        "dev": {"intent": {"accuracy": 0.984, "ece": 0.01}, "exact_match": 0.914},
        "test": {"intent": {"accuracy": 0.9787}, "exact_match": 0.879},
    }
    kinds = {"intent": "classify", "slots": "sequence_label"}
    assert cards(SimpleNamespace(metrics=metrics), kinds, "dev") == [
        Card("intent", "98.4", "accuracy, dev; test 97.9"),
        Card("all tasks", "91.4", "wholly right texts, dev; test 87.9"),
    ]
    assert cards(SimpleNamespace(metrics={"dev": metrics["dev"]}), {}, "dev")[0].note == "wholly right texts, dev"
    assert cards(SimpleNamespace(metrics={}), kinds, None) == []
