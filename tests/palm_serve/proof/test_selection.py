"""Selection of an engine: only what passes the proof is used, and of that the fastest."""

import dataclasses
import json
import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from palm_serve.bundle.loader import Bundle
from palm_serve.bundle.manifest import Gate
from palm_serve.engine.padding import pad_batch
from palm_serve.errors import EngineError
from palm_serve.proof import outcomes
from palm_serve.proof.selection import EngineRequest, MachineFacts, select_proven_engine
from palm_serve.types import Encoding, EngineInfo, PaddedBatch


def select(bundle: Bundle, facts: MachineFacts | None = None, **options: Any) -> Any:
    return select_proven_engine(bundle, EngineRequest(**options), facts or MachineFacts())


def trials(info: EngineInfo) -> dict[str, str]:
    return {f"{trial.provider} {trial.precision}": trial.outcome for trial in info.selection.trials}


def batch_of(bundle: Bundle) -> PaddedBatch:
    return pad_batch([Encoding([2, 5, 3], [0, 0, 0], [(0, 0)] * 3, [0] * 3)], bundle.manifest.input_names)


def test_auto_uses_a_cuda_session_that_passes(proven, machine, caplog):
    """The bundle was made without CUDA, and no gate in its manifest names it."""
    machine.fake("CUDA")
    machine.seconds = {"CUDA": 1.0, "CPU": 2.0}
    with caplog.at_level(logging.INFO, "palm_serve"):
        engine = select(proven)
    assert engine.info.provider == "CUDA"
    assert trials(engine.info) == {"CPU fp32": "passed", "CUDA fp32": "passed"}
    assert engine.info.selection.reason == (
        "CUDA in fp32 (plain) is the fastest of 2 that passed the proof, or as fast and more exact"
    )
    assert "proven: CUDA in fp32 (plain) passed the proof" in caplog.text


def test_auto_refuses_a_cuda_session_that_lies_once(proven, machine, lie_once, caplog):
    """One of 1,296 answers is another one."""
    machine.fake("CUDA", lie=lie_once)
    machine.seconds = {"CUDA": 1.0, "CPU": 2.0}
    engine = select(proven)
    assert engine.info.provider == "CPU"
    assert trials(engine.info) == {"CPU fp32": "passed", "CUDA fp32": "failed"}
    (failed,) = [trial for trial in engine.info.selection.trials if trial.provider == "CUDA"]
    assert failed.reason == "1 of 1296 answers differ"
    assert "CUDA in fp32 (plain) failed the proof and is not used" in caplog.text


def test_reduced_precision_may_change_few_answers(proven, machine, lie_once):
    """1 of 1,296 answers and 1 of 432 examples: over the 0.2 points that a metric may lose."""
    machine.fake("OpenVINO", precision="bf16", lie=lie_once)
    with pytest.raises(EngineError, match=r"the answers to 1 of 432 examples differ, and at most 0 may"):
        select(proven, provider="OpenVINO", precision="bf16")


def test_session_that_answers_nan_is_refused(proven, machine, tell_nan, caplog):
    machine.fake("CUDA", lie=tell_nan)
    assert select(proven).info.provider == "CPU"
    assert "the bundle gives nan" in caplog.text


def test_reduced_precision_that_answers_nan_is_refused(proven, machine, tell_nan):
    machine.fake("OpenVINO", precision="bf16", lie=tell_nan)
    with pytest.raises(EngineError, match="the bundle gives nan"):
        select(proven, provider="OpenVINO", precision="bf16")


@pytest.mark.slow
def test_session_that_is_slow_is_not_chosen(proven, machine):
    machine.fake("CUDA", seconds=0.05)
    engine = select(proven)
    assert engine.info.provider == "CPU"
    assert trials(engine.info) == {"CPU fp32": "passed", "CUDA fp32": "passed"}


