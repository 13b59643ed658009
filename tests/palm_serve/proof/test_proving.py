"""Comparison of an engine with a proof."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.proof import Proof, proof_bytes, read_proof
from palm_serve.engine.session import open_engine
from palm_serve.errors import BundleError
from palm_serve.proof import recording
from palm_serve.proof.comparison import ParityResult
from palm_serve.proof.predictor import EnginePredictor
from palm_serve.proof.proving import Prover, check_proof
from palm_serve.proof.recording import record_proof
from palm_serve.tokenization import TextTokenizer
from palm_serve.types import EngineInfo, FloatArray, PaddedBatch


class ChangedEngine:
    """Engine on the CPU whose outputs are changed."""

    def __init__(self, bundle: Bundle, change: Any, precision: str = "fp32") -> None:
        self.info = EngineInfo("CUDA", precision, "plain")
        self._engine = open_engine(bundle.graph(), "CPU", "fp32", 1)
        self._change = change

    def run(self, batch: PaddedBatch, outputs: Sequence[str] | None = None) -> dict[str, FloatArray]:
        values = {name: value.copy() for name, value in self._engine.run(batch, outputs).items()}
        self._change(batch, values)
        return values

    def shape(self, rows: int, length: int) -> tuple[int, int]:
        return rows, length


def compare(bundle: Bundle, change: Any, precision: str = "fp32") -> tuple[ParityResult, str | None]:
    prover = Prover(bundle)
    result = prover.compare(ChangedEngine(bundle, change, precision))
    return result, check_proof(result, prover.examples)


def test_same_graph_passes(proven: Bundle) -> None:
    result, reason = compare(proven, lambda batch, values: None)
    assert reason is None
    assert result.compared == 3 * 432
    assert result.singles == 3 * 62
    assert result.max_difference == 0.0


@pytest.mark.parametrize(("gap", "passes"), [(0.5e-4, True), (2e-4, False)])
def test_logits_have_the_limit_of_the_export(proven: Bundle, gap: float, passes: bool) -> None:
    def shift(batch: PaddedBatch, values: dict[str, FloatArray]) -> None:
        values["sentiment.logits"] += gap

    _, reason = compare(proven, shift)
    assert (reason is None) == passes
    assert reason is None or "the limit is a difference of 0.0001" in reason
    assert compare(proven, shift, "bf16")[1] is None, "a reduced precision may change logits"


def test_logits_at_padding_are_not_compared(proven: Bundle) -> None:
    def spoil(batch: PaddedBatch, values: dict[str, FloatArray]) -> None:
        padding = np.arange(values["slots.logits"].shape[1]) >= batch.lengths[:, None]
        values["slots.logits"][: len(batch.lengths)][padding] = np.nan

    assert compare(proven, spoil)[1] is None


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_other_shape_fails(proven: Bundle, precision: str) -> None:
    def widen(batch: PaddedBatch, values: dict[str, FloatArray]) -> None:
        values["intent.logits"] = np.pad(values["intent.logits"], ((0, 0), (0, 1)))

    _, reason = compare(proven, widen, precision)
    assert reason is not None
    assert re.search(r"PyTorch gives \d+ values, the bundle the shape \[\d+, 5\]", reason)


def test_answers_that_depend_on_the_batch_fail(proven: Bundle) -> None:
    def flip_alone(batch: PaddedBatch, values: dict[str, FloatArray]) -> None:
        if len(batch.lengths) == 1:
            values["sentiment.logits"] = values["sentiment.logits"][:, ::-1]

    result, reason = compare(proven, flip_alone, "bf16")
    assert result.equal_share == 1.0
    assert reason is not None
    assert "answers depend on the batch" in reason


def test_tokenizer_of_another_version_is_told(proven: Bundle) -> None:
    """Tokens are compared first: with others, every provider would fail with a misleading reason."""
    assert proven.proof is not None
    first = proven.proof.rows[0]
    row = dataclasses.replace(first[0], ids=(*first[0].ids[:-1], 7))
    proof = Proof(proven.proof.info, ((row, *first[1:]), *proven.proof.rows[1:]), proven.proof.values)
    with pytest.raises(BundleError, match=r"tokenizer.json must give the tokens of the export, got others for '"):
        Prover(dataclasses.replace(proven, proof=proof))


def record(bundle: Bundle, texts: Sequence[Any], usable: Sequence[bool] | None = None) -> Proof:
    tokenizer = TextTokenizer(bundle.tokenizer_json, bundle.manifest.max_length)
    engine = open_engine(bundle.graph(), "CPU", "fp32", 1)
    predictor = EnginePredictor.from_bundle(bundle, engine, tokenizer, ["slots.logits"])
    return record_proof(predictor, texts, bundle.manifest.encoder, usable or [True] * len(texts))


def test_recording_takes_at_most_512_and_is_the_same_twice(proven: Bundle, make_texts: Any) -> None:
    texts = make_texts(600)
    proof = record(proven, texts)
    assert len(proof.info.examples) == 512
    assert proof_bytes(proof) == proof_bytes(record(proven, texts))
    assert len(proof_bytes(proof)) < 2 << 20


def test_recording_of_a_large_encoder_takes_128(proven: Bundle, make_texts: Any) -> None:
    encoder = proven.manifest.encoder.model_copy(update={"layers": 24, "hidden_size": 4096})
    bundle = dataclasses.replace(proven, manifest=proven.manifest.model_copy(update={"encoder": encoder}))
    assert len(record(bundle, make_texts(600)).info.examples) == 128


def test_recording_leaves_out_what_cannot_be_used(proven: Bundle, make_texts: Any) -> None:
    texts = make_texts(4)
    proof = record(proven, [*texts, dataclasses.replace(texts[0], text=" ")], [True, False, True, True, True])
    assert {example.text for example in proof.info.examples} == {texts[0].text, texts[2].text, texts[3].text}
    with pytest.raises(ValueError, match="no dev example can be used"):
        record(proven, texts, [False] * 4)


def test_wide_outputs_are_stored_in_part_and_still_compared(
    proven: Bundle, make_texts: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recording, "_VALUE_BYTES", 8_000)
    proof = record(proven, make_texts(100))
    stored = sum(len(values) for batch_values in proof.values for values in batch_values)
    assert stored <= 2_000
    assert read_proof(proof_bytes(proof), proven.manifest).info == proof.info
    bundle = dataclasses.replace(proven, proof=proof)
    assert compare(bundle, lambda batch, values: None)[1] is None

    def shift_one_tag(batch: PaddedBatch, values: dict[str, FloatArray]) -> None:
        values["slots.logits"][..., 3] += 0.01

    _, reason = compare(bundle, shift_one_tag)
    assert reason is not None
    assert "output 'slots.logits'" in reason
