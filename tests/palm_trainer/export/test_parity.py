"""Rules of the parity check."""

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
from palm_serve.proof.comparison import LOGIT_LIMIT, ParityResult, compare_answers, compare_single, record_answer
from palm_serve.proof.shapes import stratified_shapes
from palm_serve.types import Classification, Encoding, EngineInfo, FloatArray, Label, PaddedBatch
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.parity import compare_shapes
from palm_trainer.export.predictors import TorchEngine, bundle_predictor, trained_predictor
from palm_trainer.export.reference import run_shapes
from palm_trainer.model.multi_task import TrainedModel

TASKS = ("intent", "slots", "sentiment")


@given(st.integers(3, 512), st.integers(4, 300), st.integers(0, 99))
def test_shapes_are_in_range_and_include_the_corners(max_length: int, count: int, seed: int) -> None:
    shapes = stratified_shapes(np.random.default_rng(seed), max_length, count)
    assert len(shapes) == count
    assert {(1, 1), (1, max_length), (32, 1), (32, max_length)} <= set(shapes)
    assert all(1 <= rows <= 32 and 1 <= length <= max_length for rows, length in shapes)


@pytest.mark.parametrize("max_length", [24, 64, 128, 512])
def test_shapes_reach_every_octave_of_rows_and_tokens(max_length: int) -> None:
    shapes = stratified_shapes(np.random.default_rng(0), max_length, 200)
    for axis, largest in ((0, 32), (1, max_length)):
        octaves = {shape[axis].bit_length() for shape in shapes}
        assert octaves == set(range(1, largest.bit_length() + 1))


@pytest.mark.slow
def test_graph_equals_model_in_ten_thousand_shapes(bundle: Path, trained: TrainedModel) -> None:
    """A trace may freeze a shape that occurs once in thousands."""
    loaded = load_bundle(bundle)
    result = ParityResult(bundle_predictor(loaded, open_engine(loaded.graph(), "CPU", "fp32", 1)))
    reference = trained_predictor(trained, ExportGraph(trained.model, TASKS))
    compare_shapes(run_shapes(reference, trained.encoder.vocab_size, 10_000), [result])
    assert result.check_exact() is None
    assert 0 < result.max_difference <= LOGIT_LIMIT


def test_shapes_other_than_corners_are_small() -> None:
    shapes = stratified_shapes(np.random.default_rng(0), 512, 200)[4:]
    assert max(rows * length for rows, length in shapes if rows > 1) <= 256
    assert max(length for rows, length in shapes) > 400
    assert max(rows for rows, _ in shapes) >= 24


class ShiftedEngine:
    """Engine that shifts the logits of `slots` at padding or at the last token of each row."""

    def __init__(self, graph: ExportGraph, padding: bool) -> None:
        self.info = EngineInfo("shifted", "fp32", "")
        self._torch = TorchEngine(graph)
        self._padding = padding

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        logits = self._torch.run(batch, outputs)
        positions = np.arange(logits["slots.logits"].shape[1])
        lengths = batch.lengths[:, None]
        shifted = positions >= lengths if self._padding else positions == lengths - 1
        logits["slots.logits"][shifted] += 0.01
        return logits

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        return rows, length


@pytest.mark.parametrize("padding", [True, False])
def test_logit_limit_applies_to_tokens_but_not_to_padding(trained: TrainedModel, padding: bool) -> None:
    graph = ExportGraph(trained.model, TASKS)
    reference = trained_predictor(trained, graph)
    result = ParityResult(replace(reference, engine=ShiftedEngine(graph, padding)))
    compare_shapes(run_shapes(reference, trained.encoder.vocab_size, 12), [result])
    assert (result.check_exact() is None) == padding
    assert (result.max_difference > LOGIT_LIMIT) == (not padding)
    assert result.padding_difference == pytest.approx(0.01 if padding else 0.0, abs=1e-5)


def test_answers_ignore_logits_at_padding(trained: TrainedModel) -> None:
    """The limit does not apply at padding, because answers are the same whatever the logits there are."""
    graph = ExportGraph(trained.model, TASKS)
    predictor = trained_predictor(trained, graph)
    texts = ["fly to boston", "weather in san francisco on monday, please", "play"]
    encodings = [
        Encoding(e.input_ids, e.type_ids, e.offsets, e.segments) for e in predictor.tokenizer.encode_batch(texts)
    ]
    items = [Item(text, encoding) for text, encoding in zip(texts, encodings, strict=True)]
    clean = dict(predictor.run(encodings))
    garbage = dict(predictor.run(encodings))
    for row, encoding in enumerate(encodings):
        garbage["slots.logits"][row, len(encoding) :] = 1e6
    assert predictor.decode(clean, items, TASKS) == predictor.decode(garbage, items, TASKS)


@pytest.mark.parametrize(
    ("score", "equal"),
    [(0.499, True), (0.50005, True), (0.502, False), (0.9, False)],
)
def test_changed_rejection_counts_as_changed_answer(trained: TrainedModel, score: float, equal: bool) -> None:
    """The label is the same and PyTorch's score equals the threshold. Rounding alone changes nothing."""
    intent = trained.tasks["intent"]
    limits = intent.thresholds.model_copy(update={"out_of_scope": 0.5})
    predictor = replace(
        trained_predictor(trained, ExportGraph(trained.model, ("intent",))),
        tasks={"intent": intent.model_copy(update={"thresholds": limits})},
    )
    label = Label("flight", 0.5)
    expected = Classification(label, (label,), out_of_scope_score=0.5)
    answer = Classification(label, (label,), out_of_scope_score=score)
    result = ParityResult(predictor)
    compare_answers(result, 0, "'fly'", {"intent": record_answer(expected, intent)}, {"intent": answer})
    compare_single(result, "intent", expected, answer, "'fly'")
    assert (result.equal_share, result.invariant_share) == ((1.0, 1.0) if equal else (0.0, 0.0))
    if not equal:
        assert result.unequal == [
            "task 'intent' on 'fly': PyTorch answers 'flight', the bundle 'flight' as out of scope"
        ]
        assert result.batch_dependent == ["task 'intent' on 'fly': 'flight' in a batch, 'flight' as out of scope alone"]
