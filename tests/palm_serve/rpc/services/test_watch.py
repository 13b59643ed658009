"""Open health watches: limited by address, and without a cost while nothing changes."""

import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from palm_serve.errors import Overloaded
from palm_serve.rpc.access.rate_limits import InFlightLimit

RunningServer = Any  # of conftest.py, which cannot be imported by name
SERVING, NOT_SERVING = 1, 2


def open_watch(channel: grpc.Channel, service: str = "") -> Any:
    return health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(service=service))


def test_seventeenth_watch_of_an_address_is_refused(make_rpc_server: Callable[..., RunningServer]) -> None:
    """The limit counts all connections and names, and a closed watch makes room."""
    rpc_server = make_rpc_server()
    with grpc.insecure_channel(rpc_server.target, (("grpc.use_local_subchannel_pool", 1),)) as other:
        watches = [open_watch((rpc_server.channel, other)[number % 2], "fake" * (number % 2)) for number in range(16)]
        assert [next(watch).status for watch in watches] == [SERVING] * 16
        with pytest.raises(grpc.RpcError) as caught:
            next(open_watch(other, "another"))
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "at most 16 open Watch calls" in caught.value.details()
        watches[0].cancel()
        end = time.monotonic() + 60
        while True:
            try:
                assert next(open_watch(other)).status == SERVING
                break
            except grpc.RpcError:
                assert time.monotonic() < end
                time.sleep(0.05)
    assert any(record.reason == "client_watches" for record in rpc_server.observed)


def test_watch_limit_is_an_option(make_rpc_server: Callable[..., RunningServer]) -> None:
    rpc_server = make_rpc_server(max_watches_per_client=1)
    first = open_watch(rpc_server.channel)
    assert next(first).status == SERVING
    with pytest.raises(grpc.RpcError, match="RESOURCE_EXHAUSTED"):
        next(open_watch(rpc_server.channel))


def test_watches_of_all_clients_are_limited() -> None:
    limit = InFlightLimit(2, "open Watch calls", "client_watches", total=3)
    refused = pytest.raises(Overloaded, match="the server must have at most 3 open Watch calls")
    with limit.admit("a"), limit.admit("a"), limit.admit("b"), refused, limit.admit("c"):
        raise AssertionError
    admitted = 0
    with limit.admit("c"), limit.admit("b"):
        admitted += 1
    assert admitted == 1


def test_watchers_cause_no_work_while_nothing_changes(
    make_rpc_server: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One task looks for changes, however many watch. A change reaches every watcher of the name."""
    rpc_server = make_rpc_server(max_watches_per_client=200)
    looks = 0
    stable = rpc_server.registry.stable

    def counted() -> Any:
        nonlocal looks
        looks += 1
        return stable()

    monkeypatch.setattr(rpc_server.registry, "stable", counted)
    watches = [open_watch(rpc_server.channel, "fake" if number % 2 else "") for number in range(100)]
    assert [next(watch).status for watch in watches] == [SERVING] * 100
    looks = 0
    time.sleep(2.5)
    # A look of each watcher would make 200.
    assert 1 <= looks <= 20
    rpc_server.model.ready = False
    assert [next(watch).status for watch in watches] == [NOT_SERVING] * 100
    rpc_server.model.ready = True
    assert [next(watch).status for watch in watches] == [SERVING] * 100
    for watch in watches:
        watch.cancel()
