"""One class a text."""

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from palm_trainer.head.base import IGNORE, Head, LossSum
from palm_trainer.specs import POOLED_OUTPUT, full_precision


class Classify(Head):
    """Dropout and a linear layer on the text's vector.

    Args:
        num_classes: C.
        input_dim: H of the backbone.
        dropout_prob: on the input, while training.
        label_smoothing: share of the probability that is spread over all classes (Szegedy et al. 2016).
    """

    kind = "classify"
    inputs = (POOLED_OUTPUT,)

    def __init__(
        self, num_classes: int, input_dim: int, dropout_prob: float = 0.1, *, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout_prob)
        self.linear = nn.Linear(input_dim, num_classes)
        self.label_smoothing = label_smoothing
        nn.init.normal_(self.linear.weight, std=0.02)
        nn.init.zeros_(self.linear.bias)

    def forward(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """`pooled_output` [B, H] -> `logits` [B, C]."""
        return {"logits": self.linear(self.dropout(features[POOLED_OUTPUT.name]))}

    def loss(self, outputs: Mapping[str, Tensor], targets: Tensor) -> LossSum:
        """Cross-entropy; targets int64 [B], IGNORE where unlabelled. Counts examples."""
        total = F.cross_entropy(
            full_precision(outputs["logits"]),
            targets,
            ignore_index=IGNORE,
            reduction="sum",
            label_smoothing=self.label_smoothing,
        )
        return LossSum(total, self.labels(targets))
