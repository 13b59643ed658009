"""Planned mixing has exact quotas in a seeded random order."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.training.mixing import PlannedMixing, mix_ratio

ratios = st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0.01, 5), min_size=1, max_size=4)


@given(ratios, st.integers(1, 30), st.floats(0.1, 5), st.integers(0, 2**32 - 1))
def test_planned_mixing_gives_exact_quotas(ratios, batches, epochs, seed):
    mixing = PlannedMixing([mix_ratio(ratios, batches, epochs)], seed)
    order = [mixing[step] for step in range(len(mixing))]
    assert Counter(order) == mixing.quotas
    assert mixing.quotas == {name: max(1, round(epochs * ratio * batches)) for name, ratio in ratios.items()}
    again = PlannedMixing([mix_ratio(ratios, batches, epochs)], seed)
    assert order == [again[step] for step in range(len(again))]


def test_planned_mixing_seed_decides_order():
    orders = []
    for seed in (1, 2):
        mixing = PlannedMixing([mix_ratio({"a": 1.0, "b": 1.0}, 50, 1)], seed)
        orders.append([mixing[step] for step in range(100)])
        changes = sum(x != y for x, y in zip(orders[-1], orders[-1][1:], strict=False))
        assert 30 < changes < 70
    assert orders[0] != orders[1]
