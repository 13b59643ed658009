"""Balancing methods on cases with a known result: two tasks with given gradients at a shared parameter."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from palm_trainer.training.balancing import DynamicWeightAverage, FixedWeights, GradNorm, RandomWeights, Uncertainty
from palm_trainer.training.balancing.gradient import GradientBalancing, project

WEIGHTS = {"a": 1.0, "b": 1.0}


def unscaled(loss):
    return loss


class Two:
    """Losses `head x (vector . shared)`: the gradient at `shared` is head x vector, that at the head is vector . shared."""

    def __init__(self, *vectors):
        self.vectors = torch.tensor(vectors)
        self.shared = torch.nn.Parameter(torch.full((self.vectors.shape[1],), 2.0))
        self.heads = {name: torch.nn.Parameter(torch.ones(())) for name in "abcd"[: len(vectors)]}

    def losses(self):
        return {
            name: head * (v @ self.shared) for (name, head), v in zip(self.heads.items(), self.vectors, strict=True)
        }

    def gradient(self, balancing, scale=unscaled):
        """At `shared` after one pass."""
        self.shared.grad = None
        balancing.backward(self.losses(), scale)
        return self.shared.grad

    def method(self, name, weights=None, c=0.4):
        own = {task: [head] for task, head in self.heads.items()}
        return GradientBalancing(name, weights or dict.fromkeys(own, 1.0), [self.shared], own, c)


def close(tensor, values):
    torch.testing.assert_close(tensor, torch.tensor(values, dtype=tensor.dtype), rtol=1e-3, atol=5e-4)


def test_fixed_weights_sum_losses():
    close(Two([1.0, 0.0], [-1.0, 1.0]).gradient(FixedWeights({"a": 2.0, "b": 0.5})), [1.5, 0.5])


def test_uncertainty_converges_to_half_inverse_loss():
    """d/ds of exp(-s) L + s / 2 is 1/2 - exp(-s) L, at the beginning 1/2 - L; it is 0 where exp(-s) = 1 / (2 L)."""
    balancing = Uncertainty(["a", "b"], torch.device("cpu"))
    losses = {"a": torch.tensor(4.0), "b": torch.tensor(0.25)}
    group = balancing.parameter_group(0.05)
    assert (group["weight_decay"], group["peak_lr"]) == (0.0, 0.05)
    optimizer = torch.optim.Adam([group])
    balancing.backward(losses, unscaled)
    assert [float(p.grad) for p in balancing.log_variances.values()] == pytest.approx([0.5 - 4, 0.5 - 0.25])
    for _ in range(400):
        optimizer.zero_grad()
        balancing.backward(losses, unscaled)
        optimizer.step()
    assert {task: math.exp(-s) for task, s in balancing.state_dict().items()} == pytest.approx(
        {"a": 1 / 8, "b": 2.0}, rel=1e-2
    )


def test_uncertainty_absent_task_stays_unchanged():
    balancing = Uncertainty(["a", "b"], torch.device("cpu"))
    balancing.backward({"a": torch.tensor(3.0)}, unscaled)
    assert balancing.log_variances["b"].grad is None


def test_dwa_follows_its_formula():
    """a's loss halves from the first epoch to the second, b's stays: 2 softmax([1/2, 1] / 2). c never has a loss: 1."""
    balancing = DynamicWeightAverage({"a": 1.0, "b": 3.0, "c": 1.0}, epoch_steps=2, temperature=2.0)
    assert balancing.weights == {"a": 1.0, "b": 3.0, "c": 1.0}
    for a, b in ((5.0, 1.0), (3.0, 1.0), (2.5, 1.0)):
        balancing.observe({"a": a, "b": b})
        assert balancing.weights["a"] == 1.0
    balancing.observe({"a": 1.5})
    powers = [math.exp(0.25), math.exp(0.5), math.exp(0.5)]
    wanted = [3 * power / sum(powers) for power in powers]
    assert list(balancing.weights.values()) == pytest.approx([wanted[0], 3 * wanted[1], wanted[2]])
    case = Two([1.0, 0.0], [0.0, 1.0])
    close(case.gradient(balancing), [wanted[0], 3 * wanted[1]])


def test_random_weights_add_up_and_average_one():
    balancing = RandomWeights(WEIGHTS, seed=5)
    drawn = np.array([(balancing.draw(2), balancing.observe({}))[0] for _ in range(400)])
    np.testing.assert_allclose(drawn.sum(axis=1), 2.0)
    assert drawn.mean(axis=0) == pytest.approx([1.0, 1.0], abs=0.06)
    assert drawn.std() > 0.3
    again = RandomWeights({"a": 1.0, "b": 10.0}, seed=5)
    close(Two([1.0, 0.0], [0.0, 1.0]).gradient(again), [drawn[0][0], 10 * drawn[0][1]])


def test_gradnorm_equalizes_norms():
    """Norms 4 and 1, alpha 0: Adam's first step is the rate, down for a and up for b; in the end w x norm is 8/5 for both."""
    case = Two([4.0, 0.0], [0.0, 1.0])
    balancing = GradNorm(["a", "b"], [case.shared], alpha=0.0, learning_rate=0.02)
    close(case.gradient(balancing), [4.0, 1.0])  # the weights as they were
    assert balancing.state_dict()["weights"] == pytest.approx({"a": 0.98, "b": 1.02}, rel=1e-5)
    for _ in range(150):
        case.gradient(balancing)
    assert balancing.state_dict()["weights"] == pytest.approx({"a": 0.4, "b": 1.6}, abs=0.05)
    assert sum(balancing.state_dict()["weights"].values()) == pytest.approx(2.0)


