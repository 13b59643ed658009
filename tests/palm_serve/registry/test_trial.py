"""The process in which bundles are tried: its outcomes, its limits, and its own end."""

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from palm_serve.bundle.loader import load_bundle
from palm_serve.errors import BundleError, EngineError
from palm_serve.proof import selection
from palm_serve.proof.selection import EngineRequest, MachineFacts, select_proven_engine
from palm_serve.registry import memory_limit, trial
from palm_serve.registry.memory_limit import bundle_memory, limited_memory
from palm_serve.registry.trial import TrialProcess, TrialRequest

PATIENCE_S = 240.0


def request_for(path: Path, provider: str = "CPU") -> TrialRequest:
    return TrialRequest(
        path=path,
        provider=provider,
        precision="auto",
        threads=1,
        cache=None,
        nice=0,
        measured={"digest": {"a": (1.0,)}},
        trust=None,
        allow_unproven=False,
    )


def trying(use: Callable[[TrialProcess], Awaitable[None]]) -> None:
    """Run `await use(process)` and end the process."""

    async def main() -> None:
        process = TrialProcess()
        try:
            await use(process)
        finally:
            await process.close()

    asyncio.run(main())


def test_trial_of_a_good_bundle_returns_its_version(tiny_bundle: Path) -> None:
    async def use(process: TrialProcess) -> None:
        for _ in range(2):
            result = await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)
            assert result.version == load_bundle(tiny_bundle).manifest.version
            assert result.measured == {"digest": {"a": (1.0,)}}

    trying(use)


def test_trial_proves_and_hands_the_outcomes_over(proven_bundle: Path, tmp_path: Path) -> None:
    """The process that serves then opens what passed, and repeats no comparison beside its traffic."""
    request = request_for(proven_bundle, "auto").model_copy(update={"cache": tmp_path / "file" / "below"})
    (tmp_path / "file").write_text("nothing can be kept here")

    async def use(process: TrialProcess) -> None:
        result = await process.try_bundle(request, PATIENCE_S)
        (outcomes,) = result.outcomes.values()
        assert outcomes["CPU in fp32 (plain)"].status == "passed"
        facts = MachineFacts(dict(result.measured), dict(result.outcomes))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(selection, "judge_result", lambda *_: pytest.fail("proven again"))
            engine = select_proven_engine(
                load_bundle(proven_bundle), EngineRequest(threads=1, cache=request.cache), facts
            )
        assert "passed the proof" in engine.info.selection.reason

    trying(use)


def test_trial_refuses_a_bundle_that_fails_its_proof(
    make_proven_bundle: Callable[[Path], Path], reseal_bundle: Callable[[Path], Path], tmp_path: Path
) -> None:
    path = make_proven_bundle(tmp_path / "changed")
    model = onnx.load(path / "model.onnx")
    (table,) = [tensor for tensor in model.graph.initializer if tensor.name == "table"]
    table.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(table) + np.float32(0.25), "table"))
    onnx.save(model, path / "model.onnx")
    reseal_bundle(path)

    async def use(process: TrialProcess) -> None:
        with pytest.raises(EngineError, match=r"'CPU' cannot be had: .*the limit is a difference of 0.0001"):
            await process.try_bundle(request_for(path), PATIENCE_S)

    trying(use)


def test_trial_raises_what_loading_would_raise(tiny_bundle: Path, tmp_path: Path) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(tiny_bundle, damaged)
    (damaged / "tokenizer.json").write_text("{}")

    async def use(process: TrialProcess) -> None:
        with pytest.raises(BundleError, match=r"tokenizer\.json was changed or damaged"):
            await process.try_bundle(request_for(damaged), PATIENCE_S)
        with pytest.raises(BundleError, match="no such directory"):
            await process.try_bundle(request_for(tmp_path / "absent"), PATIENCE_S)
        with pytest.raises(EngineError, match="provider 'TPU' is unknown"):
            await process.try_bundle(request_for(tiny_bundle, "TPU"), PATIENCE_S)
        assert (await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)).version, "the process goes on"

    trying(use)


def test_trial_that_takes_too_long_is_killed(tiny_bundle: Path) -> None:
    async def use(process: TrialProcess) -> None:
        await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)
        assert process._process is not None
        pid = process._process.pid
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(BundleError, match=r"within 0\.5 s"):
            await process.try_bundle(request_for(tiny_bundle), 0.5)
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
        assert (await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)).version, "another one takes its place"

    trying(use)


def test_process_that_ended_meanwhile_is_replaced(tiny_bundle: Path) -> None:
    """It ends by itself after a while, and the kernel may end it where memory is short."""

    async def use(process: TrialProcess) -> None:
        await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)
        assert process._process is not None
        os.kill(process._process.pid, signal.SIGKILL)
        assert (await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)).version

    trying(use)


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (("-c", "pass"), "the process of trials has ended"),
        (("-c", "print('hello', flush=True); input()"), "the process of trials has ended"),
    ],
)
def test_process_that_does_not_answer_fails_the_bundle(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr(trial, "_COMMAND", command)

    async def use(process: TrialProcess) -> None:
        with pytest.raises(BundleError, match=message):
            await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)

    trying(use)


def test_process_that_cannot_be_started_fails_the_bundle(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nonexistent/python")

    async def use(process: TrialProcess) -> None:
        with pytest.raises(BundleError, match="no process can be started"):
            await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)

    trying(use)


def test_cancelled_trial_leaves_no_process(tiny_bundle: Path) -> None:
    async def use(process: TrialProcess) -> None:
        await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)
        assert process._process is not None
        pid = process._process.pid
        os.kill(pid, signal.SIGSTOP)
        waiting = asyncio.create_task(process.try_bundle(request_for(tiny_bundle), PATIENCE_S))
        await asyncio.sleep(0.05)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)

    trying(use)


def test_memory_follows_the_files_and_what_is_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "graph").open("wb") as file:
        file.truncate(2**20)
    monkeypatch.setattr(memory_limit, "available_memory", lambda: float("inf"))
    assert bundle_memory(tmp_path) == 2**30 + 8 * 2**20
    monkeypatch.setattr(memory_limit, "available_memory", lambda: 2.0**20)
    assert bundle_memory(tmp_path) == int(0.9 * 2**20)


def test_limited_memory_bounds_the_block_only() -> None:
    size = 4 * 2**30
    with limited_memory(2**20), pytest.raises(MemoryError):
        np.empty(size, dtype=np.uint8)
    assert np.empty(size // 64, dtype=np.uint8).nbytes == size // 64
