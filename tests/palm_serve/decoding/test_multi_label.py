"""Decoding of several labels: thresholds, order, stability."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from palm_serve.bundle.manifest import TaskInfo, TaskThresholds
from palm_serve.decoding import Item
from palm_serve.decoding.multi_label import MultiLabelDecoder
from palm_serve.types import Encoding

LABELS = ("a", "b", "c", "d")
NOTHING = Encoding([], [], [], [])


def decode(logits, *, top_k=0, **limits):
    task = TaskInfo(kind="multi_label", outputs=("t",), labels=LABELS, thresholds=TaskThresholds(labels=limits))
    rows = np.atleast_2d(np.asarray(logits, dtype=np.float32))
    return MultiLabelDecoder(task)({"t": rows}, [Item("x", NOTHING, top_k=top_k)] * len(rows))


def test_each_label_has_its_threshold():
    [answer] = decode([0.0, -1.0, 1.0, -9.0], b=0.2, c=0.8)
    assert [label.name for label in answer.labels] == ["a", "b"]
    assert [label.name for label in answer.ranking] == ["c", "a", "b", "d"]
    assert answer.label == answer.ranking[0]


def test_ranking_is_cut_but_labels_are_not():
    [answer] = decode([1.0, 2.0, 3.0, -1.0], top_k=1)
    assert [label.name for label in answer.ranking] == ["c"]
    assert [label.name for label in answer.labels] == ["c", "b", "a"]


def test_equal_labels_keep_their_order():
    [answer] = decode([0.5, 0.5, 0.5, 0.5])
    assert [label.name for label in answer.ranking] == list(LABELS)


@settings(deadline=None)
@given(arrays(np.float32, (3, 4), elements=st.floats(-200, 200, width=32)))
def test_ranking_is_sorted_and_labels_are_those_above(logits):
    for answer in decode(logits):
        confidences = [label.confidence for label in answer.ranking]
        assert confidences == sorted(confidences, reverse=True)
        assert all(0.0 <= confidence <= 1.0 for confidence in confidences)
        assert answer.labels == tuple(label for label in answer.ranking if label.confidence >= 0.5)
