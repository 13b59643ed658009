"""Three times more than the server can bear.

    python benchmarks/serving/overload.py BUNDLE [--seconds 10] [--times 3] [--deadline 1] [--rounds 1] [--json FILE]

The peak is what a closed loop gets. Then calls arrive at `--times` that rate, open loop, with deadlines. Printed: answers within the deadline to
the peak; how long refusals take (p99) to how long an empty echo takes at its half load; and how long after the last call of the flood a caller
that had its peace before has it again: the last moment at which one of its calls failed or took longer than the slowest of before.
"""

import time
from typing import Any

from processes import PATIENT_S, beside, chosen_texts, echo, finish, middle, options, palm

from palm_serve.bench.load import Load
from palm_serve.bench.run import run_load
from palm_serve.client import Client
from palm_serve.errors import PalmServeError

_PAUSE_S = 0.01
_CALM_S = 1.0
_AFTER_S = 3.0


def probe(target: str, texts: tuple[str, ...], seconds: float, deadline_s: float) -> list[tuple[float, float, bool]]:
    """One caller with pauses: when each call ended (seconds from now), how long it took, and whether it was answered."""
    found, began = [], time.monotonic()
    with Client(target, timeout_s=deadline_s, retries=0) as client:
        while (start := time.monotonic()) < began + seconds:
            try:
                client.parse(texts[len(found) % len(texts)])
                answered = True
            except PalmServeError:
                answered = False
            end = time.monotonic()
            found.append((end - began, end - start, answered))
            time.sleep(_PAUSE_S)
    return found


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = options(__doc__, seconds=10.0, times=3.0, deadline=1.0, rounds=1, callers=64)
    arguments = parser.parse_args()
    texts, figures, doubts = chosen_texts(arguments), {}, []

    def load(target: str, **fields: Any) -> Load:
        common = {"texts": texts, "duration_s": arguments.seconds, "processes": arguments.processes}
        return Load(target, **(common | {"warm_up_s": min(1.0, arguments.seconds / 2)} | fields))

    def note(**values: float) -> None:
        for name, value in values.items():
            figures.setdefault(name, []).append(value)

    with palm(arguments.bundle, "--provider", arguments.provider) as server, echo() as empty:
        for _ in range(arguments.rounds):
            peak = run_load(load(server.target, concurrency=arguments.callers, deadline_s=PATIENT_S))
            most = run_load(load(empty.target, concurrency=arguments.callers, deadline_s=PATIENT_S))
            nothing = run_load(load(empty.target, rate=most.answered / 2, deadline_s=PATIENT_S))
            calm = probe(server.target, texts, _CALM_S, PATIENT_S)
            usual = max(took for _, took, _ in calm)
            after: list[tuple[float, float, bool]] = []
            flood = load(server.target, rate=arguments.times * peak.answered, deadline_s=arguments.deadline)

            def recover(begins: float, flood: Load = flood, after: list[tuple[float, float, bool]] = after) -> None:
                time.sleep(max(0.0, begins + flood.warm_up_s + flood.duration_s - time.monotonic()))
                after += probe(server.target, texts, _AFTER_S, arguments.deadline)

            threads = []
            report = run_load(
                flood, lambda begins, recover=recover, threads=threads: threads.append(beside(lambda: recover(begins)))
            )
            for thread in threads:
                thread.join()
            doubts += [*peak.doubts, *report.doubts]
            note(
                peak_per_s=peak.answered,
                offered_per_s=report.offered,
                goodput_per_s=report.goodput,
                goodput_to_peak=report.goodput / peak.answered,
                answered_late_per_s=report.answered - report.goodput,
                refused_p50_ms=report.refused_ms.get("p50", 0.0),
                refused_p99_ms=report.refused_ms.get("p99", 0.0),
                echo_p99_ms=nothing.answered_ms["p99"],
                refused_to_echo=report.refused_ms.get("p99", 0.0) / nothing.answered_ms["p99"],
                recovered_s=max((end for end, took, answered in after if not answered or took > usual), default=0.0),
                **{f"code_{name.lower()}": float(count) for name, count in report.codes.items()},
            )
    rows = [
        ("peak, calls/s", "peak_per_s", ""),
        ("offered, calls/s", "offered_per_s", ""),
        ("answered in time, calls/s", "goodput_per_s", ""),
        ("  to the peak", "goodput_to_peak", ">= 0.95"),
        ("refusals, median ms", "refused_p50_ms", ""),
        ("refusals, p99 ms", "refused_p99_ms", ""),
        ("empty echo at half its load, p99 ms", "echo_p99_ms", ""),
        ("  refusals to echo", "refused_to_echo", "<= 2"),
        ("calm again after, s", "recovered_s", "<= 1"),
    ]
    codes = sorted(name for name in figures if name.startswith("code_"))
    table = [(name, middle(figures[key]), goal) for name, key, goal in rows]
    table += [(name.removeprefix("code_").upper(), middle(figures[name], 0), "") for name in codes]
    finish(arguments, table, {"rounds": figures, "doubts": doubts})


if __name__ == "__main__":
    main()
