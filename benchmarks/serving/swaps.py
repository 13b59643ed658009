"""Measure whether calls feel that a version changes.

    python benchmarks/serving/swaps.py BUNDLE [--rounds 6] [--swaps 1] [--every 10] [--share 0.8] [--json FILE]

Calls arrive, open loop, at `--share` of what a closed loop gets. Each round has two equal times: one without a swap, and one with `--swaps`
swaps, one every `--every` seconds. By default that is one swap in ten seconds. The two times change their order from round to round, so that
what changes on the machine meets both. Every swap is to a version that the server has never seen, so the whole proof is in it.

Printed: calls that failed, p99 of the time with swaps to p99 of that without (mean over the rounds, with its 95 % interval), and memory after
all swaps to memory after two.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from processes import PATIENT_S, Process, beside, chosen_texts, copies, finish, middle, options, palm, with_interval

from palm_serve.bench.load import Load
from palm_serve.bench.report import LoadReport
from palm_serve.bench.run import run_load
from palm_serve.client import Client

_LOOK_S = 0.02
_SWAP_S = 120.0
_WARM_UP_S = 1.0
_REFUSALS = ("OK", "RESOURCE_EXHAUSTED")


def point(place: Path, bundle: Path) -> None:
    """Makes the link point to another bundle, at once."""
    new = place.with_name(f".{place.name}")
    new.symlink_to(bundle)
    new.replace(place)


def swap(client: Client, place: Path, bundle: Path) -> float:
    """Seconds until the new version answers."""
    version, began = client.models()[0].version, time.monotonic()
    point(place, bundle)
    while time.monotonic() < began + _SWAP_S:
        now = {model.version for model in client.models()}
        if version not in now and len(now) == 1:
            return time.monotonic() - began
        time.sleep(_LOOK_S)
    raise TimeoutError(f"the server still answers with {version[:12]} after {_SWAP_S:.0f} s")


class Rounds:
    """Loads on one server, with and without swaps.

    Args:
        arguments: the options.
        server: the server.
        place: link to the bundle in service.
        versions: bundles that take their turn.
    """

    def __init__(self, arguments: argparse.Namespace, server: Process, place: Path, versions: Sequence[Path]) -> None:
        self.figures: dict[str, list[float]] = {}
        self.doubts: list[str] = []
        self.swap_s: list[float] = []
        self.memory_mib: list[float] = []
        self._arguments = arguments
        self._server = server
        self._place = place
        self._versions = iter(versions)
        self._texts = chosen_texts(arguments)
        self._seconds = arguments.swaps * arguments.every

    def run(self) -> None:
        """Run all rounds."""
        arguments = self._arguments
        callers = {"concurrency": arguments.callers, "duration_s": min(5.0, self._seconds), "warm_up_s": 0.5}
        rate = arguments.share * run_load(self._load(**callers)).answered
        with Client(self._server.target) as client:
            for number in range(arguments.rounds):
                reports = {}
                for with_swaps in (False, True) if number % 2 == 0 else (True, False):
                    reports[with_swaps] = self._measure(rate, client if with_swaps else None)
                self._record(reports[False], reports[True])

    def _load(self, **fields: Any) -> Load:
        processes = self._arguments.processes
        return Load(self._server.target, texts=self._texts, deadline_s=PATIENT_S, processes=processes, **fields)

    def _measure(self, rate: float, client: Client | None) -> LoadReport:
        """Run a load, beside the swaps if there is a client to see them."""
        threads = []

        def begin(begins: float) -> None:
            if client is not None:
                threads.append(beside(lambda: self._swap_all(begins, client)))

        report = run_load(self._load(rate=rate, duration_s=self._seconds, warm_up_s=_WARM_UP_S), begin)
        for thread in threads:
            thread.join()
        return report

    def _swap_all(self, begins: float, client: Client) -> None:
        for number in range(self._arguments.swaps):
            due = begins + _WARM_UP_S + number * self._arguments.every
            time.sleep(max(0.0, due - time.monotonic()))
            self.swap_s.append(swap(client, self._place, next(self._versions)))
            self.memory_mib.append(self._server.usage().memory_mib)
        if time.monotonic() > begins + _WARM_UP_S + self._seconds:
            self.doubts.append("the last swap of a round ended after the calls that are counted")

    def _record(self, steady: LoadReport, swapped: LoadReport) -> None:
        self.doubts += [*steady.doubts, *swapped.doubts]
        figures = {
            "failed_calls": sum(count for code, count in swapped.codes.items() if code not in _REFUSALS),
            "refused_calls": swapped.codes.get("RESOURCE_EXHAUSTED", 0),
            "calls": swapped.calls,
            "steady_p99_ms": steady.answered_ms["p99"],
            "swapped_p99_ms": swapped.answered_ms["p99"],
            "p99_ratio": swapped.answered_ms["p99"] / steady.answered_ms["p99"],
        }
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)


def main() -> None:
    """Print the table. `--json` also writes it."""
    parser = options(__doc__, swaps=1, every=10.0, rounds=6, share=0.8, callers=32)
    arguments = parser.parse_args()
    count = arguments.swaps * arguments.rounds
    with tempfile.TemporaryDirectory() as directory:
        folder = Path(directory)
        first, *versions = copies(arguments.bundle, folder, count + 1)
        place = folder / "models" / "model" / "stable"
        place.parent.mkdir(parents=True)
        point(place, first)
        watch = ("--watch", place.parent.parent, "--watch-interval", "0.05", "--provider", arguments.provider)
        with palm(*watch, "--cache-dir", folder / "cache") as server:
            rounds = Rounds(arguments, server, place, versions)
            rounds.run()
    if len(rounds.swap_s) < count:
        raise SystemExit("a swap did not come about")
    figures = rounds.figures
    memory = rounds.memory_mib
    after_two = memory[min(1, len(memory) - 1)]
    rows = [
        ("calls", middle(figures["calls"], 0), ""),
        ("failed", middle(figures["failed_calls"], 0), "0"),
        ("refused", middle(figures["refused_calls"], 0), ""),
        ("p99 without swaps, ms", middle(figures["steady_p99_ms"]), ""),
        ("p99 with swaps, ms", middle(figures["swapped_p99_ms"]), ""),
        ("  ratio, mean of the rounds", with_interval(figures["p99_ratio"]), "<= 1.2"),
        (f"a swap, s ({len(rounds.swap_s)} of them)", middle(rounds.swap_s), ""),
        ("memory after two, MiB", f"{after_two:.1f}", ""),
        ("  after all, to that", f"{memory[-1] / after_two:.3f}", "<= 1.05"),
    ]
    found = {"rounds": figures, "swap_s": rounds.swap_s, "memory_mib": memory, "doubts": rounds.doubts}
    settings = {"swaps": arguments.swaps, "every_s": arguments.every, "share": arguments.share}
    finish(arguments, rows, {**settings, **found})


if __name__ == "__main__":
    main()
