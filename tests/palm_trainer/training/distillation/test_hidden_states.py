"""Distance of a student's vectors of tokens from those of its teacher."""

from dataclasses import replace

import pytest
import torch

from palm_trainer.model.encoders import build_scratch
from palm_trainer.model.encoders.cut_encoder import cut_layers, cut_pieces
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel, describe_encoder
from palm_trainer.tokenization.prune_vocabulary import prune_vocabulary
from palm_trainer.training.distillation import hidden_states

TEXTS = ["fly to boston", "list hotels in denver"]
BATCH = {
    "input_ids": torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    "token_type_ids": torch.zeros(2, 4, dtype=torch.int64),
}
CPU = torch.device("cpu")


def as_trained(encoder) -> TrainedModel:
    info = describe_encoder(encoder.backbone, "tiny", encoder.pad_token_id)
    return TrainedModel(MultiTaskModel(encoder.backbone.eval(), {}), encoder.tokenizer_json, 8, {}, info)


@pytest.fixture
def encoder():
    torch.manual_seed(4)
    return build_scratch(TEXTS, layers=2, hidden_size=16, heads=2, vocab_size=60, max_length=8)


def test_equal_vectors_have_no_distance(encoder):
    teacher = as_trained(encoder)
    loss = hidden_states(teacher, teacher, CPU)
    features = teacher.model.encode(BATCH)
    assert loss.loss(BATCH, features).item() == 0.0
    features["sequence_output"][1, 3] += 5.0  # padding
    assert loss.loss(BATCH, features).item() == 0.0
    features["sequence_output"] = features["sequence_output"] * 0.5
    assert loss.loss(BATCH, features).item() == pytest.approx(0.25)


def test_gradients_reach_the_student_alone(encoder):
    teacher, student = as_trained(encoder), as_trained(cut_layers(encoder, 1, None))
    loss = hidden_states(teacher, student, CPU)
    value = loss.loss(BATCH, student.model.encode(BATCH))
    assert 0.0 < value.item() < 4.0
    value.backward()
    assert all(parameter.grad is None for parameter in teacher.model.parameters())
    assert student.model.backbone.embedding_table.grad.abs().sum() > 0


def test_cut_vocabulary_is_read_with_the_ids_of_the_teacher(encoder):
    teacher = as_trained(encoder)
    cut = cut_pieces(encoder, prune_vocabulary(encoder.tokenizer_json, ["fly to boston"]))
    student = as_trained(cut)
    ids = torch.tensor([[2, 3, len(cut.backbone.embedding_table) - 1]])
    batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}
    loss = hidden_states(teacher, student, CPU)
    assert loss.loss(batch, student.model.encode(batch)).item() == pytest.approx(0.0, abs=1e-10)


def test_models_that_cannot_be_compared_have_none(encoder):
    teacher = as_trained(encoder)
    wider = as_trained(build_scratch(TEXTS, layers=1, hidden_size=32, heads=2, vocab_size=60, max_length=8))
    assert hidden_states(teacher, wider, CPU) is None
    other = build_scratch(["quite another text"], layers=1, hidden_size=16, heads=2, vocab_size=60, max_length=8)
    assert hidden_states(teacher, as_trained(other), CPU) is None
    untyped = replace(
        encoder, backbone=type(encoder.backbone)(encoder.backbone.encoder, pooling="cls", takes_types=False)
    )
    assert hidden_states(teacher, as_trained(untyped), CPU) is None
