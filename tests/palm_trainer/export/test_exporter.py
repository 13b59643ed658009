"""Exported bundles: their contents, that a server loads them, and that they are reproducible."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from palm_serve.bundle.golden import GoldenAnswer
from palm_serve.bundle.loader import load_bundle
from palm_serve.decoding import golden_answer
from palm_serve.engine.cpu_features import int8_instructions
from palm_serve.engine.providers import select_engine
from palm_serve.types import RowLayout, TaskAnswer
from palm_trainer.errors import ExportError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.evaluation.predictor import Predictor
from palm_trainer.export.exporter import export_bundle
from palm_trainer.export.predictors import bundle_predictor
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.model.multi_task import TrainedModel

FILES = {
    "README.md",
    "variants/fused.onnx",
    "variants/int8.onnx",
    "decode.npz",
    "golden.jsonl",
    "manifest.json",
    "model.onnx",
    "proof.npz",
    "tokenizer.json",
}


def contents(bundle: Path) -> dict[str, bytes]:
    return {path.relative_to(bundle).as_posix(): path.read_bytes() for path in bundle.rglob("*") if path.is_file()}


def to_golden_answers(answers: Mapping[str, TaskAnswer], trained: TrainedModel) -> dict[str, GoldenAnswer]:
    return {task: golden_answer(answer, trained.tasks[task]) for task, answer in answers.items()}


def test_bundle_has_the_expected_files_and_manifest(bundle: Path, trained: TrainedModel) -> None:
    loaded = load_bundle(bundle)
    manifest = loaded.manifest
    assert set(contents(bundle)) == FILES
    assert set(manifest.files) == set(contents(bundle)) - {"manifest.json"}
    assert (manifest.name, manifest.max_length, manifest.encoder) == ("tiny", 24, trained.encoder)
    assert manifest.tasks == trained.tasks
    assert [tensor.name for tensor in manifest.inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert {name: value.tolist() for name, value in loaded.arrays.items()} == {
        n: v.tolist() for n, v in trained.arrays.items()
    }
    assert json.loads(loaded.tokenizer_json)["truncation"] is None
    plain, int8 = manifest.variants["plain"], manifest.variants["int8"]
    assert (int8.file, int8.weights) == ("variants/int8.onnx", "int8")
    assert (plain.file, plain.graph, plain.weights, plain.opset) == ("model.onnx", "plain", "fp32", 17)
    assert plain.size == (bundle / "model.onnx").stat().st_size
    assert (plain.weight_bits, int8.weight_bits) == (None, 7)
    assert {gate.instructions for gate in plain.gates} == {""}
    assert {gate.instructions for gate in int8.gates} == {int8_instructions()}


def test_bundle_gate_has_its_figures(bundle: Path) -> None:
    gates = {(gate.provider, gate.precision): gate for gate in load_bundle(bundle).manifest.variants["plain"].gates}
    gate = gates["CPU", "fp32"]
    assert gate.passed
    assert gate.figures["max_logit_difference"] <= 1e-4
    assert gate.figures["answers_equal"] == 1.0
    assert gate.figures["metric_drop"] == 0.0
    assert (gate.figures["examples"], gate.figures["shapes"]) == (30, 200)


def test_graph_metadata_has_the_digest_of_tasks(bundle: Path) -> None:
    metadata = {entry.key: entry.value for entry in onnx.load(bundle / "model.onnx").metadata_props}
    assert metadata == {"palm.digest": load_bundle(bundle).graph_digest()}


def test_served_answers_equal_the_evaluated_ones(
    bundle: Path, trained: TrainedModel, sets: Sequence[EvaluationSet]
) -> None:
    loaded = load_bundle(bundle)
    predictor = bundle_predictor(loaded, select_engine(loaded, "CPU", threads=1))
    examples = sets[0].examples
    items = predictor.tokenize(examples, RowLayout())
    served = predictor.decode(
        predictor.run([row for item in items for row in item.rows]), items, tuple(predictor.tasks)
    )
    evaluated = Predictor(trained).answers(examples)
    for served_answers, evaluated_answers in zip(served, evaluated, strict=True):
        assert to_golden_answers(served_answers, trained) == to_golden_answers(evaluated_answers, trained)


def test_golden_answers_equal_those_of_the_model(
    bundle: Path, trained: TrainedModel, sets: Sequence[EvaluationSet]
) -> None:
    golden = load_bundle(bundle).golden
    by_text = dict(zip((e.text for e in sets[0].examples), Predictor(trained).answers(sets[0].examples), strict=True))
    assert len(golden) >= 20
    for example in golden:
        for task, expected in example.answers.items():
            assert golden_answer(by_text[example.text][task], trained.tasks[task]) == expected
    first = json.loads((bundle / "golden.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert set(first) == {"text", "pair", "answers"}
    assert all(set(answer) in ({"label"}, {"spans"}) for answer in first["answers"].values())


def test_model_card_describes_the_bundle_without_local_paths(bundle: Path, run: Path) -> None:
    card = (bundle / "README.md").read_text(encoding="utf-8")
    for text in (
        "# tiny",
        "| `intent` | classify | intent | 3: `flight`, `music`, `weather` |",
        "| `slots` | sequence_label | slots | 2: `city`, `day` |",
    ):
        assert text in card
    assert "| dev | intent accuracy | 50.00 |" in card
    for variant in ("plain (fp32", "fused (fp32", "int8 (int8"):
        assert f"| {variant}, opset 17," in card
    assert f"| int8 ({int8_instructions()}) |" in card
    assert "Its weights have 7 bits, with which every processor computes the same integers." in card
    assert 'palm-serve call "' in card
    assert str(run.parent) not in card


@pytest.mark.usefixtures("steady_times")
def test_export_of_the_same_run_has_the_same_bytes(
    bundle: Path, run: Path, sets: Sequence[EvaluationSet], tmp_path: Path
) -> None:
    """This export is from the checkpoint on disk, into another directory."""
    manifest, _ = export_bundle(
        load_trained(run), sets, tmp_path / "tiny", precision="int8", metrics={"dev": {"intent": {"accuracy": 0.5}}}
    )
    first_files = contents(bundle)
    second_files = contents(tmp_path / "tiny")
    first_manifest = json.loads(first_files.pop("manifest.json"))
    second_manifest = json.loads(second_files.pop("manifest.json"))
    assert {name: hashlib.sha256(value).hexdigest() for name, value in first_files.items()} == {
        name: hashlib.sha256(value).hexdigest() for name, value in second_files.items()
    }
    assert first_manifest.pop("created")
    assert second_manifest.pop("created")
    assert first_manifest == second_manifest
    assert manifest.version == first_manifest["version"]


@pytest.mark.usefixtures("few_shapes")
def test_export_leaves_out_auxiliary_tasks(
    make_trained: Callable[..., TrainedModel], sets: Sequence[EvaluationSet], tmp_path: Path
) -> None:
    trained = make_trained(auxiliary=frozenset({"slots"}))
    sets_without_slots = []
    for evaluation_set in sets:
        fields = {task: field for task, field in evaluation_set.fields.items() if task != "slots"}
        sets_without_slots.append(EvaluationSet(evaluation_set.data, evaluation_set.examples, fields))
    export_bundle(trained, sets_without_slots, tmp_path / "out")
    bundle = load_bundle(tmp_path / "out")
    assert set(bundle.manifest.tasks) == {"intent", "sentiment"}
    assert bundle.arrays == {}
    assert [value.name for value in onnx.load(tmp_path / "out" / "model.onnx").graph.output] == [
        "intent.logits",
        "sentiment.logits",
    ]


def test_export_with_only_auxiliary_tasks_is_rejected(
    make_trained: Callable[..., TrainedModel], sets: Sequence[EvaluationSet], tmp_path: Path
) -> None:
    trained = make_trained(auxiliary=frozenset({"intent", "slots", "sentiment"}))
    with pytest.raises(ExportError, match=r"all tasks of this run are auxiliary \(intent, sentiment, slots\)"):
        export_bundle(trained, sets, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_export_without_dev_examples_is_rejected(trained: TrainedModel, tmp_path: Path) -> None:
    with pytest.raises(
        ExportError, match=r"the parity check needs dev examples, and the data of the run has none. Add `dev = \.\.\.`"
    ):
        export_bundle(trained, [], tmp_path / "out")


@pytest.mark.usefixtures("few_shapes")
def test_export_of_an_uncertain_model_has_golden_examples(
    make_trained: Callable[..., TrainedModel], sets: Sequence[EvaluationSet], tmp_path: Path
) -> None:
    """No answer is confident, so the most certain few are chosen."""
    trained = make_trained()
    for task in ("intent", "slots", "sentiment"):
        trained.model.head(task).linear.weight.data.mul_(1e-3)
    small = [EvaluationSet(sets[0].data, sets[0].examples[:6], sets[0].fields)]
    export_bundle(trained, small, tmp_path / "out")
    assert 1 <= len(load_bundle(tmp_path / "out").golden) <= 6
    assert np.isfinite(
        load_bundle(tmp_path / "out").manifest.variants["plain"].gates[0].figures["max_logit_difference"]
    )


@pytest.mark.usefixtures("few_shapes")
def test_export_with_a_key_is_signed(trained: TrainedModel, sets: Sequence[EvaluationSet], tmp_path: Path) -> None:
    key, trust = Ed25519PrivateKey.generate(), tmp_path / "trust"
    trust.mkdir()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (trust / "ours.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    small = [EvaluationSet(sets[0].data, sets[0].examples[:6], sets[0].fields)]
    export_bundle(trained, small, tmp_path / "out", precision="fp32", sign=tmp_path / "key.pem")
    assert load_bundle(tmp_path / "out", trust=trust).golden
    assert "manifest.sig" not in load_bundle(tmp_path / "out").manifest.files


def test_export_with_something_else_as_key_is_rejected(
    trained: TrainedModel, sets: Sequence[EvaluationSet], tmp_path: Path
) -> None:
    (tmp_path / "key.pem").write_bytes(b"no key")
    with pytest.raises(ExportError, match=r"--sign: .*key\.pem must be an Ed25519 private key"):
        export_bundle(trained, sets, tmp_path / "out", sign=tmp_path / "key.pem")
    assert not (tmp_path / "out").exists()
