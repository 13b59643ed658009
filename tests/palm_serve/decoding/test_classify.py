"""Logits -> ranking; and whether the top one may be acted on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.bundle.manifest import Calibration, Decode, TaskInfo
from palm_serve.decoding import Item, make_decoder
from palm_serve.decoding.classify import ClassifyDecoder, softmax
from palm_serve.decoding.fallback_policy import judge
from palm_serve.errors import BundleError
from palm_serve.types import Classification, Encoding, FallbackReason, Label, Thresholds

LABELS = ("a", "b", "c", "d")
NOTHING = Encoding([], [], [], [])


def classify(logits, top_k=0, temperature=1.0):
    scaling = Calibration(temperature=temperature)
    task = TaskInfo(kind="classify", outputs=("x.logits",), labels=LABELS, calibration=scaling)
    values = np.asarray(logits, np.float32).reshape(-1, len(LABELS))
    return ClassifyDecoder(task, {})({"x.logits": values}, [Item("t", NOTHING, top_k=top_k) for _ in values])


@given(st.lists(st.floats(-1e4, 1e4, width=32), min_size=4, max_size=4))
def test_ranking_is_complete_sorted_and_sums_to_one(logits):
    answer = classify(logits)[0]
    confidences = [label.confidence for label in answer.ranking]
    assert {label.name for label in answer.ranking} == set(LABELS)
    assert confidences == sorted(confidences, reverse=True)
    assert sum(confidences) == pytest.approx(1.0, abs=1e-5)
    assert answer.label == answer.ranking[0]


def test_ties_go_by_label_order():
    assert [label.name for label in classify([1, 2, 2, 1])[0].ranking] == ["b", "c", "a", "d"]


@pytest.mark.parametrize(("top_k", "size"), [(0, 4), (1, 1), (3, 3), (9, 4)])
def test_top_k_cuts_the_ranking(top_k, size):
    assert len(classify([1, 2, 3, 4], top_k)[0].ranking) == size


def test_temperature_softens_and_keeps_the_order():
    sharp, soft = classify([1, 2, 3, 4])[0], classify([1, 2, 3, 4], temperature=3.0)[0]
    assert soft.label.name == sharp.label.name
    assert soft.label.confidence < sharp.label.confidence


def test_softmax_of_huge_logits_is_finite():
    np.testing.assert_array_equal(softmax(np.array([[1e30, -1e30]], np.float32)), [[1.0, 0.0]])


def answer(first, second, score=0.0):
    ranking = (Label("a", first), Label("b", second))
    return Classification(ranking[0], ranking, out_of_scope_score=score)


@pytest.mark.parametrize(
    ("case", "limits", "reason"),
    [
        (answer(0.9, 0.1), Thresholds(), FallbackReason.NONE),
        (answer(0.9, 0.1), Thresholds(0.8, 0.2, 0.5), FallbackReason.NONE),
        (answer(0.5, 0.1), Thresholds(0.8, 0.2, 0.5), FallbackReason.LOW_CONFIDENCE),
        (answer(0.9, 0.8), Thresholds(0.8, 0.2, 0.5), FallbackReason.AMBIGUOUS),
        (answer(0.5, 0.5, 0.6), Thresholds(0.8, 0.2, 0.5), FallbackReason.OUT_OF_SCOPE),
    ],
)
def test_judge(case, limits, reason):
    assert judge(case, limits) is reason


STATISTICS = {
    "x.centre": np.array([1.0, 0.0], np.float32),
    "x.whitening": np.array([[0.5, 0.0], [0.0, 1.0]], np.float32),
    "x.means": np.array([[0.0, 0.0], [1.0, 2.0]], np.float32),
}


def distant(outputs=("x.logits", "x.features"), roles=("centre", "whitening", "means")):
    return TaskInfo(
        kind="classify",
        outputs=outputs,
        labels=LABELS,
        decode=Decode(arrays={role: f"x.{role}" for role in roles}),
        calibration=Calibration(temperature=2.0, out_of_scope="mahalanobis"),
    )


def test_mahalanobis_score_of_features():
    logits, features = np.zeros((3, 4), np.float32), np.array([[1, 0], [3, 2], [5, 3]], np.float32)
    outputs = {"x.logits": logits, "x.features": features}
    answers = make_decoder("x", distant(), STATISTICS)(outputs, [Item("t", NOTHING)] * 3)
    assert [a.out_of_scope_score for a in answers] == [0.0, 0.0, 2.0]


@pytest.mark.parametrize(
    ("task", "arrays", "message"),
    [
        (distant(outputs=("x.logits",)), STATISTICS, r"'x\.logits': .*'mahalanobis' needs the task's features"),
        (
            distant(),
            {k: v for k, v in STATISTICS.items() if k != "x.means"},
            r"'x': decode\.npz lacks the array 'x\.means'",
        ),
        (distant(roles=("centre", "means")), STATISTICS, r"task 'x': .*lacks.*'whitening'"),
        (
            distant(),
            STATISTICS | {"x.means": np.zeros((2, 3), np.float32)},
            r"do not fit each other: centre \[2\].*means \[2, 3\]",
        ),
    ],
)
def test_statistics_that_are_missing_or_do_not_fit(task, arrays, message):
    with pytest.raises(BundleError, match=message):
        make_decoder("x", task, arrays)