def test_gradnorm_favours_slow_tasks():
    """Losses 8 and 2 at first; a's halves: left are 1/2 and 1, r = 2/3 and 4/3, and with alpha 1 so are the norms against their mean."""
    case = Two([1.0, 0.0], [0.0, 1.0])
    balancing = GradNorm(["a", "b"], [case.shared], alpha=1.0, learning_rate=0.02)
    balancing.load_state_dict({**balancing.state_dict(), "first": {"a": 4.0, "b": 2.0}})
    for _ in range(120):
        case.gradient(balancing)
    assert balancing.state_dict()["weights"] == pytest.approx({"a": 2 / 3, "b": 4 / 3}, abs=0.04)


def test_gradnorm_scaler_and_overflow_change_nothing():
    plain, scaled = (Two([4.0, 0.0], [0.0, 1.0]) for _ in range(2))
    one, other = (GradNorm(["a", "b"], [c.shared], alpha=1.5, learning_rate=0.02) for c in (plain, scaled))
    for _ in range(3):
        close(scaled.gradient(other, lambda loss: 1024 * loss) / 1024, plain.gradient(one).tolist())
    assert one.state_dict()["weights"] == pytest.approx(other.state_dict()["weights"])
    before = other.state_dict()["weights"]
    scaled.gradient(other, lambda loss: float("inf") * loss)
    assert other.state_dict()["weights"] == before


# (1, 0) and (-1, 1) conflict: their product is -1
CONFLICT = ([1.0, 0.0], [-1.0, 1.0])
BY_HAND = {
    "pcgrad": [0.5, 1.5],  # (1, 0) + (-1, 1) / 2, and (-1, 1) + (1, 0)
    "upgrad": [0.5, 1.5],  # each projected onto the cone; with two tasks the same as PCGrad
    "mgda": [0.4, 0.8],  # twice the point of their segment that is nearest to 0
}


@pytest.mark.parametrize("name", BY_HAND)
def test_gradient_methods_resolve_conflict_by_hand(name):
    case = Two(*CONFLICT)
    close(case.gradient(case.method(name)), BY_HAND[name])


