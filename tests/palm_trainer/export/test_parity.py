"""The rules of the gate, without a graph."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.bundle.loader import load_bundle
from palm_serve.decoding import Item
from palm_serve.engine.session import open_engine
from palm_serve.types import Classification, Encoding, EngineInfo, FloatArray, Label, PaddedBatch
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.parity import (
    LOGIT_LIMIT,
    Tally,
    _compare_answers,
    _note_varying,
    compare_shapes,
    stratified_shapes,
)
from palm_trainer.export.predictors import Side, TorchEngine
from palm_trainer.model.multi_task import TrainedModel

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


@pytest.mark.slow
def test_ten_thousand_shapes(bundle: Path, trained: TrainedModel) -> None:
    """The rule's long form: what a trace froze for one shape in thousands."""
    loaded = load_bundle(bundle)
    tally = Tally(Side.bundled(loaded, open_engine(loaded.graph(), "CPU", "fp32", 1)))
    reference = Side.trained(trained, ExportGraph(trained.model, TASKS))
    compare_shapes(reference, [tally], trained.encoder.vocab_size, 10_000)
    assert tally.fault() is None
    assert 0 < tally.max_difference <= LOGIT_LIMIT


def test_no_shape_but_a_corner_is_large() -> None:
    shapes = stratified_shapes(np.random.default_rng(0), 512, 200)[4:]
    assert max(rows * length for rows, length in shapes if rows > 1) <= 256
    assert max(length for rows, length in shapes) > 400
    assert max(rows for rows, _ in shapes) >= 24


class ShiftedEngine:
    """PyTorch's own logits of `slots`, shifted at padding or at the last piece that is read of each row."""

    def __init__(self, graph: ExportGraph, padding: bool) -> None:
        self.info = EngineInfo("shifted", "fp32", "")
        self._torch = TorchEngine(graph)
        self._padding = padding

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
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


@pytest.mark.parametrize(
    ("score", "equal"),
    [(0.499, True), (0.50005, True), (0.502, False), (0.9, False)],
)
def test_a_changed_rejection_is_a_changed_answer(trained: TrainedModel, score: float, equal: bool) -> None:
    """The label stays; PyTorch's score is just within the threshold. Rounding alone decides nothing."""
    intent = trained.tasks["intent"]
    limits = intent.thresholds.model_copy(update={"out_of_scope": 0.5})
    told = replace(
        Side.trained(trained, ExportGraph(trained.model, ("intent",))),
        tasks={"intent": intent.model_copy(update={"thresholds": limits})},
    )
    label = Label("flight", 0.5)
    want, have = (Classification(label, (label,), out_of_scope_score=value) for value in (0.5, score))
    tally = Tally(told)
    _compare_answers(tally, 0, "'fly'", {"intent": want}, {"intent": have})
    _note_varying(tally, "intent", want, have, "'fly'")
    assert (tally.equal_share, tally.invariant_share) == ((1.0, 1.0) if equal else (0.0, 0.0))
    if not equal:
        assert tally.unequal == [
            "task 'intent' on 'fly': PyTorch answers 'flight', the bundle 'flight' as out of scope"
        ]
        assert tally.varying == ["task 'intent' on 'fly': 'flight' in a batch, 'flight' as out of scope alone"]
