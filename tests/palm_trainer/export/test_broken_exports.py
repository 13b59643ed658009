"""Broken exports: each loss of accuracy is reported by name and leaves nothing behind."""

import copy
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import pytest
import torch

from palm_serve.types import FloatArray
from palm_trainer.errors import ExportError, ParityError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export import exporter
from palm_trainer.export import to_onnx as graphs
from palm_trainer.export.graph import ExportGraph
from palm_trainer.model.multi_task import MultiTaskModel, TrainedModel

pytestmark = pytest.mark.usefixtures("few_shapes")

Break = Callable[[MultiTaskModel], None]


@pytest.fixture
def export(trained: TrainedModel, sets: Sequence[EvaluationSet], tmp_path: Path) -> Iterator[Callable[[], None]]:
    """Return a function that exports to a directory, which must be empty afterwards."""
    parent = tmp_path / "new" / "bundles"
    yield lambda: exporter.export_bundle(trained, sets, parent / "tiny") and None
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def break_graph(monkeypatch: pytest.MonkeyPatch) -> Callable[[Break], None]:
    """Return a function that makes exports use a changed copy of the model."""
    original_to_onnx = graphs.to_onnx

    def install(change: Break) -> None:
        def broken(graph: ExportGraph, max_length: int, metadata: Mapping[str, str]) -> bytes:
            graph = copy.deepcopy(graph)
            change(graph.model)
            return original_to_onnx(graph, max_length, metadata)

        monkeypatch.setattr(graphs, "to_onnx", broken)

    return install


def perturb(model: MultiTaskModel) -> None:
    with torch.no_grad():
        model.head("slots").linear.weight.mul_(1.01)


def swap_rows(model: MultiTaskModel) -> None:
    with torch.no_grad():
        model.head("intent").linear.weight.copy_(model.head("intent").linear.weight[[1, 0, 2]])


def ignore_mask(model: MultiTaskModel) -> None:
    forward = model.backbone.forward

    def forward_without_mask(attention_mask: torch.Tensor, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        return forward(attention_mask=torch.ones_like(attention_mask), **inputs)

    model.backbone.forward = forward_without_mask  # type: ignore[method-assign]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            perturb,
            r"output 'slots.logits' on .*: at \[.*\] PyTorch gives -?\d+\.\d+, the bundle -?\d+\.\d+; the limit is a difference of 0.0001",
        ),
        (swap_rows, r"output 'intent.logits' on .*: at \[[01]\] PyTorch gives"),
        (ignore_mask, r"output '\w+.logits' on .*the limit is a difference of 0.0001"),
    ],
)
def test_export_of_a_wrong_graph_fails(
    break_graph: Callable[[Break], None], export: Callable[[], None], change: Break, message: str
) -> None:
    break_graph(change)
    with pytest.raises(ParityError, match=r"parity failed on CPU in fp32: " + message + r".*No bundle was written"):
        export()


def test_export_of_a_graph_with_a_frozen_length_fails(
    break_graph: Callable[[Break], None], export: Callable[[], None]
) -> None:
    def freeze(model: MultiTaskModel) -> None:
        pool = model.backbone._pool
        model.backbone._pool = lambda hidden, mask: pool(hidden, mask) + hidden.shape[1] / 100  # type: ignore[method-assign]

    break_graph(freeze)
    with pytest.raises(ParityError, match=r"output '(intent|sentiment).logits' on .*the limit is"):
        export()


def test_export_with_a_wrong_label_order_fails(monkeypatch: pytest.MonkeyPatch, export: Callable[[], None]) -> None:
    original_exported_tasks = exporter._exported_tasks

    def swapped(trained: TrainedModel, include: object) -> dict[str, object]:
        tasks = original_exported_tasks(trained)
        return {**tasks, "intent": tasks["intent"].model_copy(update={"labels": ("music", "flight", "weather")})}

    monkeypatch.setattr(exporter, "_exported_tasks", swapped)
    with pytest.raises(
        ParityError,
        match=r"answers differ, first: task 'intent' on 'fly to .*': PyTorch answers '\w+', the bundle '\w+'",
    ):
        export()


def test_export_without_crf_scores_fails(monkeypatch: pytest.MonkeyPatch, export: Callable[[], None]) -> None:
    original_to_npz_bytes = exporter.to_npz_bytes

    def without(arrays: Mapping[str, FloatArray]) -> bytes:
        return original_to_npz_bytes({name: value * 0 for name, value in arrays.items()})

    monkeypatch.setattr(exporter, "to_npz_bytes", without)
    with pytest.raises(ParityError, match=r"answers differ.*, first: task 'slots' on '"):
        export()


def test_export_with_another_tokenizer_fails(monkeypatch: pytest.MonkeyPatch, export: Callable[[], None]) -> None:
    def other(text: str) -> str:
        tokenizer = json.loads(text)
        vocabulary = tokenizer["model"]["vocab"]
        vocabulary["fly"], vocabulary["play"] = vocabulary["play"], vocabulary["fly"]
        return json.dumps(tokenizer)

    monkeypatch.setattr(exporter, "bare_tokenizer_json", other)
    with pytest.raises(ParityError, match=r"on '(fly|play) "):
        export()


def test_export_of_a_graph_with_nan_fails(break_graph: Callable[[Break], None], export: Callable[[], None]) -> None:
    def poison(model: MultiTaskModel) -> None:
        with torch.no_grad():
            model.head("sentiment").linear.bias[1] = torch.nan

    break_graph(poison)
    with pytest.raises(ParityError, match=r"output 'sentiment.logits' on .* the bundle nan"):
        export()


def test_export_of_an_unknown_operator_fails(monkeypatch: pytest.MonkeyPatch, export: Callable[[], None]) -> None:
    node = onnx.helper.make_node("Unheard", [], ["x"], domain="nobody")
    unknown = onnx.helper.make_model(onnx.helper.make_graph([node], "graph", [], []))
    monkeypatch.setattr(graphs, "to_onnx", lambda *_: unknown.SerializeToString())
    monkeypatch.setattr(exporter, "draft_graphs", lambda *_: iter(()))
    with pytest.raises(ExportError, match=r"the exported graph cannot be run: CPU in fp32 cannot run model.onnx"):
        export()


def test_export_of_the_graph_of_another_model_fails(
    monkeypatch: pytest.MonkeyPatch, export: Callable[[], None]
) -> None:
    original_to_onnx = graphs.to_onnx

    def with_other_digest(graph: ExportGraph, max_length: int, metadata: Mapping[str, str]) -> bytes:
        return original_to_onnx(graph, max_length, {"palm.digest": "other"})

    monkeypatch.setattr(graphs, "to_onnx", with_other_digest)
    with pytest.raises(ExportError, match=r"the exported graph cannot be run: .*exported for other tasks"):
        export()