def test_session_that_fails_to_load_is_told_once(proven, machine, caplog):
    machine.fail("CUDA", "CUDA is not available. The NVIDIA driver is missing.")
    with caplog.at_level(logging.WARNING, "palm_serve"):
        engine = select(proven)
    assert engine.info.provider == "CPU"
    assert trials(engine.info)["CUDA fp32"] == "unusable"
    assert caplog.text.count("The NVIDIA driver is missing") == 1
    assert [opened[0] for opened in machine.opened].count("CUDA") == 1


def test_missing_provider_is_told_once_for_all_models(proven, machine, caplog):
    machine.fail("CUDA", "CUDA is not available. The NVIDIA driver is missing.")
    facts = MachineFacts()
    select(proven, facts)
    anew = dataclasses.replace(proven, manifest=proven.manifest.model_copy(update={"version": "another"}))
    select(anew, facts)
    select(anew, MachineFacts(missing=facts.missing))
    assert caplog.text.count("CUDA is not used: CUDA is not available. The NVIDIA driver is missing.") == 1
    assert [opened[0] for opened in machine.opened].count("CUDA") == 1, "it is not tried for each model"


def test_session_that_passes_and_then_fails_is_an_error(proven, machine):
    """It fails while it is timed, and so do all others."""
    machine.fake("CUDA", runs=500)
    machine.fake("CPU", runs=500)
    prove = select(proven, provider="CUDA")
    assert prove.info.provider == "CUDA"
    used_runs = 500 - prove._engine.remaining
    machine.fake("CUDA", runs=used_runs)
    machine.fake("CPU", runs=used_runs)
    anew = dataclasses.replace(proven, manifest=proven.manifest.model_copy(update={"version": "another"}))
    with pytest.raises(
        EngineError, match=r"CPU in fp32 \(plain\) passed the proof, but does not run: the log says why"
    ):
        select(anew)


def test_session_that_fails_in_the_proof_is_refused(proven, machine, caplog):
    machine.fake("CUDA", runs=20)
    assert select(proven).info.provider == "CPU"
    assert "the bundle cannot be run: device lost" in caplog.text


def test_session_that_fails_later_is_replaced_by_the_cpu(proven, machine, caplog):
    machine.fake("CUDA")
    machine.seconds = {"CUDA": 1.0, "CPU": 2.0}
    engine = select(proven)
    engine._engine.remaining = 0
    values = engine.run(batch_of(proven))
    assert engine.info.provider == "CPU"
    assert trials(engine.info)["CUDA fp32"] == "passed", "what was looked at stays visible"
    assert values["intent.logits"].shape == (1, 4)
    assert "CUDA in fp32 failed while running, the model goes on on CPU in fp32: device lost" in caplog.text


def test_cpu_that_fails_the_proof_is_no_fallback(proven, machine, lie_once):
    machine.fake("CUDA")
    machine.fake("CPU", lie=lie_once)
    engine = select(proven)
    assert engine.info.provider == "CUDA"
    engine.remaining = 0
    with pytest.raises(RuntimeError, match="device lost"):
        engine.run(batch_of(proven))


def test_bundle_of_which_nothing_passes_is_refused(proven, machine, lie_once):
    machine.fake("CPU", lie=lie_once)
    with pytest.raises(
        EngineError, match=r"an engine cannot be had: CPU in fp32 \(plain\) failed the proof: .* differ"
    ):
        select(proven)


def test_forced_provider_that_fails_the_proof_is_an_error(proven, machine, lie_once):
    machine.fake("CUDA", lie=lie_once)
    with pytest.raises(EngineError, match=r"provider 'CUDA' cannot be had: CUDA in fp32 \(plain\) failed the proof"):
        select(proven, provider="CUDA")


def test_forced_provider_that_is_missing_is_an_error(proven, machine):
    machine.fail("CUDA", "CUDA is not available. The NVIDIA driver is missing.")
    with pytest.raises(EngineError, match=r"provider 'CUDA' cannot be had.*The NVIDIA driver is missing"):
        select(proven, provider="CUDA")


@pytest.mark.parametrize("providers", ["CUDA,CPU", "TensorRT,CUDA,CPU", "CUDA,auto"])
def test_named_fallback_is_used(proven, machine, lie_once, caplog, providers):
    machine.fake("CUDA", lie=lie_once)
    assert select(proven, provider=providers).info.provider == "CPU"
    assert f"trying the next of --provider {providers}" in caplog.text


