"""PALM beside the servers that others would take, with the same engine call behind each.

    python benchmarks/serving/peers.py BUNDLE --work DIR [--peers NAME ...] [--rounds 3] [--seconds 4] [--settings FILE] [--json FILE]

Each peer (peers/peers.toml) is installed in an environment of its own in DIR and serves the bundle's graph and tokenizer through peers/shared.py:
PALM's tokenization, engine call and decoding, on the provider that PALM chose. What differs is transport and batching. First each peer's settings
are chosen from its grid by short loads (`--settings FILE` takes those that an earlier run wrote with --json instead). Then, in interleaved rounds,
each server is started, asked all texts (it must say of each what PALM says), put under closed loops and ended; PALM takes part twice, and the
second, `control`, shows what the machine's noise makes of nothing.

The ratios are of answers per second: with as many calls in flight; PALM's most among its loops whose p99 is within the peer's; and what PALM
gives to the peer's most within PALM's p99. A peer that cannot be installed or started, or answers otherwise, is told with the reason.
"""

import dataclasses
import json
import os
import statistics
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from processes import PATIENT_S, ROOT, chosen_texts, machine, options

sys.path.append(str(Path(__file__).with_name("peers")))

from common import commit
from doors import Said, door
from environments import NotToBeHadError, Peer, install, read_peers
from generator import Point, measure
from servers import Server
from shared import Settings, tasks_of
from table import figures_table, ratios, ratios_table, verdicts

from palm_serve.bench.load import Load
from palm_serve.bundle.loader import load_bundle
from palm_serve.client import Client

