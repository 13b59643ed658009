"""The CRF's loss and gradients against enumeration of every path, and against torch's own check of gradients."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.decoding.crf import FORBIDDEN, ForwardBackward, Potentials, Viterbi
from palm_trainer.model.heads.crf import LinearChainCrf

TAGS = ("O", "B-x", "I-x", "B-y")
ATIS_SIZED = ("O", *(f"{prefix}-{i}" for i in range(64) for prefix in "BI"), "B-64")


def make_crf(tags, seed, spread=1.0):
    generator = torch.Generator().manual_seed(seed)
    crf = LinearChainCrf(tags).double()
    with torch.no_grad():
        for parameter in crf.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * spread)
    return crf


def is_legal(tags, path):
    names = [tags[i] for i in path]
    return all(
        not name.startswith("I-") or (before is not None and before[2:] == name[2:] and before != "O")
        for before, name in itertools.pairwise([None, *names])
    )


def path_score(crf, emissions, path):
    score = crf.start[path[0]] + crf.end[path[-1]] + sum(emissions[t, tag] for t, tag in enumerate(path))
    return score + sum(crf.transitions[a, b] for a, b in itertools.pairwise(path))


def enumerated_loss(crf, tags, emissions, gold):
    paths = [p for p in itertools.product(range(len(tags)), repeat=len(gold)) if is_legal(tags, p)]
    every = torch.stack([path_score(crf, emissions, path) for path in paths])
    return torch.logsumexp(every, 0) - path_score(crf, emissions, gold)


def legal_path(draw, tags, length):
    path = []
    while len(path) < length:
        path.append(draw(st.sampled_from([i for i in range(len(tags)) if is_legal(tags, (*path, i))])))
    return path


@st.composite
def batches(draw):
    tags = TAGS[: draw(st.integers(1, 4))]
    lengths = draw(st.lists(st.integers(0, 4), min_size=1, max_size=3))
    gold = [legal_path(draw, tags, length) for length in lengths]
    return tags, gold, draw(st.integers(0, 10**6)), draw(st.sampled_from([0.1, 1.0, 30.0]))


def padded(gold, longest):
    return torch.tensor([[*path, *[-100] * (longest - len(path))] for path in gold], dtype=torch.int64).reshape(
        len(gold), longest
    )


@given(batches())
def test_loss_and_gradients_are_those_of_enumeration(batch):
    tags, gold, seed, spread = batch
    longest = max(1, *map(len, gold))
    crf = make_crf(tags, seed, spread)
    generator = torch.Generator().manual_seed(seed + 1)
    emissions = torch.randn(len(gold), longest, len(tags), generator=generator, dtype=torch.float64) * spread
    emissions.requires_grad_()
    inputs = (emissions, *crf.parameters())
    lengths = torch.tensor([len(path) for path in gold])
    loss = crf.negative_log_likelihood(emissions, padded(gold, longest), lengths)
    expected = sum(
        (enumerated_loss(crf, tags, emissions[i], p) for i, p in enumerate(gold) if p), start=emissions.sum() * 0
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9, abs=1e-9)
    wanted = torch.autograd.grad(expected, inputs, allow_unused=True)
    for got, want in zip(torch.autograd.grad(loss, inputs), wanted, strict=True):
        torch.testing.assert_close(got, torch.zeros_like(got) if want is None else want, rtol=1e-7, atol=1e-9)


def test_gradcheck():
    crf = make_crf(TAGS, 5)
    emissions = torch.randn(
        3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True
    )
    gold, lengths = padded([[1, 2, 0, 3], [0, 1], []], 4), torch.tensor([4, 2, 0])

    def loss(emissions, start, transitions, end):
        names = {"start": start, "transitions": transitions, "end": end}
        return torch.func.functional_call(
            _Loss(crf), {f"crf.{k}": v for k, v in names.items()}, (emissions, gold, lengths)
        )

    assert torch.autograd.gradcheck(loss, (emissions, crf.start, crf.transitions, crf.end))


class _Loss(torch.nn.Module):
    def __init__(self, crf):
        super().__init__()
        self.crf = crf

    def forward(self, *arguments):
        return self.crf.negative_log_likelihood(*arguments)


def test_rows_without_pieces_add_nothing():
    crf = make_crf(TAGS, 2)
    emissions = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    loss = crf.negative_log_likelihood(emissions, torch.full((2, 3), -100), torch.tensor([0, 0]))
    loss.backward()
    assert loss.item() == 0.0
    assert all(not p.grad.any() for p in (emissions, *crf.parameters()))


def test_what_lies_beyond_a_row_changes_nothing():
    crf = make_crf(TAGS, 3)
    emissions = torch.randn(1, 2, 4, dtype=torch.float64)
    alone = crf.negative_log_likelihood(emissions, torch.tensor([[1, 2]]), torch.tensor([2]))
    noise = torch.cat([emissions, torch.full((1, 3, 4), 50.0)], dim=1)
    beside = crf.negative_log_likelihood(noise, torch.tensor([[1, 2, 3, 3, -100]]), torch.tensor([2]))
    assert beside.item() == pytest.approx(alone.item(), abs=1e-12)


def test_untrained_loss_a_piece_is_that_of_a_blind_guess():
    """With all scores 0 every legal path is as likely: at most ln(T) a piece, and not far below, since only I- tags are forbidden."""
    crf = LinearChainCrf(ATIS_SIZED)
    pieces = 20
    loss = crf.negative_log_likelihood(
        torch.zeros(1, pieces, len(ATIS_SIZED)), torch.zeros(1, pieces, dtype=torch.int64), torch.tensor([pieces])
    )
    begins = sum(not tag.startswith("I-") for tag in ATIS_SIZED)
    assert len(ATIS_SIZED) == 130
    assert math.log(begins) < loss.item() / pieces < math.log(130)
    assert loss.item() / pieces == pytest.approx(4.20, abs=0.01)


def test_a_forbidden_tag_gets_no_probability_however_loud():
    crf = LinearChainCrf(TAGS)
    emissions = torch.zeros(1, 2, 4)
    emissions[:, :, 2] = 40.0  # I-x, first and after O
    emissions.requires_grad_()
    loss = crf.negative_log_likelihood(emissions, torch.tensor([[0, 0]]), torch.tensor([2]))
    loss.backward()
    marginals = emissions.grad.clone()
    marginals[:, :, 0] += 1  # gradient = probability - gold
    assert marginals[0, 0, 2].item() == 0.0
    assert marginals[0, 1, 2].item() == pytest.approx(1.0, abs=1e-6)  # by way of B-x
    assert marginals[0, 0, 1].item() == pytest.approx(1.0, abs=1e-6)
    assert crf.transitions.grad[0, 2].item() == 0.0
    assert crf.start.grad[2].item() == 0.0


@pytest.mark.parametrize("size", [100.0, 1000.0, 30000.0])
def test_loss_stays_right_where_emissions_are_huge(size):
    """A forbidden tag far ahead of all legal ones must not turn the legal ones' probabilities into 0 / 0."""
    crf = LinearChainCrf(TAGS).double()
    emissions = torch.zeros(1, 1, 4, dtype=torch.float64)
    emissions[0, 0, 2] = size
    emissions.requires_grad_()
    loss = crf.negative_log_likelihood(emissions, torch.tensor([[0]]), torch.tensor([1]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3), rel=1e-6)
    torch.testing.assert_close(emissions.grad[0, 0], torch.tensor([-2 / 3, 1 / 3, 0, 1 / 3], dtype=torch.float64))


def test_probabilities_are_those_that_decoding_reports():
    crf = make_crf(TAGS, 9).float()
    emissions = torch.randn(2, 4, 4, generator=torch.Generator().manual_seed(3), requires_grad=True)
    lengths = np.array([4, 3])
    learned = Potentials(*(getattr(crf, n).detach().numpy() for n in ("start", "transitions", "end")))
    potentials = Potentials.constrained(TAGS, learned)
    best = Viterbi(potentials)(emissions.detach().numpy(), lengths)
    gold = padded([path.tolist() for path in best], 4)
    crf.negative_log_likelihood(emissions, gold, torch.from_numpy(lengths)).backward()
    beliefs = ForwardBackward(potentials)(emissions.detach().numpy(), lengths)
    for row, size in enumerate(lengths):
        posterior = (beliefs.reach * beliefs.local)[:size, 0, row] * beliefs.reach[:size, 1, row][::-1]
        posterior /= posterior.sum(axis=1, keepdims=True)  # its messages are scaled each on its own
        one_hot = np.eye(4)[best[row]]
        np.testing.assert_allclose(emissions.grad[row, :size].numpy() + one_hot, posterior, atol=1e-6)
    assert min(potentials.start) <= FORBIDDEN / 2
