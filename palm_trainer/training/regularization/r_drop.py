"""R-Drop (Liang et al. 2021): a text goes through the model twice, with other dropout, and the two answers shall agree.

The loss is the mean of the two passes' losses and alpha / 2 of the symmetric Kullback-Leibler divergence between what they say: half of
equation 4 of the paper, so that alpha is the paper's and losses stay comparable with those without.
"""

from collections.abc import Mapping

from torch import Tensor

from palm_trainer.model.heads import Head, LossSum


def agreement_loss(
    head: Head, first: Mapping[str, Tensor], second: Mapping[str, Tensor], targets: Tensor, alpha: float
) -> LossSum:
    """Return the loss of two passes over one batch, with the price of their disagreement.

    Args:
        head: of the task. A CRF's divergence is that of its emissions.
        first: the head's tensors by name, from one pass.
        second: the same from the other pass.
        targets: of the batch, as the head's loss takes them; what is unlabelled adds nothing.
        alpha: weight of the divergence, as in the paper.
    """
    loss, labels = head.loss(first, targets)
    other_loss, _ = head.loss(second, targets)
    return LossSum((loss + other_loss + alpha * head.divergence(first, second, targets)) / 2, labels)
