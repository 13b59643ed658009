"""R-Drop (Liang et al. 2021): two passes with different dropout should give the same answers.

The loss is the mean of the losses of both passes, plus alpha / 2 of the symmetric Kullback-Leibler
divergence of their answers. That is half of equation 4 of the paper, so that alpha is the paper's
and losses are comparable with those without R-Drop.
"""

from collections.abc import Mapping

from torch import Tensor

from palm_trainer.model.heads import LossSum, TaskHead


def agreement_loss(
    head: TaskHead, first: Mapping[str, Tensor], second: Mapping[str, Tensor], targets: Tensor, alpha: float
) -> LossSum:
    """Return the loss of two passes over one batch, with a penalty for their divergence.

    Args:
        head: head of the task. A CRF's divergence is that of its emissions.
        first: the head's tensors by name, from one pass.
        second: the same from the other pass.
        targets: of the batch, as the head's loss takes them. Unlabelled targets add nothing.
        alpha: weight of the divergence, as in the paper.
    """
    first_loss, labels = head.loss(first, targets)
    second_loss, _ = head.loss(second, targets)
    return LossSum((first_loss + second_loss + alpha * head.divergence(first, second, targets)) / 2, labels)
