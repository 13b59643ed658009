"""Only what the manifest lists is part of a bundle, and the bytes that were hashed are the bytes that are loaded."""

import os
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from palm_serve.bundle import files
from palm_serve.bundle.graph_file import MAX_FIELDS, GraphFile, external_files
from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.providers import select_engine
from palm_serve.engine.session import open_engine
from palm_serve.errors import BundleError, EngineError
from palm_serve.types import Encoding

ROW = Encoding([5, 6, 7], [0] * 3, [(0, 0)] * 3, [0] * 3)


@pytest.fixture
def bundle(tmp_path, make_tiny_bundle):
    return make_tiny_bundle(tmp_path / "bundle")


def move_weights_out(path, location="weights.bin"):
    """Store the weights of the graph in a file of their own."""
    model = onnx.load(path / "model.onnx")
    onnx.save(model, path / "model.onnx", save_as_external_data=True, location=location, size_threshold=500)
    return path


def intent_logits(engine):
    return engine.run(pad_batch([ROW], ("input_ids", "attention_mask", "token_type_ids")))["intent.logits"]


@pytest.mark.parametrize("name", ["weights.bin", "variants/other.onnx", "traffic.toml"])
def test_load_with_an_unlisted_file_raises(bundle, name):
    (bundle / name).parent.mkdir(exist_ok=True)
    (bundle / name).write_bytes(b"x")
    named = name if "/" not in name else "variants/"
    with pytest.raises(BundleError, match=rf"holds '{named}', which its manifest does not list.*Remove it"):
        load_bundle(bundle)


def test_load_with_an_unlisted_file_in_a_listed_folder_raises(bundle, reseal_bundle):
    (bundle / "variants").mkdir()
    (bundle / "variants" / "notes.txt").write_bytes(b"x")
    reseal_bundle(bundle)
    load_bundle(bundle)
    (bundle / "variants" / "more.txt").write_bytes(b"x")
    with pytest.raises(BundleError, match=r"holds 'variants/more\.txt'"):
        load_bundle(bundle)


def test_load_passes_over_hidden_files_and_empty_folders(bundle):
    (bundle / ".DS_Store").write_bytes(b"x")
    (bundle / ".git" / "objects").mkdir(parents=True)
    (bundle / "lost+found").mkdir()
    (bundle / "variants").mkdir()
    assert load_bundle(bundle).manifest.name == "tiny"


def test_load_from_a_kubernetes_volume_succeeds(bundle, tmp_path):
    """A config map mounts each file as a link through `..data` to a folder with the time in its name."""
    volume = tmp_path / "volume"
    volume.mkdir()
    shutil.copytree(bundle, volume / "..2026_11_30")
    (volume / "..data").symlink_to("..2026_11_30")
    for file in bundle.iterdir():
        (volume / file.name).symlink_to(f"..data/{file.name}")
    assert load_bundle(volume).manifest.name == "tiny"


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "tokenizer.json"])
def test_load_of_any_file_that_is_a_link_out_raises(bundle, tmp_path, name):
    (bundle / name).rename(tmp_path / name)
    (bundle / name).symlink_to(tmp_path / name)
    with pytest.raises(BundleError, match=rf"'{name}', which lies outside the bundle"):
        load_bundle(bundle)


def test_load_of_a_pipe_raises_and_does_not_wait(bundle):
    (bundle / "tokenizer.json").unlink()
    os.mkfifo(bundle / "tokenizer.json")
    with pytest.raises(BundleError, match=r"tokenizer\.json must be a regular file"):
        load_bundle(bundle)


def test_load_of_a_large_tokenizer_raises_unread(bundle):
    os.truncate(bundle / "tokenizer.json", 10 << 30)
    with pytest.raises(BundleError, match=r"tokenizer\.json must have at most 64 MiB, got 10,240\.0 MiB"):
        load_bundle(bundle)


