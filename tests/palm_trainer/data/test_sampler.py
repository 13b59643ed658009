"""The sampler has every example once an epoch, in an order decided by (seed, epoch)."""

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
        "pool_batches": st.integers(1, 5),
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
    resumed = LengthBucketedSampler(**case)
    resumed.load_state_dict(state)
    assert draw(resumed, 20) == draw(unbroken, 20)


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
    sampler = LengthBucketedSampler(lengths, 8, 1)
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
