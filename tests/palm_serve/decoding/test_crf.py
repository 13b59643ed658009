"""CRF inference against enumeration of all tag sequences."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from palm_serve.decoding.crf import FORBIDDEN, ForwardBackward, Potentials, Viterbi

TAGS = ("O", "B-x", "I-x", "B-y", "I-y")


def potentials_of(count):
    """Learned potentials over the first `count` tags, with the BIO rules."""
    numbers = st.floats(-3, 3, width=32)
    return st.builds(
        lambda start, transitions, end: Potentials.constrained(TAGS[:count], Potentials(start, transitions, end)),
        arrays(np.float32, count, elements=numbers),
        arrays(np.float32, (count, count), elements=numbers),
        arrays(np.float32, count, elements=numbers),
    )


@st.composite
def problems(draw, scale=8.0):
    """Potentials, emissions [B, L, T] and lengths [B]; small enough to enumerate."""
    count = draw(st.sampled_from([1, 2, 3, 5]))
    batch, longest = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    emissions = draw(arrays(np.float32, (batch, longest, count), elements=st.floats(-scale, scale, width=32)))
    lengths = np.array(draw(st.lists(st.integers(0, longest), min_size=batch, max_size=batch)), dtype=np.int64)
    return draw(potentials_of(count)), emissions, lengths


def score(potentials, emissions, tags):
    """Score of one path; emissions [L, T]."""
    total = potentials.start[tags[0]] + potentials.end[tags[-1]] + sum(emissions[t, tag] for t, tag in enumerate(tags))
    return float(total + sum(potentials.transitions[a, b] for a, b in itertools.pairwise(tags)))


def log_total(potentials, emissions):
    """Of all paths, in log space and float64; emissions [L, T]."""
    reached = potentials.start + emissions[0]
    for emission in emissions[1:]:
        reached = np.logaddexp.reduce(reached[:, None] + potentials.transitions, axis=0) + emission
    return np.logaddexp.reduce(reached + potentials.end)


def all_paths(emissions):
    return itertools.product(range(emissions.shape[1]), repeat=emissions.shape[0])


def is_legal(tags):
    names = [TAGS[tag] for tag in tags]
    return all(
        not name.startswith("I-") or before in ("B" + name[1:], name)
        for before, name in zip(["O", *names], names, strict=False)
    )


@settings(max_examples=150, deadline=None)
@given(problems())
def test_viterbi_finds_a_best_path_and_it_is_legal(problem):
    potentials, emissions, lengths = problem
    paths = Viterbi(potentials)(emissions, lengths)
    for row, size in enumerate(lengths.tolist()):
        path = paths[row].tolist()
        assert len(path) == size
        if size:
            best = max(score(potentials, emissions[row, :size], tags) for tags in all_paths(emissions[row, :size]))
            assert score(potentials, emissions[row, :size], path) == pytest.approx(best, abs=1e-3)
        assert is_legal(path)


@settings(max_examples=150, deadline=None)
@given(problems(scale=80.0))
def test_a_path_that_counts_as_certain_is_the_only_best_one(problem):
    potentials, emissions, lengths = problem
    paths, certain = ForwardBackward(potentials)(emissions, lengths).likeliest()
    for row, size in enumerate(lengths.tolist()):
        if certain[row] and size:
            path = tuple(paths[row, :size].tolist())
            best = score(potentials, emissions[row, :size], path)
            others = (tags for tags in all_paths(emissions[row, :size]) if tags != path)
            assert all(score(potentials, emissions[row, :size], tags) < best for tags in others)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 30))
def test_what_is_certain_agrees_with_the_search(seed, lead):
    generator = np.random.default_rng(seed)
    tags = ("O", *(f"{part}-{name}" for name in "abcdefghij" for part in "BI"))
    learned = Potentials(*(generator.normal(0, 0.5, size).astype(np.float32) for size in (21, (21, 21), 21)))
    potentials = Potentials.constrained(tags, learned)
    emissions = generator.normal(0, 1, (6, 7, 21)).astype(np.float32)
    emissions[:, :, 0] += np.float32(lead)
    lengths = generator.integers(1, 8, 6)
    paths, certain = ForwardBackward(potentials)(emissions, lengths).likeliest()
    if lead > 15:
        assert certain.all()
    for row, searched in enumerate(Viterbi(potentials)(emissions, lengths)):
        if certain[row]:
            np.testing.assert_array_equal(paths[row, : lengths[row]], searched)


@pytest.mark.parametrize(("lead", "certain"), [(9.0, True), (0.1, False)])
def test_peaked_emissions_are_certain_and_flat_ones_are_not(lead, certain):
    emissions = np.zeros((1, 3, 5), np.float32)
    emissions[0, [0, 1, 2], [1, 2, 0]] = lead
    paths, sure = ForwardBackward(Potentials.constrained(TAGS))(emissions, np.array([3])).likeliest()
    assert sure.tolist() == [certain]
    assert not certain or paths[0].tolist() == [1, 2, 0]


def test_a_path_over_emissions_that_count_as_more_than_they_are_is_not_certain():
    """100 below the best counts as 60 below, which is less than 40 and 40."""
    emissions = np.full((1, 2, 5), -200.0, np.float32)
    emissions[0, 0, [0, 1]] = 0.0, -40.0  # O, B-x
    emissions[0, 1, [4, 2, 0]] = 0.0, -40.0, -100.0  # I-y, which nothing leads to; I-x, O
    potentials = Potentials.constrained(TAGS)
    potentials.start[3] = potentials.transitions[
        0, [1, 3]
    ] = -20.0  # the others that count as 60 below are none beside O, O
    assert Viterbi(potentials)(emissions, np.array([2]))[0].tolist() == [1, 2]
    assert not ForwardBackward(potentials)(emissions, np.array([2])).likeliest()[1][0]


@settings(max_examples=100, deadline=None)
@given(problems(), st.data())
def test_segment_probability_is_the_sum_over_all_paths_that_hold_it(problem, data):
    potentials, emissions, lengths = problem
    beliefs = ForwardBackward(potentials)(emissions, lengths)
    for row, size in enumerate(lengths.tolist()):
        if not size:
            continue
        first = data.draw(st.integers(0, size - 1))
        tags = data.draw(st.lists(st.integers(0, emissions.shape[2] - 1), min_size=1, max_size=size - first))
        continuing = data.draw(st.none() | st.integers(0, emissions.shape[2] - 1))
        after = first + len(tags)
        total = wanted = 0.0
        for path in all_paths(emissions[row, :size]):
            weight = np.exp(score(potentials, emissions[row, :size], path))
            total += weight
            stops = continuing is None or after == size or path[after] != continuing
            wanted += weight * (list(path[first:after]) == tags and stops)
        found = beliefs.segment(row, size, first, tags, continuing)
        assert 0.0 <= found <= 1.0
        if total > 0:
            assert found == pytest.approx(wanted / total, abs=2e-4)


@pytest.mark.parametrize("batch", [1, 2, 9, 40])
def test_rows_equal_rows_alone(batch):
    generator = np.random.default_rng(batch)
    tags = ("O", *(f"{part}-{name}" for name in range(79) for part in "BI"))
    potentials = Potentials.constrained(tags)
    emissions = generator.normal(0, 3, (batch, 6, 159)).astype(np.float32)
    lengths = generator.integers(1, 7, batch)
    viterbi, forward_backward = Viterbi(potentials), ForwardBackward(potentials)
    together, beliefs = viterbi(emissions, lengths), forward_backward(emissions, lengths)
    for row, size in enumerate(lengths.tolist()):
        alone = viterbi(emissions[row : row + 1, :size], lengths[row : row + 1])[0]
        np.testing.assert_array_equal(together[row], alone)
        belief = forward_backward(emissions[row : row + 1, :size], lengths[row : row + 1])
        expected = belief.segment(0, size, 0, alone.tolist(), None)
        assert beliefs.segment(row, size, 0, alone.tolist(), None) == pytest.approx(expected, abs=1e-6)


def test_without_rows_and_without_positions():
    viterbi = Viterbi(Potentials.constrained(TAGS))
    assert viterbi(np.zeros((0, 1, 5), np.float32), np.zeros(0, np.int64)) == []
    assert [path.tolist() for path in viterbi(np.zeros((2, 1, 5), np.float32), np.zeros(2, np.int64))] == [[], []]


def test_extreme_emissions_stay_finite():
    emissions = np.zeros((1, 4, 5), np.float32)
    emissions[0, :, 2] = 1000.0  # I-x, which nothing leads to at first; the decoder clips at this lead
    potentials = Potentials.constrained(TAGS)
    path = Viterbi(potentials)(emissions, np.array([4]))[0].tolist()
    assert is_legal(path)
    assert 0.0 <= ForwardBackward(potentials)(emissions, np.array([4])).segment(0, 4, 0, path[:1], None) <= 1.0


def test_contradictions_between_neighbours_leave_probabilities_that_sum_to_one():
    """Emissions far apart must not underflow to nothing, and the ends of a long row are known to each other."""
    potentials = Potentials.constrained(TAGS)
    emissions = np.full((1, 300, 5), -50.0, np.float32)
    emissions[0, np.arange(300), np.where(np.arange(300) % 2, 2, 0)] = 0.0  # O, then I-x, which nothing before allows
    beliefs = ForwardBackward(potentials)(emissions, np.array([300]))
    for position in (0, 1, 150, 299):
        found = [beliefs.segment(0, 300, position, [tag], None) for tag in range(5)]
        assert sum(found) == pytest.approx(1.0, abs=1e-5)
    for position in (0, 150, 298):
        only = emissions[0].astype(np.float64)
        only[[position, position + 1]] = -np.inf
        only[[position, position + 1], [1, 2]] = emissions[0, [position, position + 1], [1, 2]]
        wanted = np.exp(log_total(potentials, only) - log_total(potentials, emissions[0].astype(np.float64)))
        assert beliefs.segment(0, 300, position, [1, 2], None) == pytest.approx(wanted, abs=1e-5)


def test_forbidden_is_kept_by_temperature():
    cool = Potentials.constrained(TAGS).scaled(0.01)
    assert np.exp(cool.transitions[0, 2]) < 1e-40
    assert cool.transitions[0, 2] == pytest.approx(FORBIDDEN * 0.01)
