"""Divergence from soft targets: by hand, by enumeration of all paths, and by its properties."""

import itertools
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
from palm_trainer.tensors import NO_SOFT_TARGET
from palm_trainer.training.distillation import Distillation

TAGS = ("O", "B-a", "I-a")
LESSON = Distillation(temperature=2.0, weight=0.25)


def test_soft_divergence_two_classes_by_hand():
    """Logits 2 log(0.8 : 0.2) at T = 2 say (0.8, 0.2); the second row has no teacher."""
    logits = (2 * torch.tensor([[0.8, 0.2], [0.9, 0.1]]).log()).requires_grad_()
    soft = torch.tensor([[0.5, 0.5], [NO_SOFT_TARGET, NO_SOFT_TARGET]])
    head = ClassifyHead(2, 4)
    found = head.soft_divergence({"logits": logits}, soft, LESSON.temperature)
    wanted = 0.5 * math.log(0.5 / 0.8) + 0.5 * math.log(0.5 / 0.2)
    assert found.item() == pytest.approx(wanted, rel=1e-5)
    found.backward()
    torch.testing.assert_close(logits.grad, torch.tensor([[0.15, -0.15], [0.0, 0.0]]))  # (p - q) / T
    assert head.count_soft_targets(soft) == 1


def test_combine_losses_weights_labels_and_teachers():
    """0.75 of the labels' mean and 0.25 T^2 of the teachers', over the count of the whole step; the mean of two passes."""
    head, soft = ClassifyHead(2, 4), torch.tensor([[0.5, 0.5]])
    views = [{"logits": torch.tensor([[0.3, -1.0]])}, {"logits": torch.tensor([[1.3, 0.0]])}]
    one, two = (head.soft_divergence(view, soft, LESSON.temperature) for view in views)
    own = torch.tensor(3.0)
    torch.testing.assert_close(LESSON.combine_losses(own, head, views, soft, 5), 2.25 + 0.25 * 4 * (one + two) / 2 / 5)
    torch.testing.assert_close(LESSON.combine_losses(own, head, views, soft, 0), torch.tensor(2.25))


def test_soft_divergence_sigmoid_equals_two_classes():
    logits, soft = torch.tensor([[0.6, -2.0]]), torch.tensor([[0.3, 0.9]])
    pairs = torch.stack([logits[0], torch.zeros(2)], dim=1)
    wanted = ClassifyHead(2, 4).soft_divergence(
        {"logits": pairs}, torch.stack([soft[0], 1 - soft[0]], dim=1), LESSON.temperature
    )
    torch.testing.assert_close(
        MultiLabelHead(2, 4).soft_divergence({"logits": logits}, soft, LESSON.temperature), wanted
    )
    torch.testing.assert_close(MatchHead(0, 4).soft_divergence({"logits": logits.T}, soft, LESSON.temperature), wanted)
    assert MatchHead(0, 4).count_soft_targets(soft) == 1


def test_soft_divergence_ignores_tokens_beyond_passage():
    outputs = {name: torch.randn(2, 5, requires_grad=True) for name in ("start_logits", "end_logits")}
    soft = torch.full((2, 5, 2), NO_SOFT_TARGET)
    allowed = [0, 3, 4]
    soft[0, allowed] = torch.randn(3, 2).softmax(dim=0)
    apart = [
        ClassifyHead(3, 4).soft_divergence(
            {"logits": outputs[name][:1, allowed]}, soft[None, 0, allowed, i], LESSON.temperature
        )
        for i, name in enumerate(outputs)
    ]
    found = MrcHead(4).soft_divergence(outputs, soft, LESSON.temperature)
    torch.testing.assert_close(found, sum(apart) / 2)
    found.backward()
    assert not outputs["end_logits"].grad[0, [1, 2]].any()
    assert not outputs["start_logits"].grad[1].any()
    assert MrcHead(4).count_soft_targets(soft) == 1


