"""Versions that change under load.

    python benchmarks/serving/swaps.py BUNDLE [--swaps 10] [--every 1] [--rounds 1] [--share 0.8] [--json FILE]

Two copies of the bundle that differ in their version take turns in a watched directory while calls arrive, open loop, at `--share` of what a
closed loop gets. Each round measures a steady time first, as long as the time of the swaps. Printed: calls that failed, p99 with swaps to p99
without, and memory after all swaps to memory after two.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

from processes import PATIENT_S, beside, chosen_texts, copies, finish, middle, options, palm

from palm_serve.bench.load import Load
from palm_serve.bench.run import run_load
from palm_serve.client import Client

_LOOK_S = 0.02
_SWAP_S = 60.0
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


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = options(__doc__, swaps=10, every=1.0, rounds=1, share=0.8, callers=32)
    arguments = parser.parse_args()
    texts, figures, doubts = chosen_texts(arguments), {}, []
    took: list[float] = []
    memory: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        versions = copies(arguments.bundle, Path(folder), 2)
        place = Path(folder) / "models" / "model" / "stable"
        place.parent.mkdir(parents=True)
        point(place, versions[0])
        watch = ("--watch", place.parent.parent, "--watch-interval", "0.05", "--provider", arguments.provider)
        with palm(*watch) as server, Client(server.target) as client:
            seconds = arguments.swaps * arguments.every

            def load(**fields: Any) -> Load:
                return Load(server.target, texts=texts, deadline_s=PATIENT_S, processes=arguments.processes, **fields)

            def swap_all(begins: float) -> None:
                for number in range(arguments.swaps):
                    time.sleep(max(0.0, begins + 1 + number * arguments.every - time.monotonic()))
                    took.append(swap(client, place, versions[len(took) % 2 - 1]))
                    memory.append(server.usage().memory_mib)

            peak = run_load(load(concurrency=arguments.callers, duration_s=min(5.0, seconds), warm_up_s=0.5))
            for _ in range(arguments.rounds):
                rate = arguments.share * peak.answered
                steady = run_load(load(rate=rate, duration_s=seconds, warm_up_s=1))
                threads = []
                swapped = run_load(
                    load(rate=rate, duration_s=seconds, warm_up_s=1),
                    lambda begins, threads=threads: threads.append(beside(lambda: swap_all(begins))),
                )
                for thread in threads:
                    thread.join()
                doubts += [*steady.doubts, *swapped.doubts]
                for name, value in {
                    "failed_calls": sum(count for code, count in swapped.codes.items() if code not in _REFUSALS),
                    "refused_calls": swapped.codes.get("RESOURCE_EXHAUSTED", 0),
                    "calls": swapped.calls,
                    "steady_p99_ms": steady.answered_ms["p99"],
                    "swapped_p99_ms": swapped.answered_ms["p99"],
                    "p99_ratio": swapped.answered_ms["p99"] / steady.answered_ms["p99"],
                }.items():
                    figures.setdefault(name, []).append(value)
    if len(took) < arguments.swaps * arguments.rounds:
        raise SystemExit("a swap did not come about")
    rows = [
        ("calls", middle(figures["calls"], 0), ""),
        ("failed", middle(figures["failed_calls"], 0), "0"),
        ("refused", middle(figures["refused_calls"], 0), ""),
        ("p99 without swaps, ms", middle(figures["steady_p99_ms"]), ""),
        ("p99 with swaps, ms", middle(figures["swapped_p99_ms"]), ""),
        ("  ratio", middle(figures["p99_ratio"]), "<= 1.2"),
        (f"a swap, s ({len(took)} of them)", middle(took), ""),
        ("memory after two, MiB", f"{memory[min(1, len(memory) - 1)]:.1f}", ""),
        ("  after all, to that", f"{memory[-1] / memory[min(1, len(memory) - 1)]:.3f}", "<= 1.05"),
    ]
    finish(arguments, rows, {"rounds": figures, "swap_s": took, "memory_mib": memory, "doubts": doubts})


if __name__ == "__main__":
    main()
