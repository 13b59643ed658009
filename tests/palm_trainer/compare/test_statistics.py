"""Score differences and their intervals, checked by closed forms and by simulation."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.compare.statistics import ScoreCounts, ScoreDifference, apply_holm_correction, bootstrap_difference
from palm_trainer.tasks.metrics import span_scores


def accuracy(right) -> ScoreCounts:
    """Return the counts of answers, `[seeds, examples]` zeros and ones."""
    right = np.atleast_2d(np.asarray(right, dtype=float))
    return ScoreCounts(right, np.ones_like(right))


def test_difference_of_equal_predictions_is_exactly_zero():
    counts = accuracy(np.random.default_rng(0).integers(2, size=(3, 50)))
    assert bootstrap_difference(counts, counts) == ScoreDifference(0.0, 0.0, 0.0, 1.0)
    assert bootstrap_difference(counts, counts).verdict == "no difference shown"


def test_difference_of_two_examples_matches_hand_calculation():
    """Joint has both examples right, alone the first.

    A resample holds the second 0, 1 or 2 times of 2.
    """
    difference = bootstrap_difference(accuracy([1, 1]), accuracy([1, 0]))
    assert (difference.mean, difference.low, difference.high) == (0.5, 0.0, 1.0)
    assert difference.verdict == "no difference shown"
    # p: twice the share of resamples that hold it never, 1/4
    assert difference.p == pytest.approx(0.5, abs=0.06)


def test_interval_of_one_seed_is_the_paired_binomial():
    """Joint is right and alone is wrong on 40 of 400 examples, the reverse holds on 16."""
    joint = np.repeat([1, 0, 1, 0], [200, 144, 40, 16])
    alone = np.repeat([1, 0, 0, 1], [200, 144, 40, 16])
    difference = bootstrap_difference(accuracy(joint), accuracy(alone))
    half = 1.96 * np.sqrt((56 / 400 - 0.06**2) / 400)
    assert difference.mean == pytest.approx(0.06)
    assert (difference.low, difference.high) == pytest.approx((0.06 - half, 0.06 + half), abs=0.004)
    assert difference.verdict == "helped"
    mirrored = bootstrap_difference(accuracy(alone), accuracy(joint))
    assert (mirrored.mean, mirrored.verdict) == (-difference.mean, "hurt")


def test_interval_is_narrower_for_errors_on_the_same_examples():
    joint = np.ones(300)
    joint[:60] = 0
    same_examples = np.ones(300)
    same_examples[:50] = 0
    different_examples = np.ones(300)
    different_examples[-50:] = 0
    same = bootstrap_difference(accuracy(joint), accuracy(same_examples))
    different = bootstrap_difference(accuracy(joint), accuracy(different_examples))
    assert same.mean == different.mean == pytest.approx(-10 / 300)
    assert same.high < 0 < different.high


def test_score_of_span_counts_is_the_micro_f1_metric():
    """Micro-averaged F1 is 2 x hits over gold + predicted, summed before the division."""
    gold = [frozenset({(0, 0, "a"), (2, 3, "b")}), frozenset(), frozenset({(1, 1, "a")})]
    predicted = [frozenset({(0, 0, "a")}), frozenset({(0, 1, "b")}), frozenset({(1, 1, "b")})]
    hits = np.array([[2.0 * len(g & p) for g, p in zip(gold, predicted, strict=True)]])
    sizes = np.array([[float(len(g) + len(p)) for g, p in zip(gold, predicted, strict=True)]])
    assert ScoreCounts(hits, sizes).scores() == pytest.approx([span_scores(gold, predicted)["f1"]])
    nothing = ScoreCounts(np.zeros((1, 3)), np.zeros((1, 3)))
    assert nothing.scores() == [0.0]
    assert bootstrap_difference(nothing, nothing).mean == 0.0


def test_interval_widens_with_the_variation_between_seeds():
    generator = np.random.default_rng(5)
    alone = np.repeat((generator.random((1, 400)) < 0.8).astype(float), 3, axis=0)
    joint = alone.copy()
    joint[:, :20] = 1 - joint[:, :20]
    agreeing = bootstrap_difference(accuracy(joint), accuracy(alone))
    differing = joint.copy()
    differing[0, 20:80] = 1
    differing[1, 20:80] = 0
    wide = bootstrap_difference(accuracy(differing), accuracy(alone))
    assert wide.high - wide.low > 2 * (agreeing.high - agreeing.low)


def test_interval_of_three_seeds_uses_the_t_distribution():
    """The seeds vary and the examples hardly do, so t has 2 degrees of freedom."""
    right = np.ones((3, 1000))
    joint = right.copy()
    for seed, wrong in enumerate((0, 10, 20)):
        joint[seed, :wrong] = 0
    difference = bootstrap_difference(accuracy(joint), accuracy(right))
    assert difference.mean == pytest.approx(-0.01)
    assert difference.high > 0  # t: -0.01 + 4.30 x 0.01 / sqrt(3) = 0.015; z would say 0.001
    assert difference.high == pytest.approx(0.015, abs=0.006)


def simulate(
    generator: np.random.Generator, seeds: int, seed_spread: float, gain: float
) -> tuple[ScoreCounts, ScoreCounts]:
    """Simulate 300 answers of models whose seeds vary by `seed_spread`."""
    examples = 300
    difficulty = generator.normal(1.5, 1.5, examples)

    def _side(shift: float) -> ScoreCounts:
        skill = shift + generator.normal(0, seed_spread, (seeds, 1)) + generator.normal(0, 0.5, (seeds, examples))
        return accuracy(difficulty + skill > 0)

    return _side(gain), _side(0.0)


@pytest.mark.parametrize(("seeds", "seed_spread"), [(1, 0.0), (3, 0.1), (5, 0.2)])
def test_interval_covers_the_true_difference_in_95_percent(seeds, seed_spread):
    """The interval contains the true difference, 0, in 95 % of the simulations, or in more."""
    generator = np.random.default_rng(7)
    differences = [
        bootstrap_difference(*simulate(generator, seeds, seed_spread, 0.0), draws=200, seed=i) for i in range(150)
    ]
    assert 0.89 <= np.mean([difference.low <= 0 <= difference.high for difference in differences]) <= 1.0
    assert np.mean([difference.p < 0.05 for difference in differences]) <= 0.11


def test_interval_detects_a_real_gain_in_most_simulations():
    generator = np.random.default_rng(8)
    differences = [bootstrap_difference(*simulate(generator, 3, 0.05, 0.6), draws=200, seed=i) for i in range(40)]
    assert np.mean([difference.verdict == "helped" for difference in differences]) > 0.8


@given(st.integers(1, 4), st.integers(1, 30), st.integers(0, 2**32 - 1))
def test_difference_is_reproducible_and_within_bounds(seeds, examples, seed):
    generator = np.random.default_rng(seed)
    joint = accuracy(generator.integers(2, size=(seeds, examples)))
    alone = accuracy(generator.integers(2, size=(seeds, examples)))
    difference = bootstrap_difference(joint, alone, draws=50, seed=seed)
    assert difference == bootstrap_difference(joint, alone, draws=50, seed=seed)
    assert 0 < difference.p <= 1
    assert difference.low <= difference.high
    assert difference.mean == pytest.approx(float(np.mean(joint.scores() - alone.scores())))


def test_difference_does_not_depend_on_the_chunk_size(monkeypatch):
    joint = accuracy(np.random.default_rng(1).integers(2, size=(2, 40)))
    alone = accuracy(np.random.default_rng(2).integers(2, size=(2, 40)))
    at_once = bootstrap_difference(joint, alone, draws=100)
    monkeypatch.setattr("palm_trainer.compare.statistics._CHUNK", 40 * 7)
    in_chunks = bootstrap_difference(joint, alone, draws=100)
    assert (in_chunks.mean, in_chunks.low, in_chunks.high) == pytest.approx((at_once.mean, at_once.low, at_once.high))


@pytest.mark.parametrize(
    ("p_values", "significant"),
    [
        ([], []),
        ([0.04], [True]),
        ([0.04, 0.04], [False, False]),
        ([0.04, 0.02], [True, True]),
        ([0.03, 0.001, 0.03], [False, True, False]),
        ([0.2, 0.001, 0.01], [False, True, True]),
    ],
)
def test_holm_correction_marks_significant_p_values(p_values, significant):
    assert apply_holm_correction(p_values) == significant
