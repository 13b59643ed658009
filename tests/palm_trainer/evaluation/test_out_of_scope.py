"""The Mahalanobis score against its definition; the choice between scores; what evaluation tells of it; and that a server gives the same."""

import json
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from palm_serve.bundle.loader import load_bundle
from palm_serve.decoding.classify import Mahalanobis
from palm_serve.types import Classification, Label, TextRequest
from palm_trainer.config.loader import load_config
from palm_trainer.data.example import Example
from palm_trainer.evaluation.calibration import calibrate
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.evaluation.out_of_scope import (
    FIT_EXAMPLES,
    SHRINKAGE,
    auroc,
    fit_statistics,
    rejections,
    threshold_at,
)
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.evaluate_run import evaluate_run

SCORES = st.lists(st.floats(-50, 50), min_size=1, max_size=60)


@given(SCORES, st.floats(0, 0.99))
def test_a_threshold_rejects_no_more_than_it_may(scores, rejected):
    limit = threshold_at(scores, rejected)
    assert sum(score > limit for score in scores) <= rejected * len(scores) + 1e-9
    accepted = max(score for score in scores if score <= limit)
    lower = [score for score in scores if score < accepted]
    if lower:  # and it is the least such
        assert sum(score > max(lower) for score in scores) > rejected * len(scores) - 1e-9


def test_a_threshold_is_no_score_of_a_text():
    assert threshold_at([1.0, 2.0, 3.0, 4.0], 0.25) == 3.5
    assert threshold_at([3.0, 1.0, 3.0, 3.0], 0.5) == pytest.approx(3.0015)
    assert threshold_at([-8.0], 0.0) == pytest.approx(-7.996)


@given(SCORES, SCORES)
def test_auroc_counts_pairs(inside, outside):
    pairs = [(a < b) + 0.5 * (a == b) for a in inside for b in outside]
    assert auroc(inside, outside) == pytest.approx(sum(pairs) / len(pairs))


@pytest.mark.parametrize("seed", range(3))
def test_the_distance_is_the_one_to_the_nearest_mean_under_the_shared_covariance(seed):
    generator = np.random.default_rng(seed)
    mixing = generator.normal(size=(8, 8))
    classes = np.arange(200) % 5
    features = (generator.normal(size=(200, 8)) @ mixing + 30 * generator.normal(size=(5, 8))[classes] + 100).astype(
        np.float32
    )
    means = np.stack([features[classes == c].mean(axis=0) for c in range(5)]).astype(np.float64)
    covariance = np.cov((features - means[classes]).T, bias=True)
    shrunk = (1 - SHRINKAGE) * covariance + SHRINKAGE * np.trace(covariance) / 8 * np.eye(8)
    new = (generator.normal(size=(20, 8)) * 60 + 100).astype(np.float32)
    wanted = cdist(new, means, "mahalanobis", VI=np.linalg.inv(shrunk)).min(axis=1) ** 2
    np.testing.assert_allclose(Mahalanobis(*fit_statistics(features, classes))(new), wanted, rtol=1e-3)


def test_features_that_do_not_vary_have_a_distance():
    """As many examples as classes, and fewer than dimensions: the covariance within classes is zero."""
    features = np.eye(3, 6, dtype=np.float32)
    score = Mahalanobis(*fit_statistics(features, np.arange(3)))
    assert score(features) == pytest.approx([0, 0, 0], abs=1e-5)
    assert score(-features).min() > 1


def test_decoding_a_batch_is_cheap():
    """32 texts, 384 dimensions, 150 classes: well under a millisecond where nothing else runs; the best of many tries here."""
    generator = np.random.default_rng(0)
    shapes = ((384,), (384, 384), (150, 384))
    score = Mahalanobis(*(generator.normal(size=shape).astype(np.float32) for shape in shapes))
    features = generator.normal(size=(32, 384)).astype(np.float32)
    spent = []
    for _ in range(200):
        begun = time.perf_counter()
        score(features)
        spent.append(time.perf_counter() - begun)
    assert min(spent) < 2e-3


