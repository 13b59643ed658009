"""Export of a prototype head: a vector of length 1, times one matrix."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper

from palm_serve.engine.session import open_engine
from palm_serve.types import PaddedBatch
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.exporter import export_bundle
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.predictors import trained_predictor
from palm_trainer.export.quantize import find_matmuls
from palm_trainer.export.sensitivity import draw_samples, measure_sensitivities
from palm_trainer.export.to_onnx import to_onnx
from palm_trainer.export.variants import GraphDraft, draft_graphs
from palm_trainer.model.heads import make_head
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel

TASKS = ("intent", "slots", "sentiment")


@pytest.fixture(scope="module")
def with_prototypes(trained: TrainedModel) -> TrainedModel:
    """The untrained run with random class vectors for its intents."""
    torch.manual_seed(7)
    heads = {name: trained.model.head(name) for name in trained.model.heads}
    heads["intent"] = make_head("intent", trained.tasks["intent"], 16, variant="prototype")
    return replace(trained, model=MultiTaskModel(trained.model.backbone, heads).eval())


@pytest.fixture(scope="module")
def plain(with_prototypes: TrainedModel) -> bytes:
    return to_onnx(ExportGraph(with_prototypes.model, TASKS), with_prototypes.max_length, {"palm.digest": "abc"})


def class_matrix(model: onnx.ModelProto) -> str:
    """Name of the multiplication whose weights are the class vectors [H, C]."""
    shapes = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    names = [
        node.name for node in model.graph.node if node.op_type == "MatMul" and shapes.get(node.input[1]) == (16, 3)
    ]
    assert len(names) == 1
    return names[0]


def test_the_graph_divides_by_the_length_and_multiplies_once(plain: bytes, with_prototypes: TrainedModel) -> None:
    model = onnx.load_from_string(plain)
    name = class_matrix(model)
    assert name in find_matmuls(model)
    assert [node.op_type for node in model.graph.node].count("ReduceL2") == 1
    matmul = next(node for node in model.graph.node if node.name == name)
    weights = next(tensor for tensor in model.graph.initializer if tensor.name == matmul.input[1])
    layer = with_prototypes.model.head("intent").linear
    np.testing.assert_allclose(numpy_helper.to_array(weights), layer.matrix().detach().numpy().T, rtol=1e-6)


@pytest.mark.parametrize("name", ["fused", "int8", "fp16"])
def test_variants_answer_closely(plain: bytes, with_prototypes: TrainedModel, tmp_path: Path, name: str) -> None:
    graph = ExportGraph(with_prototypes.model, TASKS)
    drafts = {draft.name: draft for draft in draft_graphs(plain, graph, ("fp32", "int8", "fp16"))}
    draft = drafts[name]
    assert isinstance(draft, GraphDraft)
    (tmp_path / "variant.onnx").write_bytes(draft.content)
    inputs = dict(zip(graph.input_names, (tensor.numpy() for tensor in graph.example_inputs(24)), strict=True))
    batch = PaddedBatch(inputs, inputs["attention_mask"].sum(axis=1))
    measured = open_engine(tmp_path / "variant.onnx", "CPU", "fp32", 1).run(batch)["intent.logits"]
    with torch.no_grad():
        exact = graph(*graph.example_inputs(24))[0].numpy()
    assert np.abs(measured - exact).max() < {"fused": 1e-4, "int8": 1.0, "fp16": 0.1}[name]


def test_sensitivity_of_the_class_vectors_is_measured(
    plain: bytes, with_prototypes: TrainedModel, sets: list[EvaluationSet]
) -> None:
    model = onnx.load_from_string(plain)
    predictor = trained_predictor(with_prototypes, ExportGraph(with_prototypes.model, TASKS))
    sensitivities = measure_sensitivities(model, draw_samples(predictor, sets), {"slots.logits"})
    assert sensitivities[class_matrix(model)] > 0


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_bundle_passes_the_parity_gate(
    with_prototypes: TrainedModel, sets: list[EvaluationSet], tmp_path: Path, precision: str
) -> None:
    manifest, _ = export_bundle(with_prototypes, sets, tmp_path / "bundle", precision=precision, train=lambda: sets)
    assert manifest.tasks["intent"].kind == "classify"
    assert all(gate.passed for gate in manifest.variants["plain"].gates)
