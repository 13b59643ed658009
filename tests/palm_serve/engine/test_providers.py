"""Which graph runs where: gates, what is forced, what is skipped, and whether the graph belongs to the manifest."""

import logging
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import helper

from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import Gate
from palm_serve.engine import openvino, providers, session
from palm_serve.engine.cores import usable_cores
from palm_serve.engine.providers import Candidate, gated_candidates, sample_batch, select_session
from palm_serve.engine.session import OrtEngine, open_engine
from palm_serve.errors import BundleError, EngineError
from palm_serve.types import EngineInfo

BF16 = Gate(provider="OpenVINO", precision="bf16", passed=True)
FAILED = Gate(provider="OpenVINO", precision="fp16", passed=False)
CUDA = Gate(provider="CUDA", precision="fp32", passed=True)


@pytest.fixture
def gated(tmp_path, make_tiny_bundle):
    return load_bundle(make_tiny_bundle(tmp_path / "gated", gates=(BF16, FAILED, CUDA)))


@pytest.fixture
def present(monkeypatch):
    """Makes the machine look as if it had these providers; sessions open on the CPU and say otherwise."""

    def set_up(*names, failing=(), seconds=None):
        opened = []

        def open_fake(graph, provider, precision, threads=None, variant="plain"):
            opened.append((provider, precision))
            if provider in failing:
                raise EngineError(f"{provider} has no driver")
            engine = open_engine(graph, "CPU", "fp32", threads, variant)
            engine.info = EngineInfo(provider, precision, variant)
            return engine

        monkeypatch.setattr(providers, "available_providers", lambda: names)
        monkeypatch.setattr(providers, "open_engine", open_fake)
        if seconds:
            monkeypatch.setattr(providers, "_time", lambda engine, *_: seconds[engine.info.provider])
        return opened

    return set_up


def test_cpu_is_always_allowed(tiny_bundle):
    engine = select_session(load_bundle(tiny_bundle), provider="CPU")
    assert (engine.info.provider, engine.info.precision, engine.info.variant) == ("CPU", "fp32", "plain")


def test_outputs_by_name_and_selected(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    engine = select_session(bundle, provider="CPU")
    batch = sample_batch(bundle, 2, 5)
    everything = engine.run(batch)
    assert {name: value.shape for name, value in everything.items()} == {
        "intent.logits": (2, 4),
        "slots.logits": (2, 5, 7),
        "sentiment.logits": (2, 2),
    }
    assert all(value.dtype == np.float32 for value in everything.values())
    assert list(engine.run(batch, ["slots.logits"])) == ["slots.logits"]


def test_auto_takes_only_what_passed_its_gate(gated):
    every = ("TensorRT", "CUDA", "OpenVINO", "CPU")
    assert gated_candidates(gated, every) == [
        Candidate("plain", "CPU", "fp32"),
        Candidate("plain", "CUDA", "fp32"),
        Candidate("plain", "OpenVINO", "bf16"),
    ]
    assert gated_candidates(gated, ("CPU",)) == [Candidate("plain", "CPU", "fp32")]
    assert gated_candidates(gated, every, precision="bf16") == [Candidate("plain", "OpenVINO", "bf16")]
    assert gated_candidates(gated, every, provider="TensorRT") == []


def test_the_fastest_is_taken(gated, present):
    present("CUDA", "OpenVINO", "CPU", seconds={"CPU": 3.0, "CUDA": 2.0, "OpenVINO": 1.0})
    assert select_session(gated).info.provider == "OpenVINO"


def test_a_hair_faster_is_not_worth_less_precision(gated, present):
    present("OpenVINO", "CPU", seconds={"CPU": 1.0, "OpenVINO": 0.95})
    assert select_session(gated).info.precision == "fp32"


def test_candidates_are_really_timed(gated, present):
    present("CUDA", "OpenVINO", "CPU")
    assert select_session(gated).info.provider in ("CUDA", "OpenVINO", "CPU")


def test_auto_skips_what_does_not_open(gated, present, caplog):
    present("CUDA", "CPU", failing=("CUDA",))
    with caplog.at_level(logging.WARNING, "palm_serve"):
        assert select_session(gated).info.provider == "CPU"
    assert "skipped CUDA in fp32 (plain): CUDA has no driver" in caplog.text


def test_auto_with_nothing_that_opens(gated, present):
    present("CUDA", "CPU", failing=("CUDA", "CPU"))
    with pytest.raises(EngineError, match="no provider can run this bundle: CPU has no driver; CUDA has no driver"):
        select_session(gated)


def test_forced_is_never_replaced(gated, present):
    present("CUDA", "CPU", failing=("CUDA",))
    with pytest.raises(EngineError, match="CUDA has no driver"):
        select_session(gated, provider="CUDA")


def test_forced_without_a_gate_is_warned_about(gated, present, caplog):
    opened = present("TensorRT", "CPU")
    with caplog.at_level(logging.WARNING, "palm_serve"):
        assert select_session(gated, provider="TensorRT").info.provider == "TensorRT"
    assert opened == [("TensorRT", "fp32")]
    assert "TensorRT in fp32 (plain) has no passed gate" in caplog.text


@pytest.mark.parametrize(
    ("provider", "precision", "message"),
    [
        ("Abacus", "auto", r"provider 'Abacus' is unknown; this machine has: OpenVINO, CPU \(or 'auto'\)"),
        ("CUDA", "auto", "provider 'CUDA' cannot be had on this machine, which has: OpenVINO, CPU"),
        ("auto", "fp8", "precision 'fp8' is unknown; there are: fp32, bf16, fp16, int8"),
        ("CPU", "bf16", "CPU cannot compute in bf16; OpenVINO can"),
        ("CPU", "int8", r"no graph for int8 on CPU \(weights it has: fp32\).*--precision int8"),
    ],
)
def test_what_cannot_be_had(gated, present, provider, precision, message):
    present("OpenVINO", "CPU")
    with pytest.raises(EngineError, match=message):
        select_session(gated, provider=provider, precision=precision)


def test_a_silent_fall_back_is_an_error(tiny_bundle, monkeypatch):
    """onnxruntime-gpu lists CUDA everywhere and opens the session on the CPU."""
    monkeypatch.setattr(session, "_configure", lambda *_: {"providers": ["CPUExecutionProvider"]})
    with pytest.raises(EngineError, match="CUDA cannot be had: ONNX Runtime fell back to CPUExecutionProvider"):
        open_engine(tiny_bundle / "model.onnx", "CUDA", "fp32")


def test_a_file_that_is_no_graph(tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"no graph")
    with pytest.raises(EngineError, match=r"CPU in fp32 cannot run model\.onnx: "):
        open_engine(tmp_path / "model.onnx", "CPU", "fp32")


def rewrite(path, reseal, change):
    model = onnx.load(path / "model.onnx")
    change(model)
    onnx.save(model, path / "model.onnx")
    return load_bundle(reseal(path))


def no_digest(model):
    helper.set_model_props(model, {"palm.digest": "feed"})


def other_input(model):
    model.graph.input.append(helper.make_tensor_value_info("position_ids", onnx.TensorProto.INT64, ["batch"]))


def fewer_outputs(model):
    del model.graph.output[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_digest, r"was exported for other tasks or another tokenizer: palm\.digest is feed"),
        (other_input, r"takes attention_mask .* position_ids tensor\(int64\), .*the manifest says attention_mask"),
        (fewer_outputs, r"lacks the output 'sentiment\.logits' \(it has: intent\.logits, slots\.logits\)"),
    ],
)
def test_a_graph_of_another_bundle(tmp_path, make_tiny_bundle, reseal_bundle, change, message):
    bundle = rewrite(make_tiny_bundle(tmp_path / "b"), reseal_bundle, change)
    with pytest.raises(BundleError, match=message):
        select_session(bundle, provider="CPU")


