"""Knowledge distillation (Hinton et al. 2015) from finished runs with the same tasks."""

from palm_trainer.training.distillation.hidden_states import HiddenStates, hidden_states
from palm_trainer.training.distillation.loss import Distillation
from palm_trainer.training.distillation.teachers import Teacher, load_teachers, soft_targets

__all__ = ["Distillation", "HiddenStates", "Teacher", "hidden_states", "load_teachers", "soft_targets"]
