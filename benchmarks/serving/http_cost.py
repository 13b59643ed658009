"""What the server spends on a Parse over HTTP, beside one over gRPC, and what the door costs gRPC while nobody uses it.

    python benchmarks/serving/http_cost.py BUNDLE [--rounds 5] [--seconds 4] [--callers 16] [--json FILE]

Two servers, with the HTTP door and without. Each round measures gRPC of both, then Parse over HTTP in each form, and gRPC again: a ratio is that
of a form to the mean of the two measurements of gRPC's same method around it. Printed are processor times of the server per call in a closed loop, which other
programs disturb less than times.
"""

import asyncio
from contextlib import ExitStack

from http_calls import FORMS, load, parse_requests
from processes import PATIENT_S, Door, Process, chosen_texts, finish, measured, middle, options, palm

from palm_serve.bench.load import Load, Method
from palm_serve.client import Client


def http_cpu(server: Door, requests: list[bytes], callers: int, seconds: float) -> float:
    """Return the server's processor seconds per call over HTTP."""
    asyncio.run(load("127.0.0.1", server.http_port, requests, callers, min(1.0, seconds / 2)))
    before = server.usage().cpu_s
    outcome = asyncio.run(load("127.0.0.1", server.http_port, requests, callers, seconds))
    spent = server.usage().cpu_s - before
    assert set(outcome.codes) == {200}, outcome.codes
    return spent / outcome.codes[200]


def main() -> None:
    """Prints the table; `--json` also writes it."""
    arguments = options(__doc__, rounds=5, seconds=4.0, callers=16).parse_args()
    texts, seconds, callers = chosen_texts(arguments), arguments.seconds, arguments.callers
    figures: dict[str, list[float]] = {}
    doubts: list[str] = []

    def grpc_cpu(server: Process, method: Method = Method.PARSE) -> float:
        timed = {"duration_s": seconds, "warm_up_s": min(1.0, seconds / 2), "deadline_s": PATIENT_S, "method": method}
        report, cpu = measured(server, Load(server.target, texts=texts, concurrency=callers, **timed))
        doubts.extend(report.doubts)
        return cpu

    def note(name: str, value: float) -> None:
        figures.setdefault(name, []).append(value)

    own = (arguments.bundle, "--provider", arguments.provider, "--max-calls-per-client", "100000")
    with ExitStack() as opened:
        bare = opened.enter_context(palm(*own))
        server = opened.enter_context(Door(*own))
        with Client(server.target) as client:
            model = client.models()[0].name
        requests = {form: parse_requests("localhost", form, texts, model) for form in FORMS}
        for _ in range(arguments.rounds):
            first, alone, second = grpc_cpu(server), grpc_cpu(bare), grpc_cpu(server)
            note("grpc_cpu_ms", 500 * (first + second))
            note("grpc_without_door_cpu_ms", 1000 * alone)
            note("idle_door_ratio", (first + second) / 2 / alone)
            for form in FORMS:
                # The Open Inference Protocol answers with all outputs of all tasks, over gRPC as over HTTP.
                method = Method.OIP if form == "oip" else Method.PARSE
                before = grpc_cpu(server, method) if form == "oip" else second
                cpu = http_cpu(server, requests[form], callers, seconds)
                second = grpc_cpu(server, method)
                note(f"{form}_cpu_ms", 1000 * cpu)
                note(f"{form}_ratio", cpu / ((before + second) / 2))
    rows = [
        ("Parse over gRPC, CPU ms per call", middle(figures["grpc_cpu_ms"], 3), ""),
        ("  to that without the door", middle(figures["idle_door_ratio"], 3), "0.97 to 1.03"),
    ]
    names = ("Connect, bytes", "Connect, JSON", "Rasa", "Open Inference Protocol, JSON")
    for form, name in zip(FORMS, names, strict=True):
        rows.append((f"{name}, CPU ms per call", middle(figures[f"{form}_cpu_ms"], 3), ""))
        rows.append(("  to gRPC", middle(figures[f"{form}_ratio"], 3), "<= 1.3"))
    finish(arguments, rows, {"rounds": figures, "doubts": doubts})


if __name__ == "__main__":
    main()
