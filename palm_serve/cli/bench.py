"""`palm-serve bench`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from palm_serve.bench.load import TEXTS, Access, Load, Method
from palm_serve.cli.connection import OverTls, PlainToken, TlsCa, TlsCert, TlsKey, TokenFile, chosen_token
from palm_serve.cli.shared import faults, show

if TYPE_CHECKING:
    from palm_serve.bench.report import Report

Rate = Annotated[
    float | None,
    typer.Option(
        min=0.001, help="Open loop: calls per second, arriving at random (Poisson) whether or not others are answered."
    ),
]
Concurrency = Annotated[
    int, typer.Option(min=1, help="Closed loop, without --rate: callers that ask again as soon as they are answered.")
]
Kind = Annotated[Method, typer.Option(help="Parse, ParseBatch, or ModelInfer of the Open Inference Protocol.")]
Texts = Annotated[Path | None, typer.Option(metavar="FILE", help="One text a line; default: some of 2 to 46 words.")]


def bench(
    target: Annotated[str, typer.Argument(metavar="HOST:PORT", help="The server.")] = "127.0.0.1:50051",
    rate: Rate = None,
    concurrency: Concurrency = 64,
    duration: Annotated[float, typer.Option(min=0.1, help="Seconds that count.")] = 10.0,
    warm_up: Annotated[float, typer.Option(min=0, help="Seconds of the same load before.")] = 1.0,
    deadline: Annotated[float, typer.Option(min=0.001, help="Of each call, seconds.")] = 1.0,
    method: Kind = Method.PARSE,
    batch: Annotated[int, typer.Option(min=1, help="Texts of one call, with --method batch.")] = 32,
    texts: Texts = None,
    model: Annotated[str, typer.Option(help="Model name; default: the server's first.")] = "",
    processes: Annotated[int, typer.Option(min=1, help="Of the load generator.")] = 1,
    seed: Annotated[int, typer.Option(help="Of arrivals and of the choice of texts.")] = 0,
    over_tls: OverTls = False,
    tls_ca: TlsCa = None,
    tls_cert: TlsCert = None,
    tls_key: TlsKey = None,
    token_file: TokenFile = None,
    plain_token: PlainToken = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the figures there too.")
    ] = None,
) -> None:
    """Puts a load on a running server and tells how it bears it.

    Latencies count from the moment when a call was to be made. With --rate that moment does not depend on the server, so that a pause of the
    server is felt by all calls that fall into it. Without --rate a caller that waits asks nothing: the calls that it would have made
    in a pause are missing from the percentiles (coordinated omission). Use --concurrency to find the capacity, --rate for latencies.

    The generator needs cores of its own. Where it is late itself, or computes all the time, it says so: its figures are not to be trusted then.
    """
    with faults():
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
            TEXTS if texts is None else _lines(texts),
            model,
            processes,
            seed,
            Access(over_tls, tls_ca, tls_cert, tls_key, chosen_token(token_file), plain_token),
        )
        report = run_load(load)
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_dict(), indent=2) + "\n", encoding="utf-8")
    _show(load, report)
    if not report.answered:
        raise typer.Exit(1)


def _lines(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}", param_hint="--texts") from None
    texts = tuple(line for line in lines if line.strip())
    if not texts:
        raise typer.BadParameter(f"{path} has no text: put one on each line", param_hint="--texts")
    return texts


def _show(load: Load, report: "Report") -> None:
    from rich.table import Table

    facts = Table.grid(padding=(0, 2))
    how = f"{load.concurrency} callers" if load.rate is None else f"{load.rate:g} calls/s"
    facts.add_row("load", f"{how} for {load.duration_s:g} s after {load.warm_up_s:g} s, deadline {load.deadline_s:g} s")
    facts.add_row("made", f"{report.offered:,.1f} calls/s, {report.calls:,} in all")
    facts.add_row("answered", f"{report.answered:,.1f} calls/s")
    in_texts = f" ({report.texts:,.1f} texts/s)" if load.method is Method.BATCH else ""
    facts.add_row("within the deadline", f"{report.goodput:,.1f} calls/s{in_texts}")
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
            "closed loop: calls that would have come in a pause of the server are missing from the percentiles; see --rate"
        )
    for doubt in report.doubts:
        show(f"not to be trusted: {doubt}")
