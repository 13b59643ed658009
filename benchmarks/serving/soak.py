"""Many calls, of which some are cancelled and some streams broken off: what the server holds must not grow.

    python benchmarks/serving/soak.py BUNDLE [--calls 20000] [--cancelled 0.2] [--aborted 0.05] [--plain] [--json FILE]

Texts of 3 to 600 words over TLS (`--plain`: without; the openssl command makes the certificate). Memory, threads and descriptors of the server
are looked at twenty times; printed is how they stand at the end to how they stood after a quarter. (10^6 calls: --calls 1000000.)

With `--server SCRIPT` another server is soaked, to see what is caught: one whose handler goes on after its cancellation (28 KiB a stream here) in
some thousand calls; what is lost within grpc (github.com/grpc/grpc/issues/43360: 0.3 KiB where a handler swallows the cancellation and returns;
0.07 KiB with a call that is cancelled, of a service without our code too) only in 10^6.
"""

import asyncio
import itertools
import random
import statistics
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from processes import Process, Usage, chosen_texts, finish, options, palm, usage

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
    codes: Counter[str] = field(default_factory=Counter)
    looks: list[Usage] = field(default_factory=list)

    async def run(self) -> None:
        """Sends everything, a twentieth over each connection, with a look at the server after it, when it is quiet."""
        draw = random.Random(0)
        for _ in range(_LOOKS):
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
        """The last quarter of the looks to the second: memory as a ratio, threads and descriptors as a difference; and KiB per call."""
        quarter = len(self.looks) // 4
        early, late = self.looks[quarter : 2 * quarter], self.looks[-quarter:]

        def medians(name: str) -> tuple[float, float]:
            before, after = (statistics.median(getattr(look, name) for look in looks) for looks in (early, late))
            return before, after

        memory, threads, descriptors = (medians(name) for name in ("memory_mib", "threads", "descriptors"))
        between = self.calls * (len(self.looks) - 2.5 * quarter) / len(self.looks)
        return {
            "memory": memory[1] / memory[0],
            "memory_kib_per_call": 1024 * (memory[1] - memory[0]) / between,
            "threads": threads[1] - threads[0],
            "descriptors": descriptors[1] - descriptors[0],
        }

    async def _caller(self, stub: stubs.DialogueUnderstandingStub, left: Iterator[int], draw: random.Random) -> None:
        for _ in left:
            kind = draw.random()
            try:
                if kind < self.aborted:
                    await self._abort(stub, draw)
                elif kind < self.aborted + self.cancelled:
                    await asyncio.wait_for(
                        stub.Parse(self._request(draw), timeout=_DEADLINE_S), draw.uniform(0, _CANCEL_S)
                    )
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
    parser = options(__doc__, calls=20_000, cancelled=0.2, aborted=0.05)
    parser.add_argument("--plain", action="store_true", help="without TLS")
    parser.add_argument("--server", type=Path, metavar="SCRIPT", help="soak this server instead, without TLS")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        secure: tuple[str | Path, ...] = ()
        credentials = None
        if not (arguments.plain or arguments.server):
            public, key = certificate(Path(folder))
            secure, credentials = ("--tls-cert", public, "--tls-key", key), tls(public)
        with (
            palm(arguments.bundle, "--provider", arguments.provider, *secure)
            if arguments.server is None
            else Process(arguments.server)
        ) as server:
            soak = Soak(
                server.target,
                server.pid,
                chosen_texts(arguments),
                arguments.calls,
                arguments.cancelled,
                arguments.aborted,
                credentials,
            )
            asyncio.run(soak.run())
    growth = soak.growth()
    last = soak.looks[-1]
    rows = [
        ("calls", ", ".join(f"{name} {count:,}" for name, count in soak.codes.most_common()), ""),
        ("memory, MiB", f"{last.memory_mib:.1f}", ""),
        (
            "  to that after a quarter",
            f"{growth['memory']:.3f} ({growth['memory_kib_per_call']:.3f} KiB a call)",
            "flat",
        ),
        ("threads", f"{last.threads}", ""),
        ("  more than after a quarter", f"{growth['threads']:g}", "0"),
        ("descriptors", f"{last.descriptors}", ""),
        ("  more than after a quarter", f"{growth['descriptors']:g}", "0"),
    ]
    looks = [[look.memory_mib, look.threads, look.descriptors, look.cpu_s] for look in soak.looks]
    finish(arguments, rows, {"growth": growth, "codes": soak.codes, "looks": looks})


if __name__ == "__main__":
    main()
