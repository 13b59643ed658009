"""The load generator and its command, with real processes."""

import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from palm_serve.bench.load import Load, Method
from palm_serve.bench.run import run_load
from palm_serve.cli import app
from palm_serve.errors import NotFound, Unavailable
from palm_serve.rpc.access.tokens import new_token

Process = Any  # of conftest.py, which cannot be imported by name
SHORT = ("--duration", "0.4", "--warm-up", "0.1", "--deadline", "5")


def bench(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["bench", *map(str, arguments)], env={"PALM_TOKEN": ""})


@pytest.mark.parametrize("method", Method)
def test_bench_prints_and_writes_the_report(tiny_server: str, tmp_path: Path, method: Method) -> None:
    file = tmp_path / "figures.json"
    run = bench(tiny_server, "--rate", "50", "--method", method, "--batch", "3", "--json", file, *SHORT)
    assert run.exit_code == 0, run.output
    for part in ("50 calls/s for 0.4 s after 0.1 s, deadline 5 s", "codes", "p99.9", "generator late"):
        assert part in run.output
    assert "coordinated" not in run.output
    figures = json.loads(file.read_text())
    assert list(figures["codes"]) == ["OK"]
    assert figures["texts"] == pytest.approx(figures["goodput"] * (3 if method is Method.BATCH else 1))
    assert 0 < figures["answered_ms"]["p50"] <= figures["answered_ms"]["max"] < 5000


def test_load_may_hide_its_deadline_from_the_server(tiny_server: str) -> None:
    report = run_load(Load(tiny_server, rate=20, duration_s=0.5, warm_up_s=0.1, deadline_s=1e-9, told_deadline_s=30.0))
    assert report.codes == {"OK": report.calls}
    assert report.goodput == 0


def test_bench_closed_loop_of_two_processes(tiny_server: str) -> None:
    run = bench(tiny_server, "--concurrency", "4", "--processes", "2", *SHORT)
    assert run.exit_code == 0, run.output
    assert "4 callers" in run.output
    assert "calls of a pause of the server are missing" in run.output


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_bench_sweep_with_metrics_is_what_plan_reads(
    start_server: Callable[..., Process], tiny_bundle: Path, tmp_path: Path
) -> None:
    port, file = free_port(), tmp_path / "new" / "bench.json"
    server = start_server(tiny_bundle, "--metrics-port", port, "--drain-grace", "0")
    metrics = ("--metrics", f"http://127.0.0.1:{port}/metrics")
    options = ("--sweep", "--concurrency", "3", *metrics, "--json", file, *SHORT, "--deadline", "60")
    run = bench(server.target(), *options)
    assert run.exit_code == 0, run.output
    assert re.search(r"server +[\d.]+ ms of processor time a call, [\d,]+ MiB", run.output)
    figures = json.loads(file.read_text())
    assert [level["callers"] for level in figures["levels"]] == [1, 2, 3]
    assert figures["answered"] == figures["levels"][-1]["answered"]
    assert 0 < figures["server"]["cpu_ms_per_call"] < 10_000
    assert 20 < figures["server"]["memory_mib"] < 4000
    planned = CliRunner().invoke(app, ["plan", "--rate", "100000", "--p99", "60", "--from", str(file)])
    assert planned.exit_code == 0, planned.output
    assert "replicas" in planned.output


def test_bench_sweep_takes_no_rate(tmp_path: Path) -> None:
    run = bench("127.0.0.1:1", "--sweep", "--rate", "5")
    assert run.exit_code == 2
    assert "--sweep must not be used with --rate, got both. Remove --rate" in " ".join(run.output.split())


