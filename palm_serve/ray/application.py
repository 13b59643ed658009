"""The application of Ray Serve, and its replica: the server's own registry, batcher, services and handlers."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1.health_pb2 import HealthCheckResponse
from pydantic import Field, ValidationError
from ray import serve

from palm_serve.config import ServeOptions
from palm_serve.config.option_group import OptionGroup
from palm_serve.config.options import AnswerOptions, EngineOptions, LimitOptions
from palm_serve.errors import ConfigError, EngineError
from palm_serve.ray.contexts import StreamContext, UnaryContext
from palm_serve.ray.methods import served_methods
from palm_serve.registry.remote_options import fetched_bundle
from palm_serve.rpc.access.tokens import Tokens
from palm_serve.rpc.call_context import CallAborted
from palm_serve.rpc.grpc_server import make_services, service_methods
from palm_serve.rpc.lifecycle import Lifecycle, State
from palm_serve.rpc.process_end import EXIT_HUNG, end_process
from palm_serve.server import make_registry

log = logging.getLogger(__name__)

_ADMITTED_HERE = 1_000_000
"""Calls that Ray lets into a replica: the server's own admission knows better which ones it can answer."""
_MODEL_OPTIONS = ("load_timeout", "trust", "allow_unproven", "tokens")
_INTERNAL = "internal error"


class Arguments(OptionGroup):
    """Arguments that are no options of a server."""

    bundle: str = Field(min_length=1)
    replicas: int = Field(default=1, ge=1)
    threads: int = Field(default=1, ge=1, le=1024)


def app(arguments: dict[str, Any]) -> serve.Application:
    """Build the application: `serve run palm_serve.ray:app bundle=DIR replicas=4`.

    Args:
        arguments: `bundle`, `replicas` (default 1), `threads` of each replica and CPUs that it reserves (default 1), and
            options of `palm-serve run` on the engine, answers, limits and tokens, such as `max_queue`.

    Raises:
        ConfigError: an argument is unknown or has a wrong value.
    """
    replicas, options = read_arguments(arguments)
    replica = serve.deployment(
        Replica,
        name="Palm",
        num_replicas=replicas,
        max_ongoing_requests=_ADMITTED_HERE,
        ray_actor_options={"num_cpus": options.threads},
    )
    application: serve.Application = replica.bind(options)
    return application


def read_arguments(arguments: Mapping[str, Any]) -> tuple[int, ServeOptions]:
    """Return the number of replicas, and their options. Raises ConfigError."""
    names = [*Arguments.model_fields, *_MODEL_OPTIONS]
    for group in (EngineOptions, AnswerOptions, LimitOptions):
        names += [name for name in group.model_fields if name not in names]
    server_arguments = {}
    for name, value in arguments.items():
        if name not in names:
            raise ConfigError(f"arguments must be some of {', '.join(names)}, got '{name}'. Remove or correct it.")
        if name not in Arguments.model_fields:
            server_arguments[name] = value
    try:
        checked = Arguments.model_validate(
            {name: arguments[name] for name in arguments if name not in server_arguments}
        )
        options = ServeOptions.model_validate(
            {**server_arguments, "bundles": (checked.bundle,), "threads": checked.threads}
        )
    except ValidationError as error:
        fault = error.errors()[0]
        name = ".".join(map(str, fault["loc"]))
        raise ConfigError(
            f"{name} must be right: {fault['msg']}, got {fault['input']!r}. Correct the argument."
        ) from None
    return checked.replicas, options


@dataclass(frozen=True, slots=True)
class Serialized:
    """A response as Ray takes it: an object that it asks for its bytes."""

    content: bytes

    def SerializeToString(self) -> bytes:  # noqa: N802 - as messages of protobuf call it
        """Return the bytes."""
        return self.content


class Replica:
    """One replica: a server without a transport. Ray calls the methods that have the names of the RPCs.

    Args:
        options: options of the server.

    Raises:
        TokenFileError: the file of tokens cannot be used.
        BundleError: the bundle must not be used.
        StorageError: the bundle cannot be fetched.
        EngineError: no engine can run it.
    """

    async def __init__(self, options: ServeOptions) -> None:  # type: ignore[misc]  # Ray awaits it
        loop = asyncio.get_running_loop()
        lifecycle = Lifecycle()
        tokens = None if options.tokens is None else Tokens(options.tokens)
        # Only the end of the process helps when a run of the engine cannot be stopped. Ray starts another replica.
        registry = make_registry(
            options, on_hung=lambda: loop.call_soon_threadsafe(end_process, EXIT_HUNG), tokens=tokens
        )
        services = make_services(registry, options, lifecycle, tokens=tokens)
        self._health = services.health
        self._max_bytes = options.limits.message_bytes
        self._handlers: dict[str, grpc.RpcMethodHandler] = {}
        for methods in service_methods(services, options).values():
            self._handlers.update(methods)
        for path in options.bundles:
            await registry.load(await fetched_bundle(options, path))
        for name in registry.stable():
            registry.assign_start_labels(name)
        lifecycle.state = State.SERVING

    def check_health(self) -> None:
        """Tell Ray whether the replica can answer. Ray replaces one that cannot, three times in a row.

        Raises:
            EngineError: the engine does not answer.
        """
        if self._health.status("") != HealthCheckResponse.SERVING:
            raise EngineError("the engine does not answer. The log of the replica says why.")

    async def answer(self, name: str, message: bytes, ray_context: Any) -> Serialized:
        """Answer a call with one message.

        Args:
            name: name of the method.
            message: the serialized message.
            ray_context: the call in Ray, which gets the status.
        """
        context = UnaryContext(ray_context, message, self._max_bytes)
        try:
            return Serialized(await self._handlers[name].stream_unary(None, context))
        except (CallAborted, asyncio.CancelledError):
            if not context.has_ended:
                raise
        except Exception:
            _hide(name, ray_context)
        return Serialized(b"")

    async def answer_stream(
        self, name: str, messages: AsyncIterator[bytes], ray_context: Any
    ) -> AsyncIterator[Serialized]:
        """Answer a call with streams.

        Args:
            name: name of the method.
            messages: the serialized messages.
            ray_context: the call in Ray, which gets the status.
        """
        context = StreamContext(ray_context, messages, self._max_bytes)
        handling = asyncio.ensure_future(self._handlers[name].stream_stream(None, context))
        try:
            async for response in context.responses(handling):
                yield Serialized(response)
        except (CallAborted, asyncio.CancelledError):
            if not context.has_ended:
                raise
        except Exception:
            _hide(name, ray_context)
        finally:
            handling.cancel()


def _hide(name: str, ray_context: Any) -> None:
    """Log an error that no handler has turned into a status. Ray would send it to the client with its stack."""
    log.exception("%s failed", name)
    ray_context.set_code(grpc.StatusCode.INTERNAL)
    ray_context.set_details(_INTERNAL)


def _unary_method(name: str) -> Any:
    async def method(self: Replica, message: bytes, grpc_context: Any) -> Serialized:
        return await self.answer(name, message, grpc_context)

    return method


def _stream_method(name: str) -> Any:
    async def method(self: Replica, messages: AsyncIterator[bytes], grpc_context: Any) -> AsyncIterator[Serialized]:
        responses = self.answer_stream(name, messages, grpc_context)
        try:
            async for response in responses:
                yield response
        finally:
            await responses.aclose()  # type: ignore[attr-defined]

    return method


for _methods in served_methods().values():
    for _name, _is_stream in _methods.items():
        setattr(Replica, _name, (_stream_method if _is_stream else _unary_method)(_name))
