"""Plan of a fleet: replicas, cores, memory, connections and cost of a rate of calls, and the limits that show as it grows."""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from palm_serve.capacity.bench_figures import BenchFigures
from palm_serve.capacity.response_time import LevelTimes, ResponseTimes
from palm_serve.config import ServeOptions
from palm_serve.errors import ConfigError

_QUANTILE = 0.99
_SPARE = 1
"""Replicas beyond the rate: for a rollout, or for a node that is lost."""
_MEMORY_FACTOR = 1.5
"""Memory of a replica to what was in use: a swap holds two versions for a while."""
_MEMORY_STEP_GIB = 0.25
_MONTH_HOURS = 730
_THREAD_CORES = 4.0
"""Cores that one process fills: gRPC and Python are one thread's work beside the engine."""
_DNS_ADDRESSES = 73
"""Addresses of a headless Service that fit into a DNS answer of 1,232 bytes, with a name of 30 characters."""
_CLIENT_FILES = 1024
"""Usual limit of open files of a client process (ulimit -n). Each connection is one."""

_FIELDS = ServeOptions.model_fields
_MAX_CONNECTIONS = int(_FIELDS["max_connections"].default)
_MAX_CALLS_PER_CLIENT = int(_FIELDS["max_calls_per_client"].default)


@dataclass(frozen=True, slots=True)
class Demand:
    """What the fleet shall do, and what it may cost."""

    rate: float
    """Calls a second at the peak."""
    p99_s: float
    """Time within which 99 of 100 calls are answered."""
    utilization: float = 0.6
    """Largest share of a replica's capacity in use, 0 to 1."""
    clients: int = 1
    """Client processes, each with a connection to every replica."""
    price: float | None = None
    """Price of a core for an hour."""
    cores: float | None = None
    """Cores of a replica. None: what it used in the sweep."""
    memory_gib: float | None = None
    """Memory of a replica. None: from what it used in the sweep."""


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit that shows from a rate on."""

    name: str
    from_rate: float
    """Calls a second. 0: at any rate."""
    advice: str


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """What answers a demand."""

    demand: Demand
    capacity: float
    """Calls a second of one replica at most."""
    planned: float
    """Calls a second of one replica as planned."""
    held_by: str
    """What holds it there: "p99" or "utilization"."""
    p99_s: float
    """Time of 99 of 100 calls at the planned rate, by the model."""
    mean_s: float
    wait_s: float
    """Mean time beyond that of a call alone, at the planned calls a second: the target of an autoscaler."""
    replicas: int
    """With one to spare."""
    cores_per_replica: float
    memory_gib_per_replica: float
    limits: tuple[Limit, ...] = ()
    """Rising by rate."""

    @property
    def cores(self) -> float:
        """Cores of all replicas."""
        return self.replicas * self.cores_per_replica

    @property
    def memory_gib(self) -> float:
        """Memory of all replicas in GiB."""
        return self.replicas * self.memory_gib_per_replica

    @property
    def connections(self) -> int:
        """Connections of all clients to all replicas."""
        return self.replicas * self.demand.clients

    @property
    def monthly_cost(self) -> float | None:
        """Price of all cores for 730 hours, if a price is known."""
        price = self.demand.price
        return None if price is None else self.cores * price * _MONTH_HOURS

    @property
    def cost_per_million(self) -> float | None:
        """Price of a million calls at the planned rate, if a price is known."""
        cost = self.monthly_cost
        return None if cost is None else cost / (_MONTH_HOURS * 3600 * self.demand.rate) * 1e6

    def as_dict(self) -> dict[str, Any]:
        """Return fields and totals as a dictionary for JSON."""
        totals = {
            "cores": self.cores,
            "memory_gib": self.memory_gib,
            "connections": self.connections,
            "monthly_cost": self.monthly_cost,
            "cost_per_million": self.cost_per_million,
        }
        return asdict(self) | totals


def response_times(figures: BenchFigures) -> ResponseTimes:
    """Return the response times of a replica from its figures."""
    levels: list[LevelTimes] = []
    for level in figures.levels:
        levels.append(LevelTimes(level.callers, level.answered, level.answered_ms.points()))
    return ResponseTimes(levels)


def plan_fleet(figures: BenchFigures, demand: Demand) -> FleetPlan:
    """Plan the replicas of a demand.

    Raises:
        ConfigError: if no replica answers that fast, or cores or memory of a replica are unknown.
    """
    times = response_times(figures)
    cores = _cores(figures, demand, times.capacity)
    memory_gib = _memory_gib(figures, demand)
    ceiling = demand.utilization * times.capacity
    planned = times.highest_rate(_QUANTILE, demand.p99_s, ceiling)
    if not planned:
        fastest = times.quantile(0.0, _QUANTILE)
        raise ConfigError(
            f"--p99 must be at least {fastest:.4g} s, the p99 of one call alone, got {demand.p99_s:g}. "
            "Give a longer time, or a faster bundle or machine."
        )
    busy = math.ceil(demand.rate / planned)
    each = demand.rate / busy
    plan = FleetPlan(
        demand=demand,
        capacity=times.capacity,
        planned=planned,
        held_by="p99" if planned < ceiling else "utilization",
        p99_s=times.quantile(each, _QUANTILE),
        mean_s=times.mean(each),
        wait_s=times.mean(planned) - times.mean(0.0),
        replicas=busy + _SPARE,
        cores_per_replica=cores,
        memory_gib_per_replica=memory_gib,
    )
    limits = sorted(_limits(plan), key=lambda limit: limit.from_rate)
    return replace(plan, limits=tuple(limits))


def _cores(figures: BenchFigures, demand: Demand, capacity: float) -> float:
    if demand.cores is not None:
        return demand.cores
    if figures.server is None:
        raise _unknown("cores")
    return float(max(1, math.ceil(figures.server.cpu_ms_per_call / 1000 * capacity)))


def _memory_gib(figures: BenchFigures, demand: Demand) -> float:
    if demand.memory_gib is not None:
        return demand.memory_gib
    if figures.server is None:
        raise _unknown("memory")
    needed_gib = _MEMORY_FACTOR * figures.server.memory_mib / 1024
    return math.ceil(needed_gib / _MEMORY_STEP_GIB) * _MEMORY_STEP_GIB


def _unknown(option: str) -> ConfigError:
    return ConfigError(
        f"--{option} must be given where the bench does not know it, got none. "
        f"Run palm-serve bench with --metrics http://HOST:9090/metrics, or give --{option} of one replica."
    )


def _limits(plan: FleetPlan) -> Iterator[Limit]:
    """Yield every limit that shows at some rate, whether the plan's rate reaches it or not."""
    planned = plan.planned
    if plan.cores_per_replica > _THREAD_CORES:
        advice = f"a process fills {_THREAD_CORES:.0f} cores: run more replicas of {_THREAD_CORES:.0f}, and measure one"
        yield Limit("one Python thread a process", 0.0, advice)
    yield Limit(
        "balancing",
        planned,
        "clients keep their connections: Client(balance=...), or Envoy with LEAST_REQUEST. Replicas at half speed hold round robin up",
    )
    yield Limit(
        "addresses of a name",
        (_DNS_ADDRESSES - _SPARE) * planned,
        f"more than {_DNS_ADDRESSES} addresses do not fit into a DNS answer over UDP: a layer of proxies, or xDS",
    )
    yield Limit(
        "connections of a client",
        (_CLIENT_FILES - _SPARE) * planned,
        f"each client has a connection to each replica, and often {_CLIENT_FILES:,} open files at most: a layer of proxies",
    )
    if plan.demand.clients > _MAX_CONNECTIONS:
        advice = f"{plan.demand.clients:,} clients connect to each replica, --max-connections is {_MAX_CONNECTIONS:,}"
        yield Limit("connections of a replica", 0.0, advice)
    in_flight = planned * plan.p99_s
    if in_flight > _MAX_CALLS_PER_CLIENT:
        advice = f"behind one proxy, {in_flight:,.0f} calls of one address are in flight: raise --max-calls-per-client"
        yield Limit("calls in flight of a client", 0.0, advice)
