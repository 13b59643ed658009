"""What a student loses by telling its teachers' answers otherwise: the Kullback-Leibler divergence of its answers from theirs, at a temperature.

    loss = (1 - weight) x loss of the labels + weight x T^2 x divergence

Both terms are divided by their own true counts. T^2 keeps the gradients of the second comparable whatever T is (Hinton et al. 2015, section 2).
A CRF is taught the token marginals of its teacher: the gradient of the divergence on its emissions is its own marginals minus the teacher's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from palm_trainer.model.heads import Head
from palm_trainer.model.heads.sequence_label import SequenceLabel, left_aligned
from palm_trainer.tensors import to_full_precision

_IMPOSSIBLE = -1e4  # exp(-1e4) is 0 in float32, and the difference of two of them is a number


@dataclass(frozen=True)
class Distillation:
    """How strongly a training heeds its teachers.

    Args:
        temperature: T that both sides' logits are divided by.
        weight: share of the loss that is the teachers'.
    """

    temperature: float
    weight: float

    def count(self, kind: str, soft: Tensor) -> int:
        """What `divergence` sums over: examples, windows or pieces that a teacher has answered."""
        taught = _taught(soft)
        return int((taught.any(dim=1) if kind == "mrc" else taught).sum())

    def combine_losses(
        self, own: Tensor, head: Head, views: Sequence[Mapping[str, Tensor]], soft: Tensor, count: float
    ) -> Tensor:
        """Loss of a task's labels and of its teachers' answers together.

        Args:
            own: mean loss of the labels; 0 where there are none.
            head: of the task.
            views: the head's tensors, of each pass.
            soft: answers of the teachers, see `divergence`.
            count: `count` of the whole step.
        """
        total = (1 - self.weight) * own
        if count:
            taught = torch.stack([self.divergence(head, outputs, soft) for outputs in views]).mean()
            total = total + self.weight * self.temperature**2 * taught / count
        return total

    def divergence(self, head: Head, outputs: Mapping[str, Tensor], soft: Tensor) -> Tensor:
        """Summed divergence of a head's answers from soft ones: probabilities at the temperature, below 0 where no teacher has answered.

        Args:
            head: of the task.
            outputs: its tensors.
            soft: float [B, C]; of a ranker [B, 2] for the pair and its negative; of tags [B, S, T]; of passages [B, S, 2] for begin and end.
        """
        taught = _taught(soft)
        if head.kind == "mrc":
            return self._places(outputs, soft, taught)
        logits = to_full_precision(outputs["logits"]) / self.temperature
        soft = soft.to(logits.dtype)
        if isinstance(head, SequenceLabel) and head.crf is not None:
            index, lengths = left_aligned(taught)
            places = index.unsqueeze(2).expand(-1, -1, soft.shape[2])
            return head.crf.divergence(logits.gather(1, places), soft.gather(1, places), lengths, self.temperature)
        if head.kind == "multi_label" or (head.kind == "match" and logits.shape[1] == 1):
            return _bernoulli(soft[taught], logits.view_as(soft)[taught])
        return _softmax(soft[taught], logits[taught])

    def _places(self, outputs: Mapping[str, Tensor], soft: Tensor, allowed: Tensor) -> Tensor:
        """Mean of begin and end, over the places where an answer may be."""
        rows = allowed.any(dim=1)
        found = []
        for i, name in enumerate(("start_logits", "end_logits")):
            logits = to_full_precision(outputs[name]) / self.temperature
            told = soft[:, :, i].clamp(min=0).to(logits.dtype)
            found.append(_softmax(told[rows], logits.masked_fill(~allowed, _IMPOSSIBLE)[rows]))
        return (found[0] + found[1]) / 2


def _taught(soft: Tensor) -> Tensor:
    return soft[..., 0] >= 0


def _softmax(wanted: Tensor, logits: Tensor) -> Tensor:
    """Probabilities and logits [N, C]: sum of KL(wanted || softmax)."""
    return F.kl_div(F.log_softmax(logits, dim=-1), wanted, reduction="sum")


def _bernoulli(wanted: Tensor, logits: Tensor) -> Tensor:
    """Probabilities and logits [N, C], a yes or no each."""
    entropy = -(torch.xlogy(wanted, wanted) + torch.xlogy(1 - wanted, 1 - wanted)).sum()
    return F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") - entropy
