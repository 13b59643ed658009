"""Many calls, of which some are cancelled and some streams broken off: what the server holds must not grow.

    python benchmarks/serving/soak.py BUNDLE [--calls 20000] [--cancelled 0.2] [--aborted 0.05] [--http 0.25] [--plain] [--json FILE]

Texts of 3 to 600 words over TLS (`--plain`: without; the openssl command makes the certificate), a quarter of the calls by the HTTP door: Connect with
bytes and with JSON, and Rasa. A service of grpc.aio without our code (bare.py) gets as many calls, cancelled as often, in turn with the server: what it
loses, grpc loses. Memory, threads and descriptors of both are looked at twenty times; printed is how they stand at the end to how they stood after a
quarter. It needs nobody to watch it. (10^6 calls: --calls 1000000.)

With `--server SCRIPT` another server is soaked, to see what is caught: one whose handler goes on after its cancellation (28 KiB a stream here) in
some thousand calls; what is lost within grpc (github.com/grpc/grpc/issues/43360: 0.3 KiB where a handler swallows the cancellation and returns;
0.07 KiB with a call that is cancelled, of a service without our code too) only in 10^6.
"""

import argparse
import asyncio
import itertools
import random
import ssl
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from http_calls import Connection, parse_requests
from processes import Door, Process, Usage, chosen_texts, finish, options, usage

from palm_serve.client import tls
from palm_serve.system.addresses import NO_PROXY
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

_LOOKS = 20
_CALLERS = 32
_CANCEL_S = 0.005
_DEADLINE_S = 30
_STREAMED = 4
_SETTLE_S = 0.3
_WORDS = (3, 8, 20, 60, 200, 600)
_WEIGHTS = (40, 30, 20, 6, 3, 1)


