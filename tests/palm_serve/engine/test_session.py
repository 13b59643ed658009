"""Sessions on one provider: options of ONNX Runtime, OpenVINO, buffers on a device, and facts of the machine."""

import logging
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnxruntime import InferenceSession

from palm_serve.bundle.loader import load_bundle
from palm_serve.engine import cpu_features, io_binding, openvino, options, providers, session
from palm_serve.engine.candidate_times import sample_batch
from palm_serve.engine.cores import usable_cores
from palm_serve.engine.graph_check import check_graph
from palm_serve.engine.padding import pad_batch
from palm_serve.engine.provider_fallback import FallbackEngine
from palm_serve.engine.session import OrtEngine, open_engine
from palm_serve.errors import EngineError, EngineTimeout


def test_open_engine_after_a_silent_fallback_raises(tiny_bundle, monkeypatch):
    """onnxruntime-gpu lists CUDA everywhere and opens the session on the CPU."""
    monkeypatch.setattr(session, "provider_list", lambda *_, **__: [("CPUExecutionProvider", {})])
    with pytest.raises(EngineError, match="CUDA is not available: ONNX Runtime fell back to CPUExecutionProvider"):
        open_engine(tiny_bundle / "model.onnx", "CUDA", "fp32")


def test_cuda_without_recordable_graphs_opens_plainly(tiny_bundle, monkeypatch, caplog):
    tried = []

    def open_fake(graph, info, threads, provider_settings, graphs=False):
        tried.append((provider_settings[0][1]["enable_cuda_graph"], graphs))
        if graphs:
            raise EngineError("a node is on the CPU")
        return "the engine"

    monkeypatch.setattr(session, "_open_session", open_fake)
    with caplog.at_level(logging.INFO, "palm_serve"):
        assert open_engine(tiny_bundle / "model.onnx", "CUDA", "fp32") == "the engine"
    assert tried == [("1", True), ("0", False)]
    assert "a node is on the CPU; trying without CUDA graphs" in caplog.text


def test_provider_list_of_gpus_follows_the_precision(tmp_path):
    names = {p: [name for name, _ in options.provider_list(p, "fp16")] for p in ("CPU", "CUDA", "TensorRT")}
    cuda, tensorrt = "CUDAExecutionProvider", "TensorrtExecutionProvider"
    assert names == {
        "CPU": ["CPUExecutionProvider"],
        "CUDA": [cuda, "CPUExecutionProvider"],
        "TensorRT": [tensorrt, cuda, "CPUExecutionProvider"],
    }
    assert options.provider_list("CUDA", "fp32")[0][1]["use_tf32"] == "0"
    assert options.provider_list("CUDA", "fp16", graphs=True)[0][1]["enable_cuda_graph"] == "1"
    lowered = dict(options.provider_list("TensorRT", "fp16", cache=tmp_path))[tensorrt]
    assert (lowered["trt_fp16_enable"], lowered["trt_engine_cache_path"]) == ("1", str(tmp_path))
    assert "trt_engine_cache_path" not in dict(options.provider_list("TensorRT", "fp32"))[tensorrt]
    with pytest.raises(EngineError, match="CPU cannot compute in bf16; OpenVINO can"):
        options.provider_list("CPU", "bf16")


def test_open_engine_of_a_file_without_graph_raises(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"CPU in fp32 cannot run model\.onnx: "):
        open_engine(tmp_path / "model.onnx", "CPU", "fp32")


def test_graph_in_memory_is_opened_from_a_file(tiny_bundle, monkeypatch):
    """ONNX Runtime parses bytes with the interpreter's lock held, so that nobody is answered."""
    sources = []

    def open_session(source, **options):
        sources.append(source if isinstance(source, bytes) else Path(source).read_bytes())
        assert isinstance(source, str) == (sys.platform == "linux")
        return InferenceSession(source, **options)

    bundle = load_bundle(tiny_bundle)
    batch = sample_batch(bundle, 2, 8)
    expected = open_engine(tiny_bundle / "model.onnx", "CPU", "fp32").run(batch)
    monkeypatch.setattr("onnxruntime.InferenceSession", open_session)
    outputs = open_engine(bundle.read_graph(), "CPU", "fp32").run(batch)
    assert sources == [(tiny_bundle / "model.onnx").read_bytes()]
    for name, values in outputs.items():
        assert np.array_equal(values, expected[name])