FIELDS = {"intent": "intent"}
TRAIN = [
    Example(f"{verb} {city}", {"intent": label})
    for verb, label in (("flights", "flight"), ("what is the fare", "fare"), ("list hotels", "hotel"))
    for city in ("in boston", "to denver", "please", "now")
]


@pytest.fixture(scope="module")
def trained(finished_run):
    return load_trained(finished_run)


def calibrated(trained, **options):
    settings = {"false_rejection": {"intent": 0.25}, "train": {"intent": TRAIN}} | options
    return calibrate(trained, [EvaluationSet("d", TRAIN[::2], FIELDS)], **settings)


def test_mahalanobis_without_text_to_choose_by(trained):
    told = calibrated(trained)
    info = told.tasks["intent"]
    assert info.calibration.out_of_scope == "mahalanobis"
    assert info.outputs == ("intent.logits", "intent.features") == told.model.output_names(("intent",))
    assert {name: told.arrays[stored].shape for name, stored in info.decode.arrays.items()} == {
        "centre": (16,),
        "whitening": (16, 16),
        "means": (3, 16),
    }
    scores = [answer["intent"].out_of_scope_score for answer in Predictor(told).answers(TRAIN[::2], ("intent",))]
    assert sum(score > info.thresholds.out_of_scope for score in scores) == 1
    assert trained.model.output_names(("intent",)) == ("intent.logits",)  # what was given is as it was
    assert calibrated(told).tasks == told.tasks


@pytest.mark.parametrize("wanted", ["softmax", "energy", "mahalanobis"])
def test_a_score_that_is_named_is_taken(trained, wanted):
    told = calibrated(trained, scores={"intent": wanted}, out_of_domain={"intent": [Example("zzz")]})
    assert told.tasks["intent"].calibration.out_of_scope == wanted
    assert len(told.tasks["intent"].outputs) == (2 if wanted == "mahalanobis" else 1)
    if wanted != "mahalanobis":
        assert told.model is trained.model


def test_the_score_that_tells_given_text_best_is_taken(trained):
    """Where each is asked about the text that it rejects most surely, that one wins."""
    foreign = [
        Example(text) for text in ("zzz", "boston boston", "what is love", "fare hotel flights", "a", "now please now")
    ]
    areas = {}
    for method in ("softmax", "energy", "mahalanobis"):
        predictor = Predictor(calibrated(trained, scores={"intent": method}))
        inside, outside = (
            [answer["intent"].out_of_scope_score for answer in predictor.answers(texts, ("intent",))]
            for texts in (TRAIN[::2], foreign)
        )
        areas[method] = auroc(inside, outside)
    chosen = calibrated(trained, out_of_domain={"intent": foreign}).tasks["intent"].calibration.out_of_scope
    assert areas[chosen] == max(areas.values())


def test_without_training_examples_of_each_class_there_is_no_mahalanobis(trained):
    for train in ({}, {"intent": TRAIN[:4]}):
        assert calibrated(trained, train=train).tasks["intent"].calibration.out_of_scope == "energy"


def test_of_much_training_text_some_of_each_class_is_looked_at(trained, monkeypatch):
    monkeypatch.setattr("palm_trainer.evaluation.out_of_scope.FIT_EXAMPLES", 6)
    seen = []
    monkeypatch.setattr(
        "palm_trainer.evaluation.out_of_scope.fit_statistics",
        lambda features, classes: (seen.extend(classes.tolist()), fit_statistics(features, classes))[1],
    )
    assert calibrated(trained).tasks["intent"].calibration.out_of_scope == "mahalanobis"
    assert sorted(seen) == [0, 0, 1, 1, 2, 2]
    assert FIT_EXAMPLES >= 15_000  # all of CLINC150


