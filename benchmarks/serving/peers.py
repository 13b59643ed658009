"""PALM beside the servers that others would take, with the same engine call behind each.

    python benchmarks/serving/peers.py BUNDLE --work DIR [--peers NAME ...] [--rounds 3] [--seconds 2.5] [--settings FILE] [--json FILE]

Each peer (peers/peers.toml) is installed in an environment of its own in DIR and serves the bundle's graph and tokenizer through peers/shared.py:
PALM's tokenization, engine call and decoding, on the provider that PALM chose. What differs is transport and batching. First each peer's settings
are chosen from its grid by short loads (`--settings FILE` takes those that an earlier run wrote with --json instead). Then, in interleaved rounds,
each server is started, asked all texts (it must say of each what PALM says), put under closed loops and ended; PALM takes part twice, and the
second, `control`, shows what the machine's noise makes of nothing.

The ratios are of answers per second: with as many calls in flight; PALM's most among its loops whose p99 is within the peer's; and what PALM
gives to the peer's most within PALM's p99. A peer that cannot be installed or started, or answers otherwise, is told with the reason.
"""

import asyncio
import dataclasses
import json
import math
import os
import signal
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from processes import PATIENT_S, ROOT, chosen_texts, machine, options

sys.path.append(str(Path(__file__).with_name("peers")))

from common import commit, today
from doors import Said, door
from environments import NotToBeHadError, Peer, install, read_peers
from generator import Point, measure
from servers import Server
from shared import Settings, tasks_of
from table import Ratio, Rounds, figures_table, ratios, ratios_table, verdicts

from palm_serve.bench.load import Load
from palm_serve.bundle.loader import load_bundle
from palm_serve.client import Client

PALM, CONTROL, RAY = "PALM", "control (PALM)", "Ray Serve"
_TUNED_AT = (64, 256)
_SHOWN = 3
FAILURES = (NotToBeHadError, RuntimeError, OSError)
"""Of a server, which do not end the others' measurement."""


class Benchmark:
    """Starts servers and measures them."""

    def __init__(self, arguments: Namespace) -> None:
        self.arguments = arguments
        self.texts = tuple(dict.fromkeys(chosen_texts(arguments)))
        self.tasks = tasks_of(load_bundle(arguments.bundle).manifest)
        self.work: Path = arguments.work.resolve()
        self.work.mkdir(parents=True, exist_ok=True)
        self.settings = Settings(str(arguments.bundle.resolve()), arguments.provider, arguments.precision, 0)
        self.said: list[Said] = []
        self._runner = asyncio.Runner()

    def __enter__(self) -> "Benchmark":
        return self

    def __exit__(self, *error: object) -> None:
        self._runner.close()

    def palm(self, name: str) -> Server:
        """A server of ours, as `palm-serve run` starts it."""
        engine = ("--provider", self.settings.provider, "--precision", self.settings.precision)
        run = ("-m", "palm_serve.cli", "run", self.arguments.bundle.resolve(), *engine)
        command = [sys.executable, *run, "--port", "{port}", "--log-level", "error"]
        return self._server(name, command, self.settings, {}, "parse")

    def peer(self, peer: Peer, interpreter: Path, chosen: dict[str, Any]) -> Server:
        """A peer's server. Its threads, where it does not choose them, are PALM's."""
        given = dataclasses.replace(self.settings, **chosen)
        return self._server(peer.title, [interpreter, peer.server], given, peer.environment, peer.door)

    def _server(
        self, name: str, command: list[str | Path], settings: Settings, environment: dict[str, str], kind: str
    ) -> Server:
        log = self.work / f"{name.split()[0].lower()}.log"
        home = (
            {"HOME": str(self.work / "home"), "TMPDIR": str(self.work / "tmp")} if name not in (PALM, CONTROL) else {}
        )
        for place in home.values():
            Path(place).mkdir(exist_ok=True)
        return Server(
            name, command, settings, home | environment, ROOT, log, door(kind, self.tasks), self.texts[0], self._runner
        )

    def learn(self) -> None:
        """What PALM says to the texts, and on which engine."""
        with self.palm(PALM) as server:
            self.said = server.ask(self.texts)
            with Client(f"127.0.0.1:{server.port}") as client:
                model = client.models()[0]
        self.settings = dataclasses.replace(self.settings, provider=model.provider, precision=model.precision)

    def check(self, server: Server) -> None:
        """Raises NotToBeHadError unless the server says of every text what PALM says."""
        found = server.ask(self.texts)
        wrong = [i for i, (ours, theirs) in enumerate(zip(self.said, found, strict=True)) if ours != theirs]
        if wrong:
            first = wrong[0]
            raise NotToBeHadError(
                f"{server.name} answers {len(wrong)} of {len(found)} texts otherwise: of '{self.texts[first]}' it says {found[first]}, "
                f"PALM {self.said[first]}"
            )

    def point(self, server: Server, callers: int, seconds: float) -> Point:
        """One closed loop."""
        warm_up = min(0.5, seconds / 2)
        load = Load("", None, callers, seconds, warm_up, PATIENT_S, texts=self.texts)
        return measure(server.door, server.port, load, server.cpu_s)

    def round(self, start: Callable[[], Server], callers: Sequence[int]) -> dict[int, Point]:
        """A server from its start to its end."""
        with start() as server:
            self.check(server)
            return {count: self.point(server, count, self.arguments.seconds) for count in callers}

    def tune(self, peer: Peer, interpreter: Path) -> list[dict[str, Any]]:
        """What each settings of its grid gave. Raises NotToBeHadError where none works."""
        told: list[dict[str, Any]] = []
        for chosen in peer.grid:
            row: dict[str, Any] = {"settings": chosen}
            try:
                with self.peer(peer, interpreter, chosen) as server:
                    self.check(server)
                    row["calls_per_s"] = [self.point(server, count, self.arguments.tune).rate for count in _TUNED_AT]
            except FAILURES as error:
                row["failed"] = str(error)
            print(f"  {peer.title} {row}", file=sys.stderr)
            told.append(row)
        if not any("calls_per_s" in row for row in told):
            raise NotToBeHadError(told[0]["failed"])
        return told