def test_bench_refuses_metrics_that_are_none_of_the_server(tiny_server: str) -> None:
    class Other(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"process_cpu_seconds_total 1.0\n")

        def log_message(self, *_: object) -> None:
            """Write no line."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever).start()
        cases = {
            "ftp://127.0.0.1/metrics": "--metrics must be a URL, got 'ftp://127.0.0.1/metrics'",
            f"http://127.0.0.1:{free_port()}/metrics": "got no answer from http://127.0.0.1",
            f"http://127.0.0.1:{other.server_port}/metrics": "got none named process_resident_memory_bytes",
        }
        try:
            for url, told in cases.items():
                run = bench(tiny_server, "--metrics", url, *SHORT)
                assert run.exit_code == 2
                assert told in " ".join(run.output.split())
        finally:
            other.shutdown()


def test_bench_reads_texts_of_a_file(tiny_server: str, tmp_path: Path) -> None:
    (tmp_path / "texts").write_text("play a song\n\nhello\n")
    assert bench(tiny_server, "--rate", "20", "--texts", tmp_path / "texts", *SHORT).exit_code == 0
    (tmp_path / "blank").write_text("\n \n")
    for name, told in (("blank", "must hold texts got none"), ("absent", "cannot be read")):
        run = bench(tiny_server, "--texts", tmp_path / name, *SHORT)
        assert run.exit_code == 2
        assert told in " ".join(re.sub(r"[^\w ]", " ", run.output).split())  # without the frame and its line breaks


@pytest.mark.skipif(shutil.which("openssl") is None, reason="the openssl command makes the certificate")
def test_bench_over_tls_with_token(start_server: Callable[..., Process], tiny_bundle: Path, tmp_path: Path) -> None:
    """The processes of the generator use the same credentials as the first request."""
    certificate, key, tokens, held = (tmp_path / name for name in ("cert.pem", "key.pem", "tokens.toml", "token"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    names = ["-days", "30", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-out", certificate, "-keyout", key], check=True, capture_output=True)
    secret, digest = new_token()
    held.write_text(secret)
    tokens.write_text(f'[tokens.bench]\nsha256 = "{digest}"\nscopes = ["parse"]\n')
    server = start_server(tiny_bundle, "--tls-cert", certificate, "--tls-key", key, "--tokens", tokens)
    secure = ("--tls-ca", certificate, "--rate", "20", *SHORT)
    run = bench(server.target(), "--token-file", held, *secure)
    assert run.exit_code == 0, run.output
    assert "OK" in run.output
    refused = bench(server.target(), *secure)
    assert refused.exit_code == 2
    assert "token" in refused.output


def test_bench_help_explains_coordinated_omission() -> None:
    text = " ".join(bench("--help").output.replace("│", " ").split())
    assert "coordinated omission" in text
    assert "Use --concurrency to find the capacity, --rate for latencies" in text


def test_bench_without_server_fails() -> None:
    with pytest.raises(Unavailable, match=r"no answer from a PALM server at 127\.0\.0\.1:1"):
        run_load(Load("127.0.0.1:1"))


def test_bench_reports_errors_of_first_request(tiny_server: str) -> None:
    with pytest.raises(NotFound, match="no model 'nope'"):
        run_load(Load(tiny_server, model="nope"))


def test_bench_pause_delays_all_calls_that_fall_into_it(
    start_server: Callable[..., Process], tiny_bundle: Path
) -> None:
    """The pause covers half of the measurement, so half of the calls of an open loop are delayed."""
    server = start_server(tiny_bundle)

    def pause(begins: float) -> None:
        def stop() -> None:
            time.sleep(max(0.0, begins + 0.5 - time.monotonic()))
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(1.0)
            server.process.send_signal(signal.SIGCONT)

        threading.Thread(target=stop).start()

    load = Load(server.target(), rate=40, duration_s=2, warm_up_s=0, deadline_s=9)
    report = run_load(load, pause)
    assert report.codes == {"OK": report.calls}
    assert 40 <= report.calls <= 120
    assert report.answered_ms["p90"] > 500


@pytest.mark.parametrize("place", ["directory", "below a file", "read only"])
def test_place_of_the_figures_is_checked_before_the_load(tmp_path: Path, place: str) -> None:
    """Nothing listens at the target: a load would end with that."""
    if place == "directory":
        file = tmp_path
    elif place == "below a file":
        (tmp_path / "file").touch()
        file = tmp_path / "file" / "figures.json"
    else:
        if os.getuid() == 0:
            pytest.skip("the superuser may write everywhere")
        (tmp_path / "closed").mkdir(mode=0o500)
        file = tmp_path / "closed" / "figures.json"
    run = bench(f"127.0.0.1:{free_port()}", "--json", file, *SHORT)
    assert run.exit_code == 2
    assert "palm-serve: --json must be" in run.output