def tagger(crf=True):
    torch.manual_seed(3)
    head = SequenceLabelHead(TAGS, 4, crf=crf).double()
    if head.crf is not None:
        for scores in (head.crf.start, head.crf.transitions, head.crf.end):
            torch.nn.init.normal_(scores)
    return head


def chain_score(head, emissions, path, temperature):
    crf = head.crf
    score = crf.start[path[0]] + crf.end[path[-1]] + sum(emissions[t, tag] for t, tag in enumerate(path))
    score = score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path))
    legal = path[0] != 2 and all(b != 2 or a in (1, 2) for a, b in itertools.pairwise(path))
    return score / temperature if legal else torch.tensor(-1e4, dtype=torch.float64)


def test_soft_divergence_crf_agrees_with_enumeration():
    """KL of the chain from independent O and B-a, all of whose paths are legal; rows of 3 and of 2 pieces between special ones."""
    head = tagger()
    logits = torch.randn(2, 5, 3, dtype=torch.float64, requires_grad=True)
    soft = torch.full((2, 5, 3), NO_SOFT_TARGET, dtype=torch.float64)
    soft[0, 1:4], soft[1, 1:3] = torch.tensor([0.7, 0.3, 0.0]), torch.tensor([0.2, 0.8, 0.0])
    found = head.soft_divergence({"logits": logits}, soft, LESSON.temperature)
    [gradient] = torch.autograd.grad(found, logits)
    wanted = torch.zeros((), dtype=torch.float64)
    for row, length in ((0, 3), (1, 2)):
        emissions, told = logits[row, 1 : 1 + length], soft[row, 1 : 1 + length]
        paths = list(itertools.product(range(3), repeat=length))
        log_z = torch.stack([chain_score(head, emissions, path, 2.0) for path in paths]).logsumexp(0)
        for path in paths:
            share = math.prod(told[t, tag].item() for t, tag in enumerate(path))
            if share:
                wanted = wanted + share * (math.log(share) - chain_score(head, emissions, path, 2.0) + log_z)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(gradient, torch.autograd.grad(wanted, logits)[0])
    assert found.requires_grad
    assert all(scores.grad is None for scores in head.crf.parameters())


def test_soft_divergence_crf_vanishes_at_equal_marginals():
    head, logits = tagger(), torch.randn(1, 4, 3, dtype=torch.float64, requires_grad=True)
    told, _ = head.crf.marginals(logits.detach() / 2.0, torch.tensor([4]), 2.0)
    torch.testing.assert_close(told.sum(2), torch.ones(1, 4, dtype=torch.float64))
    head.soft_divergence({"logits": logits}, told, LESSON.temperature).backward()
    assert logits.grad.abs().max() < 1e-12
    assert head.count_soft_targets(told) == 4


@given(seed=st.integers(0, 1000), kind=st.sampled_from(["classify", "multi_label", "tags", "chain"]))
def test_soft_divergence_is_positive_and_row_wise(seed, kind):
    generator = torch.Generator().manual_seed(seed)
    head = {"classify": ClassifyHead(3, 4), "multi_label": MultiLabelHead(3, 4)}.get(kind) or tagger(kind == "chain")
    shape = (2, 4, 3) if kind in ("tags", "chain") else (2, 3)
    logits = 3 * torch.randn(shape, generator=generator, dtype=torch.float64)
    soft = (3 * torch.randn(shape, generator=generator, dtype=torch.float64)).softmax(-1)
    if kind == "chain":
        soft = soft * torch.tensor([1.0, 1.0, 0.0])
        soft = soft / soft.sum(-1, keepdim=True)
    both = head.soft_divergence({"logits": logits}, soft, LESSON.temperature)
    alone = [head.soft_divergence({"logits": logits[i : i + 1]}, soft[i : i + 1], LESSON.temperature) for i in (0, 1)]
    assert both > 0
    torch.testing.assert_close(both, sum(alone))