def test_bundle_without_a_proof_behaves_as_before(proven, machine):
    machine.fake("CUDA")
    machine.seconds = {"CUDA": 1.0, "CPU": 2.0}
    engine = select(dataclasses.replace(proven, proof=None))
    assert engine.info.provider == "CPU", "the manifest has no gate of CUDA"
    assert engine.info.selection.trials == ()


def test_combination_that_failed_at_the_export_is_not_tried(proven, machine):
    machine.fake("CUDA")
    plain = proven.manifest.variants["plain"]
    gates = (Gate(provider="CUDA", precision="fp32", passed=False),)
    variants = {"plain": plain.model_copy(update={"gates": gates})}
    bundle = dataclasses.replace(proven, manifest=proven.manifest.model_copy(update={"variants": variants}))
    engine = select(bundle)
    assert engine.info.provider == "CPU"
    assert ("CUDA", "fp32", "plain") not in machine.opened
    assert trials(engine.info)["CUDA fp32"] == "not_tried"


def test_tensorrt_waits_for_the_command_prove(proven, machine):
    machine.fake("TensorRT")
    engine = select(proven)
    assert engine.info.provider == "CPU"
    assert ("TensorRT", "fp32", "plain") not in machine.opened
    (trial, *_) = [trial for trial in engine.info.selection.trials if trial.provider == "TensorRT"]
    assert "`palm-serve prove` builds and proves it" in trial.reason


