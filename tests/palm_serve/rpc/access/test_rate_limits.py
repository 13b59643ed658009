"""Limits of one client, with a simulated clock."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.errors import Overloaded
from palm_serve.rpc.access.rate_limits import InFlightLimit, RateLimit, client_address


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:10.0.0.7:5123", "10.0.0.7"),
        ("ipv6:%5B::1%5D:5123", "::/64"),
        ("ipv6:[2001:db8:1:2:3:4:5:6]:5123", "2001:db8:1:2::/64"),
        ("ipv6:%5B2001:db8:1:2:ffff::9%5D:1", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1", "fe80::/64"),
        ("unix:/run/palm.sock", "unix"),
    ],
)
def test_client_address_of_peers(peer: str, client: str) -> None:
    assert client_address(peer) == client


def test_in_flight_limit_refuses_further_calls() -> None:
    gate = InFlightLimit(2)
    with gate.admit("a"), gate.admit("b"):
        with gate.admit("a"), pytest.raises(Overloaded, match="must have at most 2 calls"), gate.admit("a"):
            pass
        with gate.admit("a"), gate.admit("b"):
            pass
    assert not gate._running


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


STEPS = st.lists(st.tuples(st.floats(0, 3), st.integers(1, 40)), max_size=60)


@given(rate=st.floats(0.5, 50), burst=st.integers(1, 30), steps=STEPS)
def test_rate_limit_holds_in_every_interval(rate: float, burst: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    bucket = RateLimit(rate, burst, clock)
    passed: list[tuple[float, int]] = []
    for wait, requests in steps:
        clock.now += wait
        if not bucket.pause_s("a"):
            bucket.spend("a", requests - 1)
            passed.append((clock.now, requests))
    for first, (begin, _) in enumerate(passed):
        for last in range(first, len(passed)):
            taken = [requests for _, requests in passed[first : last + 1]]
            assert sum(taken[:-1]) + 1 <= burst + (passed[last][0] - begin) * rate + 1e-6


@given(rate=st.floats(0.5, 50), burst=st.integers(1, 30), requests=st.integers(1, 100))
def test_rate_limit_admits_after_the_retry_delay(rate: float, burst: int, requests: int) -> None:
    clock = Clock()
    bucket = RateLimit(rate, burst, clock)
    bucket.take("a")
    bucket.spend("a", requests + burst)
    with pytest.raises(Overloaded, match="Send fewer requests") as caught:
        bucket.take("a")
    bucket.take("b")
    clock.now += caught.value.retry_after_s * 0.99
    assert bucket.pause_s("a") > 0
    clock.now += caught.value.retry_after_s * 0.0101
    bucket.take("a")


def test_rate_limit_forgets_idle_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("palm_serve.rpc.access.rate_limits._MAX_BUCKETS", 100)
    clock = Clock()
    bucket = RateLimit(10, 5, clock)
    for number in range(1_000):
        clock.now += 0.1
        bucket.take(str(number))
    assert len(bucket._buckets) <= 101
