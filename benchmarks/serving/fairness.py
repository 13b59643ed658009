"""Measure what one client gets while another one floods the server.

    python benchmarks/serving/fairness.py BUNDLE [--seconds 10] [--deadline 0] [--rounds 1] [--json FILE]

Two tokens: `web` floods, `other` sends 5 % of the server's capacity in an open loop. The floods are 1,000 Parse calls in flight, and 64 calls of
ParseBatch with 200 texts each, both within the limits of one client. Printed for `other`, alone and beside each flood: the share of its calls that
are answered, and p50 and p99. The goals: 99 % answered, and p99 within three batches of 64 texts at the server's capacity. `--deadline 0` is none.
"""

import argparse
import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any

from processes import PATIENT_S, Process, beside, chosen_texts, finish, middle, options, palm

from palm_serve.bench.load import Access, Load, Method
from palm_serve.bench.report import LoadReport
from palm_serve.bench.run import run_load

_SHARE = 0.05
_ROWS = 64
_BATCHES = 3
_SETTLED_S = 1.0
"""Time that the flood has before the other client is measured."""
TOKENS = {"web": "palm_web", "other": "palm_other"}
FLOODS: dict[str, dict[str, Any]] = {
    "1,000 Parse in flight": {"concurrency": 1000, "method": Method.PARSE},
    "64 ParseBatch of 200": {"concurrency": 64, "method": Method.BATCH, "batch": 200},
}


def token_file(folder: Path) -> Path:
    """Writes the file of tokens."""
    lines = []
    for name, token in TOKENS.items():
        digest = hashlib.sha256(token.encode()).hexdigest()
        lines.append(f'[tokens.{name}]\nsha256 = "{digest}"\nscopes = ["parse", "read"]\n')
    file = folder / "tokens.toml"
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def share(report: LoadReport) -> float:
    """Share of the calls that were answered, in per cent."""
    return 100 * report.codes.get("OK", 0) / max(1, report.calls)


def measure(server: Process, arguments: argparse.Namespace, texts: tuple[str, ...]) -> dict[str, float]:
    """One round: capacity, the other client alone, and beside each flood."""
    seconds = arguments.seconds

    def load(client: str, **fields: Any) -> Load:
        common = {
            "texts": texts,
            "duration_s": seconds,
            "warm_up_s": _SETTLED_S,
            "access": Access(token=TOKENS[client]),
        }
        return Load(server.target, processes=arguments.processes, **(common | {"deadline_s": PATIENT_S} | fields))

    capacity = run_load(load("web", concurrency=256)).answered
    figures = {"capacity_per_s": capacity, "batch_ms": 1e3 * _ROWS / capacity}
    other = load("other", rate=max(1.0, _SHARE * capacity), deadline_s=arguments.deadline or PATIENT_S)
    alone = run_load(other)
    figures |= {"alone_answered": share(alone), "alone_p99_ms": alone.answered_ms.get("p99", float("inf"))}
    for name, fields in FLOODS.items():
        flood = load("web", **fields, duration_s=seconds + 4 * _SETTLED_S)
        reports: list[LoadReport] = []
        thread = beside(lambda flood=flood, reports=reports: reports.append(run_load(flood)))  # type: ignore[misc]
        time.sleep(2 * _SETTLED_S)
        report = run_load(other)
        thread.join()
        figures |= {
            f"{name}: answered": share(report),
            f"{name}: p50_ms": report.answered_ms.get("p50", float("inf")),
            f"{name}: p99_ms": report.answered_ms.get("p99", float("inf")),
            f"{name}: texts_per_s": reports[0].texts,
        }
    return figures


def main() -> None:
    """Prints the table; `--json` also writes it."""
    arguments = options(__doc__, seconds=10.0, deadline=0.0, rounds=1).parse_args()
    texts = chosen_texts(arguments)
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        file = token_file(Path(folder))
        with palm(arguments.bundle, "--provider", arguments.provider, "--tokens", file) as server:
            for _ in range(arguments.rounds):
                for name, value in measure(server, arguments, texts).items():
                    figures.setdefault(name, []).append(value)
    goal_ms = _BATCHES * figures["batch_ms"][0]
    table = [("capacity, calls/s", middle(figures["capacity_per_s"]), "")]
    table.append(("full batch, ms", middle(figures["batch_ms"]), ""))
    table.append(("alone: answered, %", middle(figures["alone_answered"]), ""))
    table.append(("alone: p99, ms", middle(figures["alone_p99_ms"]), ""))
    for name in FLOODS:
        table.append((f"{name}: answered, %", middle(figures[f"{name}: answered"]), ">= 99"))
        table.append((f"{name}: p50, ms", middle(figures[f"{name}: p50_ms"]), ""))
        table.append((f"{name}: p99, ms", middle(figures[f"{name}: p99_ms"]), f"<= {goal_ms:.0f}"))
        # Texts of batches that were answered whole.
        table.append((f"{name}: texts/s of the flood", middle(figures[f"{name}: texts_per_s"]), ""))
    finish(arguments, table, {"rounds": figures, "deadline_s": arguments.deadline})


if __name__ == "__main__":
    main()
