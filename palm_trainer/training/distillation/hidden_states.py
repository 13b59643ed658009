"""Loss of a student whose vectors of tokens shall be those of its teacher (Sanh et al. 2019).

The loss needs no label. It is the squared distance of the vectors over the squared length of the teacher's, which is 0 for
equal vectors and about 2 for random ones of the same length.
"""

from collections.abc import Mapping

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from palm_trainer.model.multi_task import TrainedModel
from palm_trainer.tensors import ATTENTION_MASK, INPUT_IDS, SEQUENCE_OUTPUT

_MIN_POWER = 1e-12


class HiddenStates:
    """Holds the encoder of the teacher.

    Args:
        teacher: encoder in eval mode, on the device of the training.
        teacher_ids: the teacher's id of each piece of the student, int64 [vocabulary]. None: they are the same.
    """

    def __init__(self, teacher: nn.Module, teacher_ids: Tensor | None) -> None:
        self._teacher = teacher.eval().requires_grad_(False)
        self._teacher_ids = teacher_ids

    def loss(self, inputs: Mapping[str, Tensor], features: Mapping[str, Tensor]) -> Tensor:
        """Return the relative squared distance of the vectors of all tokens of a batch.

        Args:
            inputs: of the student's encoder, by name.
            features: that it makes of them, with `sequence_output` [batch, tokens, hidden].
        """
        ids = inputs[INPUT_IDS.name]
        if self._teacher_ids is not None:
            ids = self._teacher_ids[ids]
        with torch.no_grad():
            expected = self._teacher(**{**inputs, INPUT_IDS.name: ids})[SEQUENCE_OUTPUT.name].float()
        is_token = inputs[ATTENTION_MASK.name].bool()
        expected = expected[is_token]
        distance: Tensor = (features[SEQUENCE_OUTPUT.name].float()[is_token] - expected).square().sum()
        power: Tensor = expected.square().sum()
        return distance / power.clamp(min=_MIN_POWER)


def hidden_states(teacher: TrainedModel, student: TrainedModel, device: torch.device) -> HiddenStates | None:
    """Return the loss of a student, None where its vectors cannot be compared with those of the teacher.

    Args:
        teacher: a trained model.
        student: the model to train. Its pieces must be pieces of the teacher, and its vectors as long.
        device: of the training.
    """
    backbone = teacher.model.backbone
    same_inputs = teacher.model.input_names == student.model.input_names
    if backbone.hidden_size != student.model.backbone.hidden_size or not same_inputs:
        return None
    teacher_ids = None
    if teacher.tokenizer_json != student.tokenizer_json:
        ids_by_piece = Tokenizer.from_str(teacher.tokenizer_json).get_vocab()
        pieces = Tokenizer.from_str(student.tokenizer_json).get_vocab()
        if not pieces.keys() <= ids_by_piece.keys():
            return None
        teacher_ids = torch.zeros(len(student.model.backbone.embedding_table), dtype=torch.int64)
        for piece, index in pieces.items():
            teacher_ids[index] = ids_by_piece[piece]
        teacher_ids = teacher_ids.to(device)
    return HiddenStates(backbone.to(device), teacher_ids)
