"""grpc.health.v1: one name for the server (empty) and one per model, derived from what is.

Not the servicer of grpcio-health-checking: its Watch streams hold up a shutdown, its watchers lose each other.
"""

from typing import TYPE_CHECKING

from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse

from palm_serve.errors import NotFound
from palm_serve.rpc.call_handling import Call, Send
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.messages.requests import quoted

if TYPE_CHECKING:
    from palm_serve.registry import Registry

_LOOK_AGAIN_S = 1.0
"""An engine that fails changes its model's health without telling anyone; watchers learn it this late at most."""


class Health:
    """Check and Watch."""

    def __init__(self, registry: "Registry", lifecycle: Lifecycle) -> None:
        self._registry = registry
        self._lifecycle = lifecycle

    def status(self, service: str) -> int:
        """The ServingStatus of the server or of a model, which is that of its stable version; SERVICE_UNKNOWN for other names.

        What replaces a version and cannot be loaded changes nothing, since the old one goes on.
        """
        ready = {name: model.ready for name, model in self._registry.stable().items() if service in ("", name)}
        if service and not ready and not any(name == service for name, _ in self._registry.failures):
            return int(HealthCheckResponse.SERVICE_UNKNOWN)
        serving = self._lifecycle.state is State.SERVING and bool(ready) and all(ready.values())
        return int(HealthCheckResponse.SERVING if serving else HealthCheckResponse.NOT_SERVING)

    async def check(self, message: HealthCheckRequest, call: Call) -> HealthCheckResponse:
        """The status now. Raises NotFound for an unknown name."""
        status = self.status(message.service)
        if status == HealthCheckResponse.SERVICE_UNKNOWN:
            raise NotFound(f"no model {quoted(message.service)}; the empty name stands for the server")
        return HealthCheckResponse(status=status)

    async def watch(self, message: HealthCheckRequest, send: Send) -> None:
        """The status now and whenever it changes."""
        last = None
        while True:
            status = self.status(message.service)
            if status != last:
                last = status
                await send(HealthCheckResponse(status=status))
            async with self._lifecycle.stream():
                await self._lifecycle.change(_LOOK_AGAIN_S)