class Told:
    """Answers with a label and a score that are written in the text: `label score`."""

    def answers(self, examples, tasks=None):
        rows = [example.text.split() for example in examples]
        return [{"intent": Classification(Label(n, 1.0), (), out_of_scope_score=float(score))} for n, score in rows]


def test_rejections_by_hand(trained):
    info = trained.tasks["intent"]
    tasks = {"intent": info.model_copy(update={"thresholds": info.thresholds.model_copy(update={"out_of_scope": 0.5})})}
    inside = [Example(text, {"intent": "a"}) for text in ("a 0.1", "b 0.1", "a 0.5", "a 0.9")]
    sets = [EvaluationSet("d", [*inside, Example("b 0.9")], FIELDS)]
    foreign = {"intent": [Example("a 0.8"), Example("a 0.2"), Example("b 1.0")]}
    assert rejections(Told(), tasks, sets, foreign) == {
        "intent": {
            "in_scope_accuracy": 0.5,
            "false_rejection": 0.25,
            "out_of_scope_recall": pytest.approx(2 / 3),
            "out_of_scope_auroc": pytest.approx((3 + 2 + 4) / 12),
        }
    }
    assert rejections(Told(), tasks, sets, {}) == rejections(Told(), {"intent": info}, sets, foreign) == {}


TABLES = """
[data.d]
format = "jsonl"
train = "train.jsonl"
dev = "train.jsonl"
test = "train.jsonl"
out_of_scope = "chat.txt"
out_of_scope_test = "more.txt"
[tasks.intent]
kind = "classify"
role = "intent"
data = ["d"]
false_rejection = 0.1
out_of_scope_score = "mahalanobis"
[tasks.mood]
kind = "classify"
data = ["d"]
out_of_scope_score = "energy"
"""


def test_what_is_measured_is_what_is_served(kind):
    rows = [
        {"text": e.text, "intent": e.fields["intent"], "mood": "good" if i % 2 else "bad"} for i, e in enumerate(TRAIN)
    ]
    kind.rows("train.jsonl", rows)
    (kind.folder / "chat.txt").write_text("what is love\nhow old are you\n", encoding="utf-8")
    (kind.folder / "more.txt").write_text("zzz\n北京\nsing me a song\n", encoding="utf-8")
    metrics = kind.train(TABLES, epochs=4).metrics
    names = {"accuracy", "ece", "in_scope_accuracy", "false_rejection", "out_of_scope_recall", "out_of_scope_auroc"}
    assert set(metrics["test"]["intent"]) == set(metrics["dev"]["intent"]) == names
    assert json.loads((kind.run / "metrics.json").read_text()) == metrics
    assert evaluate_run(kind.run, load_config(kind.run / "config.toml"), "test") == metrics["test"]
    pipeline = kind.serve()
    held, tasks = load_trained(kind.run), load_bundle(kind.folder / "bundle").manifest.tasks
    assert (tasks["intent"].outputs, tasks["mood"].outputs) == (("intent.logits", "intent.features"), ("mood.logits",))
    texts = [*(e.text for e in TRAIN), "zzz", "北京", "sing me a song"]
    served = pipeline.predict([TextRequest(text, ("intent", "mood")) for text in texts])
    evaluated = Predictor(held).answers([Example(text) for text in texts])
    for one, other in zip(served, evaluated, strict=True):
        assert one.answers["intent"].out_of_scope_score == pytest.approx(other["intent"].out_of_scope_score, rel=1e-3)
    limit = tasks["intent"].thresholds.out_of_scope
    recall = sum(p.answers["intent"].out_of_scope_score > limit for p in served[-3:]) / 3
    assert recall == pytest.approx(metrics["test"]["intent"]["out_of_scope_recall"])
    alone = pipeline.predict(
        [TextRequest("flights please", ("mood",))]
    )  # the features are asked for only where they are read
    assert set(alone[0].answers) == {"mood"}
