"""Typed client of a PALM server, blocking (`Client`) and asyncio (`AsyncClient`).

    with Client("localhost:50051") as palm:
        answer = palm.parse("show me flights from boston to denver")
        print(answer.intent.name, [(slot.name, slot.value) for slot in answer.slots])

Responses are the messages of `palm.proto` (`palm_serve.v1.palm_pb2`, typed), and keyword arguments are the fields of its
requests. Errors are those of `palm_serve.errors`: InvalidRequest, NotFound, Overloaded, DeadlineExceeded, Unavailable,
Unauthenticated, NotAllowed. Every other status raises ServerError.

Calls are divided among the addresses of the target, see `Client`. One connection to each is opened on first use and shared by
all calls. Threads may share a `Client`, tasks an `AsyncClient`.
A call that fails with RESOURCE_EXHAUSTED or UNAVAILABLE is retried after the delay that the server sends. Without one,
UNAVAILABLE is retried after 0.1, 0.2 and 0.4 s. Retries end at the deadline and are limited to a fifth of all calls. A retry waits
for a server that is away, if the client was answered before, and goes to another replica first where there are several. A
connection that has fallen silent is replaced.
Refused texts of `parse_batch` are retried in the same way, without the texts that are already answered.
"""

from palm_serve.client.client import AsyncClient, Client
from palm_serve.client.credentials import TOKEN_VARIABLE, read_token, tls
from palm_serve.client.protocol import ClientOptions, ParseFields, PredictFields
from palm_serve.client.retries import ServerError

__all__ = [
    "TOKEN_VARIABLE",
    "AsyncClient",
    "Client",
    "ClientOptions",
    "ParseFields",
    "PredictFields",
    "ServerError",
    "read_token",
    "tls",
]