def test_graph_is_read_in_slices_with_a_pause_after_each(bundle, monkeypatch):
    monkeypatch.setattr(files, "_SLICE_BYTES", 1000)
    pauses = []
    size = (bundle / "model.onnx").stat().st_size
    opened = load_bundle(bundle, defer_graphs=True, pause=lambda: pauses.append(True))
    assert not pauses
    graph = opened.read_graph()
    assert len(pauses) == -(-size // 1000)
    assert bytes(graph.content) == (bundle / "model.onnx").read_bytes()
    if graph.file is not None:
        assert Path(graph.file.path).read_bytes() == bytes(graph.content)


def test_graph_without_files_in_memory_is_read_as_bytes(bundle, monkeypatch):
    monkeypatch.setattr("palm_serve.system.memory_file._OPEN_FILES", "/nowhere")
    graph = load_bundle(bundle).read_graph()
    assert graph.file is None
    assert graph.content == (bundle / "model.onnx").read_bytes()


def test_empty_graph_raises(bundle, reseal_bundle):
    (bundle / "model.onnx").write_bytes(b"")
    with pytest.raises(EngineError, match="no provider can run this bundle"):
        select_engine(load_bundle(reseal_bundle(bundle)), "CPU")


def test_graph_with_listed_weights_answers_as_before(bundle, reseal_bundle):
    plain = intent_logits(open_engine(bundle / "model.onnx", "CPU", "fp32", 1))
    opened = load_bundle(reseal_bundle(move_weights_out(bundle)))
    assert set(opened.read_graph().external) == {"weights.bin"}
    np.testing.assert_array_equal(intent_logits(select_engine(opened, "CPU", threads=1)), plain)


def test_graph_with_changed_weights_raises(bundle, reseal_bundle):
    opened = load_bundle(reseal_bundle(move_weights_out(bundle)))
    content = bytearray((bundle / "weights.bin").read_bytes())
    content[-1] ^= 1
    (bundle / "weights.bin").write_bytes(content)
    for load in (lambda: load_bundle(bundle), lambda: select_engine(opened, "CPU")):
        with pytest.raises(BundleError, match=r"weights\.bin was changed or damaged"):
            load()


@pytest.mark.parametrize("defer", [False, True])
def test_graph_with_unlisted_weights_raises(bundle, reseal_bundle, tmp_path, defer):
    """The weights lie outside, so no file of the folder is without an entry."""
    move_weights_out(bundle)
    (bundle / "weights.bin").rename(tmp_path / "weights.bin")
    reseal_bundle(bundle)
    with pytest.raises(
        BundleError, match=r"model\.onnx refers to the file 'weights\.bin', which the manifest does not"
    ):
        load_bundle(bundle, defer_graphs=defer).verify() or load_bundle(bundle, defer_graphs=defer).read_graph()


@pytest.mark.parametrize("provider", ["CPU", "OpenVINO"])
def test_graph_swapped_after_the_load_raises(bundle, provider):
    """What is opened is compared with the manifest at that time, also by the fallback of a later hour."""
    opened = load_bundle(bundle)
    graph = onnx.load(bundle / "model.onnx")
    table = next(tensor for tensor in graph.graph.initializer if tensor.name == "table")
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table)[:, ::-1].copy(), "table"))
    status = (bundle / "model.onnx").stat()
    onnx.save(graph, bundle / "model.onnx")
    os.utime(bundle / "model.onnx", ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(BundleError, match=r"model\.onnx was changed or damaged"):
        select_engine(opened, provider)


def test_graph_swapped_while_it_is_opened_answers_as_hashed(bundle, monkeypatch):
    opened = load_bundle(bundle)
    expected = intent_logits(select_engine(opened, "CPU", threads=1))
    read = type(opened).read_graph

    def read_and_swap(self, variant="plain"):
        graph = read(self, variant)
        (bundle / "model.onnx").write_bytes(b"swapped")
        return graph

    monkeypatch.setattr(type(opened), "read_graph", read_and_swap)
    np.testing.assert_array_equal(intent_logits(select_engine(opened, "CPU", threads=1)), expected)


def test_deferred_graphs_are_verified_by_the_selection(bundle, reseal_bundle):
    (bundle / "notes.txt").write_bytes(b"one")
    reseal_bundle(bundle)
    opened = load_bundle(bundle, defer_graphs=True)
    assert opened.unverified == {"model.onnx", "README.md", "notes.txt"}
    (bundle / "notes.txt").write_bytes(b"two")
    with pytest.raises(BundleError, match=r"notes\.txt was changed or damaged"):
        select_engine(opened, "CPU")


def external(name):
    tensor = TensorProto(name="w", data_type=1, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=name)
    return tensor


def graph_with(*nodes, **fields):
    return helper.make_graph(list(nodes), "g", [], [], **fields)


def in_branch(depth):
    """Nest a tensor with external data in the branches of If nodes."""
    graph = graph_with(helper.make_node("Constant", [], ["c"], value=external("deep.bin")))
    for _ in range(depth):
        graph = graph_with(helper.make_node("If", ["x"], ["y"], then_branch=graph, else_branch=graph_with()))
    return graph


def nested(depth):
    """Nest graphs deeper than protobuf itself would."""
    content = b""
    for number in (b"\x32", b"\x2a", b"\x0a") * depth:
        size = len(content)
        content = number + bytes([size & 0x7F | 0x80, size >> 7 & 0x7F | 0x80, size >> 14]) + content
    return b"\x3a" + bytes([len(content) & 0x7F | 0x80, len(content) >> 7 & 0x7F | 0x80, 0]) + content


def sparse(part):
    value = onnx.SparseTensorProto(dims=[1])
    getattr(value, part).CopyFrom(external("deep.bin"))
    return value


def model_with(graph=None, functions=(), training=()):
    model = helper.make_model(graph or graph_with(), functions=list(functions))
    model.training_info.extend(training)
    return model


GRAPHS = {
    "initializer": model_with(graph_with(initializer=[external("deep.bin")])),
    "if": model_with(in_branch(1)),
    "nested if": model_with(in_branch(10)),
    "constants": model_with(graph_with(helper.make_node("C", [], ["c"], values=[external("deep.bin")]))),
    "graphs": model_with(graph_with(helper.make_node("C", [], ["c"], bodies=[in_branch(0)]))),
    "sparse values": model_with(graph_with(sparse_initializer=[sparse("values")])),
    "sparse indices": model_with(graph_with(sparse_initializer=[sparse("indices")])),
    "sparse constant": model_with(graph_with(helper.make_node("C", [], ["c"], sparse_value=sparse("values")))),
    "function": model_with(
        functions=[
            helper.make_function(
                "d", "f", [], [], [helper.make_node("C", [], ["c"], value=external("deep.bin"))], [], []
            )
        ]
    ),
    "function default": model_with(
        functions=[
            helper.make_function(
                "d", "f", [], [], [], [], [], [helper.make_attribute("a", external("deep.bin"), attr_type=4)]
            )
        ]
    ),
    "training": model_with(training=[onnx.TrainingInfoProto(algorithm=in_branch(0))]),
}


@pytest.mark.parametrize("place", GRAPHS)
def test_external_files_are_found_wherever_a_tensor_is(place):
    assert external_files(GRAPHS[place].SerializeToString()) == {"deep.bin"}


def test_external_files_of_a_plain_graph_are_none(tiny_bundle):
    assert external_files((tiny_bundle / "model.onnx").read_bytes()) == set()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (nested(120), "nested too deeply"),
        (
            model_with(
                graph_with(helper.make_node("EPContext", [], ["c"], domain="com.microsoft"))
            ).SerializeToString(),
            "EPContext, which reads a file",
        ),
        (model_with(graph_with(initializer=[TensorProto(data_location=1)])).SerializeToString(), "without its name"),
        (b"\x08\x01" * (MAX_FIELDS + 1), "at most 1,000,000 fields"),
        (b"\xff" * 30, "no ONNX file"),
        (b"\x3a\x7f", "no ONNX file, or its end is missing"),
    ],
)
def test_external_files_of_other_bytes_raise(content, message):
    with pytest.raises(ValueError, match=message):
        external_files(content)


def test_text_of_a_graph_leaves_its_bytes_out() -> None:
    """Whoever formats it by accident must not spend seconds on 100 MB of escapes."""
    graph = GraphFile(Path("model.onnx"), bytes(10_000), {"weights.bin": bytes(10_000)})
    assert len(str(graph)) < 200
