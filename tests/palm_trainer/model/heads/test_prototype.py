"""The head by class vectors: cosines times a factor."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from palm_serve.bundle.manifest import TaskInfo
from palm_trainer.model.heads import make_head
from palm_trainer.model.heads.prototype import START_SCALE, PrototypeHead
from palm_trainer.training.optimization.adamw import build_adamw


def head_of(vectors: torch.Tensor, **options: object) -> PrototypeHead:
    head = PrototypeHead(*vectors.shape, 0.0, **options)
    head.start_at(vectors)
    return head.eval()


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 9), st.integers(2, 12))
def test_logits_are_scaled_cosines(seed, batch, classes, width):
    generator = torch.Generator().manual_seed(seed)
    texts = torch.randn(batch, width, generator=generator)
    vectors = torch.randn(classes, width, generator=generator)
    logits = head_of(vectors)({"pooled_output": texts})["logits"]
    cosines = F.cosine_similarity(texts[:, None].double(), vectors[None].double(), dim=2)
    torch.testing.assert_close(logits.double(), START_SCALE * cosines, atol=1e-4, rtol=1e-5)
    assert logits.shape == (batch, classes)


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.integers(2, 200), st.sampled_from([2, 16, 384]))
def test_an_added_class_changes_no_bit_of_another(seed, batch, classes, width):
    generator = torch.Generator().manual_seed(seed)
    texts = {"pooled_output": torch.randn(batch, width, generator=generator)}
    head = head_of(torch.randn(classes, width, generator=generator))
    more = head.with_class(torch.randn(width, generator=generator))
    before, after = head(texts)["logits"], more(texts)["logits"]
    assert after.shape == (batch, classes + 1)
    assert torch.equal(after[:, :-1], before)


def test_a_class_added_to_ten_thousand_changes_no_bit_of_another():
    head = head_of(torch.randn(10_000, 64))
    texts = {"pooled_output": torch.randn(7, 64)}
    assert torch.equal(head.with_class(torch.randn(64))(texts)["logits"][:, :-1], head(texts)["logits"])


def test_an_added_class_keeps_factor_and_statistics():
    head = head_of(torch.randn(3, 4), statistics=True)
    head.means.copy_(torch.randn(3, 4))
    with torch.no_grad():
        head.linear.scale.fill_(7.0)
    more = head.with_class(torch.ones(4), torch.full((4,), 2.0))
    assert more.linear.scale.item() == 7.0
    assert torch.equal(more.linear.weight, torch.cat([head.linear.weight, torch.ones(1, 4)]))
    assert torch.equal(more.means, torch.cat([head.means, torch.full((1, 4), 2.0)]))
    assert torch.equal(more.whitening, head.whitening)


def test_bf16_features_give_full_cosines():
    head = head_of(torch.randn(5, 64))
    texts = torch.randn(3, 64).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        logits = head({"pooled_output": texts})["logits"]
    assert logits.dtype == torch.float32
    assert torch.equal(logits, head({"pooled_output": texts.float()})["logits"])


def test_vectors_of_zeros_give_finite_logits_and_gradients():
    head = head_of(torch.zeros(3, 4))
    texts = torch.zeros(2, 4, requires_grad=True)
    total, _ = head.loss(head({"pooled_output": texts}), torch.tensor([0, 2]))
    total.backward()
    assert total.item() == pytest.approx(2 * math.log(3))
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())
    assert texts.grad.isfinite().all()


def test_the_exported_head_is_one_matrix():
    head = head_of(torch.randn(6, 8), statistics=True)
    exported = head.exported()
    texts = {"pooled_output": torch.randn(4, 8)}
    assert not list(exported.parameters())
    for name, tensor in head(texts).items():
        torch.testing.assert_close(exported(texts)[name], tensor)
    assert (
        make_head("t", TaskInfo(kind="classify", outputs=("t.logits",), labels=("a", "b")), 8).exported().linear.bias
        is not None
    )


def test_statistics_keep_the_class_vectors():
    head = head_of(torch.randn(3, 4))
    arrays = {"centre": torch.ones(4).numpy(), "whitening": torch.eye(4).numpy(), "means": torch.ones(3, 4).numpy()}
    fitted = head.with_statistics(arrays)
    assert isinstance(fitted, PrototypeHead)
    texts = {"pooled_output": torch.randn(2, 4)}
    assert torch.equal(fitted(texts)["logits"], head(texts)["logits"])
    assert torch.equal(fitted(texts)["features"], texts["pooled_output"])
    assert fitted.decode_arrays().keys() == arrays.keys()


def test_factor_and_vectors_are_learnt_without_decay():
    head = head_of(torch.randn(3, 4))
    optimizer = build_adamw(torch.nn.Linear(2, 2), {"t": head}, learning_rate=1.0, head_learning_rate=0.5)
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    for parameter in (head.linear.weight, head.linear.scale):
        assert (decays[id(parameter)], rates[id(parameter)]) == (0.0, 0.5)
