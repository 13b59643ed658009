"""Packed dropout equals torch's dropout except for the dropped positions."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from palm_trainer.training.regularization import PackedDropout

MANY = 400_000


@pytest.mark.parametrize("probability", [0.004, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_packed_dropout_drops_and_scales(probability, dtype):
    torch.manual_seed(5)
    x = torch.ones(MANY, dtype=dtype, requires_grad=True)
    with PackedDropout():
        y = F.dropout(x, probability)
    deviation = math.sqrt(probability * (1 - probability) / MANY)
    assert (y == 0).double().mean().item() == pytest.approx(probability, abs=4 * deviation)
    kept = y[y != 0].unique()
    assert kept.numel() == 1
    assert kept.item() == pytest.approx(1 / (1 - probability), rel=5e-3)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())


def test_packed_dropout_positions_are_independent():
    """Four positions share a random number: whether both of two are dropped must still be as likely as the square says."""
    torch.manual_seed(7)
    with PackedDropout():
        dropped = (F.dropout(torch.ones(MANY), 0.3) == 0).double()
    for distance in (1, 2, 3, 4):
        both = (dropped[distance:] * dropped[:-distance]).mean().item()
        assert both == pytest.approx(0.09, abs=4 * math.sqrt(0.09 * 0.91 / MANY))


@given(st.lists(st.integers(0, 5), max_size=3), st.integers(0, 2**31))
def test_packed_dropout_seed_decides_the_mask(shape, seed):
    x = torch.ones(shape)
    with PackedDropout():
        torch.manual_seed(seed)
        one = F.dropout(x, 0.5)
        after = torch.get_rng_state()
        torch.manual_seed(seed)
        other = nn.Dropout(0.5)(x)
    assert one.shape == x.shape
    assert torch.equal(one, other)
    assert torch.equal(after, torch.get_rng_state())
    assert set(one.flatten().tolist()) <= {0.0, 2.0}


@pytest.mark.parametrize("probability", [0.0, 1e-4, 1.0])
def test_packed_dropout_inexact_cases_use_torch(probability):
    x = torch.ones(1000)
    torch.manual_seed(3)
    expected = F.dropout(x, probability)
    torch.manual_seed(3)
    with PackedDropout():
        assert torch.equal(F.dropout(x, probability), expected)


def test_packed_dropout_eval_drops_nothing():
    x = torch.ones(100)
    with PackedDropout():
        assert torch.equal(nn.Dropout(0.5).eval()(x), x)


def test_packed_dropout_invalid_probability_is_refused():
    with PackedDropout(), pytest.raises(ValueError, match="dropout probability has to be between 0 and 1"):
        F.dropout(torch.ones(3), 1.5)
