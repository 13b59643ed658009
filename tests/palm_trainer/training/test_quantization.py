"""Training for int8: the rounding of the exported graphs, and what of it is saved."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from palm_trainer.export.quantize import round_columns, round_rows
from palm_trainer.model.encoders import build_scratch, freeze_unused_rows
from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.model.heads.sequence_label import SequenceLabelHead
from palm_trainer.model.multi_task import MultiTaskModel
from palm_trainer.training.quantization import (
    Quantization,
    QuantizedLinear,
    round_table,
    round_tokens,
    round_weight,
)

BATCH = {
    "input_ids": torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]]),
    "attention_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]),
    "token_type_ids": torch.zeros(2, 4, dtype=torch.int64),
}


@pytest.fixture
def model():
    torch.manual_seed(2)
    encoder = build_scratch(
        ["fly to boston", "list"], layers=2, hidden_size=16, heads=2, vocab_size=60, max_length=8, dropout=0.0
    )
    heads = {"intent": ClassifyHead(3, 16, 0.0), "slots": SequenceLabelHead(("O", "B-a", "I-a"), 16, 0.0)}
    return MultiTaskModel(encoder.backbone, heads)


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@given(st.integers(0, 2**31), st.floats(1e-6, 1e4))
def test_rounding_is_that_of_the_export_and_final(seed, size):
    values = torch.randn(7, 33, generator=torch.Generator().manual_seed(seed)) * size
    values[3] = 0.0
    weight = round_weight(values)
    integers, scale = round_columns(values.numpy().T)
    np.testing.assert_array_equal(weight.numpy().T, integers.astype(np.float32) * scale)
    assert np.abs(integers).max() == 64
    table = round_table(values)
    integers, scale = round_rows(values.numpy())
    np.testing.assert_array_equal(table.numpy(), integers.astype(np.float32) * scale)
    assert np.abs(integers).max() == 127
    assert torch.equal(round_weight(weight), weight)
    assert torch.equal(round_table(table), table)


def test_tokens_are_rounded_each_by_itself():
    values = torch.tensor([[[1.0, -0.5, 0.0039], [100.0, 1.0, -0.3]], [[0.0, 0.0, 0.0], [-2.0, 0.1, 2.0]]])
    rounded = round_tokens(values)
    step = values.abs().amax(-1, keepdim=True) / 127
    assert ((rounded - values).abs() <= step / 2 + 1e-6).all()
    assert torch.equal(round_tokens(values[:, :1]), rounded[:, :1])
    assert rounded[1, 0].tolist() == [0.0, 0.0, 0.0]


def test_training_rounds_tokens_and_evaluation_does_not():
    torch.manual_seed(0)
    layer = nn.Linear(8, 5)
    plain_weight = layer.weight.detach().clone()
    layer.__class__ = QuantizedLinear
    tokens, texts = torch.randn(2, 3, 8), torch.randn(2, 8)
    expected = nn.functional.linear(round_tokens(tokens), round_weight(plain_weight), layer.bias)
    assert torch.allclose(layer(tokens), expected, atol=1e-6)
    assert torch.equal(layer(texts), nn.functional.linear(texts, layer.weight, layer.bias))  # a vector of a text
    layer.eval()
    assert torch.equal(layer(tokens), nn.functional.linear(tokens, layer.weight, layer.bias))
    layer.train()(tokens).sum().backward()
    assert torch.allclose(layer.weight.grad, round_tokens(tokens).sum((0, 1)).expand(5, 8), atol=1e-5)


def test_applied_weights_are_rounded_and_trained_ones_come_back(model):
    freeze_unused_rows(model.backbone, torch.tensor([0, 2, 3, 7, 8, 9]))
    names = list(model.state_dict())
    quantization = Quantization(model)
    assert list(model.state_dict()) == names
    trained = weights_of(model)
    with quantization.applied():
        rounded = weights_of(model)
        state = quantization.state_dict()
        logits = model.eval()(**BATCH)["intent.logits"]
    assert {name for name in names if not torch.equal(weights_of(model)[name], trained[name])} == set()
    for name, tensor in rounded.items():
        if "embeddings" in name and tensor.dim() == 2:
            assert torch.equal(round_table(tensor), tensor), name
        elif tensor.dim() == 2 and not name.startswith("heads.intent"):
            assert "crf" in name or torch.equal(round_weight(tensor), tensor), name
        else:
            assert torch.equal(tensor, trained[name]), name
    assert not torch.equal(rounded["heads.slots.linear.weight"], trained["heads.slots.linear.weight"])
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    model.load_state_dict(rounded)
    quantization.load_state_dict(state)
    again = weights_of(model)
    for name in names:
        assert torch.allclose(again[name], trained[name], atol=1e-6), name
    with quantization.applied():
        assert torch.equal(model.eval()(**BATCH)["intent.logits"], logits)