PALM, CONTROL, RAY = "PALM", "control (PALM)", "Ray Serve"
_TUNED_AT = (64, 256)
_SHOWN = 3


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

    def palm(self, name: str) -> Server:
        """A server of ours, as `palm-serve run` starts it."""
        engine = ("--provider", self.arguments.provider, "--precision", self.arguments.precision)
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
        return Server(name, command, settings, home | environment, ROOT, log, door(kind, self.tasks), self.texts[0])

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
        warm_up = min(1.0, seconds / 2)
        load = Load("", None, callers, seconds, warm_up, PATIENT_S, texts=self.texts)
        return measure(server.door, server.port, load, server.cpu_s)

    def round(self, start: Callable[[], Server], callers: Sequence[int]) -> dict[int, Point]:
        """A server from its start to its end."""
        with start() as server:
            self.check(server)
            return {count: self.point(server, count, self.arguments.seconds) for count in callers}

    def tune(self, peer: Peer, interpreter: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The settings of its grid with the most answers, in the geometric mean over 64 and 256 calls in flight; and what each gave."""
        told: list[dict[str, Any]] = []
        for chosen in peer.grid:
            with self.peer(peer, interpreter, chosen) as server:
                self.check(server)
                rates = [self.point(server, count, self.arguments.tune).rate for count in _TUNED_AT]
            told.append({"settings": chosen, "calls_per_s": [round(rate, 1) for rate in rates]})
            print(f"  {peer.title} {chosen}: {' / '.join(f'{rate:,.0f}' for rate in rates)} calls/s", file=sys.stderr)
        return max(told, key=lambda row: statistics.geometric_mean([max(rate, 1e-9) for rate in row["calls_per_s"]]))[
            "settings"
        ], told


def prepare(
    benchmark: Benchmark, peers: Sequence[Peer], known: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, str]]:
    """Installs and tunes: by title a way to start it with its settings; and why others are not to be had."""
    ready: dict[str, Any] = {}
    lost: dict[str, str] = {}
    for peer in peers:
        try:
            interpreter = install(peer, benchmark.work)
            if peer.title in known:
                chosen, grid = known[peer.title]["settings"], known[peer.title].get("grid", [])
            elif benchmark.arguments.tune:
                chosen, grid = benchmark.tune(peer, interpreter)
            else:
                chosen, grid = peer.grid[0], []
        except (NotToBeHadError, RuntimeError, OSError) as error:
            lost[peer.title] = str(error)
            print(f"  {error}", file=sys.stderr)
        else:
            start = lambda peer=peer, interpreter=interpreter, chosen=chosen: benchmark.peer(peer, interpreter, chosen)  # noqa: E731
            ready[peer.title] = {"start": start, "settings": chosen, "grid": grid, "packages": peer.packages}
    return ready, lost


def run(
    benchmark: Benchmark, starts: dict[str, Callable[[], Server]]
) -> tuple[dict[str, list[dict[int, Point]]], dict[str, str]]:
    """Interleaved rounds; in each the first of the round before is the last. A server that fails takes no part in what follows."""
    arguments = benchmark.arguments
    callers = sorted({*arguments.callers, *arguments.beside})
    figures: dict[str, list[dict[int, Point]]] = {name: [] for name in starts}
    lost: dict[str, str] = {}
    for number in range(arguments.rounds):
        names = list(starts)
        turn = number % len(names)
        for name in [name for name in (*names[turn:], *names[:turn]) if name not in lost]:
            try:
                figures[name].append(benchmark.round(starts[name], callers))
            except (NotToBeHadError, RuntimeError, OSError) as error:
                lost[name] = str(error)
                print(f"  {error}", file=sys.stderr)
            else:
                rates = ", ".join(f"{point.rate:,.0f} at {count}" for count, point in figures[name][-1].items())
                print(f"  round {number + 1}: {name} {rates}", file=sys.stderr)
    return {name: rounds for name, rounds in figures.items() if name not in lost}, lost


def parser() -> ArgumentParser:
    """The options of this script."""
    found = options(__doc__, rounds=3, seconds=4.0, tune=2.0)
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
    """Prints the tables; `--json` also writes them."""
    arguments = parser().parse_args(given)
    known = json.loads(arguments.settings.read_text(encoding="utf-8"))["peers"] if arguments.settings else {}
    benchmark = Benchmark(arguments)
    load_before = os.getloadavg()[0]
    benchmark.learn()
    described = read_peers()
    ready, lost = prepare(benchmark, [described[name] for name in arguments.peers], known)
    starts: dict[str, Callable[[], Server]] = {PALM: lambda: benchmark.palm(PALM)}
    starts |= {title: about["start"] for title, about in ready.items()}
    starts[CONTROL] = lambda: benchmark.palm(CONTROL)
    figures, failed = run(benchmark, starts)
    lost |= failed
    if PALM not in figures:
        sys.exit(f"PALM itself failed: {lost[PALM]}")
    compared = ratios(
        figures[PALM], {name: rounds for name, rounds in figures.items() if name != PALM}, arguments.callers
    )
    show(benchmark, figures, compared, ready, lost, load_before)
    if arguments.json:
        told = {
            "machine": machine(),
            "commit": commit(),
            "bundle": arguments.bundle.name,
            "engine": f"{benchmark.settings.provider} {benchmark.settings.precision}",
            "other_load": load_before,
            "peers": {
                title: {name: value for name, value in about.items() if name != "start"}
                for title, about in ready.items()
            },
            "not_measured": lost,
            "rounds": {
                name: [[dataclasses.asdict(point) for point in row.values()] for row in rounds]
                for name, rounds in figures.items()
            },
            "ratios": {
                name: {
                    what: {"mean": found.mean, "told": str(found), "rounds": found.rounds}
                    for what, found in row.items()
                    if found.rounds
                }
                for name, row in compared.items()
            },
        }
        arguments.json.write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")


def show(
    benchmark: Benchmark,
    figures: dict[str, Any],
    compared: dict[str, Any],
    ready: dict[str, Any],
    lost: dict[str, str],
    load: float,
) -> None:
    """Prints what was measured."""
    arguments = benchmark.arguments
    engine = f"{benchmark.settings.provider} {benchmark.settings.precision}"
    print(
        f"{arguments.bundle.name}; {engine}; {machine()}; commit {commit() or 'unknown'}; other load before: {load:.1f}"
    )
    print(
        f"{arguments.rounds} round(s) of {arguments.seconds:g} s each, {len(benchmark.texts)} texts; means over the rounds"
    )
    print(*figures_table(figures, sorted({*arguments.callers, *arguments.beside})), sep="\n")
    print("\nanswers per second, mean and 95 % interval over the rounds")
    print(*ratios_table(compared), sep="\n")
    print()
    print(*verdicts({name: row for name, row in compared.items() if name != CONTROL}, arguments.callers, RAY), sep="\n")
    for title, about in ready.items():
        print(f"{title}: {about['packages'][0]}, {about['settings']}")
    for title, why in lost.items():
        print(f"not measured: {why}" if title in why else f"not measured: {title}: {why}")
    doubts = [
        (name, doubt)
        for name, rounds in figures.items()
        for row in rounds
        for point in row.values()
        for doubt in point.doubts
    ]
    for name, doubt in list(dict.fromkeys(doubts))[:_SHOWN]:
        print(f"not to be trusted: {name}: {doubt}")
    if len(set(doubts)) > _SHOWN:
        print(f"  and {len(set(doubts)) - _SHOWN} more of these, in --json")


if __name__ == "__main__":
    main()
