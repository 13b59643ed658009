"""The training side of the linear-chain CRF: exact negative log-likelihood with its gradient from one forward-backward pass.

The chain is `palm_serve.decoding.crf`'s, BIO constraints included, so that the probabilities that training shapes are those that decoding
reports. Messages run in probability space with scaling, in float64: two small matrix products a position, and no autograd graph over them.
"""

from typing import Any

import torch
from torch import Tensor, nn

from palm_serve.decoding.crf import Potentials

_LARGEST_LEAD = 600.0
"""Emissions further below the best one count as this far below: exp(-600) is still a float64, so what is legal keeps a probability."""


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
        """Return the sum over rows of -log p(tags | emissions).

        Args:
            emissions: float [B, L, T], left-aligned.
            tags: int64 [B, L]; anything beyond a row's length.
            lengths: int64 [B]; rows of length 0 add nothing.
        """
        start, transitions = self.start + self.start_rules, self.transitions + self.transition_rules
        total: Tensor = _ChainLoss.apply(emissions, start, transitions, self.end, tags, lengths)  # type: ignore[no-untyped-call]
        return total

    @torch.no_grad()
    def marginals(self, emissions: Tensor, lengths: Tensor, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
        """Probability of each tag of each piece, float64 [B, L, T], 0 beyond a row's length, and log Z [B].

        Args:
            emissions: float [B, L, T], left-aligned, divided by the temperature already.
            lengths: int64 [B].
            temperature: that the chain's own scores are divided by; its rules stay.
        """
        em = emissions.double()
        peak = em.amax(dim=2, keepdim=True)
        place = torch.arange(em.shape[1], device=em.device)
        inside, last = place < lengths[:, None], place == lengths[:, None] - 1
        local = (torch.maximum(em, peak - _LARGEST_LEAD) - peak).exp()
        step = (self.transitions / temperature + self.transition_rules).double().exp()
        first = (self.start / temperature + self.start_rules).double().exp()
        final = (self.end / temperature).double().exp()
        forward, scale = _forward_messages(local, step, first, final, inside, last)
        backward = _backward_messages(local, step, final, inside, last, scale)
        return forward * backward * inside.unsqueeze(2), ((scale.log() + peak.squeeze(2)) * inside).sum(dim=1)

    def divergence(self, emissions: Tensor, soft: Tensor, lengths: Tensor, temperature: float = 1.0) -> Tensor:
        """Return the divergence of the chain from soft targets of each token, summed over rows.

        What the rules forbid of those costs nothing.

        Its gradient on the emissions is the chain's marginals minus `soft`. The chain's own scores get none: they learn from labels only.

        Args:
            emissions: float [B, L, T], left-aligned, divided by the temperature already.
            soft: probability of each tag of each piece, [B, L, T].
            lengths: int64 [B]; rows of length 0 add nothing.
            temperature: that the chain's own scores are divided by.
        """
        marginals, log_z = self.marginals(emissions, lengths, temperature)
        with torch.no_grad():
            inside = (torch.arange(marginals.shape[1], device=marginals.device) < lengths[:, None]).unsqueeze(2)
            targets = soft.double() * inside
            start = self.start.double() / temperature
            step = self.transitions.double() / temperature
            end = self.end.double() / temperature
            final = targets[torch.arange(len(targets), device=targets.device), (lengths - 1).clamp(min=0)]
            score = (targets * emissions.double()).sum() + ((targets[:, :-1] @ step) * targets[:, 1:]).sum()
            score += (targets[:, 0] @ start + final @ end).sum()
            value = (log_z * (lengths > 0)).sum() - score + torch.xlogy(targets, targets).sum()
        gap = (((marginals - targets) * inside).to(emissions.dtype) * emissions).sum()
        return gap + (value.to(emissions.dtype) - gap.detach())


class _ChainLoss(torch.autograd.Function):
    """Forward computes loss and gradients together: d(-log p)/d(score) = expected minus observed counts."""

    @staticmethod
    def forward(
        ctx: Any, emissions: Tensor, start: Tensor, transitions: Tensor, end: Tensor, tags: Tensor, lengths: Tensor
    ) -> Tensor:
        """Return the negative log-likelihood of the tags, summed over rows, and save its gradients.

        Args:
            ctx: context of the backward pass.
            emissions: `[batch, tokens, tags]`, left-aligned.
            start: `[tags]`.
            transitions: `[tags, tags]`.
            end: `[tags]`.
            tags: int64 `[batch, tokens]`.
            lengths: int64 `[batch]`.
        """
        em = emissions.detach().double()
        peak = em.amax(dim=2, keepdim=True)
        em = torch.maximum(em, peak - _LARGEST_LEAD)
        batch, longest, count = em.shape
        inside = torch.arange(longest, device=em.device)[None, :] < lengths[:, None]  # [B, L]
        tags = torch.where(inside, tags, 0)
        last = torch.where(inside, lengths[:, None] - 1, -1) == torch.arange(longest, device=em.device)  # [B, L]

        local = (em - peak).exp()
        step, first, final = transitions.double().exp(), start.double().exp(), end.double().exp()
        forward, scale = _forward_messages(local, step, first, final, inside, last)
        backward = _backward_messages(local, step, final, inside, last, scale)
        log_z = ((scale.log() + peak.squeeze(2)) * inside).sum(dim=1)

        row = torch.arange(batch, device=em.device)
        labelled = lengths > 0
        ends = (lengths - 1).clamp(min=0)
        observed = (em.gather(2, tags.unsqueeze(2)).squeeze(2) * inside).sum(dim=1)
        pairs = inside[:, 1:]
        observed = observed + (transitions.double()[tags[:, :-1], tags[:, 1:]] * pairs).sum(dim=1)
        observed = observed + (start.double()[tags[:, 0]] + end.double()[tags[row, ends]]) * labelled

        grad_em = forward * backward * inside.unsqueeze(2)
        grad_em.scatter_add_(2, tags.unsqueeze(2), -inside.unsqueeze(2).double())
        onward = local[:, 1:] * backward[:, 1:] / scale[:, 1:, None] * pairs.unsqueeze(2)
        grad_step = (forward[:, :-1].reshape(-1, count).T @ onward.reshape(-1, count)) * step
        grad_step.index_put_(
            (tags[:, :-1][pairs], tags[:, 1:][pairs]),
            -torch.ones((), dtype=em.dtype, device=em.device),
            accumulate=True,
        )
        belief_last = (forward * backward)[row, ends] * labelled.unsqueeze(1)
        belief_first = (forward * backward)[:, 0] * labelled.unsqueeze(1)
        ones = labelled.double()
        grad_start = belief_first.sum(0).index_add_(0, tags[:, 0], -ones)
        grad_end = belief_last.sum(0).index_add_(0, tags[row, ends], -ones)
        scores = (emissions, start, transitions, end)
        gradients = []
        for score, gradient in zip(scores, (grad_em, grad_start, grad_step, grad_end), strict=True):
            gradients.append(gradient.to(score.dtype))
        ctx.save_for_backward(*gradients)
        return (log_z - observed).sum().to(emissions.dtype)

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        score_gradients = [gradient * upstream[0] for gradient in ctx.saved_tensors]
        return (*score_gradients, None, None)


def _forward_messages(
    local: Tensor, step: Tensor, first: Tensor, final: Tensor, inside: Tensor, last: Tensor
) -> tuple[Tensor, Tensor]:
    """Scaled forward messages [B, L, T] and their scales [B, L]; the last scale of a row takes in the end scores, so that their product is Z."""
    forward, scales = [], []
    message = first.expand(local.shape[0], -1)
    for t in range(local.shape[1]):
        message = (message if t == 0 else message @ step) * local[:, t]
        total = torch.where(last[:, t, None], message * final, message).sum(dim=1)
        scale = torch.where(inside[:, t], total.clamp(min=1e-300), 1.0)
        message = torch.where(inside[:, t, None], message / scale[:, None], 0.0)
        forward.append(message)
        scales.append(scale)
    return torch.stack(forward, dim=1), torch.stack(scales, dim=1)


def _backward_messages(
    local: Tensor, step: Tensor, final: Tensor, inside: Tensor, last: Tensor, scale: Tensor
) -> Tensor:
    """Backward messages [B, L, T], scaled so that forward * backward is the marginal of each tag."""
    longest = local.shape[1]
    backward: list[Tensor] = []
    message = torch.zeros_like(local[:, 0])
    for t in range(longest - 1, -1, -1):
        if t + 1 < longest:
            message = (local[:, t + 1] * message / scale[:, t + 1, None]) @ step.T
        message = torch.where(last[:, t, None], final, torch.where(inside[:, t, None], message, 0.0))
        backward.append(message)
    return torch.stack(backward[::-1], dim=1)
