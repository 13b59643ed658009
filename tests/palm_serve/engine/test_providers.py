"""Provider selection: gates, forced and skipped providers, and graphs that do not belong to the manifest."""

import dataclasses
import functools
import logging

import numpy as np
import onnx
import pytest
from onnx import helper

from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import Gate, GraphVariant
from palm_serve.engine import providers, timing
from palm_serve.engine.candidate import Candidate
from palm_serve.engine.candidate_times import sample_batch
from palm_serve.engine.providers import gated_candidates, select_engine
from palm_serve.engine.session import open_engine
from palm_serve.errors import BundleError, EngineError
from palm_serve.types import EngineInfo

BF16 = Gate(provider="OpenVINO", precision="bf16", passed=True)
FAILED = Gate(provider="OpenVINO", precision="fp16", passed=False)
CUDA = Gate(provider="CUDA", precision="fp32", passed=True)


@pytest.fixture
def gated(tmp_path, make_tiny_bundle):
    return load_bundle(make_tiny_bundle(tmp_path / "gated", gates=(BF16, FAILED, CUDA)))


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """The user's cache, empty."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "palm"


@pytest.fixture
def present(monkeypatch):
    """Make the machine look as if it had these providers. Sessions open on the CPU and report the other provider."""

    def set_up(*names, failing=(), seconds=None):
        opened = []

        def open_fake(graph, provider, precision, threads=None, variant="plain", cache=None):
            opened.append((provider, precision))
            if provider in failing:
                raise EngineError(f"{provider} has no driver")
            engine = open_engine(graph, "CPU", "fp32", threads, variant)
            engine.info = EngineInfo(provider, precision, variant)
            return engine

        monkeypatch.setattr(providers, "available_providers", lambda: names)
        monkeypatch.setattr(providers, "open_engine", open_fake)
        if seconds:
            measured = lambda engines, *_: [(seconds[engine.info.provider],) * 2 for engine in engines]  # noqa: E731
            monkeypatch.setattr(timing, "measure", measured)
        return opened

    return set_up


def test_select_engine_without_gates_uses_the_cpu(tiny_bundle):
    engine = select_engine(load_bundle(tiny_bundle), provider="CPU")
    assert (engine.info.provider, engine.info.precision, engine.info.variant) == ("CPU", "fp32", "plain")


def test_run_returns_the_selected_outputs_by_name(tiny_bundle):
    bundle = load_bundle(tiny_bundle)
    engine = select_engine(bundle, provider="CPU")
    batch = sample_batch(bundle, 2, 5)
    everything = engine.run(batch)
    assert {name: value.shape for name, value in everything.items()} == {
        "intent.logits": (2, 4),
        "slots.logits": (2, 5, 7),
        "sentiment.logits": (2, 2),
    }
    assert all(value.dtype == np.float32 for value in everything.values())
    assert list(engine.run(batch, ["slots.logits"])) == ["slots.logits"]


def test_auto_uses_only_combinations_with_a_passed_gate(gated):
    every = ("TensorRT", "CUDA", "OpenVINO", "CPU")
    assert gated_candidates(gated, every) == [
        Candidate("plain", "CPU", "fp32"),
        Candidate("plain", "CUDA", "fp32"),
        Candidate("plain", "OpenVINO", "bf16"),
    ]
    assert gated_candidates(gated, ("CPU",)) == [Candidate("plain", "CPU", "fp32")]
    assert gated_candidates(gated, every, precision="bf16") == [Candidate("plain", "OpenVINO", "bf16")]
    assert gated_candidates(gated, every, provider="TensorRT") == []


def with_int8(bundle, weight_bits, instructions=""):
    """The bundle with an int8 graph that passed its gates."""
    gates = [
        Gate(provider=provider, precision="int8", passed=True, instructions=instructions)
        for provider in ("CPU", "OpenVINO", "CUDA")
    ]
    variant = GraphVariant(file="model.onnx", weights="int8", weight_bits=weight_bits, size=1, gates=tuple(gates))
    variants = bundle.manifest.variants | {"int8": variant}
    return dataclasses.replace(bundle, manifest=bundle.manifest.model_copy(update={"variants": variants}))


@pytest.mark.parametrize(
    ("weight_bits", "saturates", "providers_in_int8"),
    [
        (7, True, ["CUDA", "OpenVINO", "CPU"]),
        (7, False, ["CUDA", "OpenVINO", "CPU"]),
        (8, False, ["CUDA", "OpenVINO", "CPU"]),
        (8, True, ["CUDA"]),
        (None, False, ["CUDA", "OpenVINO", "CPU"]),
        (None, True, ["CUDA"]),
    ],
)
def test_auto_skips_int8_that_saturates(gated, monkeypatch, weight_bits, saturates, providers_in_int8):
    monkeypatch.setattr(providers, "saturates_int8", lambda: saturates)
    candidates = gated_candidates(with_int8(gated, weight_bits), ("CUDA", "OpenVINO", "CPU"))
    int8 = [candidate.provider for candidate in candidates if candidate.precision == "int8"]
    assert sorted(int8) == sorted(providers_in_int8)


def test_int8_that_saturates_logs_a_warning(gated, present, monkeypatch, caplog):
    present("CPU")
    monkeypatch.setattr(providers, "saturates_int8", lambda: True)
    monkeypatch.setattr(providers, "int8_instructions", lambda: "avx2")
    assert select_engine(with_int8(gated, None)).info.precision == "fp32"
    warning = "CPU in int8 did not pass its gate for this processor (avx2): 8-bit weights can saturate here. Export the model again."
    assert warning in caplog.messages
    caplog.clear()
    assert select_engine(with_int8(gated, None), precision="int8").info.precision == "int8"
    assert warning in caplog.messages
    assert any("has no passed gate in the bundle" in message for message in caplog.messages)


def test_int8_of_other_instructions_is_logged_once(gated, present, monkeypatch, caplog):
    present("CPU", seconds={"CPU": 1.0})
    providers._log_once.cache_clear()
    monkeypatch.setattr(providers, "int8_instructions", lambda: "avx2")
    monkeypatch.setattr(providers, "saturates_int8", lambda: True)
    with caplog.at_level(logging.INFO, "palm_serve"):
        for _ in range(2):
            select_engine(with_int8(gated, 7, "avx512_vnni"))
    message = "int8 passed its gate with avx512_vnni. This processor has avx2 and computes the same integers."
    assert caplog.messages.count(message) == 1


def test_auto_selects_the_fastest_candidate(gated, present):
    present("CUDA", "OpenVINO", "CPU", seconds={"CPU": 3.0, "CUDA": 2.0, "OpenVINO": 1.0})
    assert select_engine(gated).info.provider == "OpenVINO"


def test_auto_keeps_the_precision_at_nearly_equal_speed(gated, present):
    present("OpenVINO", "CPU", seconds={"CPU": 1.0, "OpenVINO": 0.95})
    assert select_engine(gated).info.precision == "fp32"


def test_auto_measures_real_engines(gated, present):
    present("CUDA", "OpenVINO", "CPU")
    assert select_engine(gated).info.provider in ("CUDA", "OpenVINO", "CPU")


def test_auto_skips_a_provider_that_does_not_open(gated, present, caplog):
    present("CUDA", "CPU", failing=("CUDA",))
    with caplog.at_level(logging.WARNING, "palm_serve"):
        assert select_engine(gated).info.provider == "CPU"
    assert "skipped CUDA in fp32 (plain): CUDA has no driver" in caplog.text


def test_auto_without_any_engine_raises(gated, present, caplog):
    present("CUDA", "CPU", failing=("CUDA", "CPU"))
    with pytest.raises(EngineError, match="no provider can run this bundle: the log says why"):
        select_engine(gated)
    assert "skipped CPU in fp32 (plain): CPU has no driver" in caplog.text


def test_forced_provider_that_does_not_open_raises(gated, present, caplog):
    """It does not serve on the CPU in silence. `--provider CUDA,CPU` names the fallback."""
    present("CUDA", "CPU", failing=("CUDA",))
    with pytest.raises(EngineError, match=r"CUDA in fp32 \(plain\) cannot be had on this machine.*--provider CUDA,CPU"):
        select_engine(gated, provider="CUDA")
    assert "skipped CUDA in fp32 (plain): CUDA has no driver" in caplog.text


def break_runs(monkeypatch, engine):
    def fail(*_):
        raise RuntimeError("device lost")

    monkeypatch.setattr(engine, "run", fail)


def test_provider_that_fails_at_run_time_is_replaced(gated, present, monkeypatch, caplog):
    present("CUDA", "CPU")
    engine = select_engine(gated, provider="CUDA")
    batch = sample_batch(gated, 2, 5)
    expected = engine.run(batch)
    break_runs(monkeypatch, engine._engine)
    for _ in range(2):
        for name, value in engine.run(batch).items():
            np.testing.assert_array_equal(value, expected[name])
    assert (engine.info.provider, engine.shape(3, 9)) == ("CPU", (3, 9))
    assert caplog.text.count("CUDA in fp32 failed while running, the model goes on on CPU in fp32: device lost") == 1
    break_runs(monkeypatch, engine._engine)
    with pytest.raises(RuntimeError, match="device lost"):
        engine.run(batch)


def test_provider_that_fails_without_fallback_raises(gated, present, monkeypatch):
    present("CUDA", "CPU", failing=("CPU",))
    engine = select_engine(gated, provider="CUDA")
    break_runs(monkeypatch, engine._engine)
    with pytest.raises(EngineError, match="CUDA failed while running: device lost; and then: CPU has no driver"):
        engine.run(sample_batch(gated, 1, 4))


def test_provider_that_fails_at_measurement_is_skipped(gated, present, monkeypatch, caplog):
    present("OpenVINO", "CPU")
    opens = providers.open_engine

    def open_broken(graph, provider, *arguments):
        engine = opens(graph, provider, *arguments)
        if provider == "OpenVINO":
            break_runs(monkeypatch, engine)
        return engine

    monkeypatch.setattr(providers, "open_engine", open_broken)
    assert select_engine(gated).info.provider == "CPU"
    assert "skipped OpenVINO in bf16 (plain): it fails while running: device lost" in caplog.text


def test_cached_times_are_used_at_the_next_start(gated, present, cache, monkeypatch):
    opened = present("OpenVINO", "CPU", seconds={"CPU": 3.0, "OpenVINO": 1.0})
    select_engine(gated)
    assert len(list(cache.iterdir())) == 1
    opened.clear()
    monkeypatch.setattr(timing, "measure", lambda *_: pytest.fail("measured again"))
    assert select_engine(gated).info.provider == "OpenVINO"
    assert opened == [("OpenVINO", "bf16")]


@pytest.mark.parametrize("change", ["threads", "encoder", "size", "processor", "providers"])
def test_cached_times_of_other_facts_are_ignored(gated, present, cache, monkeypatch, change):
    present("OpenVINO", "CPU", seconds={"CPU": 3.0, "OpenVINO": 1.0})
    select_engine(gated)
    if change == "processor":
        monkeypatch.setattr(timing, "processor", lambda: "another")
    if change == "providers":
        present("CUDA", "OpenVINO", "CPU", seconds={"CPU": 3.0, "OpenVINO": 1.0, "CUDA": 2.0})
    if change == "encoder":
        encoder = gated.manifest.encoder.model_copy(update={"layers": 7})
        gated = dataclasses.replace(gated, manifest=gated.manifest.model_copy(update={"encoder": encoder}))
    if change == "size":
        plain = gated.manifest.variants["plain"]
        plain = plain.model_copy(update={"size": plain.size * 2})
        gated = dataclasses.replace(gated, manifest=gated.manifest.model_copy(update={"variants": {"plain": plain}}))
    select_engine(gated, threads=1 if change == "threads" else None)
    assert len(list(cache.iterdir())) == 2


@pytest.mark.parametrize("content", ["", "[]", '{"key": {}, "times": {}}', "{"])
def test_damaged_timing_cache_is_written_again(gated, present, cache, content):
    present("OpenVINO", "CPU", seconds={"CPU": 3.0, "OpenVINO": 1.0})
    select_engine(gated)
    (file,) = cache.iterdir()
    good = file.read_text()
    file.write_text(content)
    assert select_engine(gated).info.provider == "OpenVINO"
    assert file.read_text() == good


def test_model_trained_again_reuses_cached_times(gated, present, cache, monkeypatch):
    opened = present("OpenVINO", "CPU", seconds={"CPU": 3.0, "OpenVINO": 1.0})
    select_engine(gated)
    monkeypatch.setattr(timing, "measure", lambda *_: pytest.fail("measured again"))
    opened.clear()
    anew = dataclasses.replace(
        gated, manifest=gated.manifest.model_copy(update={"version": "another", "created": "now"})
    )
    assert select_engine(anew).info.provider == "OpenVINO"
    assert opened == [("OpenVINO", "bf16")], "nothing else is opened beside what serves"


def test_unwritable_cache_keeps_times_in_the_process(gated, present, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    present("OpenVINO", "CPU", seconds={"CPU": 3.0, "OpenVINO": 1.0})
    select = functools.partial(select_engine, gated, cache=tmp_path / "file" / "below", measured={})
    select()
    monkeypatch.setattr(timing, "measure", lambda *_: pytest.fail("measured again"))
    assert select().info.provider == "OpenVINO"


def test_user_without_a_home_keeps_no_times(gated, present, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    present("OpenVINO", "CPU", seconds={"CPU": 3.0, "OpenVINO": 1.0})
    assert select_engine(gated, cache=tmp_path / "file" / "below").info.provider == "OpenVINO"
    monkeypatch.delenv("XDG_CACHE_HOME")

    def homeless():
        raise RuntimeError("no home")

    monkeypatch.setattr(timing.Path, "home", homeless)
    assert select_engine(gated).info.provider == "OpenVINO"


def test_missing_provider_is_logged_once(gated, present, caplog):
    providers._log_once.cache_clear()
    present("CPU")
    with caplog.at_level(logging.INFO, "palm_serve"):
        select_engine(gated)
        select_engine(gated)
    assert caplog.text.count("this machine has no CUDA, which bundles were exported for; it has: CPU") == 1


def test_load_of_a_changed_variant_file_raises(tmp_path, make_tiny_bundle, reseal_bundle):
    path = make_tiny_bundle(tmp_path / "b")
    (path / "variants").mkdir()
    (path / "variants/other.onnx").write_bytes((path / "model.onnx").read_bytes())
    plain = load_bundle(reseal_bundle(path)).manifest.variants["plain"].model_dump(mode="json")
    reseal_bundle(path, variants={"plain": plain, "other": plain | {"file": "variants/other.onnx"}})
    load_bundle(path)
    with (path / "variants/other.onnx").open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"?")
    with pytest.raises(BundleError, match=r"variants/other\.onnx"):
        load_bundle(path)


def test_forced_provider_without_a_gate_logs_a_warning(gated, present, caplog):
    opened = present("TensorRT", "CPU")
    with caplog.at_level(logging.WARNING, "palm_serve"):
        assert select_engine(gated, provider="TensorRT").info.provider == "TensorRT"
    assert opened == [("TensorRT", "fp32")]
    assert "TensorRT in fp32 (plain) has no passed gate" in caplog.text


@pytest.mark.parametrize(
    ("provider", "precision", "message"),
    [
        ("Abacus", "auto", r"provider 'Abacus' is unknown; this machine has: OpenVINO, CPU \(or 'auto'\)"),
        ("CUDA", "auto", "provider 'CUDA' is not available on this machine, which has: OpenVINO, CPU"),
        ("auto", "fp8", "precision 'fp8' is unknown; there are: fp32, bf16, fp16, int8"),
        ("CPU", "bf16", "CPU cannot compute in bf16; OpenVINO can"),
        ("CPU", "int8", r"no graph for int8 on CPU \(weights it has: fp32\).*--precision int8"),
    ],
)
def test_select_engine_of_an_unavailable_choice_raises(gated, present, provider, precision, message):
    present("OpenVINO", "CPU")
    with pytest.raises(EngineError, match=message):
        select_engine(gated, provider=provider, precision=precision)


def rewrite(path, reseal, change):
    model = onnx.load(path / "model.onnx")
    change(model)
    onnx.save(model, path / "model.onnx")
    return load_bundle(reseal(path))


def no_digest(model):
    helper.set_model_props(model, {"palm.digest": "feed"})


def other_input(model):
    model.graph.input.append(helper.make_tensor_value_info("position_ids", onnx.TensorProto.INT64, ["batch"]))


def cast_output(model, name, element_type):
    """Let a graph give an output in another type."""
    for node in model.graph.node:
        for position, output in enumerate(node.output):
            if output == name:
                node.output[position] = "uncast"
    model.graph.node.append(helper.make_node("Cast", ["uncast"], [name], to=element_type))
    for output in model.graph.output:
        if output.name == name:
            output.type.tensor_type.elem_type = element_type


def whole_numbers(model):
    cast_output(model, "intent.logits", onnx.TensorProto.INT64)


def truth_values(model):
    cast_output(model, "sentiment.logits", onnx.TensorProto.BOOL)


def fewer_outputs(model):
    del model.graph.output[2]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (no_digest, r"was exported for other tasks or another tokenizer: palm\.digest is feed"),
        (other_input, r"takes attention_mask .* position_ids tensor\(int64\), .*the manifest says attention_mask"),
        (fewer_outputs, r"lacks the output 'sentiment\.logits' \(it has: intent\.logits, slots\.logits\)"),
        (
            whole_numbers,
            r"output 'intent\.logits' of the task 'intent' must be a tensor of floats, got tensor\(int64\)",
        ),
        (truth_values, r"output 'sentiment\.logits' of the task 'sentiment' must be .* got tensor\(bool\)"),
    ],
)
def test_select_engine_of_a_foreign_graph_raises(tmp_path, make_tiny_bundle, reseal_bundle, change, message):
    bundle = rewrite(make_tiny_bundle(tmp_path / "b"), reseal_bundle, change)
    with pytest.raises(BundleError, match=message):
        select_engine(bundle, provider="CPU")


@pytest.mark.parametrize(("change", "found"), [(whole_numbers, "int64"), (truth_values, "bool")])
def test_select_engine_openvino_of_other_outputs_raises(tmp_path, make_tiny_bundle, reseal_bundle, change, found):
    pytest.importorskip("openvino")
    bundle = rewrite(make_tiny_bundle(tmp_path / "b"), reseal_bundle, change)
    with pytest.raises(BundleError, match=rf"must be a tensor of floats, got tensor\({found}\)"):
        select_engine(bundle, provider="OpenVINO")