def count_comparisons(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list that grows with each proof."""
    compared: list[str] = []
    judge = outcomes.judge_result

    def judge_and_count(result: Any, prover: Any) -> Any:
        compared.append(result.predictor.engine.info.provider)
        return judge(result, prover)

    monkeypatch.setattr("palm_serve.proof.selection.judge_result", judge_and_count)
    return compared


def test_proof_is_kept_for_the_next_start(proven, machine, monkeypatch):
    machine.fake("CUDA")
    machine.seconds = {"CUDA": 1.0, "CPU": 2.0}
    compared = count_comparisons(monkeypatch)
    select(proven)
    assert sorted(compared) == ["CPU", "CUDA"]
    machine.opened.clear()
    assert select(proven).info.provider == "CUDA"
    assert sorted(compared) == ["CPU", "CUDA"]
    assert machine.opened == [("CUDA", "fp32", "plain")], "nothing else is opened beside what serves"


def test_lie_is_remembered_at_the_next_start(proven, machine, lie_once, caplog):
    machine.fake("CUDA", lie=lie_once)
    select(proven)
    caplog.clear()
    assert select(proven).info.provider == "CPU"
    assert "CUDA in fp32 (plain) failed the proof and is not used" in caplog.text


@pytest.mark.parametrize("change", ["driver", "library", "bundle"])
def test_proof_of_other_facts_is_not_used(proven, machine, monkeypatch, cache, change):
    machine.fake("CUDA")
    machine.seconds = {"CUDA": 1.0, "CPU": 2.0}
    compared = count_comparisons(monkeypatch)
    monkeypatch.setattr(outcomes, "gpu_facts", lambda: {"driver": "550.54"})
    select(proven)
    if change == "driver":
        monkeypatch.setattr(outcomes, "gpu_facts", lambda: {"driver": "570.86"})
    if change == "library":
        facts = outcomes.machine_facts()
        monkeypatch.setattr(outcomes, "machine_facts", lambda: {**facts, "onnxruntime": "9.9"})
    if change == "bundle":
        proven = dataclasses.replace(proven, manifest=proven.manifest.model_copy(update={"version": "another"}))
    machine.fake("CUDA", lie=lambda batch, values: values.update({"intent.logits": -values["intent.logits"]}))
    assert select(proven).info.provider == "CPU"
    assert compared.count("CUDA") == 2
    assert len(list(cache.glob("proof-*.json"))) == 2


def test_cache_that_cannot_be_written_is_a_warning(proven, machine, tmp_path, caplog, monkeypatch):
    (tmp_path / "file").write_text("")
    compared = count_comparisons(monkeypatch)
    for _ in range(2):
        assert select(proven, cache=tmp_path / "file" / "below").info.provider == "CPU"
    assert compared == ["CPU", "CPU"]
    assert caplog.text.count("the outcome of the proof cannot be kept, so the next start repeats it") == 2


def test_process_remembers_where_nothing_can_be_written(proven, machine, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    compared = count_comparisons(monkeypatch)
    facts = MachineFacts()
    for _ in range(2):
        select(proven, facts, cache=tmp_path / "file" / "below")
    assert compared == ["CPU"]


@pytest.mark.parametrize("content", ["", "[]", "{", '{"key": {}, "proof": {}}', '{"key": 1, "proof": [1]}'])
def test_damaged_cache_is_written_again(proven, machine, cache, content):
    select(proven)
    (file,) = cache.glob("proof-*.json")
    good = file.read_text()
    file.write_text(content)
    select(proven)
    assert file.read_text() == good


def test_cache_with_other_outcomes_is_written_again(proven, machine, cache, monkeypatch):
    compared = count_comparisons(monkeypatch)
    select(proven)
    (file,) = cache.glob("proof-*.json")
    document = json.loads(file.read_text())
    file.write_text(json.dumps({**document, "proof": {"CPU in fp32 (plain)": {"status": "perfect"}}}))
    select(proven)
    assert compared == ["CPU", "CPU"]


def test_servers_that_prove_at_once_leave_one_whole_file(proven, machine, cache):
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            select(proven)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=serve) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert [path.name.partition("-")[0] for path in cache.iterdir()] == ["proof"], "no temporary file is left"
    (file,) = cache.iterdir()
    assert json.loads(file.read_text())["proof"]["CPU in fp32 (plain)"]["status"] == "passed"


def test_time_limit_leaves_further_combinations_untried(proven, machine):
    machine.fake("CUDA")
    engine = select(proven, budget_s=0.0)
    assert trials(engine.info) == {"CPU fp32": "passed", "CUDA fp32": "not_tried"}
    engine = select(proven, budget_s=0.0)
    assert trials(engine.info) == {"CPU fp32": "passed", "CUDA fp32": "passed"}, "the next start goes on"


def test_model_trained_again_proves_only_the_fastest(proven, machine, monkeypatch):
    """Other versions serve meanwhile, so what is known to be slower is not proven again."""
    machine.fake("CUDA")
    machine.seconds = {"CUDA": 1.0, "CPU": 2.0}
    facts = MachineFacts()
    select(proven, facts)
    compared = count_comparisons(monkeypatch)
    anew = dataclasses.replace(proven, manifest=proven.manifest.model_copy(update={"version": "another"}))
    engine = select(anew, facts)
    assert engine.info.provider == "CUDA"
    assert compared == ["CUDA"]
    assert trials(engine.info) == {"CUDA fp32": "passed", "CPU fp32": "not_tried"}


@pytest.mark.parametrize("budget_s", [60.0, 0.0])
def test_model_trained_again_that_fails_there_uses_the_next(proven, machine, monkeypatch, lie_once, budget_s):
    machine.fake("CUDA")
    machine.seconds = {"CUDA": 1.0, "CPU": 2.0}
    facts = MachineFacts()
    select(proven, facts)
    machine.fake("CUDA", lie=lie_once)
    anew = dataclasses.replace(proven, manifest=proven.manifest.model_copy(update={"version": "another"}))
    engine = select(anew, facts, budget_s=budget_s)
    assert engine.info.provider == "CPU"
    assert trials(engine.info) == {"CUDA fp32": "failed", "CPU fp32": "passed"}


def test_cache_directory_is_the_one_that_is_asked_for(proven, machine, tmp_path: Path):
    select(proven, cache=tmp_path / "elsewhere")
    assert [path.name.partition("-")[0] for path in (tmp_path / "elsewhere").iterdir()] == ["proof"]
