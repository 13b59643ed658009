"""Schedules are pure, continuous, and 1 at the peak."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.training.optimization.schedules import SCHEDULES


@given(st.integers(1, 200), st.floats(0, 0.99), st.sampled_from(sorted(SCHEDULES)))
def test_schedules_rise_only_in_warmup(total, share, name):
    warmup = round(share * total)
    factor = SCHEDULES[name](total, warmup)
    values = [factor(step) for step in range(total)]
    assert values[: warmup + 1] == sorted(values[: warmup + 1])
    assert values[warmup:] == sorted(values[warmup:], reverse=True)
    assert all(0 < value <= 1 for value in values)


def test_linear_schedule_by_hand():
    factor = SCHEDULES["linear"](10, 2)
    assert [factor(step) for step in range(12)] == pytest.approx(
        [0.5, 1, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0, 0]
    )


def test_constant_schedule_by_hand():
    factor = SCHEDULES["constant"](10, 4)
    assert [factor(step) for step in range(6)] == [0.25, 0.5, 0.75, 1, 1, 1]
    assert SCHEDULES["constant"](10, 0)(0) == 1