@dataclass
class Soak:
    """What to send, and what was seen."""

    target: str
    pid: int
    texts: tuple[str, ...]
    calls: int
    cancelled: float = 0.2
    aborted: float = 0.05
    credentials: grpc.ChannelCredentials | None = None
    http_port: int = 0
    """Port of the HTTP door. 0: every call is one of gRPC."""
    http: float = 0.25
    """Share of the calls that are made by the HTTP door."""
    context: ssl.SSLContext | None = None
    codes: Counter[str] = field(default_factory=Counter)
    looks: list[Usage] = field(default_factory=list)

    async def run(self, beside: "Soak | None" = None) -> None:
        """Send everything, a twentieth over each connection, with a look at the server after it, when it is quiet.

        Args:
            beside: another server's, whose parts are sent in turn with these.
        """
        draw = random.Random(0)
        for _ in range(_LOOKS):
            for soak in (self, beside):
                if soak is not None:
                    await soak.send_part(draw)

    async def send_part(self, draw: random.Random) -> None:
        """Send a part of the calls, and look at the server."""
        left = iter(range(max(1, self.calls // _LOOKS)))
        async with self._channel() as channel:
            stub = stubs.DialogueUnderstandingStub(channel)
            await asyncio.gather(*(self._caller(stub, left, draw) for _ in range(_CALLERS)))
        await asyncio.sleep(_SETTLE_S)
        self.looks.append(usage(self.pid))

    def _channel(self) -> grpc.aio.Channel:
        # Of its own: grpc would keep a connection for whoever comes next.
        options = (("grpc.use_local_subchannel_pool", 1), *NO_PROXY)
        if self.credentials is None:
            return grpc.aio.insecure_channel(self.target, options=options)
        return grpc.aio.secure_channel(self.target, self.credentials, options=options)

    def growth(self) -> dict[str, float]:
        """The last quarter of the looks to the second: memory as ratio and in MiB, threads and descriptors as difference; and KiB per call."""
        quarter = len(self.looks) // 4
        early, late = self.looks[quarter : 2 * quarter], self.looks[-quarter:]

        def medians(name: str) -> tuple[float, float]:
            before, after = (statistics.median(getattr(look, name) for look in looks) for looks in (early, late))
            return before, after

        memory, threads, descriptors = (medians(name) for name in ("memory_mib", "threads", "descriptors"))
        between = self.calls * (len(self.looks) - 2.5 * quarter) / len(self.looks)
        return {
            "memory": memory[1] / memory[0],
            "memory_mib": memory[1] - memory[0],
            "memory_kib_per_call": 1024 * (memory[1] - memory[0]) / between,
            "threads": threads[1] - threads[0],
            "descriptors": descriptors[1] - descriptors[0],
        }

    async def _caller(self, stub: stubs.DialogueUnderstandingStub, left: Iterator[int], draw: random.Random) -> None:
        async with AsyncExitStack() as opened:
            connection = None
            for _ in left:
                if self.http_port and draw.random() < self.http:
                    if connection is None:
                        made = Connection("127.0.0.1", self.http_port, self.context)
                        connection = await opened.enter_async_context(made)
                    if not await self._call_over_http(connection, draw):
                        connection = None
                else:
                    await self._call(stub, draw)

    async def _call_over_http(self, connection: Connection, draw: random.Random) -> bool:
        """Make one call by the HTTP door. Returns False once its connection is closed: so a client of HTTP/1.1 cancels."""
        form = draw.choice(("proto", "json", "rasa"))
        (request,) = parse_requests("localhost", form, [self._request(draw).text], "")
        if draw.random() >= self.cancelled:
            status, _ = await connection.ask(request)
            self.codes[f"HTTP {status}"] += 1
            return True
        try:
            await asyncio.wait_for(connection.ask(request), draw.uniform(0, _CANCEL_S))
            self.codes["HTTP answered before it was cancelled"] += 1
            return True
        except TimeoutError:
            connection.abort()
            self.codes["HTTP cancelled"] += 1
            return False

    async def _call(self, stub: stubs.DialogueUnderstandingStub, draw: random.Random) -> None:
        """Make one call of gRPC."""
        kind = draw.random()
        try:
            if kind < self.aborted:
                await self._abort(stub, draw)
            elif kind < self.aborted + self.cancelled:
                await asyncio.wait_for(stub.Parse(self._request(draw), timeout=_DEADLINE_S), draw.uniform(0, _CANCEL_S))
                self.codes["answered before it was cancelled"] += 1
            else:
                await stub.Parse(self._request(draw), timeout=_DEADLINE_S)
                self.codes["OK"] += 1
        except TimeoutError:
            self.codes["cancelled"] += 1
        except grpc.aio.AioRpcError as error:
            self.codes[error.code().name] += 1

    async def _abort(self, stub: stubs.DialogueUnderstandingStub, draw: random.Random) -> None:
        """Opens a stream, asks, perhaps hears something, and leaves."""
        stream = stub.ParseStream(timeout=_DEADLINE_S)
        for _ in range(_STREAMED):
            await stream.write(self._request(draw))
        if draw.random() < 0.5:
            await stream.read()
        stream.cancel()
        self.codes["broken off"] += 1

    def _request(self, draw: random.Random) -> pb.ParseRequest:
        words = itertools.chain.from_iterable(draw.choice(self.texts).split() for _ in itertools.count())
        (count,) = draw.choices(_WORDS, _WEIGHTS)
        return pb.ParseRequest(text=" ".join(itertools.islice(words, count)))


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for this machine, and its key."""
    files = folder / "server.pem", folder / "server.key"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    names = ["-days", "2", "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, *names, "-out", files[0], "-keyout", files[1]], check=True, capture_output=True)
    return files


def main() -> None:
    """Prints the table; `--json` also writes it."""
    parser = options(__doc__, calls=20_000, cancelled=0.2, aborted=0.05, http=0.25)
    parser.add_argument("--plain", action="store_true", help="without TLS")
    parser.add_argument("--server", type=Path, metavar="SCRIPT", help="soak this server instead, without TLS")
    arguments = parser.parse_args()
    shares = {"calls": arguments.calls, "cancelled": arguments.cancelled, "aborted": arguments.aborted}
    beside = None
    with ExitStack() as opened:
        files: list[str] = []
        if not (arguments.plain or arguments.server):
            files = [*map(str, certificate(Path(opened.enter_context(tempfile.TemporaryDirectory()))))]
        credentials = tls(Path(files[0])) if files else None
        texts = chosen_texts(arguments)
        if arguments.server is not None:
            server = opened.enter_context(Process(arguments.server))
            soak = Soak(server.target, server.pid, texts, **shares)
        else:
            own = ("--tls-cert", files[0], "--tls-key", files[1]) if files else ()
            door = opened.enter_context(Door(arguments.bundle, "--provider", arguments.provider, *own))
            context = ssl.create_default_context(cafile=files[0]) if files else None
            more = {"http_port": door.http_port, "http": arguments.http, "context": context}
            soak = Soak(door.target, door.pid, texts, credentials=credentials, **shares, **more)
            bare = opened.enter_context(Process(Path(__file__).with_name("bare.py"), *files))
            beside = Soak(bare.target, bare.pid, texts, credentials=credentials, **shares)
        began = time.monotonic()
        asyncio.run(soak.run(beside))
        seconds = time.monotonic() - began
    report(arguments, soak, beside, seconds)


def report(arguments: argparse.Namespace, soak: Soak, beside: Soak | None, seconds: float) -> None:
    """Print what was seen.

    Args:
        arguments: the options.
        soak: the calls to the server.
        beside: those to the bare server.
        seconds: duration of all calls.
    """
    growth, last = soak.growth(), soak.looks[-1]
    rows = [
        ("calls", ", ".join(f"{name} {count:,}" for name, count in soak.codes.most_common()), ""),
        ("calls/s, to both servers", f"{sum(soak.codes.values()) * (2 if beside else 1) / seconds:,.0f}", ""),
        ("memory, MiB", f"{last.memory_mib:.1f}", ""),
        (
            "  to that after a quarter",
            f"{growth['memory']:.3f} ({growth['memory_kib_per_call']:.3f} KiB a call)",
            "flat",
        ),
        ("  more than after a quarter, MiB", f"{growth['memory_mib']:.1f}", ""),
    ]
    figures = {"growth": growth, "codes": soak.codes, "looks": _looks(soak), "seconds": seconds}
    if beside is not None:
        bare = beside.growth()
        figures["bare"] = {"growth": bare, "codes": beside.codes, "looks": _looks(beside)}
        rows.append(("  that of a bare grpc.aio server, MiB", f"{bare['memory_mib']:.1f}", ""))
        rows.append(("  difference, MiB", f"{growth['memory_mib'] - bare['memory_mib']:.1f}", "<= 10"))
    for name in ("threads", "descriptors"):
        rows.append((name, f"{getattr(last, name)}", ""))
        rows.append(("  more than after a quarter", f"{growth[name]:g}", "0"))
    finish(arguments, rows, figures)


def _looks(soak: Soak) -> list[list[float]]:
    return [[look.memory_mib, look.threads, look.descriptors, look.cpu_s] for look in soak.looks]


if __name__ == "__main__":
    main()
