"""Classes -> indices."""

import pytest

from palm_serve.types import Encoding
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.data.targets.classify import ClassifyTarget
from palm_trainer.errors import DataError
from palm_trainer.model.heads import IGNORE

NOTHING = Encoding([], [], [], [])


def learn(*values, pair=None):
    return ClassifyTarget.learn("mood", "label", [Example("t", {"label": v}, pair=pair, source="f:1") for v in values])


def test_labels_are_sorted_and_unknown_ones_ignored():
    target = learn("b", "a", "b")
    assert target.info.labels == ("a", "b")
    fields = ({"label": "b"}, {"label": "never seen"}, {}, {"label": ()})
    assert [target.encode(Example("t", f), NOTHING) for f in fields] == [1, IGNORE, IGNORE, IGNORE]
    assert target.collate([1, IGNORE], 9).tolist() == [1, IGNORE]


def test_pairs_are_noted():
    assert learn("a", "b", pair="p").info.pairs
    assert not learn("a", "b").info.pairs


def test_one_class_is_not_enough():
    with pytest.raises(
        DataError, match="task 'mood': the training data holds 1 class in the field 'label'; a classifier needs 2"
    ):
        learn("a", "a")


@pytest.mark.parametrize("value", [("a", "b"), (LabelledSpan(0, 1, "x"),)])
def test_several_classes_are_another_kind(value):
    with pytest.raises(DataError, match="f:1: task 'mood' needs one class in 'label', not "):
        learn("a", value)
