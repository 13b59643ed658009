"""Which data set's batch comes next."""

from palm_trainer.mixing.mix_ratio import MixRatio

__all__ = ["MixRatio"]
