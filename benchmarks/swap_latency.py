"""What a hot swap costs those who call meanwhile: failures, latency, memory.

    python benchmarks/swap_latency.py BUNDLE [--swaps 20] [--rate 50] [--json FILE] [-- OPTIONS OF palm-serve run]

The bundle, and a copy that differs in its README only, take turns under a watched directory. Calls come at random (open loop, Poisson), and latency
counts from when a call was meant to begin. Windows without a swap, windows without a swap that stand for a control, and windows in which one is
loaded, checked and put in place alternate; the figures are of all calls of a kind of window.
"""

import argparse
import asyncio
import hashlib
import json
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import grpc
import numpy as np

from palm_serve.bundle.loader import MANIFEST, load_bundle
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

KINDS = ("steady", "control", "swap")
PAUSE_S = 3.0
_README = "README.md"


def second_version(bundle: Path, path: Path) -> Path:
    """A copy of the bundle with another digest."""
    shutil.copytree(bundle, path)
    (path / _README).write_text(f"{(bundle / _README).read_text()}\nA copy.\n")
    manifest = load_bundle(bundle).manifest
    files = manifest.files | {_README: hashlib.sha256((path / _README).read_bytes()).hexdigest()}
    manifest = manifest.model_copy(update={"files": files})
    manifest = manifest.model_copy(update={"version": manifest.digest()})
    (path / MANIFEST).write_text(manifest.model_dump_json())
    return path


def point(place: Path, bundle: Path) -> None:
    """Makes the link point to another bundle, at once."""
    new = place.with_name(f".{place.name}")
    new.symlink_to(bundle.resolve())
    new.replace(place)


def start(folder: Path, options: list[str]) -> tuple[subprocess.Popen[str], str]:
    """A server process that is ready, and its address."""
    command = [sys.executable, "-m", "palm_serve.cli", "run", "--watch", str(folder), "--watch-interval", "0.1"]
    process = subprocess.Popen([*command, "--port", "0", *options], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    target = ""
    for line in process.stdout:
        if found := re.search(r"listening on (\S+)", line):
            target = found[1]
        if "ready" in line:
            return process, target
    sys.exit(f"the server ended with exit code {process.wait()} before it was ready")


def memory_mib(process: subprocess.Popen[str]) -> float:
    """Resident memory."""
    return int(Path(f"/proc/{process.pid}/status").read_text().partition("VmRSS:")[2].split()[0]) / 1024


class Load:
    """Calls at random until it is cancelled. `kind` is the window that a call belongs to."""

    def __init__(self, channel: grpc.aio.Channel, texts: list[str], rate: float) -> None:
        self.kind = "warm-up"
        self.seconds: dict[str, list[float]] = {kind: [] for kind in ("warm-up", *KINDS)}
        self.failures: list[str] = []
        self._parse = stubs.DialogueUnderstandingStub(channel).Parse
        self._texts, self._rate, self._random = texts, rate, random.Random(13)

    async def run(self, stop: asyncio.Event) -> None:
        """Returns when the last call is answered."""
        due = time.perf_counter()
        async with asyncio.TaskGroup() as calls:
            while not stop.is_set():
                due += self._random.expovariate(self._rate)
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                calls.create_task(self._call(due, self.kind))

    async def _call(self, due: float, kind: str) -> None:
        try:
            await self._parse(pb.ParseRequest(text=self._random.choice(self._texts)), timeout=30)
        except grpc.RpcError as error:
            self.failures.append(str(error))
        self.seconds[kind].append(time.perf_counter() - due)


async def measure(process: subprocess.Popen[str], target: str, place: Path, bundles: list[Path], arguments) -> dict:
    """The rounds."""
    texts = [example.text for example in load_bundle(bundles[0]).golden]
    sizes, took, stop = [], [], asyncio.Event()
    async with grpc.aio.insecure_channel(target) as channel:
        models, load = stubs.ModelsStub(channel), Load(channel, texts, arguments.rate)
        running = asyncio.create_task(load.run(stop))
        await asyncio.sleep(PAUSE_S)
        for number in range(arguments.swaps):
            for load.kind in KINDS[:2]:
                await asyncio.sleep(PAUSE_S / 2)
            load.kind, began = KINDS[2], time.perf_counter()
            old = (await models.GetModel(pb.GetModelRequest())).version
            point(place, bundles[(number + 1) % 2])
            while {model.version for model in (await models.ListModels(pb.ListModelsRequest())).models} & {old}:
                await asyncio.sleep(0.02)
            took.append(time.perf_counter() - began)
            load.kind = "warm-up"  # the old version finishes and is closed
            await asyncio.sleep(PAUSE_S / 2)
            sizes.append(memory_mib(process))
        stop.set()
        await running
    quantiles = {kind: [1e3 * float(np.percentile(load.seconds[kind], q)) for q in (50, 90, 99)] for kind in KINDS}
    return {
        "failures": len(load.failures),
        "calls": {kind: len(load.seconds[kind]) for kind in KINDS},
        "milliseconds": quantiles,
        "swap_seconds": float(np.median(took)),
        "memory_mib": [sizes[min(1, len(sizes) - 1)], sizes[-1]],
    }


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--swaps", type=int, default=20)
    parser.add_argument("--rate", type=float, default=50, help="calls a second")
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="of palm-serve run, behind --")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bundles = [arguments.bundle, second_version(arguments.bundle, Path(folder) / "second")]
        place = Path(folder) / "models" / "model" / "stable"
        place.parent.mkdir(parents=True)
        point(place, bundles[0])
        process, target = start(place.parents[1], arguments.options)
        try:
            result = asyncio.run(measure(process, target, place, bundles, arguments))
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()
    print(f"{'window':<10}{'calls':>8}{'p50 ms':>10}{'p90 ms':>10}{'p99 ms':>10}")
    for kind in KINDS:
        print(f"{kind:<10}{result['calls'][kind]:>8}" + "".join(f"{ms:>10.1f}" for ms in result["milliseconds"][kind]))
    before, after = result["memory_mib"]
    print(f"{arguments.swaps} swaps of {result['swap_seconds']:.1f} s, {result['failures']} failed calls; ", end="")
    print(f"memory {before:.0f} MiB after 2, {after:.0f} MiB at the end ({after / before:.3f} x)")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
