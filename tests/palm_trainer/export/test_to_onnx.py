"""The ONNX graph equals PyTorch in every shape, is valid, and has the same bytes every time."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.providers import select_engine
from palm_serve.engine.session import OrtEngine, open_engine
from palm_serve.errors import BundleError
from palm_serve.pipeline import Pipeline
from palm_serve.types import Encoding
from palm_trainer.errors import ExportError
from palm_trainer.evaluation.evaluate import EvaluationSet
from palm_trainer.export.exporter import export_bundle
from palm_trainer.export.graph import ExportGraph
from palm_trainer.export.predictors import TorchEngine
from palm_trainer.export.to_onnx import OPSET, to_onnx, to_onnx_files
from palm_trainer.model.multi_task import TrainedModel

ROOT = Path(__file__).parents[3]
TASKS = ("intent", "slots", "sentiment")


@pytest.fixture(scope="module")
def content(trained: TrainedModel) -> bytes:
    return to_onnx(ExportGraph(trained.model, TASKS), trained.max_length, {"palm.digest": "abc"})


@pytest.fixture(scope="module")
def engine(content: bytes, tmp_path_factory: pytest.TempPathFactory) -> OrtEngine:
    path = tmp_path_factory.mktemp("graph") / "model.onnx"
    path.write_bytes(content)
    return open_engine(path, "CPU", "fp32", threads=1)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), rows=st.integers(1, 32), length=st.integers(1, 24))
def test_graph_equals_model_in_every_shape(
    engine: OrtEngine, trained: TrainedModel, data: st.DataObject, rows: int, length: int
) -> None:
    sizes = data.draw(st.lists(st.integers(1, length), min_size=rows, max_size=rows))
    generator = np.random.default_rng(data.draw(st.integers(0, 1000)))
    encodings = []
    for size in sizes:
        ids = generator.integers(0, trained.encoder.vocab_size, size).tolist()
        encodings.append(Encoding(ids, generator.integers(0, 2, size).tolist(), [(0, 0)] * size, [0] * size))
    batch = pad_batch(encodings, trained.model.input_names, length=length)
    expected = TorchEngine(ExportGraph(trained.model, TASKS)).run(batch)
    outputs = engine.run(batch)
    assert list(outputs) == ["intent.logits", "slots.logits", "sentiment.logits"]
    for name, value in expected.items():
        np.testing.assert_allclose(outputs[name], value, rtol=0, atol=1e-4, err_msg=name)


def test_graph_has_names_axes_opset_and_metadata(content: bytes) -> None:
    model = onnx.load_from_string(content)
    axes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert axes == {
        **{name: ["batch", "sequence"] for name in ("input_ids", "attention_mask", "token_type_ids")},
        "intent.logits": ["batch", 3],
        "slots.logits": ["batch", "sequence", 5],
        "sentiment.logits": ["batch", 2],
    }
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", OPSET)]
    assert {entry.key: entry.value for entry in model.metadata_props} == {"palm.digest": "abc"}


def test_graph_contains_no_path_of_the_machine(content: bytes) -> None:
    for place in (str(ROOT), str(Path(torch.__file__).parent), str(Path.home())):
        assert place.encode() not in content


@pytest.mark.slow
def test_graph_has_the_same_bytes_in_another_process(content: bytes, trained: TrainedModel, run: Path) -> None:
    code = (
        "import hashlib, sys; from pathlib import Path\n"
        "from palm_trainer.model.checkpoint import load_trained\n"
        "from palm_trainer.export.graph import ExportGraph\n"
        "from palm_trainer.export.to_onnx import to_onnx\n"
        "trained = load_trained(Path(sys.argv[1]))\n"
        f"content = to_onnx(ExportGraph(trained.model, {TASKS}), trained.max_length, {{'palm.digest': 'abc'}})\n"
        "sys.stdout.buffer.write(content)"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "7"}
    result = subprocess.run([sys.executable, "-c", code, str(run)], capture_output=True, env=environment, check=True)
    assert result.stdout == content
    assert result.stderr == b""


def test_to_onnx_is_silent_and_leaves_the_model_in_eval_mode(trained: TrainedModel) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        to_onnx(ExportGraph(trained.model, ("intent",)), trained.max_length, {})
    assert not caught
    assert not any(module.training for module in trained.model.modules())


def test_graph_has_the_outputs_of_its_tasks_only(trained: TrainedModel) -> None:
    model = onnx.load_from_string(to_onnx(ExportGraph(trained.model, ("sentiment",)), trained.max_length, {}))
    assert [value.name for value in model.graph.output] == ["sentiment.logits"]
    assert not any("slots" in tensor.name for tensor in model.graph.initializer)


class NotInOnnx(nn.Module):
    """Layer of a head with an operator that ONNX lacks."""

    def forward(self, hidden: Tensor) -> Tensor:
        return torch.special.bessel_j0(hidden)


def test_to_onnx_rejects_an_operator_that_onnx_lacks(
    make_trained: Callable[..., TrainedModel], capfd: pytest.CaptureFixture[str]
) -> None:
    trained = make_trained()
    trained.model.head("intent").linear = nn.Sequential(trained.model.head("intent").linear, NotInOnnx())
    with pytest.raises(
        ExportError, match=r"cannot be exported to ONNX opset 17: .*bessel_j0.*tasks: intent, slots, sentiment"
    ):
        to_onnx(ExportGraph(trained.model, TASKS), trained.max_length, {})
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def small_protobuf_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the size limit of ONNX files to a kilobyte of weights."""
    monkeypatch.setattr("palm_trainer.export.to_onnx._PROTOBUF_LIMIT", 2**24 + 1000)


