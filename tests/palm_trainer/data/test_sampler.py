"""The sampler has every example once an epoch, in an order decided by (seed, epoch)."""

import itertools
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.data.sampler import LengthBucketedSampler, padding_share

cases = st.fixed_dictionaries(
    {
        "lengths": st.lists(st.integers(1, 60), min_size=1, max_size=80),
        "batch_size": st.integers(1, 9),
        "seed": st.integers(0, 2**32 - 1),
        "pool_batches": st.none() | st.integers(1, 5),
    }
)


def draw(sampler, count):
    return [sampler.next().tolist() for _ in range(count)]


@given(cases, st.integers(1, 3))
def test_sampler_epoch_has_every_example_once(case, epochs):
    sampler = LengthBucketedSampler(**case)
    for _ in range(epochs):
        batches = draw(sampler, sampler.batches_per_epoch)
        assert sorted(i for batch in batches for i in batch) == list(range(len(case["lengths"])))
        assert all(0 < len(batch) <= case["batch_size"] for batch in batches)


@given(cases, st.integers(0, 40))
def test_sampler_resumes_at_any_position(case, position):
    unbroken = LengthBucketedSampler(**case)
    draw(unbroken, position)
    state = unbroken.state_dict()
    resumed = LengthBucketedSampler(**{**case, "pool_batches": None})
    resumed.load_state_dict(state)
    assert draw(resumed, 20) == draw(unbroken, 20)


def test_sampler_state_without_pool_keeps_the_large_pools():
    lengths = np.random.default_rng(0).integers(1, 60, 400).tolist()
    older = LengthBucketedSampler(lengths, 8, 1, pool_batches=64)
    draw(older, 70)
    resumed = LengthBucketedSampler(lengths, 8, 1)
    resumed.load_state_dict({"epoch": 1, "position": 20})
    assert draw(resumed, 60) == draw(older, 60)


def count_repeated_mates(sampler):
    """Return the share of pairs of an epoch's batches that are in one batch in the next epoch too."""
    epochs = []
    for _ in range(2):
        pairs = set()
        for batch in draw(sampler, sampler.batches_per_epoch):
            pairs.update(itertools.combinations(sorted(batch), 2))
        epochs.append(pairs)
    return len(epochs[0] & epochs[1]) / len(epochs[0])


@pytest.mark.parametrize("rows", [128, 320, 770, 2000])
def test_sampler_batches_of_small_data_change(rows):
    """Batch-mates meet again only in the same pool, of which an epoch has eight, or by chance."""
    lengths = np.random.default_rng(0).geometric(0.1, rows) + 3
    by_chance = 31 / (rows - 1)
    assert count_repeated_mates(LengthBucketedSampler(lengths, 32, 1, pool_batches=64)) > 2 * by_chance
    assert count_repeated_mates(LengthBucketedSampler(lengths, 32, 1)) < max(1 / 8, 1.2 * by_chance)


@given(st.integers(1, 40_000), st.sampled_from([1, 8, 32]))
def test_sampler_epoch_has_eight_pools(rows, batch_size):
    batches = -(-rows // batch_size)
    pool_batches = LengthBucketedSampler(np.ones(rows), batch_size, 1).state_dict()["pool_batches"]
    assert 1 <= pool_batches <= 64
    assert batches / pool_batches >= min(8, batches)


@given(cases)
def test_sampler_leaves_other_generators_unchanged(case):
    alone = draw(LengthBucketedSampler(**case), 12)
    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    one, other = LengthBucketedSampler(**case), LengthBucketedSampler(**{**case, "seed": case["seed"] // 2})
    both = []
    for _ in range(12):
        both.append(one.next().tolist())
        other.next()
    assert both == alone
    assert (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()) == before


def test_sampler_epochs_and_seeds_differ():
    lengths = list(range(1, 65))
    sampler = LengthBucketedSampler(lengths, 4, 1)
    first, second = draw(sampler, 16), draw(sampler, 16)
    assert first != second
    assert draw(LengthBucketedSampler(lengths, 4, 2), 16) != first


def test_sampler_batches_have_similar_lengths():
    lengths = np.random.default_rng(0).integers(1, 60, 512)
    sampler = LengthBucketedSampler(lengths, 8, 1, pool_batches=64)
    bucketed = padding_share(lengths, [sampler.next() for _ in range(sampler.batches_per_epoch)])
    plain = padding_share(lengths, np.arange(512).reshape(-1, 8))
    assert bucketed < 0.05 < 0.3 < plain


def test_padding_share_counts_positions_without_token():
    assert padding_share([2, 4, 3], [np.array([0, 1]), np.array([2])]) == pytest.approx(2 / 11)
    assert padding_share([5, 5], [np.array([0, 1])]) == 0.0


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30), st.integers(1, 7))
def test_padding_share_agrees_with_padded_tensors(lengths, batch_size):
    sampler = LengthBucketedSampler(lengths, batch_size, 3)
    batches = [sampler.next() for _ in range(sampler.batches_per_epoch)]
    held = padded = 0
    for batch in batches:
        rows = torch.nn.utils.rnn.pad_sequence([torch.ones(lengths[i]) for i in batch], batch_first=True)
        held, padded = held + int(rows.sum()), padded + rows.numel()
    assert padding_share(lengths, batches) == pytest.approx(1 - held / padded)
