"""Where the time of one `Parse` goes, with nothing else in flight.

    python benchmarks/serving/one_call.py BUNDLE [--rounds 4] [--calls 100] [--json FILE]

Rounds alternate between the server and the echo (echo.py), called one after the other by the same client. Printed are processor times per call, by
thread of the server, from /proc (Linux), which other programs disturb less than times; what the server tells in its timings; and the median of a call.
"""

import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from processes import Process, chosen_texts, echo, finish, middle, options, palm

from palm_serve.client import Client

_STAGES = ("tokenize", "queue", "inference", "decode")


def thread_seconds(pid: int) -> dict[int, float]:
    """Return the processor seconds of each thread of a process."""
    seconds = {}
    for name in os.listdir(f"/proc/{pid}/task"):
        schedule = Path(f"/proc/{pid}/task/{name}/schedstat").read_text(encoding="ascii")
        seconds[int(name)] = int(schedule.split()[0]) / 1e9
    return seconds


def one_round(server: Process, client: Client, texts: Sequence[str], calls: int) -> dict[str, float]:
    """Return milliseconds per call: of the event loop's thread, the busiest other one, the client, the call, and the stages."""
    before = thread_seconds(server.pid)
    client_began = time.process_time()
    durations: list[float] = []
    stages: dict[str, list[float]] = {stage: [] for stage in _STAGES}
    for number in range(calls):
        began = time.perf_counter()
        response = client.parse(texts[number % len(texts)])
        durations.append(time.perf_counter() - began)
        for stage in _STAGES:
            stages[stage].append(getattr(response.timings, f"{stage}_us") / 1e3)
    client_s = time.process_time() - client_began
    spent = {thread: total - before.get(thread, 0.0) for thread, total in thread_seconds(server.pid).items()}
    loop_s = spent.pop(server.pid)
    figures = {
        "loop_cpu_ms": 1e3 * loop_s / calls,
        "engine_thread_cpu_ms": 1e3 * max(spent.values(), default=0.0) / calls,
        "client_cpu_ms": 1e3 * client_s / calls,
        "call_ms": 1e3 * statistics.median(durations),
    }
    for stage, values in stages.items():
        figures[f"{stage}_ms"] = statistics.median(values)
    return figures


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = options(__doc__, rounds=4, calls=100)
    arguments = parser.parse_args()
    texts = chosen_texts(arguments)
    figures: dict[str, list[float]] = {}
    with (
        palm(arguments.bundle, "--provider", arguments.provider) as server,
        echo() as empty,
        Client(server.target) as client,
        Client(empty.target) as echo_client,
    ):
        for warm in (client, echo_client):
            for text in texts[:20]:
                warm.parse(text)
        for _ in range(arguments.rounds):
            served = one_round(server, client, texts, arguments.calls)
            echoed = one_round(empty, echo_client, texts, arguments.calls)
            for name, value in served.items():
                figures.setdefault(name, []).append(value)
            for name in ("loop_cpu_ms", "client_cpu_ms", "call_ms"):
                figures.setdefault(f"echo_{name}", []).append(echoed[name])
            added = served["call_ms"] - served["inference_ms"] - echoed["call_ms"]
            figures.setdefault("added_ms", []).append(added)
    rows = [
        ("event loop, CPU ms", "loop_cpu_ms", ""),
        ("  of an empty echo", "echo_loop_cpu_ms", ""),
        ("engine thread, CPU ms", "engine_thread_cpu_ms", ""),
        ("client, CPU ms", "client_cpu_ms", ""),
        ("  of an empty echo", "echo_client_cpu_ms", ""),
        *((f"{stage}, median ms", f"{stage}_ms", "<= 0.3" if stage == "decode" else "") for stage in _STAGES),
        ("a call, median ms", "call_ms", ""),
        ("  of an empty echo", "echo_call_ms", ""),
        ("added to inference and echo", "added_ms", "<= 1.0"),
    ]
    table = [(name, middle(figures[key]), goal) for name, key, goal in rows]
    finish(arguments, table, {"rounds": figures})


if __name__ == "__main__":
    main()
