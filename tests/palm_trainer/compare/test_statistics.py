"""Differences and their intervals against closed forms and simulations whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.compare.statistics import Counts, Difference, difference, holm
from palm_trainer.evaluation.metrics import span_scores


def accuracy(right) -> Counts:
    """Counts of [seeds, examples] zeros and ones."""
    right = np.atleast_2d(np.asarray(right, dtype=float))
    return Counts(right, np.ones_like(right))


def test_same_predictions_differ_by_exactly_nothing():
    counts = accuracy(np.random.default_rng(0).integers(2, size=(3, 50)))
    assert difference(counts, counts) == Difference(0.0, 0.0, 0.0, 1.0)
    assert difference(counts, counts).verdict == "no difference shown"


def test_small_case_by_hand():
    """Two examples, one seed: joint has both right, alone the first. A resample holds the second 0, 1 or 2 times of 2."""
    found = difference(accuracy([1, 1]), accuracy([1, 0]))
    assert (found.mean, found.low, found.high) == (0.5, 0.0, 1.0)
    assert found.verdict == "no difference shown"
    # p: twice the share of resamples that hold it never, 1/4
    assert found.p == pytest.approx(0.5, abs=0.06)


def test_one_seed_is_the_paired_binomial_interval():
    """Of 400 examples joint alone is right on 40, the other alone on 16: mean 0.06, variance by the multinomial."""
    joint = np.repeat([1, 0, 1, 0], [200, 144, 40, 16])
    alone = np.repeat([1, 0, 0, 1], [200, 144, 40, 16])
    found = difference(accuracy(joint), accuracy(alone))
    half = 1.96 * np.sqrt((56 / 400 - 0.06**2) / 400)
    assert found.mean == pytest.approx(0.06)
    assert (found.low, found.high) == pytest.approx((0.06 - half, 0.06 + half), abs=0.004)
    assert found.verdict == "helped"
    mirrored = difference(accuracy(alone), accuracy(joint))
    assert (mirrored.mean, mirrored.verdict) == (-found.mean, "hurt")


def test_pairing_counts():
    """Where both err on the same examples the interval is narrower than where they err apart."""
    joint, same, apart = np.ones(300), np.ones(300), np.ones(300)
    joint[:60], same[:50], apart[-50:] = 0, 0, 0
    together, unpaired = (difference(accuracy(joint), accuracy(other)) for other in (same, apart))
    assert together.mean == unpaired.mean == pytest.approx(-10 / 300)
    assert together.high < 0 < unpaired.high


def test_micro_f1_is_that_of_the_metric():
    """2 x hits over gold + predicted, summed before dividing."""
    gold = [frozenset({(0, 0, "a"), (2, 3, "b")}), frozenset(), frozenset({(1, 1, "a")})]
    predicted = [frozenset({(0, 0, "a")}), frozenset({(0, 1, "b")}), frozenset({(1, 1, "b")})]
    hits = np.array([[2.0 * len(g & p) for g, p in zip(gold, predicted, strict=True)]])
    sizes = np.array([[float(len(g) + len(p)) for g, p in zip(gold, predicted, strict=True)]])
    assert Counts(hits, sizes).scores() == pytest.approx([span_scores(gold, predicted)["f1"]])
    nothing = Counts(np.zeros((1, 3)), np.zeros((1, 3)))
    assert nothing.scores() == [0.0]
    assert difference(nothing, nothing).mean == 0.0


def test_seeds_that_agree_narrow_and_seeds_that_differ_widen():
    generator = np.random.default_rng(5)
    alone = np.repeat((generator.random((1, 400)) < 0.8).astype(float), 3, axis=0)
    joint = alone.copy()
    joint[:, :20] = 1 - joint[:, :20]
    agreeing = difference(accuracy(joint), accuracy(alone))
    differing = joint.copy()
    differing[0, 20:80] = 1
    differing[1, 20:80] = 0
    wide = difference(accuracy(differing), accuracy(alone))
    assert wide.high - wide.low > 2 * (agreeing.high - agreeing.low)


def test_three_seeds_of_few_errors_are_no_certainty():
    """All the difference is between seeds: t with 2 degrees of freedom, not z."""
    right = np.ones((3, 1000))
    joint = right.copy()
    for seed, wrong in enumerate((0, 10, 20)):
        joint[seed, :wrong] = 0
    found = difference(accuracy(joint), accuracy(right))
    assert found.mean == pytest.approx(-0.01)
    assert found.high > 0  # t: -0.01 + 4.30 x 0.01 / sqrt(3) = 0.015; z would say 0.001
    assert found.high == pytest.approx(0.015, abs=0.006)


def simulated(generator: np.random.Generator, seeds: int, of_seeds: float, gain: float) -> tuple[Counts, Counts]:
    """Answers to 300 questions, each of its own difficulty, by models whose seeds are better or worse by `of_seeds`."""
    examples = 300
    difficulty = generator.normal(1.5, 1.5, examples)

    def _side(shift: float) -> Counts:
        skill = shift + generator.normal(0, of_seeds, (seeds, 1)) + generator.normal(0, 0.5, (seeds, examples))
        return accuracy(difficulty + skill > 0)

    return _side(gain), _side(0.0)


@pytest.mark.parametrize(("seeds", "of_seeds"), [(1, 0.0), (3, 0.1), (5, 0.2)])
def test_coverage(seeds, of_seeds):
    """The 95 % interval holds the truth, 0, in about 95 of 100 worlds; with few seeds rather in more."""
    generator = np.random.default_rng(7)
    found = [difference(*simulated(generator, seeds, of_seeds, 0.0), draws=200, seed=i) for i in range(150)]
    assert 0.89 <= np.mean([d.low <= 0 <= d.high for d in found]) <= 1.0
    assert np.mean([d.p < 0.05 for d in found]) <= 0.11


def test_power():
    """A real gain is found in most worlds."""
    generator = np.random.default_rng(8)
    found = [difference(*simulated(generator, 3, 0.05, 0.6), draws=200, seed=i) for i in range(40)]
    assert np.mean([d.verdict == "helped" for d in found]) > 0.8


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_bounds(seeds, examples, seed):
    generator = np.random.default_rng(seed)
    one, other = (accuracy(generator.integers(2, size=(seeds, examples))) for _ in range(2))
    found = difference(one, other, draws=50, seed=seed)
    assert found == difference(one, other, draws=50, seed=seed)
    assert 0 < found.p <= 1
    assert found.low <= found.high
    assert found.mean == pytest.approx(float(np.mean(one.scores() - other.scores())))


def test_chunks_change_nothing_but_memory(monkeypatch):
    counts, other = (accuracy(np.random.default_rng(i).integers(2, size=(2, 40))) for i in (1, 2))
    at_once = difference(counts, other, draws=100)
    monkeypatch.setattr("palm_trainer.compare.statistics._CHUNK", 40 * 7)
    in_parts = difference(counts, other, draws=100)
    assert (in_parts.mean, in_parts.low, in_parts.high) == pytest.approx((at_once.mean, at_once.low, at_once.high))


@pytest.mark.parametrize(
    ("values", "held"),
    [
        ([], []),
        ([0.04], [True]),
        ([0.04, 0.04], [False, False]),
        ([0.04, 0.02], [True, True]),
        ([0.03, 0.001, 0.03], [False, True, False]),
        ([0.2, 0.001, 0.01], [False, True, True]),
    ],
)
def test_holm(values, held):
    assert holm(values) == held
