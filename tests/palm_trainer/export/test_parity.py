"""The rules of the gate, without a graph."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.decoding import Item
from palm_serve.types import Batch, Encoding, EngineInfo, FloatArray
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.parity import LOGIT_LIMIT, Tally, compare_shapes, stratified_shapes
from palm_trainer.export.side import Side, TorchEngine
from palm_trainer.model import TrainedModel

TASKS = ("intent", "slots", "sentiment")


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


class ShiftedEngine:
    """PyTorch's own logits of `slots`, shifted at padding or at the last piece that is read of each row."""

    def __init__(self, graph: ExportGraph, padding: bool) -> None:
        self.info = EngineInfo("shifted", "fp32", "")
        self._torch = TorchEngine(graph)
        self._padding = padding

    def run(self, batch: Batch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        found = self._torch.run(batch, outputs)
        positions = np.arange(found["slots.logits"].shape[1])
        lengths = batch.lengths[:, None]
        found["slots.logits"][positions >= lengths if self._padding else positions == lengths - 1] += 0.01
        return found

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        return rows, length


@pytest.mark.parametrize("padding", [True, False])
def test_limit_holds_for_every_piece_and_for_nothing_else(trained: TrainedModel, padding: bool) -> None:
    graph = ExportGraph(trained.model, TASKS)
    reference = Side.trained(trained, graph)
    tally = Tally(replace(reference, engine=ShiftedEngine(graph, padding)))
    compare_shapes(reference, [tally], trained.encoder.vocab_size, 12)
    assert (tally.fault() is None) == padding
    assert (tally.max_difference > LOGIT_LIMIT) == (not padding)
    assert tally.at_padding == pytest.approx(0.01 if padding else 0.0, abs=1e-5)


def test_nothing_at_padding_reaches_an_answer(trained: TrainedModel) -> None:
    """Why the limit need not hold there: answers are the same, bit for bit, whatever stands at padding."""
    graph = ExportGraph(trained.model, TASKS)
    side = Side.trained(trained, graph)
    texts = ["fly to boston", "weather in san francisco on monday, please", "play"]
    encodings = [Encoding(e.input_ids, e.type_ids, e.offsets, e.segments) for e in side.tokenizer.encode_batch(texts)]
    items = [Item(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
    clean, garbage = dict(side.run(encodings)), dict(side.run(encodings))
    for row, encoding in enumerate(encodings):
        garbage["slots.logits"][row, len(encoding) :] = 1e6
    assert side.decode(clean, items, TASKS) == side.decode(garbage, items, TASKS)
