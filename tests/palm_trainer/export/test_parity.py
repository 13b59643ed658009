"""The rules of the gate, without a graph."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_trainer.export.parity import stratified_shapes


@given(st.integers(3, 512), st.integers(4, 300), st.integers(0, 99))
def test_shapes_are_in_range_and_hold_the_corners(max_length: int, count: int, seed: int) -> None:
    shapes = stratified_shapes(np.random.default_rng(seed), max_length, count)
    assert len(shapes) == count
    assert {(1, 1), (1, max_length), (32, 1), (32, max_length)} <= set(shapes)
    assert all(1 <= rows <= 32 and 1 <= length <= max_length for rows, length in shapes)


@pytest.mark.parametrize("max_length", [24, 64, 128, 512])
def test_shapes_reach_every_octave(max_length: int) -> None:
    shapes = stratified_shapes(np.random.default_rng(0), max_length, 200)
    for axis, largest in ((0, 32), (1, max_length)):
        octaves = {shape[axis].bit_length() for shape in shapes}
        assert octaves == set(range(1, largest.bit_length() + 1))
