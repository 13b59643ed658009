"""`palm-serve bench`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_serve.bench.load import TEXTS, Access, Load, Method
from palm_serve.cli.connection import OverTls, PlainToken, TlsCa, TlsCert, TlsKey, TokenFile, find_token
from palm_serve.cli.shared import report_errors, show
from palm_serve.errors import ConfigError
from palm_serve.system.files import read_text

if TYPE_CHECKING:
    from palm_serve.bench.report import LoadReport

Rate = Annotated[
    float | None,
    typer.Option(
        min=0.001, max=1e6, help="Open loop: calls per second with Poisson arrivals, independent of the answers."
    ),
]
Concurrency = Annotated[
    int,
    typer.Option(
        min=1,
        max=100_000,
        help="Closed loop, without --rate: number of callers. Each sends its next call after an answer.",
    ),
]
Kind = Annotated[
    Method, typer.Option(help="Method to call: Parse, ParseBatch, or ModelInfer of the Open Inference Protocol.")
]
Texts = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Texts to send, one a line. Default: 17 texts of 2 to 46 words.")
]


def bench(
    target: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Address of the server, or unix:PATH.")
    ] = "127.0.0.1:50051",
    rate: Rate = None,
    concurrency: Concurrency = 64,
    duration: Annotated[float, typer.Option(min=0.1, max=1e6, help="Duration of the measurement in seconds.")] = 10.0,
    warm_up: Annotated[
        float, typer.Option(min=0, max=1e6, help="Duration of the same load before the measurement, in seconds.")
    ] = 1.0,
    deadline: Annotated[float, typer.Option(min=0.001, max=1e6, help="Deadline of each call in seconds.")] = 1.0,
    method: Kind = Method.PARSE,
    batch: Annotated[int, typer.Option(min=1, max=100_000, help="Number of texts in one call of --method batch.")] = 32,
    texts: Texts = None,
    model: Annotated[str, typer.Option(help="Model name. Default: the first model of the server.")] = "",
    processes: Annotated[int, typer.Option(min=1, max=1024, help="Number of processes of the load generator.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the arrivals and of the choice of texts.")] = 0,
    over_tls: OverTls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    plain_token: PlainToken = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Also write the report to this file as JSON.")
    ] = None,
) -> None:
    """Load-test a running server and report throughput and latency.

    Latencies count from the intended start of a call. With --rate that start does not depend on the server, so a pause of the
    server delays all calls that fall into it. Without --rate a waiting caller sends nothing, so the calls of a pause are missing
    from the percentiles (coordinated omission). Use --concurrency to find the capacity, --rate for latencies.

    The generator needs cores of its own. It prints a warning if it was late or busy, because its figures are unreliable then.
    """
    with report_errors():
        from palm_serve.bench.run import run_load

        load = Load(
            target,
            rate,
            concurrency,
            duration,
            warm_up,
            deadline,
            method,
            batch,
            TEXTS if texts is None else _read_texts(texts),
            model,
            processes,
            seed,
            Access(over_tls, tls_ca, tls_cert, tls_key, find_token(token_file), plain_token),
        )
        report = run_load(load)
    if json_file is not None:
        with report_errors():
            _write(json_file, report)
    _show(load, report)
    if not report.answered:
        raise typer.Exit(1)


def _read_texts(path: Path) -> tuple[str, ...]:
    lines = read_text(path, ConfigError).splitlines()
    texts = tuple(line for line in lines if line.strip())
    if not texts:
        raise ConfigError(f"{path} must hold texts, got none. Put one text on each line.")
    return texts


def _write(path: Path, report: "LoadReport") -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _show(load: Load, report: "LoadReport") -> None:
    from rich.table import Table

    facts = Table.grid(padding=(0, 2))
    volume = f"{load.concurrency} callers" if load.rate is None else f"{load.rate:g} calls/s"
    facts.add_row(
        "load", f"{volume} for {load.duration_s:g} s after {load.warm_up_s:g} s, deadline {load.deadline_s:g} s"
    )
    facts.add_row("offered", f"{report.offered:,.1f} calls/s, {report.calls:,} in total")
    facts.add_row("answered", f"{report.answered:,.1f} calls/s")
    goodput = f"{report.goodput:,.1f} calls/s"
    if load.method is Method.BATCH:
        goodput += f" ({report.texts:,.1f} texts/s)"
    facts.add_row("within the deadline", goodput)
    facts.add_row("codes", ", ".join(f"{name} {count:,}" for name, count in report.codes.items()))
    times = Table(box=None, header_style="bold")
    rows = {"answered": report.answered_ms, "refused": report.refused_ms, "generator late": report.late_ms}
    for column in ("ms", *report.late_ms):
        times.add_column(column, justify="left" if column == "ms" else "right")
    for name, values in rows.items():
        if values:
            times.add_row(name, *(f"{value:,.1f}" for value in values.values()))
    show(facts, times)
    if load.rate is None:
        show(
            "closed loop: calls of a pause of the server are missing from the percentiles (coordinated omission). See --rate."
        )
    for doubt in report.doubts:
        show(f"unreliable figures: {doubt}")
