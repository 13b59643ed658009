"""Distillation loss: Kullback-Leibler divergence of the student's answers from the soft targets, at a temperature T.

    loss = (1 - weight) x loss of the labels + weight x T^2 x divergence

Both terms are divided by their own true counts. T^2 keeps the gradients of the second term
comparable for all T (Hinton et al. 2015, section 2). A CRF learns the token marginals of its
teacher: the gradient of the divergence with respect to its emissions is the difference of the
student's and the teacher's marginals.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from palm_trainer.model.heads import TaskHead


@dataclass(frozen=True)
class Distillation:
    """Temperature and weight of the soft targets.

    Args:
        temperature: T, the divisor of the logits of teacher and student.
        weight: share of the soft targets in the loss.
    """

    temperature: float
    weight: float

    def combine_losses(
        self, label_loss: Tensor, head: TaskHead, passes: Sequence[Mapping[str, Tensor]], soft: Tensor, count: float
    ) -> Tensor:
        """Combine the losses of a task's labels and soft targets.

        Args:
            label_loss: mean loss of the labels, 0 without labels.
            head: head of the task.
            passes: the head's tensors, for each pass over the batch.
            soft: soft targets, see `TaskHead.soft_divergence`.
            count: `TaskHead.count_soft_targets` of the whole step.
        """
        total = (1 - self.weight) * label_loss
        if count:
            divergences = [head.soft_divergence(outputs, soft, self.temperature) for outputs in passes]
            mean_divergence = torch.stack(divergences).mean()
            total = total + self.weight * self.temperature**2 * mean_divergence / count
        return total
