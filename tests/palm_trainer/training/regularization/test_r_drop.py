"""Divergence of two passes, by hand and by its properties."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.model.heads.match import MatchHead
from palm_trainer.model.heads.mrc import MrcHead
from palm_trainer.model.heads.multi_label import MultiLabelHead
from palm_trainer.model.heads.sequence_label import SequenceLabelHead
from palm_trainer.tensors import IGNORE

TAGS = ("O", "B-a", "I-a", "B-b", "I-b")
HEADS = {
    "classify": ClassifyHead(2, 4),
    "multi_label": MultiLabelHead(2, 4),
    "sequence_label": SequenceLabelHead(TAGS, 4),
    "match": MatchHead(2, 4),
    "ranker": MatchHead(0, 4),
    "mrc": MrcHead(4),
}


def logits(*shares):
    return torch.log(torch.tensor(shares))


def test_r_drop_two_classes_by_hand():
    """P = (0.8, 0.2), Q = (0.5, 0.5): (KL(P || Q) + KL(Q || P)) / 2; the second row is unlabelled."""
    one, two = {"logits": logits([0.8, 0.2], [0.9, 0.1])}, {"logits": logits([0.5, 0.5], [0.1, 0.9])}
    forth = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    back = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    targets = torch.tensor([1, IGNORE])
    for kind in ("classify", "match"):
        assert HEADS[kind].divergence(one, two, targets).item() == pytest.approx((forth + back) / 2, rel=1e-5)


def test_r_drop_sigmoid_equals_two_classes():
    """Multi-label: each class is a softmax over (its logit, 0), and classes add up; so is the score of a ranker."""
    one, two = torch.tensor([[0.3, -1.0], [5.0, 5.0]]), torch.tensor([[1.2, 0.4], [0.0, 0.0]])
    pairs = [torch.stack([row[0], torch.zeros(2)], dim=1) for row in (one, two)]
    wanted = HEADS["classify"].divergence({"logits": pairs[0]}, {"logits": pairs[1]}, torch.tensor([0, 0]))
    targets = torch.tensor([[1, 0], [IGNORE, IGNORE]])
    torch.testing.assert_close(HEADS["multi_label"].divergence({"logits": one}, {"logits": two}, targets), wanted)
    ranks = [{"logits": value.flatten()[:, None]} for value in (one, two)]
    torch.testing.assert_close(HEADS["ranker"].divergence(*ranks, torch.tensor([1, IGNORE])), wanted)


def test_r_drop_ignores_untagged_tokens():
    one, two = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    targets = torch.tensor([[IGNORE, 1, 2], [IGNORE, IGNORE, 0]])
    apart = [
        HEADS["classify"].divergence({"logits": one[i, j, None]}, {"logits": two[i, j, None]}, torch.tensor([0]))
        for i, j in ((0, 1), (0, 2), (1, 2))
    ]
    found = HEADS["sequence_label"].divergence({"logits": one}, {"logits": two}, targets)
    torch.testing.assert_close(found, sum(apart))


def test_r_drop_ignores_tokens_beyond_passage():
    """Only pieces 3 and 4 and "no answer" (0) can be chosen: a softmax over three; the second window is unlabelled."""
    views = [{name: torch.randn(2, 6, requires_grad=True) for name in ("start_logits", "end_logits")} for _ in range(2)]
    targets = torch.tensor([[3, 4, 3, 5, 0], [IGNORE, IGNORE, 2, 5, 0]])
    found = HEADS["mrc"].divergence(*views, targets)
    apart = [
        HEADS["classify"].divergence(*({"logits": view[name][:1, [0, 3, 4]]} for view in views), torch.tensor([0]))
        for name in views[0]
    ]
    torch.testing.assert_close(found, sum(apart) / 2)
    found.backward()
    gradient = views[0]["start_logits"].grad
    assert gradient.isfinite().all()
    assert gradient[0, [1, 2, 5]].tolist() == [0, 0, 0]
    assert not gradient[1].any()


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["classify", "multi_label", "sequence_label"]))
def test_r_drop_is_symmetric_and_positive(seed, kind):
    generator = torch.Generator().manual_seed(seed)
    shape = (3, 4, 5) if kind == "sequence_label" else (3, 5)
    one, two = ({"logits": 3 * torch.randn(shape, generator=generator)} for _ in range(2))
    targets = torch.ones({"classify": (3,), "multi_label": (3, 5), "sequence_label": (3, 4)}[kind], dtype=torch.int64)
    assert HEADS[kind].divergence(one, one, targets).item() == 0
    assert HEADS[kind].divergence(one, two, targets).item() > 0
    torch.testing.assert_close(HEADS[kind].divergence(one, two, targets), HEADS[kind].divergence(two, one, targets))
