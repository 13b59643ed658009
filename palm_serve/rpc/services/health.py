"""The service grpc.health.v1.Health, with an empty name for the server and a name for each model.

The servicer of grpcio-health-checking is not used, because its Watch streams delay a shutdown and lose watchers.
"""

from typing import TYPE_CHECKING

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from palm_serve.errors import NotFound
from palm_serve.rpc.call_handling import Call, Send
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.messages.requests import quoted

if TYPE_CHECKING:
    from palm_serve.registry import Registry

_POLL_INTERVAL_S = 1.0
"""Interval at which watchers check for a failed engine, which changes a model's health without a notification."""


class HealthService:
    """Answers Check and Watch."""

    def __init__(self, registry: "Registry", lifecycle: Lifecycle) -> None:
        self._registry = registry
        self._lifecycle = lifecycle

    def status(self, service: str) -> int:
        """Return the ServingStatus of the server (empty name) or of a model's stable version.

        It is SERVICE_UNKNOWN for other names. A replacement that cannot be loaded changes nothing, because the former
        version stays in service.
        """
        ready: list[bool] = []
        for name, model in self._registry.stable().items():
            if service in ("", name):
                ready.append(model.ready)
        failed_names = [name for name, _ in self._registry.failures]
        if service and not ready and service not in failed_names:
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        serving = self._lifecycle.state is State.SERVING and bool(ready) and all(ready)
        return int(HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)

    async def check(self, message: HealthCheckRequest, call: Call) -> HealthCheckResponse:
        """Return the current status. Raises NotFound for an unknown name."""
        status = self.status(message.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise NotFound(f"no model {quoted(message.service)}. Use the empty name for the server.")
        return HealthCheckResponse(status=status)

    async def watch(self, message: HealthCheckRequest, send: Send) -> None:
        """Send the current status, and every change of it."""
        last_status = None
        while True:
            status = self.status(message.service)
            if status != last_status:
                last_status = status
                await send(HealthCheckResponse(status=status))
            async with self._lifecycle.stream():
                await self._lifecycle.change(_POLL_INTERVAL_S)
