"""The process in which bundles are tried: its outcomes, its limits, and its own end."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
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
from palm_serve.system.background import CoreTimes

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


@pytest.mark.skipif(sys.platform != "linux", reason="scheduling classes are Linux's")
def test_trial_runs_in_the_background_of_the_server(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Priorities are compared within a session, so the process must be in that of the server."""
    monkeypatch.setattr(trial, "_LOOK_S", PATIENCE_S)  # however busy this machine is

    async def use(process: TrialProcess) -> None:
        await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)
        assert process._process is not None
        pid = process._process.pid
        assert os.sched_getscheduler(pid) == os.SCHED_IDLE
        assert os.getpriority(os.PRIO_PROCESS, pid) == 19
        assert os.getsid(pid) == os.getsid(0)
        assert os.getpgid(pid) == pid != os.getpgid(0), "Ctrl-C reaches the server only"

    trying(use)


@pytest.mark.skipif(sys.platform != "linux", reason="cores of a process and its waiting are Linux's")
def test_trial_without_a_free_core_is_repeated_at_a_higher_priority(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    core = min(os.sched_getaffinity(0))
    spin = f"import os; os.sched_setaffinity(0, [{core}]); print(flush=True)\nwhile True: pass"

    async def use(process: TrialProcess) -> None:
        monkeypatch.setattr(trial, "_LOOK_S", PATIENCE_S)
        await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)
        monkeypatch.setattr(trial, "_LOOK_S", 0.5)
        assert process._process is not None
        starved = process._process.pid
        os.sched_setaffinity(starved, [core])
        with (
            caplog.at_level(logging.INFO, "palm_serve"),
            subprocess.Popen([sys.executable, "-c", spin], stdout=subprocess.PIPE) as busy,
        ):
            try:
                assert busy.stdout is not None
                busy.stdout.readline()
                result = await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)
            finally:
                busy.kill()
        assert result.version
        assert "no core is free for the trial" in caplog.text
        with pytest.raises(ProcessLookupError):
            os.kill(starved, 0)
        assert process._process is not None
        pid = process._process.pid
        assert os.sched_getscheduler(pid) == os.SCHED_OTHER
        await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)
        assert process._process.pid == pid
        os.kill(pid, signal.SIGKILL)
        monkeypatch.setattr(trial, "_LOOK_S", PATIENCE_S)
        await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)
        assert os.sched_getscheduler(process._process.pid) == os.SCHED_IDLE, "a new process is in the background"

    trying(use)


def test_trial_whose_waiting_is_unknown_is_repeated_in_time(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system without these figures must not refuse a bundle because its cores are busy."""

    async def use(process: TrialProcess) -> None:
        await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)
        assert process._process is not None
        process._in_background = True  # a busy machine may have repeated the trial already
        stopped = process._process.pid
        os.kill(stopped, signal.SIGSTOP)
        monkeypatch.setattr(trial, "core_times", lambda pid: None)
        monkeypatch.setattr(trial, "_PATIENCE_S", 0.1)
        monkeypatch.setattr(trial, "_LOOK_S", 0.1)
        assert (await process.try_bundle(request_for(tiny_bundle), PATIENCE_S)).version
        with pytest.raises(ProcessLookupError):
            os.kill(stopped, 0)

    trying(use)


@pytest.mark.parametrize(
    ("ran", "waited", "is_late", "lacks"),
    [
        (0.0, 5.0, False, True),
        (0.0, 0.1, False, False),  # it hangs
        (5.0, 5.0, False, False),  # two threads, one of which waits
        (1.0, 4.0, False, False),
        (0.3, 4.7, False, True),
        (1.0, 4.0, True, True),
        (3.0, 2.4, True, False),
    ],
)
def test_process_lacks_a_core_if_it_waits_most_of_the_time(
    ran: float, waited: float, is_late: bool, lacks: bool
) -> None:
    before = CoreTimes(1.0, 2.0)
    assert trial._lacks_a_core(before, CoreTimes(1.0 + ran, 2.0 + waited), 5.0, is_late) is lacks
    assert trial._lacks_a_core(before, None, 5.0, is_late) is is_late


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
    ("program", "message"),
    [
        ("pass", "the process of trials has ended"),
        ("print('hello', flush=True); input()", "the process of trials has ended"),
    ],
)
def test_process_that_does_not_answer_fails_the_bundle(
    tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch, program: str, message: str
) -> None:
    monkeypatch.setattr(trial, "_PROGRAM", program)

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
