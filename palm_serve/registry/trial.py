"""Trial of a bundle in a process of its own, before the server opens it: with limits of time and memory.

A valid graph may run forever or ask for any amount of memory, and no thread can be stopped from outside. A process can. The
server starts `main` below, writes a `TrialRequest` to its standard input and reads a `TrialResult` from its standard
output. That process has imported what a trial needs, and forks a child for each. It ends when its standard input closes, so
it never outlives the server.

It runs in the background, so that calls do not wait for it. Where nothing is left for the background, the trial is repeated at
the priority of the engines: a busy server must be able to change its models, too.
"""

import asyncio
import ctypes
import logging
import os
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn

from pydantic import BaseModel, ValidationError

from palm_serve.batching import BatchLimits
from palm_serve.batching.thread_priority import lower_thread_priority
from palm_serve.bundle.loader import load_bundle
from palm_serve.engine.timing import Times
from palm_serve.errors import BundleError, EngineError, PalmServeError, one_line
from palm_serve.pipeline import Pipeline
from palm_serve.proof.outcomes import ProofOutcome
from palm_serve.proof.selection import PROOF_BUDGET_S, EngineRequest, MachineFacts, select_proven_engine
from palm_serve.registry.memory_limit import bundle_memory, limited_memory
from palm_serve.system.background import CoreTimes, core_times

log = logging.getLogger(__name__)

_PROGRAM = "from palm_serve.registry.trial import main; main()"
"""Program of the process."""
_ENTER_BACKGROUND = "from palm_serve.system.background import enter_background; enter_background(); "
"""Stands before the imports of a trial, which take as long as the trial of a small model."""
_LOOK_S = 5.0
"""Time between two looks at a process in the background: does it get a core?"""
_LEAST_CORE = 0.1
"""Share of a core with which a process stays in the background. With less, even a small model takes a minute."""
_PATIENCE_S = 30.0
"""Time after which half of a core is the least, but at most half of the time limit. A large model needs it."""
_LINE_LIMIT = 2**24
"""Longest request or result in bytes."""
_PR_SET_PDEATHSIG = 1
"""Option of prctl (Linux): a signal for this process when its parent ends."""
_LEAVE_S = 5.0
"""Seconds that a killed process gets to be gone. One that waits for a dead file server stays for longer."""
_IDLE_S = 30.0
"""Seconds without a trial after which the process ends. Its memory is free then, and the next trial imports all again."""
_FIRST_TO_BE_KILLED = "1000"
"""Value of oom_score_adj: if memory runs out after all, the kernel ends the trial and not the server."""


class TrialRequest(BaseModel):
    """Bundle and options of a trial."""

    path: Path
    trust: Path | None
    allow_unproven: bool
    provider: str
    precision: str
    threads: int | None
    cache: Path | None
    budget_s: float = PROOF_BUDGET_S
    """Seconds after which no further combination is proven."""
    nice: int
    measured: Mapping[str, Mapping[str, Times]]
    """Times of engines that the server knows already."""


class TrialResult(BaseModel):
    """Outcome of a trial."""

    version: str = ""
    """Digest of the bundle that was tried."""
    measured: Mapping[str, Mapping[str, Times]] = {}
    """Times of engines, with those that the trial has measured."""
    outcomes: Mapping[str, Mapping[str, ProofOutcome]] = {}
    """Outcomes of the proof."""
    missing: Mapping[str, str] = {}
    """Execution providers that cannot be used, with the reason."""
    bundle_fault: str = ""
    engine_fault: str = ""

    def check(self) -> None:
        """Raise the error of a bundle that failed.

        Raises:
            BundleError: the bundle must not be served.
            EngineError: no engine can run the bundle.
        """
        if self.bundle_fault:
            raise BundleError(self.bundle_fault)
        if self.engine_fault:
            raise EngineError(self.engine_fault)


class _NoCoreFree(Exception):
    """A process in the background has waited for a core for most of its time."""


