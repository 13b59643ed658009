"""The methods that Ray's ingress takes calls for. Their messages pass through it as they are."""

from collections.abc import Iterator
from typing import Any

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from palm_serve.oip import inference_pb2 as oip
from palm_serve.rpc.grpc_server import REFLECTION_NAMES
from palm_serve.v1 import palm_pb2 as pb

_NOT_SERVED = frozenset({"/grpc.health.v1.Health/List"})
"""Methods of a protocol that the server does not have."""


def add_services(servicer: Any, server: grpc.Server) -> None:
    """Add all services to Ray's gRPC server: `--grpc-servicer-functions palm_serve.ray.add_services`.

    Args:
        servicer: Ray's own. It is not used: Ray calls the method of the deployment that has the name of the RPC.
        server: Ray's server.
    """
    for service, streaming in served_methods().items():
        methods = {}
        for name, is_stream in streaming.items():
            # Ray replaces the function. Without a deserializer the deployment gets the bytes of the messages.
            make = grpc.stream_stream_rpc_method_handler if is_stream else grpc.unary_unary_rpc_method_handler
            methods[name] = make(_replaced)
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, methods),))


def served_methods() -> dict[str, dict[str, bool]]:
    """Return whether each method has streams, by service and name."""
    methods: dict[str, dict[str, bool]] = {}
    for names, service in _services():
        streaming = {}
        for method in service.methods:
            if f"/{service.full_name}/{method.name}" not in _NOT_SERVED:
                streaming[method.name] = bool(method.client_streaming or method.server_streaming)
        methods.update(dict.fromkeys(names, streaming))
    return methods


def _services() -> Iterator[tuple[tuple[str, ...], ServiceDescriptor]]:
    """Yield the names of each service, and its description."""
    for module in (pb, oip, health_pb2):
        for service in module.DESCRIPTOR.services_by_name.values():
            yield (service.full_name,), service
    yield REFLECTION_NAMES, reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]


async def _replaced(request: Any, context: Any) -> None:
    raise NotImplementedError("Ray Serve answers the call")
