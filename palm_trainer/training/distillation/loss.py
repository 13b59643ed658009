"""What a student loses by telling its teachers' answers otherwise: the Kullback-Leibler divergence of its answers from theirs, at a temperature.

    loss = (1 - weight) x loss of the labels + weight x T^2 x divergence

Both terms are divided by their own true counts. T^2 keeps the gradients of the second comparable whatever T is (Hinton et al. 2015, section 2).
A CRF is taught the token marginals of its teacher: the gradient of the divergence on its emissions is its own marginals minus the teacher's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palm_trainer.model.heads import Head


@dataclass(frozen=True)
class Distillation:
    """How strongly a training heeds its teachers.

    Args:
        temperature: T that both sides' logits are divided by.
        weight: share of the loss that is the teachers'.
    """

    temperature: float
    weight: float

    def combine_losses(
        self, own: Tensor, head: Head, views: Sequence[Mapping[str, Tensor]], soft: Tensor, count: float
    ) -> Tensor:
        """Loss of a task's labels and of its teachers' answers together.

        Args:
            own: mean loss of the labels; 0 where there are none.
            head: of the task.
            views: the head's tensors, of each pass.
            soft: answers of the teachers, see `Head.soft_divergence`.
            count: `Head.count_soft_targets` of the whole step.
        """
        total = (1 - self.weight) * own
        if count:
            divergences = [head.soft_divergence(outputs, soft, self.temperature) for outputs in views]
            taught = torch.stack(divergences).mean()
            total = total + self.weight * self.temperature**2 * taught / count
        return total