def test_aligned_mtl_equalizes_singular_values():
    u, singular, v = np.linalg.svd(np.array(CONFLICT), full_matrices=False)
    case = Two(*CONFLICT)
    close(case.gradient(case.method("aligned_mtl")), (np.ones(2) @ u @ v * singular.min()).tolist())


def test_cagrad_is_optimal_in_its_ball():
    """Of all d with |d - g0| <= c |g0|, g0 the mean, the one whose worst product with a gradient is greatest."""
    case, vectors = Two(*CONFLICT), np.array(CONFLICT)
    found = case.gradient(case.method("cagrad", c=0.6)).numpy() / 2
    mean = vectors.mean(axis=0)
    angles = np.linspace(0, 2 * np.pi, 2001)
    ball = mean + 0.6 * np.linalg.norm(mean) * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    assert np.linalg.norm(found - mean) == pytest.approx(0.6 * np.linalg.norm(mean), rel=1e-3)
    assert (vectors @ found).min() == pytest.approx((ball @ vectors.T).min(axis=1).max(), abs=1e-3)


@pytest.mark.parametrize("name", ["pcgrad", "upgrad", "mgda", "aligned_mtl"])
def test_gradient_methods_without_conflict_give_sum(name):
    case = Two([1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0])
    close(case.gradient(case.method(name)), [1.0, 1.0, 1.0])


@pytest.mark.parametrize("name", ["pcgrad", "cagrad", "upgrad", "aligned_mtl", "mgda"])
def test_gradient_methods_heads_get_own_gradient(name):
    case = Two(*CONFLICT)
    method = case.method(name, {"a": 1.0, "b": 3.0})
    small = case.gradient(method)
    close(torch.stack([head.grad for head in case.heads.values()]), [2.0, 0.0])  # vector . (2, 2), weighted
    close(case.gradient(method, lambda loss: 65536 * loss) / 65536, small.tolist())
    overflown = case.gradient(method, lambda loss: float("inf") * loss)
    assert not torch.isfinite(overflown).all()


def test_gradient_methods_single_task_is_plain():
    case = Two(*CONFLICT)
    case.method("upgrad", {"a": 2.0, "b": 1.0}).backward({"a": case.losses()["a"]}, unscaled)
    close(case.shared.grad, [2.0, 0.0])


def test_gradient_methods_passes_add_up():
    case = Two(*CONFLICT)
    method = case.method("pcgrad")
    for _ in range(2):
        method.backward(case.losses(), unscaled)
    close(case.shared.grad, [1.0, 3.0])
    close(case.heads["a"].grad, 4.0)


@given(arrays(np.float64, (3, 4), elements=st.floats(-3, 3)))
def test_upgrad_projection_is_nearest_in_dual_cone(rows):
    """G v is not negative (in the cone), and v^T G v is no more than that of other v >= u. G is made regular as `project` does."""
    products = rows @ rows.T
    gramian = products + (1e-4 * products.trace() / 3 + 1e-30) * np.eye(3)
    weights = torch.eye(3, dtype=torch.float64)
    found = project(weights, torch.tensor(products)).numpy()
    assert np.isfinite(found).all()
    assert found.max() <= 3e4
    assert (found >= weights.numpy() - 1e-9).all()
    assert (found @ gramian >= -1e-4).all()
    generator = np.random.default_rng(0)
    for own, u in zip(found, weights.numpy(), strict=True):
        others = u + generator.exponential(size=(50, 3)) * generator.integers(0, 2, size=(50, 3))
        assert own @ gramian @ own <= np.einsum("ni,ij,nj->n", others, gramian, others).min() + 1e-6


def test_upgrad_tiny_gradient_weight_is_finite():
    case = Two([1e-12, 0.0], [-1.0, 1.0])
    assert torch.isfinite(case.gradient(case.method("upgrad"))).all()
    zero = Two([0.0, 0.0], [0.0, 0.0])
    for name in ("pcgrad", "cagrad", "upgrad", "aligned_mtl", "mgda"):
        close(zero.gradient(zero.method(name)), [0.0, 0.0])
