"""Temperatures make probabilities true, thresholds reject what they say, and no answer changes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_serve.decoding.classify import out_of_scope_scores, softmax
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.errors import PalmError
from palm_trainer.evaluation.calibration import calibrate, fit_temperature
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.run import train
from palm_trainer.tasks.logit_calibration import log_loss


@pytest.fixture(scope="module")
def trained(finished_run):
    return load_trained(finished_run)


@pytest.mark.parametrize("true_temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_made_the_labels_is_found(true_temperature):
    generator = np.random.default_rng(1)
    logits = generator.normal(0, 3, (20_000, 4))
    shares = softmax(logits / true_temperature).astype(np.float64)
    truth = (shares.cumsum(axis=1) < generator.random((len(logits), 1))).sum(axis=1).clip(max=3)

    def loss(temperature):
        return float(-np.log(softmax(logits / temperature)[np.arange(len(truth)), truth]).mean())

    assert fit_temperature(loss) == pytest.approx(true_temperature, rel=0.05)


def test_the_temperature_of_a_flat_loss_stays_in_its_bounds():
    assert 0.1 < fit_temperature(lambda temperature: 0.0) < 10


def test_log_loss_stays_finite():
    assert log_loss([1.0, 0.5], [False, True]) == pytest.approx((-np.log(1e-6) - np.log(0.5)) / 2)


@settings(max_examples=30)
@given(st.lists(st.floats(-80, 80), min_size=2, max_size=6))
def test_out_of_scope_scores_are_what_the_papers_define(row):
    logits = np.array([row])
    assert out_of_scope_scores("energy", logits)[0] == pytest.approx(-np.logaddexp.reduce(row), abs=1e-9)
    assert out_of_scope_scores("softmax", logits)[0] == pytest.approx(1 - softmax(logits).max(), abs=1e-6)


def test_calibration_changes_confidences_and_no_answer(trained):
    city = (LabelledSpan(3, 9, "city"),)
    examples = [Example("to boston", {"intent": "flight", "slots": city}), Example("flights", {"intent": "flight"})]
    examples += [Example("to boston please", {"intent": "never seen"})]
    sets = [EvaluationSet("d", examples, {"intent": "intent", "slots": "slots"})]
    foreign = [Example("what is the meaning of life"), Example("zzz")]
    told = calibrate(trained, sets, {"intent": foreign}, {"intent": 0.5})
    info = told.tasks["intent"]
    assert info.calibration.method == "temperature"
    assert info.calibration.ece is not None
    assert info.calibration.out_of_scope in ("softmax", "energy")
    assert told.tasks["mood"] == trained.tasks["mood"]
    scores = [a["intent"].out_of_scope_score for a in Predictor(told).answers(examples[:2])]
    assert sum(score > info.thresholds.out_of_scope for score in scores) == 1
    for before, after in zip(Predictor(trained).answers(examples), Predictor(told).answers(examples), strict=True):
        assert [label.name for label in before["intent"].ranking] == [label.name for label in after["intent"].ranking]
        assert [(s.name, s.start) for s in before["slots"].spans] == [(s.name, s.start) for s in after["slots"].spans]


def test_no_threshold_unless_asked_for(trained):
    sets = [EvaluationSet("d", [Example("flights", {"intent": "flight"})], {"intent": "intent"})]
    assert calibrate(trained, sets).tasks["intent"].thresholds.out_of_scope is None


def test_a_run_is_calibrated_and_tells_what_is_out_of_scope(tmp_path, tiny_config):
    (tmp_path / "chat.txt").write_text("what is love\nhow old are you\n", encoding="utf-8")
    overrides = ('data.travel.out_of_scope="chat.txt"', "tasks.intent.false_rejection=0.2", "train.epochs=1")
    list(train(tiny_config(*overrides)))
    held = load_trained(tmp_path / "run")
    assert held.tasks["intent"].calibration.method == "temperature"
    limit = held.tasks["intent"].thresholds.out_of_scope
    dev = [Example(text) for text in (tmp_path / "travel/dev/seq.in").read_text().splitlines()]
    scores = [answer["intent"].out_of_scope_score for answer in Predictor(held).answers(dev)]
    assert sum(score > limit for score in scores) <= 0.2 * len(dev)
    assert load_trained(tmp_path / "run", "last").tasks["intent"].calibration.method == "none"  # it may be trained on


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (['data.travel.out_of_scope="chat.txt"'], r"chat\.txt: (no such file|cannot be read)"),
        (["tasks.slots.false_rejection=0.1"], r"false_rejection.*classify"),
        (["tasks.intent.false_rejection=1.5"], r"false_rejection must be less than 1"),
        (['tasks.slots.out_of_scope_score="energy"'], r"out_of_scope_score.*classify"),
        (
            ['tasks.intent.out_of_scope_score="cosine"'],
            r"out_of_scope_score must be 'softmax', 'energy' or 'mahalanobis'",
        ),
        (
            ['data.travel.out_of_scope_test="chat.txt"'],
            r"out_of_scope_test needs a threshold that rejects it, got none. Add out_of_scope text",
        ),
    ],
)
def test_wrong_settings_are_told(tiny_config, overrides, message):
    with pytest.raises(PalmError, match=message):
        list(train(tiny_config(*overrides)))
