"""Metrics of matching, of several labels and of reading comprehension."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.tasks.metrics import answer_tokens, label_scores, pairwise_accuracy, reading_scores, set_scores


def test_sets_are_right_whole_or_by_label():
    gold = [frozenset("ab"), frozenset("c"), frozenset()]
    found = [frozenset("ab"), frozenset("ca"), frozenset()]
    scores = set_scores(gold, found)
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert (scores["precision"], scores["recall"]) == (0.75, 1.0)


def test_f1_is_of_the_match_label():
    scores = label_scores(["1", "1", "0", "0"], ["1", "0", "1", "0"], "1")
    assert scores == {"accuracy": 0.5, "f1": 0.5, "precision": 0.5, "recall": 0.5}
    assert label_scores(["0"], ["0"], "1")["f1"] == 0.0


def test_a_tie_ranks_nothing():
    assert pairwise_accuracy([0.9, 0.1, 0.5, 0.5, 0.2, 0.3, 0.3, 0.2]) == 0.5
    assert pairwise_accuracy([]) == 0.0


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("The  Quick, brown fox!", ["quick", "brown", "fox"]),
        ("a-an theatre", ["aan", "theatre"]),
        ("$3.5", ["35"]),
        ("《红楼梦》，1791年", ["红", "楼", "梦", "1791", "年"]),
        ("the", []),
        ("", []),
    ],
)
def test_answers_are_compared_as_squad_does(text, tokens):
    assert answer_tokens(text) == tokens


def test_the_nearest_right_answer_counts():
    scores = reading_scores([("the red car", "red"), ("",), ("oslo",)], ["red car", "", ""])
    assert scores == {"exact_match": pytest.approx(2 / 3), "f1": pytest.approx(2 / 3)}
    assert reading_scores([("北京市",)], ["北京"])["f1"] == pytest.approx(0.8)
    assert reading_scores([("one two",)], ["two three"])["f1"] == 0.5
    assert reading_scores([("",)], ["something"]) == {"exact_match": 0.0, "f1": 0.0}


@given(st.lists(st.text(max_size=12), min_size=1, max_size=5))
def test_an_answer_is_right_for_itself(texts):
    assert reading_scores([(text,) for text in texts], texts) == {"exact_match": 1.0, "f1": 1.0}