def device(ep="OpenVINOExecutionProvider", kind="CPU"):
    return SimpleNamespace(ep_name=ep, ep_metadata={"ov_device": kind})


@pytest.mark.parametrize(
    ("devices", "expected"), [([device("x"), device(kind="GPU")], None), ([device("x"), device()], 1)]
)
def test_openvino_is_its_cpu_device(monkeypatch, devices, expected):
    monkeypatch.setattr(openvino.ort, "register_execution_provider_library", lambda *_: None)
    monkeypatch.setattr(openvino.ort, "get_ep_devices", lambda: devices)
    pytest.importorskip("onnxruntime_ep_openvino")
    assert openvino.openvino_device.__wrapped__() is (None if expected is None else devices[expected])


def test_a_plugin_that_does_not_load_is_skipped(monkeypatch, caplog):
    pytest.importorskip("onnxruntime_ep_openvino")

    def fail(*_):
        raise RuntimeError("no such library")

    monkeypatch.setattr(openvino.ort, "register_execution_provider_library", fail)
    with caplog.at_level(logging.WARNING, "palm_serve"):
        assert openvino.openvino_device.__wrapped__() is None
    assert "the OpenVINO plugin cannot be used: no such library" in caplog.text


@pytest.mark.parametrize(("precision", "hint"), [("fp32", "f32"), ("bf16", "bf16"), ("int8", "f32")])
def test_openvino_is_always_told_its_precision(monkeypatch, precision, hint):
    given = []
    monkeypatch.setattr(session, "openvino_device", lambda: "the device")
    options = SimpleNamespace(add_provider_for_devices=lambda devices, settings: given.append((devices, settings)))
    session._configure(options, "OpenVINO", precision, 2)
    assert given[0][0] == ["the device"]
    assert f'"INFERENCE_PRECISION_HINT": "{hint}"' in given[0][1]["load_config"]


def test_openvino_without_a_device(monkeypatch):
    monkeypatch.setattr(session, "openvino_device", lambda: None)
    with pytest.raises(EngineError, match="OpenVINO cannot be had: its plugin lists no device for this processor"):
        session._configure(SimpleNamespace(), "OpenVINO", "fp32", 2)


@pytest.mark.skipif(openvino.openvino_device() is None, reason="the OpenVINO plugin knows no device of this machine")
def test_openvino_in_fp32_equals_the_cpu(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    batch = sample_batch(bundle, 3, 7)
    expected = select_session(bundle, "CPU").run(batch)
    for name, value in select_session(bundle, "OpenVINO", "fp32").run(batch).items():
        np.testing.assert_allclose(value, expected[name], atol=1e-4)


@pytest.mark.parametrize(
    ("size", "bucket"), [((1, 1), (1, 8)), ((1, 8), (1, 8)), ((3, 9), (4, 16)), ((33, 24), (64, 24))]
)
def test_shapes_are_few_where_each_is_compiled(tiny_bundle, size, bucket):
    opened = open_engine(tiny_bundle / "model.onnx", "CPU", "fp32")
    assert opened.shape(*size) == size
    assert OrtEngine(opened._session, opened.info, compiles_shapes=True).shape(*size) == bucket


def test_cores_are_counted_once_and_never_above_the_quota(tmp_path, monkeypatch):
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