@pytest.mark.usefixtures("small_protobuf_limit")
def test_large_weights_are_in_a_separate_file(trained: TrainedModel, content: bytes, tmp_path: Path) -> None:
    graph = ExportGraph(trained.model, TASKS)
    files = to_onnx_files(graph, trained.max_length, {"palm.digest": "abc"}, "model.onnx")
    files_again = to_onnx_files(graph, trained.max_length, {"palm.digest": "abc"}, "model.onnx")
    assert list(files) == ["model.onnx", "model.onnx.data"]
    assert files == files_again
    assert len(files["model.onnx"]) < len(content) - 30_000
    for name, value in files.items():
        (tmp_path / name).write_bytes(value)
    assert {tensor.name for tensor in onnx.load(tmp_path / "model.onnx").graph.initializer} == {
        tensor.name for tensor in onnx.load_from_string(content).graph.initializer
    }
    engine = open_engine(tmp_path / "model.onnx", "CPU", "fp32", threads=1)
    assert engine.metadata["palm.digest"] == "abc"
    batch = pad_batch([Encoding([2, 7, 9, 3], [0] * 4, [(0, 0)] * 4, [0] * 4)], trained.model.input_names)
    for name, value in TorchEngine(graph).run(batch).items():
        np.testing.assert_allclose(engine.run(batch)[name], value, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.usefixtures("small_protobuf_limit")
def test_bundle_with_large_weights_is_served(
    trained: TrainedModel, sets: list[EvaluationSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("palm_trainer.export.gate.SHAPES", 12)
    manifest, report = export_bundle(trained, sets, tmp_path / "out")
    assert {"model.onnx", "model.onnx.data"} <= set(manifest.files)
    assert list(manifest.variants) == ["plain"]
    assert manifest.variants["plain"].size == sum(
        (tmp_path / "out" / name).stat().st_size for name in ("model.onnx", "model.onnx.data")
    )
    assert any("not available for a graph with more than 2 GB of weights" in note for note in report.notes)
    pipeline = Pipeline(load_bundle(tmp_path / "out"), select_engine(load_bundle(tmp_path / "out"), "CPU", threads=1))
    assert pipeline.golden_check() > 0
    (tmp_path / "out" / "model.onnx.data").write_bytes(b"other")
    with pytest.raises(BundleError, match=r"model.onnx.data was changed or damaged"):
        load_bundle(tmp_path / "out")
