"""Knowledge distillation (Hinton et al. 2015): finished runs are the teachers of tasks that they share with a training."""

from palm_trainer.training.distillation.loss import Distillation
from palm_trainer.training.distillation.teachers import Teacher, load_teachers, soft_targets

__all__ = ["Distillation", "Teacher", "load_teachers", "soft_targets"]
