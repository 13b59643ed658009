"""`palm-serve bench`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_serve.bench.load import TEXTS, Access, Load, Method
from palm_serve.cli.connection import OverTls, PlainToken, TlsCa, TlsCert, TlsKey, TokenFile, find_token
from palm_serve.cli.json_file import check_json_file, write_json_file
from palm_serve.cli.shared import report_errors, show, write_line
from palm_serve.errors import ConfigError
from palm_serve.system.files import read_text

if TYPE_CHECKING:
    from palm_serve.bench.report import LoadReport
    from palm_serve.bench.server_usage import ServerUsage
    from palm_serve.bench.sweep import Level

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
Sweep = Annotated[
    bool,
    typer.Option(
        "--sweep",
        help="Closed loops of 1, 2, 4, ... callers up to --concurrency, --duration each. Input of `palm-serve plan`.",
    ),
]
Metrics = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Metrics of the server, http://HOST:PORT/metrics: also report its processor time and memory.",
    ),
]
JsonFile = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write the report to this file as JSON.")
]


def bench(
    target: Annotated[
        str, typer.Argument(metavar="HOST:PORT", help="Address of the server, or unix:PATH.")
    ] = "127.0.0.1:50051",
    rate: Rate = None,
    concurrency: Concurrency = 64,
    sweep: Sweep = False,
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
    metrics: Metrics = None,
    json_file: JsonFile = None,
) -> None:
    """Load-test a running server and report throughput and latency.

    Latencies count from the intended start of a call. With --rate that start does not depend on the server, so a pause of the
    server delays all calls that fall into it. Without --rate a waiting caller sends nothing, so the calls of a pause are missing
    from the percentiles (coordinated omission). Use --concurrency to find the capacity, --rate for latencies.

    The generator needs cores of its own. It prints a warning if it was late or busy, because its figures are unreliable then.
    """
    with report_errors():
        if sweep and rate is not None:
            raise ConfigError(
                "--sweep must not be used with --rate, got both. Remove --rate: a sweep is a closed loop."
            )
        if json_file is not None:
            check_json_file(json_file)
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
        report = _run(load, sweep, metrics, json_file)
    if not report.answered:
        raise typer.Exit(1)


def _run(load: Load, sweep: bool, metrics: str | None, json_file: Path | None) -> "LoadReport":
    """Run a load or a sweep, print and write its figures, and return the report of the largest load."""
    from palm_serve.bench.run import run_load
    from palm_serve.bench.server_usage import read_metrics, usage_between
    from palm_serve.bench.sweep import run_sweep

    before = None if metrics is None else read_metrics(metrics)
    levels: list[Level] = []
    if sweep:
        for level in run_sweep(load):
            levels.append(level)
            write_line(f"{level.callers} callers: {level.report.answered:,.1f} calls/s", err=True)
        report = levels[-1].report
    else:
        report = run_load(load)
    usage = None if metrics is None or before is None else usage_between(before, read_metrics(metrics))
    if json_file is not None:
        content = report.as_dict()
        if levels:
            content |= {"method": load.method.value, "levels": [level.as_dict() for level in levels]}
        if usage is not None:
            content["server"] = usage.as_dict()
        write_json_file(json_file, content)
    if levels:
        _show_levels(levels)
    _show(load, report, usage)
    return report


def _read_texts(path: Path) -> tuple[str, ...]:
    lines = read_text(path, ConfigError).splitlines()
    texts = tuple(line for line in lines if line.strip())
    if not texts:
        raise ConfigError(f"{path} must hold texts, got none. Put one text on each line.")
    return texts


def _show_levels(levels: "list[Level]") -> None:
    from rich.table import Table

    table = Table(box=None, header_style="bold")
    for column in ("callers", "calls/s", "p50 ms", "p99 ms"):
        table.add_column(column, justify="right")
    for level in levels:
        times = level.report.answered_ms
        cells = (f"{times[point]:,.1f}" if times else "" for point in ("p50", "p99"))
        table.add_row(str(level.callers), f"{level.report.answered:,.1f}", *cells)
    show(table)


def _show(load: Load, report: "LoadReport", usage: "ServerUsage | None") -> None:
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
    if usage is not None:
        facts.add_row(
            "server", f"{usage.cpu_ms_per_call:,.2f} ms of processor time a call, {usage.memory_mib:,.0f} MiB"
        )
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
