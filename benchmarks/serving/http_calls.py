"""Calls over HTTP with as little of a client as there can be: asyncio's streams, one connection a caller, and bodies made beforehand."""

import asyncio
import json
import ssl
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from palm_serve.v1 import palm_pb2 as pb

PARSE = "/palm_serve.v1.DialogueUnderstanding/Parse"
FORMS = ("proto", "json", "rasa", "oip")
"""Connect with bytes and with JSON, Rasa's route, the Open Inference Protocol's JSON."""
_LENGTH = b"content-length: "


def request(host: str, path: str, body: bytes, media_type: str, more: str = "") -> bytes:
    """Return a whole POST request.

    Args:
        host: value of the header Host.
        path: the path.
        body: the body.
        media_type: its type.
        more: further headers, each with its end of line.
    """
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n{more}\r\n"
    return head.encode() + body


def parse_requests(host: str, form: str, texts: Sequence[str], model: str) -> list[bytes]:
    """Return a request for each text.

    Args:
        host: value of the header Host.
        form: one of FORMS.
        texts: the texts.
        model: name of the model.
    """
    made = []
    for text in texts:
        if form == "proto":
            made.append(request(host, PARSE, pb.ParseRequest(text=text).SerializeToString(), "application/proto"))
            continue
        path, content = PARSE, {"text": text}
        if form == "rasa":
            path = "/model/parse"
        elif form == "oip":
            tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": [text]}
            path, content = f"/v2/models/{model}/infer", {"inputs": [tensor]}
        made.append(request(host, path, json.dumps(content).encode(), "application/json"))
    return made


class Connection:
    """One connection, opened when it is entered. `source` is the address of this side, None: that which the system chooses."""

    def __init__(self, host: str, port: int, context: ssl.SSLContext | None = None, source: str | None = None) -> None:
        self._address = host, port
        self._context = context
        self._source = None if source is None else (source, 0)
        self.is_closed = False
        """True once a response has said that the server closes the connection."""

    async def __aenter__(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection(
            *self._address, ssl=self._context, local_addr=self._source
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        self.abort()

    def abort(self) -> None:
        """Close without waiting."""
        self._writer.transport.abort()

    def send(self, data: bytes) -> None:
        """Send a request, or a part of one."""
        self._writer.write(data)

    async def flush(self) -> None:
        """Wait until what was sent has left. Raises ConnectionError."""
        await self._writer.drain()

    async def ask(self, data: bytes) -> tuple[int, bytes]:
        """Send a request, and return the status and the body of its response. Raises ConnectionError, IncompleteReadError."""
        self._writer.write(data)
        return await self.receive()

    async def receive(self) -> tuple[int, bytes]:
        """Return the status and the body of the next response."""
        head = await self._reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        self.is_closed = b"connection: close" in head.lower()
        found = head.find(_LENGTH)
        if found < 0:
            # What is no HTTP is answered in a chunk, and the connection is closed.
            return status, await self._reader.read()
        begin = found + len(_LENGTH)
        length = int(head[begin : head.index(b"\r", begin)])
        return status, await self._reader.readexactly(length)


@dataclass
class Outcome:
    """What callers saw."""

    codes: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)


async def load(host: str, port: int, requests: Sequence[bytes], callers: int, seconds: float) -> Outcome:
    """Send requests in a closed loop.

    Args:
        host: address of the server.
        port: its port.
        requests: the requests, which are sent in turn.
        callers: number of callers, each with a connection.
        seconds: duration.
    """
    outcome = Outcome()
    end = time.monotonic() + seconds

    async def caller(number: int) -> None:
        async with Connection(host, port) as connection:
            while (began := time.monotonic()) < end:
                status, _ = await connection.ask(requests[number % len(requests)])
                outcome.codes[status] += 1
                outcome.seconds.append(time.monotonic() - began)
                number += callers

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return outcome
