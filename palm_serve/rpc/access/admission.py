"""Admission control: identify the client of a call and enforce its limits."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractContextManager, contextmanager

from palm_serve.config import ServeOptions
from palm_serve.rpc.access.message_slots import MessageSlots, Sender
from palm_serve.rpc.access.rate_limits import InFlightLimit, RateLimit, client_address
from palm_serve.rpc.access.tokens import Scope, Tokens, client_name
from palm_serve.rpc.access.unread_answers import UnreadAnswers
from palm_serve.rpc.call_context import CallContext


class AdmissionControl:
    """Checks the token, the calls in flight and the request rate of each client.

    A client is identified by the name of its token, or else by its address.

    Args:
        options: the options of the server.
        tokens: access tokens. None: anyone may call.
        message_bytes: largest message. None: that of the options.
    """

    def __init__(self, options: ServeOptions, tokens: Tokens | None = None, message_bytes: int | None = None) -> None:
        self._tokens = tokens
        self._health_is_open = not options.health_needs_token
        self._in_flight = InFlightLimit(options.max_calls_per_client)
        self._watches = InFlightLimit(
            options.max_watches_per_client, "open Watch calls", "client_watches", options.max_connections
        )
        self.messages = MessageSlots(
            message_bytes or options.limits.message_bytes, options.message_timeout, options.max_streams
        )
        self.unread_answers = UnreadAnswers()
        self.limits = options.limits
        self._single_calls: set[RemoteClient] = set()
        """Calls in progress that ask for one answer."""
        self._rate = None if options.max_rate is None else RateLimit(options.max_rate, options.max_burst)

    def identify(self, context: CallContext, scope: Scope) -> "RemoteClient":
        """Identify the client of a call. Raises Unauthenticated, NotAllowed."""
        connection = context.peer()
        return RemoteClient(self._name(context, scope, connection), self._rate, connection, scope is Scope.HEALTH)

    def client_from_address(self, context: CallContext) -> "RemoteClient":
        """Identify the client by its network address."""
        connection = context.peer()
        return RemoteClient(client_address(connection), self._rate, connection)

    @contextmanager
    def admit(self, client: "RemoteClient", scope: Scope, stream: bool = False) -> Iterator[None]:
        """Hold a place for one call while it runs. Health checks are not limited in number.

        Args:
            client: the client.
            scope: scope that the method requires.
            stream: true for a call with any number of messages.

        Raises:
            Overloaded: the client has too many calls, asks too often, or does not read its answers.
        """
        self.unread_answers.check(client.name)
        if scope is Scope.HEALTH:
            yield
            return
        with self._in_flight.admit(client.name):
            if self._rate is not None:
                self._rate.take(client.name)
            if stream:
                yield
                return
            client.single_calls = self._single_calls
            self._single_calls.add(client)
            try:
                yield
            finally:
                self._single_calls.discard(client)

    def is_shared(self) -> bool:
        """Return True while a client waits for one answer beside calls of other clients."""
        return bool(self._single_calls) and self._in_flight.clients > 1

    def watch(self, client: "RemoteClient") -> AbstractContextManager[None]:
        """Hold a place for one open Watch of an address. Raises Overloaded."""
        return self._watches.admit(client_address(client.connection))

    def paced(self, messages: AsyncIterator[bytes], context: CallContext, scope: Scope) -> AsyncIterator[bytes]:
        """Limit the messages of an admitted stream to the client's rate.

        Args:
            messages: the messages of the stream.
            context: the call.
            scope: scope that the method requires.

        Raises:
            Unauthenticated: when the client's token is revoked while the stream is open.
        """
        if self._tokens is None and self._rate is None:
            return messages
        return self._paced(messages, context, scope)

    async def _paced(self, messages: AsyncIterator[bytes], context: CallContext, scope: Scope) -> AsyncIterator[bytes]:
        async for data in messages:
            name = self._name(context, scope, context.peer())
            yield data
            while self._rate is not None:
                pause_s = self._rate.pause_s(name)
                if not pause_s:
                    break
                await asyncio.sleep(pause_s)

    def _name(self, context: CallContext, scope: Scope, connection: str) -> str:
        if self._tokens is None or (scope is Scope.HEALTH and self._health_is_open):
            return client_address(connection)
        return client_name(self._tokens.check(context.invocation_metadata() or (), scope, context.peer_identities))


class RemoteClient(Sender):
    """The client of an admitted call."""

    __slots__ = ("_rate", "single_calls")

    def __init__(self, name: str, rate: RateLimit | None, connection: str, short: bool = False) -> None:
        super().__init__(name, connection, short)
        self._rate = rate
        self.single_calls: set[RemoteClient] | None = None
        """Calls that ask for one answer, of which this is one until it is known to be a batch."""

    def spend(self, requests: int) -> None:
        """Count the requests of a call beyond its first for the client's rate."""
        if self.single_calls is not None and requests > 0:
            self.single_calls.discard(self)
        if self._rate is not None and requests > 0:
            self._rate.spend(self.name, requests)
