"""The service grpc.health.v1.Health, with an empty name for the server and a name for each model.

The servicer of grpcio-health-checking is not used, because its Watch streams delay a shutdown and lose watchers.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from palm_serve.errors import NotFound
from palm_serve.rpc.call import Call
from palm_serve.rpc.call_handling import Send
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.messages.requests import quoted
from palm_serve.rpc.streams import yield_to_event_loop

if TYPE_CHECKING:
    from palm_serve.registry import Registry

_CHECK_INTERVAL_S = 1.0
"""Interval at which one task checks for changes without a notification, such as a failed engine, for all watchers."""
_SERVER = ""
"""Name of the server as a whole."""


class HealthService:
    """Answers Check and Watch."""

    def __init__(self, registry: "Registry", lifecycle: Lifecycle) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._watchers: dict[str, set[asyncio.Event]] = {}
        self._last_statuses: dict[str, int] = {}
        self._check_task: asyncio.Task[None] | None = None

    def status(self, service: str) -> int:
        """Return the ServingStatus of the server (empty name) or of a model's stable version.

        It is SERVICE_UNKNOWN for other names. A replacement that cannot be loaded changes nothing, because the former
        version stays in service.
        """
        return self._statuses().get(service, int(HealthCheckResponse.SERVICE_UNKNOWN))

    def _statuses(self) -> dict[str, int]:
        """Return the status of each known name."""
        not_serving, serving = int(HealthCheckResponse.NOT_SERVING), int(HealthCheckResponse.SERVING)
        in_service = self._lifecycle.state is State.SERVING
        statuses = {}
        for name, _ in self._registry.failures:
            statuses[name] = not_serving
        models = self._registry.stable()
        all_ready = bool(models)
        for name, model in models.items():
            ready = model.ready
            all_ready &= ready
            statuses[name] = serving if in_service and ready else not_serving
        statuses[_SERVER] = serving if in_service and all_ready else not_serving
        return statuses

    async def check(self, message: HealthCheckRequest, call: Call) -> HealthCheckResponse:
        """Return the current status. Raises NotFound for an unknown name."""
        status = self.status(message.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise NotFound(f"no model {quoted(message.service)}. Use the empty name for the server.")
        return HealthCheckResponse(status=status)

    async def watch(self, message: HealthCheckRequest, send: Send) -> None:
        """Send the current status, and every change of it."""
        last_status = None
        with self._watch(message.service) as changed:
            while True:
                changed.clear()
                status = self.status(message.service)
                if status != last_status:
                    last_status = status
                    await send(HealthCheckResponse(status=status))
                async with self._lifecycle.stream():
                    await changed.wait()

    @contextmanager
    def _watch(self, service: str) -> Iterator[asyncio.Event]:
        """Return an event that is set when the status of a name changes."""
        changed = asyncio.Event()
        if not self._watchers:
            self._last_statuses = self._statuses()
        self._watchers.setdefault(service, set()).add(changed)
        if self._check_task is None or self._check_task.done():
            self._check_task = asyncio.create_task(self._check_for_changes())
        try:
            yield changed
        finally:
            watchers = self._watchers[service]
            watchers.discard(changed)
            if not watchers:
                del self._watchers[service]
            if not self._watchers:
                self._check_task.cancel()

    async def _check_for_changes(self) -> None:
        """Wake the watchers of names whose status has changed. It ends when nobody watches."""
        while self._watchers:
            await self._lifecycle.change(_CHECK_INTERVAL_S)
            statuses = self._statuses()
            changed_items = statuses.items() ^ self._last_statuses.items()
            self._last_statuses = statuses
            # The two items of a changed name are both there, and waking a watcher twice does no harm.
            for name, _ in changed_items:
                for index, changed in enumerate([*self._watchers.get(name, ())]):
                    changed.set()
                    await yield_to_event_loop(index)
