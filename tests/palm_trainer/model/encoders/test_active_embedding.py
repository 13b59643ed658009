"""ActiveEmbedding equals dense training to the bit, and is saved as a plain embedding."""

import copy

import pytest
import torch
from torch import nn

from palm_trainer.model.encoders import ActiveEmbedding

ACTIVE = torch.tensor([0, 2, 3, 7])


class Net(nn.Module):
    def __init__(self, table):
        super().__init__()
        self.table = table
        torch.manual_seed(4)
        self.linear = nn.Linear(4, 3)

    def forward(self, ids):
        return self.linear(self.table(ids)).square().sum()


def pair(padding_idx=None):
    torch.manual_seed(3)
    table = nn.Embedding(10, 4, padding_idx=padding_idx)
    return Net(table), Net(ActiveEmbedding(copy.deepcopy(table), ACTIVE))


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("padding_idx", [None, 0])
def test_active_embedding_training_equals_dense_training(padding_idx, fused):
    dense, active = pair(padding_idx)
    generator = torch.Generator().manual_seed(1)
    optimizers = [
        torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.0, fused=fused) for net in (dense, active)
    ]
    for _ in range(8):
        ids = ACTIVE[torch.randint(len(ACTIVE), (3, 5), generator=generator)]
        for net, optimizer in zip((dense, active), optimizers, strict=True):
            net.train()
            net(ids).backward()
            optimizer.step()
            optimizer.zero_grad()
    expected, found = dense.state_dict(), active.state_dict()
    assert expected.keys() == found.keys()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_active_embedding_eval_reads_full_table():
    _, net = pair()
    before = net.table.weight.clone()
    with torch.no_grad():
        net.table.active += 1.0
    everything = torch.arange(10)
    expected = before.clone()
    expected[ACTIVE] += 1.0
    assert torch.equal(net.table.eval()(everything), expected)
    assert torch.equal(net.table.train()(ACTIVE), expected[ACTIVE])


def test_active_embedding_state_fits_plain_embedding():
    dense, active = pair()
    with torch.no_grad():
        active.table.active += 1.0
    dense.load_state_dict(active.state_dict())
    assert torch.equal(dense.table.weight[ACTIVE], active.table.active)
    _, other = pair()
    other.load_state_dict(dense.state_dict())
    assert torch.equal(other.table.active, active.table.active)
    assert list(dense.state_dict()) == ["table.weight", "linear.weight", "linear.bias"]


def test_active_embedding_load_leaves_state_unchanged():
    _, net = pair()
    state = net.state_dict()
    net.load_state_dict(state)
    assert set(state) == {"table.weight", "linear.weight", "linear.bias"}


def test_active_embedding_saved_state_is_a_copy():
    """What a checkpoint holds must not change while it is written."""
    _, net = pair()
    saved = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        net.table.active += 1.0
    assert not torch.equal(net.state_dict()["table.weight"], saved["table.weight"])