def test_graph_is_opened_as_bytes_where_no_file_can_be_made(tiny_bundle, monkeypatch):
    def fail(name):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.memfd_create", fail, raising=False)
    bundle = load_bundle(tiny_bundle)
    assert open_engine(bundle.read_graph(), "CPU", "fp32").run(sample_batch(bundle, 2, 8))


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")])
def test_openvino_properties_always_set_the_precision(precision, hint):
    expected = {"INFERENCE_PRECISION_HINT": hint, "INFERENCE_NUM_THREADS": 2, "NUM_STREAMS": 1}
    if precision != "int8":
        expected["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
    assert openvino.compile_properties(precision, 2) == expected


def test_openvino_that_is_not_installed_raises(tiny_bundle, monkeypatch):
    monkeypatch.setattr(openvino, "openvino_core", lambda: None)
    with pytest.raises(EngineError, match=r"OpenVINO is not available\. Install the package `openvino`\."):
        open_engine(tiny_bundle / "model.onnx", "OpenVINO", "fp32")


@pytest.mark.parametrize("provider", ["CPU", "OpenVINO"])
@pytest.mark.parametrize("place", ["metadata", "input"])
def test_names_that_are_not_utf8_are_refused(tmp_path, provider, place):
    if provider not in providers.available_providers():
        pytest.skip(f"needs {provider}")
    name = "wrong" if place == "input" else "x"
    nodes = [onnx.helper.make_node("Identity", [name], ["y"])]
    ports = [onnx.helper.make_tensor_value_info(port, onnx.TensorProto.FLOAT, ["rows"]) for port in (name, "y")]
    graph = onnx.helper.make_graph(nodes, "copy", ports[:1], ports[1:])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    if place == "metadata":
        onnx.helper.set_model_props(model, {"key": "wrong"})
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString().replace(b"wrong", b"wro\x80g"))
    with pytest.raises(EngineError, match=r"must be UTF-8, got other bytes|cannot run model\.onnx"):
        open_engine(path, provider, "fp32")


@pytest.mark.skipif("OpenVINO" not in providers.available_providers(), reason="no package `openvino`")
def test_openvino_in_fp32_is_exact_with_weights_stored_as_integers(tmp_path):
    """By default it makes the other factor int8 too, and is wrong by half a per cent."""
    core = openvino.openvino_core()
    generator = np.random.default_rng(13)
    size = 384
    weights = generator.integers(-64, 65, (size, size)).astype(np.int8)
    scales = (0.01 * generator.random(size)).astype(np.float32)
    nodes = [
        onnx.helper.make_node("DequantizeLinear", ["weights", "scales"], ["factor"], axis=1),
        onnx.helper.make_node("MatMul", ["x", "factor"], ["y"]),
    ]
    ports = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["rows", "tokens", size]) for name in "xy"
    ]
    stored = [onnx.numpy_helper.from_array(weights, "weights"), onnx.numpy_helper.from_array(scales, "scales")]
    graph = onnx.helper.make_graph(nodes, "product", ports[:1], ports[1:], stored)
    path = tmp_path / "product.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    x = generator.normal(size=(4, 16, size)).astype(np.float32)
    compiled = core.compile_model(path, "CPU", openvino.compile_properties("fp32", 1))
    np.testing.assert_allclose(compiled(x)[0], x @ (weights * scales), atol=1e-4)


needs_openvino = pytest.mark.skipif("OpenVINO" not in providers.available_providers(), reason="no package `openvino`")


