"""What the server spends on a call, beside what the work alone costs.

    python benchmarks/serving/oracle.py BUNDLE [--rounds 3] [--seconds 4] [--callers 64] [--json FILE]

The oracle (loop.py) knows all texts beforehand and does nothing but tokenize, run length-sorted batches and decode; the echo (echo.py) is an
asyncio gRPC service that does nothing. Rounds alternate between them and the server at saturation (closed loop), on the same cores, with the
engine that the server chose. Printed are processor times per text, which other programs disturb less than times, and their ratios round by round;
and the median of an unloaded Parse beside those of an unloaded echo and a bare engine call.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from processes import PATIENT_S, ROOT, Process, chosen_texts, echo, finish, measured, middle, options, palm

from palm_serve.bench.load import Load, Method
from palm_serve.client import Client

_BATCH = 32


def oracle(bundle: Path, model: Any, seconds: float, texts: Path) -> dict[str, float]:
    """The tight loop, in a process of its own, on the engine of the served model."""
    command = [
        sys.executable,
        Path(__file__).with_name("loop.py"),
        bundle,
        model.provider,
        model.precision,
        seconds,
        texts,
    ]
    done = subprocess.run(
        list(map(str, command)), check=True, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}
    )
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = options(__doc__, rounds=3, seconds=4.0, callers=64)
    arguments = parser.parse_args()
    texts, seconds, doubts = chosen_texts(arguments), arguments.seconds, []
    figures: dict[str, list[float]] = {}

    def load(server: Process, **fields: Any) -> Load:
        common = {"texts": texts, "duration_s": seconds, "warm_up_s": min(1.0, seconds / 2), "deadline_s": PATIENT_S}
        return Load(server.target, processes=arguments.processes, **(common | fields))

    def note(**values: float) -> None:
        for name, value in values.items():
            figures.setdefault(name, []).append(value)

    with (
        tempfile.NamedTemporaryFile("w", suffix=".json", encoding="utf-8") as file,
        palm(arguments.bundle, "--provider", arguments.provider) as server,
        echo() as empty,
    ):
        json.dump(texts, file)
        file.flush()
        with Client(server.target) as client:
            model = client.models()[0]
        for _ in range(arguments.rounds):
            alone = oracle(arguments.bundle, model, seconds, Path(file.name))
            many, echoed = measured(empty, load(empty, concurrency=arguments.callers))
            served, unary = measured(server, load(server, concurrency=arguments.callers))
            batches, per_batch = measured(server, load(server, concurrency=4, method=Method.BATCH, batch=_BATCH))
            single, _ = measured(server, load(server, concurrency=1))
            nothing, _ = measured(empty, load(empty, concurrency=1))
            doubts += [doubt for report in (served, batches, single, nothing) for doubt in report.doubts]
            own, free = single.answered_ms["p50"], nothing.answered_ms["p50"]
            note(
                oracle_cpu_ms=1e3 * alone["cpu_s"],
                echo_cpu_ms=1e3 * echoed,
                unary_cpu_ms=1e3 * unary,
                batch_cpu_ms=1e3 * per_batch / _BATCH,
                unary_ratio=unary / (alone["cpu_s"] + echoed),
                batch_ratio=per_batch / _BATCH / alone["cpu_s"],
                oracle_per_s=alone["texts_per_s"],
                echo_per_s=many.answered,
                unary_per_s=served.answered,
                batch_texts_per_s=batches.texts,
                engine_alone_ms=1e3 * alone["alone_s"],
                echo_alone_ms=free,
                parse_alone_ms=own,
                added_ms=own - 1e3 * alone["alone_s"] - free,
            )
    rows = [
        ("oracle, CPU ms per text", "oracle_cpu_ms", ""),
        ("empty echo, CPU ms per call", "echo_cpu_ms", ""),
        ("Parse, CPU ms per call", "unary_cpu_ms", ""),
        ("  to oracle + echo", "unary_ratio", "<= 1.10"),
        ("ParseBatch of 32, CPU ms per text", "batch_cpu_ms", ""),
        ("  to oracle", "batch_ratio", "<= 1.05"),
        ("oracle, texts/s", "oracle_per_s", ""),
        ("empty echo, calls/s", "echo_per_s", ""),
        ("Parse, calls/s", "unary_per_s", ""),
        ("ParseBatch, texts/s", "batch_texts_per_s", ""),
        ("bare engine call, median ms", "engine_alone_ms", ""),
        ("empty echo alone, median ms", "echo_alone_ms", ""),
        ("Parse alone, median ms", "parse_alone_ms", ""),
        ("  added", "added_ms", "<= 0.5"),
    ]
    table = [(name, middle(figures[key]), goal) for name, key, goal in rows]
    finish(arguments, table, {"engine": f"{model.provider} {model.precision}", "rounds": figures, "doubts": doubts})


if __name__ == "__main__":
    main()
