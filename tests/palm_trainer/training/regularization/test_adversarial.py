"""Adversarial noise against the known direction of a linear model."""

import pytest
import torch
from torch import nn

from palm_trainer.training.regularization import AdversarialNoise


@pytest.mark.parametrize("frozen", [False, True])
def test_adversarial_noise_linear_model_by_hand(frozen):
    """Loss = sum over pieces of w . e: its gradient is w at each of the two pieces, so the noise is epsilon w / (|w| sqrt 2) at each."""
    table = nn.Embedding(5, 3)
    table.weight.requires_grad_(not frozen)
    w = torch.tensor([3.0, 0.0, 4.0])
    noise = AdversarialNoise(table, epsilon=0.5)
    ids = torch.tensor([[1, 2], [3, 4]])
    labelled = torch.tensor([1.0, 0.0])  # the second text has no label
    with noise.observed():
        clean = table(ids)
    (clean @ w * labelled[:, None]).sum().backward()
    with noise.applied():
        disturbed = table(ids)
    plain = table(ids)
    assert torch.equal(clean, plain), "what is observed is not changed, and nothing stays behind"
    wanted = torch.stack([(0.5 * w / (5 * 2**0.5)).expand(2, 3), torch.zeros(2, 3)])
    torch.testing.assert_close((disturbed - plain).detach(), wanted)
    assert (disturbed - plain)[0].norm().item() == pytest.approx(0.5)


def test_adversarial_noise_increases_the_loss():
    torch.manual_seed(0)
    table, layer = nn.Embedding(7, 8), nn.Linear(8, 3)
    ids, gold = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([0, 2])

    def loss():
        return nn.functional.cross_entropy(layer(table(ids).mean(dim=1).tanh()), gold)

    noise = AdversarialNoise(table, epsilon=0.1)
    with noise.observed():
        clean = loss()
    clean.backward()
    with noise.applied():
        disturbed = loss()
    assert disturbed.item() > clean.item()


def test_adversarial_noise_removes_hook_after_failure():
    table = nn.Embedding(3, 2)
    noise = AdversarialNoise(table, epsilon=1.0)
    with pytest.raises(IndexError), noise.observed():
        table(torch.tensor([9]))
    assert not table._forward_hooks