@needs_openvino
def test_openvino_in_fp32_equals_the_cpu(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    plain = open_engine(bundle.graph(), "CPU", "fp32", threads=1)
    engine = open_engine(bundle.graph(), "OpenVINO", "fp32", threads=1)
    check_graph(bundle, "plain", engine)
    for rows, length in ((3, 7), (1, 5), (3, 7)):
        batch = sample_batch(bundle, rows, length)
        expected, outputs = plain.run(batch), engine.run(batch)
        assert list(outputs) == list(engine.outputs)
        for name, value in outputs.items():
            np.testing.assert_allclose(value, expected[name], atol=1e-4)
    first = engine.run(batch, ["slots.logits"])
    assert list(first) == ["slots.logits"]
    copied = first["slots.logits"].copy()
    engine.run(sample_batch(bundle, 2, 4))
    np.testing.assert_array_equal(first["slots.logits"], copied)
    assert engine.shape(3, 9) == (3, 9)


@needs_openvino
def test_openvino_of_a_file_without_graph_raises(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"OpenVINO in bf16 cannot run model\.onnx: "):
        open_engine(tmp_path / "model.onnx", "OpenVINO", "bf16")


@pytest.mark.parametrize("graphs", [False, True])
def test_bound_runner_answers_as_plain_runs_do(tiny_bundle, graphs, monkeypatch):
    """The path of GPUs in the memory of the CPU, where run options of CUDA graphs are ignored."""
    monkeypatch.setattr(io_binding, "_MOST_SHAPES", 2)
    bundle = load_bundle(tiny_bundle)
    plain = open_engine(bundle.graph(), "CPU", "fp32", threads=1)
    engine = OrtEngine(plain._session, plain.info, runner=io_binding.BoundRunner(plain._session, "cpu", graphs))
    runs = []
    for rows, length in ((2, 5), (1, 3), (2, 5), (4, 4), (4, 4), (1, 3), (2, 5)):
        batch = sample_batch(bundle, rows, length)
        batch.arrays["input_ids"][:] += len(runs)
        expected = plain.run(batch)
        runs.append((engine.run(batch), expected))
        assert list(engine.run(batch, ["sentiment.logits"])) == ["sentiment.logits"]
    for outputs, expected in runs:
        for name, value in expected.items():
            np.testing.assert_array_equal(outputs[name], value)
    assert len(engine._run._shapes) == 2


@pytest.mark.parametrize(
    ("size", "bucket"), [((1, 1), (1, 8)), ((1, 8), (1, 8)), ((3, 9), (4, 16)), ((33, 24), (64, 24))]
)
def test_shape_is_rounded_up_where_shapes_are_compiled(tiny_bundle, size, bucket):
    opened = open_engine(tiny_bundle / "model.onnx", "CPU", "fp32")
    assert opened.shape(*size) == size
    assert OrtEngine(opened._session, opened.info, compiles_shapes=True).shape(*size) == bucket


def test_usable_cores_are_physical_and_within_the_quota(tmp_path, monkeypatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1, 2, 3}, raising=False)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    assert usable_cores(tmp_path) == 4
    for cpu in range(4):
        topology = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology"
        topology.mkdir(parents=True)
        (topology / "thread_siblings_list").write_text(f"{cpu // 2 * 2},{cpu // 2 * 2 + 1}\n", encoding="utf-8")
    assert usable_cores(tmp_path) == 2
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("50000 100000\n", encoding="utf-8")
    assert usable_cores(tmp_path) == 1
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("max 100000\n", encoding="utf-8")
    assert usable_cores(tmp_path) == 2


def facts(tmp_path, text):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(text, encoding="utf-8")
    return tmp_path


def test_processor_name_and_bf16_come_from_cpuinfo(tmp_path):
    lines = "model name\t: Zeta 5\nmodel\t: 17\nflags\t: fpu avx512_bf16\n\nmodel name\t: other\n"
    root = facts(tmp_path, lines)
    assert cpu_features.processor(root) == "Zeta 5 17"
    assert cpu_features.computes_in_bf16(root)
    assert cpu_features.processor(tmp_path / "nothing")
    assert not cpu_features.computes_in_bf16(tmp_path / "nothing")


@pytest.mark.parametrize(
    ("features", "instructions", "saturates"),
    [
        ("flags\t: fpu avx2 avx512bw avx512_vnni amx_int8", "amx_int8", False),
        ("flags\t: fpu avx2 avx512bw avx512_vnni", "avx512_vnni", False),
        ("flags\t: fpu avx2 avx_vnni", "avx_vnni", False),
        ("flags\t: fpu avx2 avx512bw", "avx512bw", True),
        ("flags\t: fpu avx2", "avx2", True),
        ("flags\t: fpu sse4_1", "x86_64", True),
        ("Features\t: fp asimd asimddp i8mm", "neon_i8mm", False),
        ("Features\t: fp asimd asimddp", "neon_dotprod", False),
        ("Features\t: fp asimd", "neon", False),
    ],
)
def test_int8_instructions_by_processor(tmp_path, monkeypatch, features, instructions, saturates):
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    root = facts(tmp_path, f"{features}\n\nflags\t: other\n")
    assert cpu_features.int8_instructions(root) == instructions
    assert cpu_features.saturates_int8(root) is saturates


def test_fallback_engine_does_not_fall_back_when_its_run_is_stopped(tiny_bundle):
    class Stopped:
        info = open_engine(tiny_bundle / "model.onnx", "CPU", "fp32").info
        interrupted = False

        def run(self, batch, outputs=None):
            raise EngineTimeout("it took too long")

        def interrupt(self):
            self.interrupted = True

    stopped = Stopped()
    engine = FallbackEngine(stopped, lambda: pytest.fail("no fallback is opened"))
    engine.interrupt()
    assert stopped.interrupted
    with pytest.raises(EngineTimeout):
        engine.run(pad_batch([], ("input_ids",)))


def test_gpu_session_prints_nothing_on_standard_output(tiny_bundle, monkeypatch, capsys):
    """ONNX Runtime prints which libraries it cannot load. The output of a command may be JSON."""
    monkeypatch.setattr(session.ort, "preload_dlls", lambda: print("Failed to load libcublas.so.13"))
    with pytest.raises(EngineError, match="CUDA"):
        open_engine(tiny_bundle / "model.onnx", "CUDA", "fp32", 1)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "libcublas.so.13" in captured.err
