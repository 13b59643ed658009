"""Who a call is from, and whether it may run now."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

import grpc

from palm_serve.config import ServeOptions
from palm_serve.rpc.access.rate_limits import InFlight, Rate, address
from palm_serve.rpc.access.tokens import Scope, Tokens


class Gate:
    """Tokens, calls in flight and requests per second of each client: the name of its token, or else its address."""

    def __init__(self, options: ServeOptions, tokens: Tokens | None = None) -> None:
        self._tokens = tokens
        self._health_is_open = not options.health_needs_token
        self._in_flight = InFlight(options.max_calls_per_client)
        self._rate = None if options.max_rate is None else Rate(options.max_rate, options.max_burst)

    def identify(self, context: grpc.aio.ServicerContext, scope: Scope) -> "Client":
        """Who calls. Raises Unauthenticated, NotAllowed."""
        return Client(self._name(context, scope), self._rate)

    def stranger(self, context: grpc.aio.ServicerContext) -> "Client":
        """Who calls, by address alone."""
        return Client(address(context.peer()), self._rate)

    @contextmanager
    def admit(self, client: "Client", scope: Scope) -> Iterator[None]:
        """Around one call. Health is not counted. Raises Overloaded."""
        if scope is Scope.HEALTH:
            yield
            return
        with self._in_flight.admit(client.name):
            if self._rate is not None:
                self._rate.take(client.name)
            yield

    def paced(
        self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext, scope: Scope
    ) -> AsyncIterator[bytes]:
        """The messages of an admitted stream, no faster than the client's rate. Raises Unauthenticated when its token is revoked."""
        return messages if self._tokens is None and self._rate is None else self._paced(messages, context, scope)

    async def _paced(
        self, messages: AsyncIterator[bytes], context: grpc.aio.ServicerContext, scope: Scope
    ) -> AsyncIterator[bytes]:
        async for data in messages:
            name = self._name(context, scope)
            yield data
            while self._rate is not None and (pause := self._rate.pause_s(name)):
                await asyncio.sleep(pause)

    def _name(self, context: grpc.aio.ServicerContext, scope: Scope) -> str:
        if self._tokens is None or (scope is Scope.HEALTH and self._health_is_open):
            return address(context.peer())
        # A token may be called like an address.
        return f"token {self._tokens.check(context.invocation_metadata() or (), scope, context.peer_identities)}"


class Client:
    """Who an admitted call is from."""

    def __init__(self, name: str, rate: Rate | None) -> None:
        self.name = name
        self._rate = rate

    def spend(self, requests: int) -> None:
        """Tells how many requests a call holds beyond its first."""
        if self._rate is not None and requests > 0:
            self._rate.spend(self.name, requests)
