"""What was measured -> ratios with their intervals, and the tables."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common import mean_and_half_interval
from generator import Point

Round = Mapping[int, Point]
"""By calls in flight."""

Rounds = dict[int, Round]
"""By the number of the round. Only rounds that both have are compared."""

_TO_PEERS, _TO_RAY = 1.4, 3.0


@dataclass(frozen=True)
class Ratio:
    """How many times more answers per second PALM gave: of each round, and the mean with half its 95 % interval."""

    rounds: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Over the rounds."""
        return mean_and_half_interval(self.rounds)[0]

    def __str__(self) -> str:
        if not self.rounds:
            return "-"
        mean, half = mean_and_half_interval(self.rounds)
        return f"{mean:.2f}" if math.isnan(half) else f"{mean:.2f} ± {half:.2f}"


def best_within(points: Round, p99_ms: float) -> float:
    """The most answers per second whose p99 is no more than that; 0 where no point has it."""
    return max((point.rate for point in points.values() if 0 < point.p99_ms <= p99_ms), default=0.0)


def _both(ours: Rounds, theirs: Rounds) -> list[tuple[Round, Round]]:
    return [(ours[number], theirs[number]) for number in sorted(ours.keys() & theirs.keys())]


def ratio(ours: Rounds, theirs: Rounds, callers: int) -> Ratio:
    """With as many calls in flight."""
    return Ratio(tuple(a[callers].rate / b[callers].rate for a, b in _both(ours, theirs) if b[callers].rate))


def ratio_at_their_p99(ours: Rounds, theirs: Rounds, callers: int) -> Ratio:
    """Our most within the p99 that they have with so many calls in flight, to what they give then; 0 where none of our loops has it."""
    pairs = [(best_within(a, b[callers].p99_ms), b[callers].rate) for a, b in _both(ours, theirs)]
    return Ratio(tuple(mine / rate for mine, rate in pairs if rate))


def ratio_at_our_p99(ours: Rounds, theirs: Rounds, callers: int) -> Ratio:
    """What we give with so many calls in flight, to their most within our p99. Rounds in which they have none are left out."""
    pairs = [(a[callers].rate, best_within(b, a[callers].p99_ms)) for a, b in _both(ours, theirs)]
    return Ratio(tuple(mine / most for mine, most in pairs if most))


def figures_table(figures: Mapping[str, Rounds]) -> list[str]:
    """Means over the rounds."""
    if not figures:
        return ["nothing was measured"]
    width = max(map(len, figures))
    columns = "  in flight   calls/s   p50 ms   p99 ms  server CPU ms  client CPU ms  failed"
    lines = [f"{'':<{width}}{columns}"]
    for name, rounds in figures.items():
        for callers in sorted({count for points in rounds.values() for count in points}):
            points = [row[callers] for row in rounds.values()]
            rate, p50, p99, server, client = (
                statistics.mean(getattr(point, field) for point in points)
                for field in ("rate", "p50_ms", "p99_ms", "server_cpu_ms", "client_cpu_ms")
            )
            failed = sum(point.failed for point in points)
            row = f"{callers:>11} {rate:>9,.0f} {p50:>8.1f} {p99:>8.1f} {server:>14.2f} {client:>14.2f} {failed:>7}"
            lines.append(f"{name:<{width}}{row}")
    return lines


def ratios(ours: Rounds, theirs: Mapping[str, Rounds], callers: Sequence[int]) -> dict[str, dict[str, Ratio]]:
    """By the name of the server and what is compared."""
    found: dict[str, dict[str, Ratio]] = {}
    for name, rounds in theirs.items():
        for count in callers:
            told = found.setdefault(name, {})
            told[f"{count} in flight"] = ratio(ours, rounds, count)
            told[f"within its p99 at {count}"] = ratio_at_their_p99(ours, rounds, count)
            told[f"within ours at {count}"] = ratio_at_our_p99(ours, rounds, count)
    return found


def ratios_table(found: Mapping[str, Mapping[str, Ratio]]) -> list[str]:
    """How many times more answers per second PALM gives."""
    if not found:
        return []
    columns = list(next(iter(found.values())))
    width, each = max(map(len, ["PALM to", *found])), max(18, *(len(column) + 2 for column in columns))
    lines = [f"{'PALM to':<{width}}" + "".join(f"{column:>{each}}" for column in columns)]
    lines += [
        f"{name:<{width}}" + "".join(f"{row[column]!s:>{each}}" for column in columns) for name, row in found.items()
    ]
    return lines


def verdicts(peers: Mapping[str, Mapping[str, Ratio]], callers: Sequence[int], ray: str) -> list[str]:
    """The goals, with what was found."""
    lines = []
    for count in callers:
        column = f"{count} in flight"
        rows = {name: row[column] for name, row in peers.items() if row[column].rounds}
        if rows:
            best = min(rows, key=lambda name: rows[name].mean)
            lines.append(f"{column}: {rows[best]} x the best peer, {best} (goal >= {_TO_PEERS})")
        if ray in rows:
            lines.append(f"{column}: {rows[ray]} x {ray} (goal >= {_TO_RAY:g})")
    return lines