def best_of(grid: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The settings with the most answers, in the geometric mean over the loads; those that failed have none."""

    def answers(row: dict[str, Any]) -> float:
        return math.prod(row.get("calls_per_s", [0.0]))

    found: dict[str, Any] = max(grid, key=answers)["settings"]
    return found


def prepare(
    benchmark: Benchmark, peers: Sequence[Peer], known: dict[str, Any], lost: dict[str, str]
) -> dict[str, dict[str, Any]]:
    """Installs and tunes; by title what starts it, with which settings and packages. Those that are not to be had go to `lost`."""
    ready: dict[str, dict[str, Any]] = {}
    for peer in peers:
        try:
            interpreter = install(peer, benchmark.work)
            if peer.title in known:
                chosen, grid = known[peer.title]["settings"], known[peer.title]["grid"]
            elif benchmark.arguments.tune:
                grid = benchmark.tune(peer, interpreter)
                chosen = best_of(grid)
            else:
                chosen, grid = peer.grid[0], []
        except FAILURES as error:
            lost[peer.title] = str(error)
            print(f"  {error}", file=sys.stderr)
        else:
            start = partial(benchmark.peer, peer, interpreter, chosen)
            ready[peer.title] = {"start": start, "settings": chosen, "grid": grid, "packages": peer.packages}
    return ready


def run(
    benchmark: Benchmark, starts: dict[str, Callable[[], Server]], figures: dict[str, Rounds], lost: dict[str, str]
) -> None:
    """Interleaved rounds; each begins with another server. Where one fails, its round is left out and the reason goes to `lost`."""
    arguments, names = benchmark.arguments, list(starts)
    callers = sorted({*arguments.callers, *arguments.beside})
    for number in range(arguments.rounds):
        turn = number % len(names)
        for name in (*names[turn:], *names[:turn]):
            try:
                points = benchmark.round(starts[name], callers)
            except FAILURES as error:
                lost[f"{name}, round {number + 1}"] = str(error)
                print(f"  {error}", file=sys.stderr)
            else:
                figures.setdefault(name, {})[number] = points
                rates = ", ".join(f"{point.rate:,.0f} at {count}" for count, point in points.items())
                print(f"  round {number + 1}: {name}: {rates}", file=sys.stderr)


def parser() -> ArgumentParser:
    """The options of this script."""
    found = options(__doc__, rounds=3, seconds=2.5, tune=1.5)
    names = list(read_peers())
    found.add_argument("--precision", default="auto")
    found.add_argument("--work", type=Path, required=True, help="directory of the peers' environments and logs")
    found.add_argument(
        "--peers", nargs="*", choices=names, default=names, metavar="NAME", help=f"of {', '.join(names)}"
    )
    found.add_argument("--callers", type=int, nargs="+", default=[64, 256], help="calls in flight that are compared")
    found.add_argument(
        "--beside", type=int, nargs="*", default=[32, 128], help="further ones, for the most within a p99"
    )
    found.add_argument(
        "--settings", type=Path, help="a file of an earlier --json: its settings are taken, nothing is tuned"
    )
    return found


def main(given: Sequence[str] | None = None) -> None:
    """Prints the tables; `--json` also writes them. What was measured is told also when it is interrupted."""
    arguments = parser().parse_args(given)
    known = json.loads(arguments.settings.read_text(encoding="utf-8"))["peers"] if arguments.settings else {}
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # so that servers are ended
    figures: dict[str, Rounds] = {}
    lost: dict[str, str] = {}
    load_before = os.getloadavg()[0]
    with Benchmark(arguments) as benchmark:
        benchmark.learn()
        described = read_peers()
        ready = prepare(benchmark, [described[name] for name in arguments.peers], known, lost)
        starts: dict[str, Callable[[], Server]] = {PALM: partial(benchmark.palm, PALM)}
        starts |= {title: about["start"] for title, about in ready.items()} | {
            CONTROL: partial(benchmark.palm, CONTROL)
        }
        try:
            run(benchmark, starts, figures, lost)
        finally:
            facts = {
                "bundle": arguments.bundle.name,
                "engine": f"{benchmark.settings.provider} {benchmark.settings.precision}",
                "machine": machine(),
                "commit": commit(),
                "date": today(),
                "other_load_before": load_before,
                "seconds": arguments.seconds,
                "texts": len(benchmark.texts),
                "peers": {
                    title: {name: value for name, value in about.items() if name != "start"}
                    for title, about in ready.items()
                },
                "not_measured": lost,
            }
            found = {name: figures[name] for name in starts if name in figures}
            tell(facts, found, arguments)


def tell(facts: dict[str, Any], figures: dict[str, Rounds], arguments: Namespace) -> None:
    """Prints and writes what was measured."""
    others = {name: rounds for name, rounds in figures.items() if name != PALM}
    compared = ratios(figures.get(PALM, {}), others, arguments.callers)
    print(*report(facts, figures, compared, arguments.callers), sep="\n")
    if arguments.json:
        rounds = {
            name: {number + 1: [asdict(point) for point in points.values()] for number, points in mine.items()}
            for name, mine in figures.items()
        }
        told = {
            name: {what: {"told": str(found), "rounds": found.rounds} for what, found in row.items()}
            for name, row in compared.items()
        }
        arguments.json.write_text(json.dumps({**facts, "rounds": rounds, "ratios": told}, indent=1) + "\n", "utf-8")


def report(
    facts: dict[str, Any], figures: dict[str, Rounds], compared: dict[str, dict[str, Ratio]], callers: Sequence[int]
) -> list[str]:
    """The lines that are printed."""
    lines = [
        f"{facts['bundle']}; {facts['engine']}; {facts['machine']}; commit {facts['commit'] or 'unknown'}; "
        f"other load before: {facts['other_load_before']:.1f}",
        f"loops of {facts['seconds']:g} s over {facts['texts']} texts; means over the rounds",
        *figures_table(figures),
        "",
        "answers per second, times more: mean and 95 % interval over the rounds",
        *ratios_table(compared),
        "",
        *verdicts({name: row for name, row in compared.items() if name != CONTROL}, callers, RAY),
    ]
    lines += [f"{title}: {about['packages'][0]}, {about['settings']}" for title, about in facts["peers"].items()]
    lines += [f"not measured: {name}: {why}" for name, why in facts["not_measured"].items()]
    doubts = {
        (name, doubt)
        for name, rounds in figures.items()
        for points in rounds.values()
        for point in points.values()
        for doubt in point.doubts
    }
    lines += [f"unreliable figures: {name}: {doubt}" for name, doubt in sorted(doubts)[:_SHOWN]]
    return lines + ([f"and {len(doubts) - _SHOWN} more of these, in --json"] if len(doubts) > _SHOWN else [])


if __name__ == "__main__":
    main()
