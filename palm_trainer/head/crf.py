"""The training side of the linear-chain CRF: exact negative log-likelihood with its gradient from one forward-backward pass.

The chain is `palm_serve.decoding.crf`'s, BIO constraints included, so that the probabilities that training shapes are those that decoding
reports. Messages run in probability space with scaling, in float64: both ways in one small matrix product a position, and no autograd graph
over them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from palm_serve.decoding.crf import Potentials

_LARGEST_LEAD = 300.0
"""Emissions further below the best one count as this far below, as in decoding: the product of two exp(-300) is still a float64, so what
is legal keeps a probability."""
_TINY = 1e-300


class LinearChainCrf(nn.Module):
    """Learned start, transition and end scores over `tags`, and the constraints that the tags imply."""

    def __init__(self, tags: tuple[str, ...]) -> None:
        super().__init__()
        rules = Potentials.constrained(tags)
        self.register_buffer("start_rules", torch.from_numpy(rules.start), persistent=False)
        self.register_buffer("transition_rules", torch.from_numpy(rules.transitions), persistent=False)
        self.start = nn.Parameter(torch.zeros(len(tags)))
        self.transitions = nn.Parameter(torch.zeros(len(tags), len(tags)))
        self.end = nn.Parameter(torch.zeros(len(tags)))

    start_rules: Tensor
    transition_rules: Tensor

    def negative_log_likelihood(self, emissions: Tensor, tags: Tensor, lengths: Tensor) -> Tensor:
        """Sum over rows of -log p(tags | emissions).

        Args:
            emissions: float [B, L, T], left-aligned.
            tags: int64 [B, L]; anything beyond a row's length.
            lengths: int64 [B]; rows of length 0 add nothing.
        """
        start, transitions = self.start + self.start_rules, self.transitions + self.transition_rules
        total: Tensor = _ChainLoss.apply(emissions, start, transitions, self.end, tags, lengths)  # type: ignore[no-untyped-call]
        return total


class _ChainLoss(torch.autograd.Function):
    """Forward computes loss and gradients together: d(-log p)/d(score) = expected minus observed counts."""

    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, tags: Tensor, lengths: Tensor
    ) -> Tensor:
        em = emissions.detach().double()
        peak = em.amax(dim=2, keepdim=True)
        em = torch.maximum(em, peak - _LARGEST_LEAD)
        batch, longest, count = em.shape
        inside = torch.arange(longest, device=em.device)[None, :] < lengths[:, None]  # [B, L]
        tags = torch.where(inside, tags, 0)

        local = (em - peak).exp()
        step, first, final = transitions.double().exp(), start.double().exp(), end.double().exp()
        arriving, forward, scale, backward = _messages(local, step, first, final, lengths)
        inverse = 1 / (arriving * backward).sum(dim=2, keepdim=True).clamp(min=_TINY)
        onward = backward * inverse * inside.unsqueeze(2)

        row = torch.arange(batch, device=em.device)
        labelled = lengths > 0
        ends = (lengths - 1).clamp(min=0)
        log_z = ((scale.log() + peak.squeeze(2)) * inside).sum(dim=1)
        log_z = log_z + (forward[row, ends] * final).sum(dim=1).clamp(min=_TINY).log() * labelled
        observed = (em.gather(2, tags.unsqueeze(2)).squeeze(2) * inside).sum(dim=1)
        pairs = inside[:, 1:]
        observed = observed + (transitions.double()[tags[:, :-1], tags[:, 1:]] * pairs).sum(dim=1)
        observed = observed + (start.double()[tags[:, 0]] + end.double()[tags[row, ends]]) * labelled

        belief = arriving * onward
        grad_em = belief.scatter_add(2, tags.unsqueeze(2), -inside.unsqueeze(2).double())
        grad_step = (forward[:, :-1].reshape(-1, count).T @ onward[:, 1:].reshape(-1, count)) * step
        grad_step.index_put_(
            (tags[:, :-1][pairs], tags[:, 1:][pairs]),
            -torch.ones((), dtype=em.dtype, device=em.device),
            accumulate=True,
        )
        ones = labelled.double()
        grad_start = belief[:, 0].sum(0).index_add_(0, tags[:, 0], -ones)
        grad_end = belief[row, ends].sum(0).index_add_(0, tags[row, ends], -ones)
        ctx.save_for_backward(
            *(
                g.to(t.dtype)
                for g, t in ((grad_em, emissions), (grad_start, start), (grad_step, transitions), (grad_end, end))
            )
        )
        return (log_z - observed).sum().to(emissions.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        return (*(gradient * upstream[0] for gradient in ctx.saved_tensors), None, None)


def _messages(
    local: Tensor, step: Tensor, first: Tensor, final: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Messages of the chain and, in the same loop, of the chain read from its end. Beyond a row's length they mean nothing.

    Gives, [B, L, T] each but for the scale [B, L]: what arrives at a position from before it; that with the position's own potential, over
    its sum; this sum; what holds from the position on, scaled to the sum 1.
    """
    batch, longest, count = local.shape
    turned = (lengths[:, None] - 1 - torch.arange(longest, device=local.device)).clamp(min=0)
    turned = turned.unsqueeze(2).expand(-1, -1, count)
    both = torch.stack([local, local.gather(1, turned)])  # [2, B, L, T]
    steps = torch.stack([step, step.T])
    message = torch.stack([first, final]).unsqueeze(1).expand(-1, batch, -1)
    arriving, kept, scales = [], [], []
    for t in range(longest):
        if t:
            message = message @ steps
        arriving.append(message[0])
        message = message * both[:, :, t]
        scale = message.sum(dim=2, keepdim=True).clamp_(min=_TINY)
        message = message.div_(scale)
        kept.append(message)
        scales.append(scale[0])
    forward, backward = torch.stack(kept, dim=2)
    return torch.stack(arriving, dim=1), forward, torch.cat(scales, dim=1), backward.gather(1, turned)