class TrialProcess:
    """The process in which bundles are tried. It starts with the first trial and ends when it has nothing to do for a while."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._in_background = True
        """True if the process runs, or will run, in the background. One that does not serves the next trials, too, until it ends."""

    async def try_bundle(self, request: TrialRequest, limit_s: float) -> TrialResult:
        """Try a bundle. Trials must not overlap.

        Args:
            request: the bundle and the options.
            limit_s: seconds after which the bundle has failed. They count anew where the trial is repeated because the
                background got no core.

        Raises:
            BundleError: the bundle must not be served, or takes too long.
            EngineError: no engine can run the bundle.
        """
        try:
            line = await self._answer(request, limit_s)
        except _NoCoreFree:
            log.info("no core is free for the trial of %s, which is repeated at a higher priority", request.path)
            self._in_background = False
            line = await self._answer(request, limit_s)
        try:
            result = TrialResult.model_validate_json(line)
        except ValidationError:
            raise BundleError(f"{request.path} cannot be tried: the process of trials has ended") from None
        result.check()
        return result

    async def _answer(self, request: TrialRequest, limit_s: float) -> bytes:
        """Return the line of the result. The process is ended if there is none."""
        line = b""
        try:
            async with asyncio.timeout(limit_s):
                line = await self._exchange(request, limit_s)
                if not line:  # it had nothing to do for too long, or its memory was needed elsewhere
                    await self.close()
                    line = await self._exchange(request, limit_s)
        except TimeoutError:
            raise BundleError(took_too_long(request.path, limit_s)) from None
        except OSError as error:
            raise BundleError(f"{request.path} cannot be tried, because no process can be started: {error}") from None
        finally:
            if not line:
                await self.close()
        return line

    async def close(self) -> None:
        """End the process, and the trial that runs in it. The next one begins in the background."""
        self._in_background = True
        process = self._process
        self._process = None
        if process is None:
            return
        if process.returncode is None:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        with suppress(TimeoutError):
            await asyncio.wait_for(process.communicate(), _LEAVE_S)

    async def _exchange(self, request: TrialRequest, limit_s: float) -> bytes:
        """Send the request and return the line of the result. Empty: the process has ended.

        Raises:
            _NoCoreFree: the process runs in the background, and gets too little of the processor.
        """
        if self._process is None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # nothing is imported from the working directory
                "-c",
                f"{_ENTER_BACKGROUND if self._in_background else ''}{_PROGRAM}",
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
                limit=_LINE_LIMIT,
                # A group of its own, so that Ctrl-C reaches the server only, which decides. No session of its own, because
                # Linux compares priorities within a session only.
                process_group=0,
            )
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        with suppress(ConnectionError):  # it has ended
            process.stdin.write(request.model_dump_json().encode() + b"\n")
            await process.stdin.drain()
        began = time.monotonic()
        before = core_times(process.pid)
        while True:
            try:
                async with asyncio.timeout(min(_LOOK_S, limit_s / 2)):
                    return await process.stdout.readline()
            except TimeoutError:
                elapsed_s = time.monotonic() - began
                is_late = elapsed_s >= min(_PATIENCE_S, limit_s / 2)
                if self._in_background and _lacks_a_core(before, core_times(process.pid), elapsed_s, is_late):
                    raise _NoCoreFree from None


def _lacks_a_core(before: CoreTimes | None, now: CoreTimes | None, elapsed_s: float, is_late: bool) -> bool:
    """Return True if a process wants a core and does not get it.

    Args:
        before: times of the process at the beginning. None: unknown.
        now: its times now.
        elapsed_s: seconds between both.
        is_late: True if the process must get half of a core.
    """
    if before is None or now is None:
        return is_late
    ran_s = now.ran - before.ran
    waited_s = now.waited - before.waited
    if waited_s < elapsed_s / 2:  # it sleeps, hangs or runs
        return False
    return ran_s < (0.5 if is_late else _LEAST_CORE) * (ran_s + waited_s)


def took_too_long(path: Path, limit_s: float) -> str:
    """Return the message for a bundle that is not ready in time."""
    return (
        f"{path} must load, answer its golden examples and warm up within {limit_s:g} s, and has not. "
        "Export it again, or raise --load-timeout if it is large."
    )


def run_trial(request: TrialRequest) -> TrialResult:
    """Load, check and warm up a bundle in this process."""
    memory = bundle_memory(request.path)
    facts = MachineFacts(dict(request.measured))
    engine_request = EngineRequest(
        request.provider, request.precision, request.threads, request.cache, request.budget_s
    )
    try:
        with limited_memory(memory):
            bundle = load_bundle(
                request.path, trust=request.trust, allow_unproven=request.allow_unproven, defer_graphs=True
            )
            pipeline = Pipeline(bundle, select_proven_engine(bundle, engine_request, facts))
            check_and_warm_up(pipeline, BatchLimits())
    except BundleError as error:
        return TrialResult(bundle_fault=str(error))
    except EngineError as error:
        return TrialResult(engine_fault=str(error))
    except Exception as error:  # of the runtimes, and of libraries that read the files
        reason = f"{type(error).__name__}: {one_line(error)}"
        limit = f"{memory / 2**20:,.0f} MiB"
        return TrialResult(engine_fault=f"{request.path} cannot be loaded (it may use {limit}): {reason}")
    return TrialResult(
        version=bundle.manifest.version, measured=facts.times, outcomes=facts.outcomes, missing=facts.missing
    )


def check_and_warm_up(
    pipeline: Pipeline, limits: BatchLimits, observe: Callable[[int, float], None] = lambda tokens, seconds: None
) -> None:
    """Compare the golden answers of a bundle and run the shapes that serving will meet.

    Args:
        pipeline: the bundle and its engine.
        limits: limits of a batch.
        observe: called with the padded tokens and the seconds of each run of the warm-up.

    Raises:
        BundleError: an answer differs from that of the export.
        EngineError: the engine fails.
    """
    try:
        pipeline.golden_check()
        pipeline.warm_up(limits, observe=observe)
    except PalmServeError:
        raise
    except Exception as error:  # the exceptions of the runtimes share no base class
        raise EngineError(f"{pipeline.bundle.path} cannot be run: {type(error).__name__}: {one_line(error)}") from error


def main() -> None:
    """Run the trials that standard input asks for, and write their results to standard output."""
    output = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries may print
    requests = open(0, "rb", buffering=0, closefd=False)  # noqa: SIM115 - without a buffer, which `select` does not see
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(_FIRST_TO_BE_KILLED, encoding="ascii")
    while select.select((0,), (), (), _IDLE_S)[0]:
        line = requests.readline()
        if not line:
            return
        request = TrialRequest.model_validate_json(line)
        code = _run_in_child(request, output)
        if code:
            result = TrialResult(bundle_fault=f"{request.path} cannot be tried: its process ended with {_ending(code)}")
            output.write(result.model_dump_json().encode() + b"\n")


def _run_in_child(request: TrialRequest, output: IO[bytes]) -> int:
    """Run one trial in a child process and return its exit code. End it when standard input is closed."""
    alive, held_by_child = os.pipe()
    with warnings.catch_warnings(action="ignore"):  # numpy has started threads, which the child does not need
        child = os.fork()
    if not child:
        _run_child(request, output)
    os.close(held_by_child)
    # Neither is read. The end of the child closes one pipe, and the end of the server the other one.
    poll = select.poll()
    for descriptor in (0, alive):
        poll.register(descriptor, 0)
    closed = [descriptor for descriptor, _ in poll.poll()]
    os.close(alive)
    if 0 in closed:
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_child(request: TrialRequest, output: IO[bytes]) -> NoReturn:
    """Run one trial and end the process."""
    code = 1
    try:
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        lower_thread_priority(request.nice)
        result = run_trial(request)
        output.write(result.model_dump_json().encode() + b"\n")
        code = 0
    finally:
        os._exit(code)  # the threads of the runtimes need no orderly end


def _ending(code: int) -> str:
    """Describe an exit code."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name} (out of memory?)" if name == "SIGKILL" else name
