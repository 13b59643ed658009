"""A small typed client, blocking (`Client`) and asyncio (`AsyncClient`).

    with Client("localhost:50051") as palm:
        answer = palm.parse("show me flights from boston to denver")
        print(answer.intent.name, [(slot.name, slot.value) for slot in answer.slots])

Answers are the messages of `palm.proto` (`palm_serve.v1.palm_pb2`, typed), and keywords are the fields of its requests,
so whatever the API grows is there at once. Errors are those of `palm_serve.errors`: InvalidRequest, NotFound,
Overloaded, DeadlineExceeded, Unavailable, Unauthenticated, NotAllowed; and ServerError for the rest.

One connection is opened on first use and reused by all calls; threads may share a `Client`, tasks an `AsyncClient`.
A call that is refused with RESOURCE_EXHAUSTED or UNAVAILABLE is tried again after the time that the server names, or
else (UNAVAILABLE) after 0.1, 0.2, 0.4 s, as long as its deadline allows and no more than a fifth of the calls are tried again.
Texts of `parse_batch` that are refused while others are answered are asked again in the same way, without those.
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
