"""The limit that is chosen is the best there is."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.bundle.manifest import Decode, TaskInfo
from palm_trainer.evaluation.thresholds import with_limit
from palm_trainer.tasks.metrics import set_scores
from palm_trainer.tasks.mrc import best_null_limit
from palm_trainer.tasks.multi_label import best_label_limit

SHARES = st.floats(0, 1, width=32)
SCORES = st.floats(-20, 20)


def total(limit, margins, answered, nothing):
    return sum(n if m > limit else a for m, a, n in zip(margins, answered, nothing, strict=True))


@given(rows=st.lists(st.tuples(SCORES, SHARES, SHARES), min_size=1, max_size=12), other=SCORES)
def test_no_null_limit_is_better(rows, other):
    margins, answered, nothing = (np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))
    chosen = total(best_null_limit(margins, answered, nothing), margins, answered, nothing)
    assert chosen >= total(other, margins, answered, nothing) - 1e-6
    for limit in margins:  # also right at, below and above each margin
        for near in (limit - 1e-6, limit, limit + 1e-6):
            assert chosen >= total(near, margins, answered, nothing) - 1e-6


def test_null_limit_by_hand():
    """ "No answer" is right at margins 3 and 2, the answer at 1 and -1: the limit lies between 1 and 2. Where 0 is as good it stays."""
    margins = np.array([3.0, 2.0, 1.0, -1.0])
    assert best_null_limit(margins, np.array([0.0, 0, 1, 1]), np.array([1.0, 1, 0, 0])) == 1.5
    assert best_null_limit(margins, np.array([0.0, 0, 0, 1]), np.array([1.0, 1, 1, 0])) == 0.0
    assert best_null_limit(margins, np.ones(4), np.zeros(4)) > 3
    assert best_null_limit(margins, np.zeros(4), np.ones(4)) < -1


@given(st.data())
def test_no_label_limit_is_better(data):
    labels = ("a", "b", "c")
    count = data.draw(st.integers(1, 6))
    rows = data.draw(st.lists(st.tuples(SHARES, SHARES, SHARES), min_size=count, max_size=count))
    gold = data.draw(st.lists(st.frozensets(st.sampled_from([*labels, "new"])), min_size=count, max_size=count))
    probabilities = np.array(rows, dtype=np.float32)

    def scores(limit):
        told = [
            frozenset(label for label, p in zip(labels, row, strict=True) if p >= np.float32(limit))
            for row in probabilities
        ]
        found = set_scores(gold, told)
        return found["accuracy"], found["f1"]

    chosen = best_label_limit(probabilities, gold, labels)
    assert all(scores(chosen) >= scores(limit) for limit in np.arange(5, 96) / 100)


def test_label_limit_by_hand():
    """Sets that are right come first: at 0.36 to 0.6 both rows are. Of equals the one nearest to 0.5."""
    probabilities = np.array([[0.9, 0.35], [0.6, 0.7]], dtype=np.float32)
    assert best_label_limit(probabilities, [frozenset("a"), frozenset("ab")], "ab") == 0.5
    assert best_label_limit(probabilities, [frozenset("ab"), frozenset("ab")], "ab") == 0.35


@pytest.mark.parametrize("kind", ["multi_label", "mrc"])
def test_a_limit_stands_where_decoding_reads_it(kind):
    outputs = ("t.start_logits", "t.end_logits") if kind == "mrc" else ("t.logits",)
    info = TaskInfo(kind=kind, outputs=outputs, labels=("a", "b"), decode=Decode(null_threshold=0.0))
    changed = with_limit(info, 0.25)
    if kind == "mrc":
        assert changed.decode.null_threshold == 0.25
    else:
        assert changed.thresholds.labels == {"a": 0.25, "b": 0.25}
    assert with_limit(changed, 0.25) == changed
