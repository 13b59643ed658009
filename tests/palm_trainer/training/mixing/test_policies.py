"""Mixing policies: formulas, exact totals, and exact resume at any step."""

import json
import math
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.config.schema import TrainConfig
from palm_trainer.errors import ConfigError
from palm_trainer.training.mixing import LossDriven, make_mixing
from palm_trainer.training.mixing.quotas import annealed, per_task_epochs, proportional, temperature, uniform

sizes = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 400), min_size=1)
small = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 20), min_size=1)
epochs_ = st.floats(0.5, 6)
POLICIES = TrainConfig.model_fields["mixing"].annotation.__args__


def made(policy, batches, epochs, seed=7):
    return make_mixing(
        policy,
        batches,
        reference=min(batches),
        epochs=epochs,
        seed=seed,
        ratios=dict.fromkeys(batches, 1.0),
        own_epochs={name: 1.0 + place for place, name in enumerate(batches)},
        size_temperature=3.0,
    )


def loss_of(data, step):
    """A data set's loss: falls, faster for some."""
    return {"t": math.exp(-step / (20 * (1 + "abcd".index(data)))) + 0.01}


def run(mixing, begin=0, end=None):
    """Data sets of some steps, with what each step gave observed."""
    order = []
    for step in range(begin, len(mixing) if end is None else end):
        order.append(mixing[step])
        assert mixing[step] == order[-1]  # asking changes nothing
        mixing.observe(order[-1], loss_of(order[-1], step))
    return order


@pytest.mark.parametrize("policy", POLICIES)
@given(batches=small, epochs=st.floats(0.5, 2), cut=st.floats(0, 1), seed=st.integers(0, 2**32 - 1))
def test_mixing_resumed_anywhere_continues_equally(policy, batches, epochs, cut, seed):
    whole = made(policy, batches, epochs, seed)
    order = run(whole)
    assert len(order) == len(whole) == sum(whole.quotas.values())
    assert set(whole.quotas) == set(batches)
    at = int(cut * len(order))
    stopped, resumed = made(policy, batches, epochs, seed), made(policy, batches, epochs, seed)
    run(stopped, end=at)
    resumed.load_state_dict(json.loads(json.dumps(stopped.state_dict())))
    assert run(resumed, at) == order[at:]


@pytest.mark.parametrize("policy", [name for name in POLICIES if name != "loss_driven"])
@given(batches=small, epochs=st.floats(0.5, 3))
def test_planned_mixing_draws_every_planned_batch(policy, batches, epochs):
    mixing = made(policy, batches, epochs)
    assert Counter(mixing[step] for step in range(len(mixing))) == mixing.quotas
    assert min(mixing.quotas.values()) >= 1


def assert_shares(quotas, formula):
    """Counts are off the formula by rounding only: half a batch each, or the one batch that every data set gets."""
    total = sum(formula.values())
    anchor = max(formula, key=formula.__getitem__)
    steps = quotas[anchor] / (formula[anchor] / total)
    slack = 0.5 + 0.5 * total / formula[anchor]
    for name, weight in formula.items():
        assert abs(quotas[name] - steps * weight / total) <= max(1.0, slack), name


@given(sizes, epochs_, st.floats(1, 20))
def test_quotas_follow_their_formulas(batches, epochs, value):
    reference = min(batches)
    assert_shares(proportional(batches, epochs), batches)
    tempered = temperature(batches, reference, epochs, value)
    assert_shares(tempered, {name: size ** (1 / value) for name, size in batches.items()})
    even = uniform(batches, reference, epochs)
    assert_shares(even, dict.fromkeys(batches, 1))
    for quotas in (proportional(batches, epochs), tempered, even):
        assert quotas[reference] == pytest.approx(epochs * batches[reference], abs=0.5 + 1e-6)


@given(sizes, st.floats(0.5, 8))
def test_annealed_goes_from_proportional_to_uniform(batches, epochs):
    phases = annealed(batches, min(batches), epochs)
    assert len(phases) == math.ceil(epochs)
    for number, phase in enumerate(phases, start=1):
        exponent = 1 - 0.8 * (number - 1) / max(1, len(phases) - 1)
        assert_shares(phase, {name: size**exponent for name, size in batches.items()})
    drawn = sum(phase[min(batches)] for phase in phases)
    assert drawn == pytest.approx(epochs * batches[min(batches)], abs=0.5 * len(phases) + 1)


def test_annealed_example_by_hand():
    """16 and 81 batches; exponents 1, 0.6, 0.2. The order keeps the phases apart."""
    phases = annealed({"a": 81, "b": 16}, "a", 3)
    odds = [(81 / 16) ** exponent for exponent in (1, 0.6, 0.2)]
    steps = 3 * 81 / sum(odd / (1 + odd) for odd in odds)
    assert phases == [{"a": round(steps * o / (1 + o)), "b": round(steps / (1 + o))} for o in odds]
    mixing = made("annealed", {"a": 81, "b": 16}, 3)
    first = sum(phases[0].values())
    assert Counter(mixing[step] for step in range(first)) == phases[0]


def test_per_task_epochs_gives_separate_epochs():
    assert per_task_epochs({"a": 100, "b": 3, "c": 2}, {"a": 1, "b": 2.5, "c": 0.1}) == {"a": 100, "b": 8, "c": 1}


def test_round_robin_alternates():
    mixing = made("round_robin", {"a": 3, "b": 50, "c": 1}, 2)
    assert [mixing[step] for step in range(len(mixing))] == ["a", "b", "c"] * 6


def test_loss_driven_prefers_slow_tasks():
    """Both losses are 2 at first; then a's is 0.2 and b's 1.6: rates near 0.1 and 0.8, so that b gets 0.9 x 8/9 + 0.05."""
    mixing = LossDriven(["a", "b"], 4_000, seed=3)
    assert mixing.shares == {"a": 0.5, "b": 0.5}
    for step in range(300):
        early = step < 10
        mixing.observe("a", {"t": 2.0 if early else 0.2})
        mixing.observe("b", {"t": 2.0 if early else 1.6, "u": 2.0 if early else 1.6})
    assert mixing.shares["b"] == pytest.approx(0.9 * 8 / 9 + 0.05, abs=1e-6)
    drawn = Counter(mixing[step] for step in range(4_000))
    deviation = math.sqrt(4_000 * mixing.shares["b"] * mixing.shares["a"])
    assert abs(drawn["b"] - 4_000 * mixing.shares["b"]) < 4 * deviation


@given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 1e6)), max_size=80))
def test_loss_driven_draws_every_data_set(observed):
    mixing = LossDriven(["a", "b"], 100, seed=1)
    for data, loss in observed:
        mixing.observe(data, {"t": loss})
    assert sum(mixing.shares.values()) == pytest.approx(1)
    assert min(mixing.shares.values()) >= 0.05 - 1e-9


@pytest.mark.parametrize("policy", POLICIES)
def test_mixing_of_too_many_steps_is_refused_at_once(policy):
    with pytest.raises(ConfigError, match=r"train\.epochs must give at most 10,000,000 steps, got [\d,]+\. Lower"):
        make_mixing(
            policy,
            {"a": 100_000, "b": 3},
            reference="a",
            epochs=50_000,
            seed=1,
            ratios={"a": 1.0, "b": 1e6},
            own_epochs={"a": 50_000, "b": 1},
        )
