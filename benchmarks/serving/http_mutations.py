"""Mutated requests through every route of the HTTP door, and what is wrong with their responses."""

import asyncio
import json
import random
from asyncio import IncompleteReadError
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import MethodDescriptor
from http_calls import Connection, request

_KEPT = 20
_WHOLE_S = 30.0
_BROKEN_S = 0.5
"""Seconds until a response. A request whose length was broken may be waited for."""
_GRPC_WEB = "application/grpc-web+proto"
_JSON = "application/json"
_SERVED = "/palm_serve.v1."
"""Beginning of the paths of methods that the door has."""
_REFUSALS = {400, 401, 403, 404, 405, 413, 415, 421, 429, 499, 504}
_HEADERS = (
    *("", "", "", "", "Origin: https://evil.example\r\n", "Content-Encoding: gzip\r\n", "Content-Encoding: br\r\n"),
    *("Inference-Header-Content-Length: 40\r\n", "Connect-Timeout-Ms: 1\r\n", "Connect-Timeout-Ms: -1\r\n"),
    *("Authorization: Bearer x\r\n", "grpc-timeout: 1x\r\n", "X-Request-Id: \t\r\n", "Sec-Fetch-Site: cross-site\r\n"),
)


@dataclass
class HttpFuzz:
    """Callers who send what is made over HTTP, and what they saw.

    Args:
        port: where the server listens.
        generator: makes messages, see `fuzz.Generator`.
        methods: the methods of gRPC by their paths.
    """

    port: int
    generator: Any
    methods: dict[str, MethodDescriptor]
    codes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    faulty: int = 0

    async def send_all(self, numbers: Iterator[int]) -> None:
        """Send one request after the other, each on a connection that the server has not closed."""
        connection: Connection | None = None
        for _ in numbers:
            if connection is None:
                connection = await Connection("127.0.0.1", self.port).__aenter__()
            data, is_whole = self.make()
            try:
                status, body = await asyncio.wait_for(connection.ask(data), _WHOLE_S if is_whole else _BROKEN_S)
            except TimeoutError:
                self._note("HTTP waits", "no response" if is_whole else "", data)
                is_whole = False
            except (ConnectionError, IncompleteReadError) as error:
                self._note("HTTP closed", f"closed without a response: {error!r}" if is_whole else "", data)
            else:
                self._note(f"HTTP {status}", fault(status, body), data)
            if not is_whole or connection.is_closed or self.generator.draw.random() < 0.05:
                connection.abort()
                connection = None
        if connection is not None:
            connection.abort()

    def make(self) -> tuple[bytes, bool]:
        """Return a request, and whether its head and the length of its body are right."""
        draw: random.Random = self.generator.draw
        maker: Callable[[], bytes] = draw.choice((self._connect, self._connect_json, self._get, self._json_route))
        data = maker()
        if draw.random() < 0.9:
            return data, True
        broken = bytearray(data)
        for _ in range(draw.randint(1, 3)):
            place = draw.randint(0, min(len(broken), 400))
            broken[place : place + draw.randint(0, 3)] = draw.randbytes(draw.randint(0, 3))
        # A head that does not end is waited for: this one ends, and so does its body.
        return bytes(broken) + b"\r\n\r\n" + b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", False

    def _note(self, code: str, why: str, data: bytes) -> None:
        self.codes[code] += 1
        if why:
            self.faulty += 1
            if len(self.faults) < _KEPT:
                self.faults.append(f"{data.hex()}: {why}")

    def _path(self) -> str:
        paths = [*self.methods]
        if self.generator.draw.random() < 0.95:
            paths = [path for path in paths if path.startswith(_SERVED)]
        path: str = self.generator.draw.choice(paths)
        return path

    def _more(self) -> str:
        more: str = self.generator.draw.choice(_HEADERS)
        return more

    def _connect(self) -> bytes:
        path = self._path()
        body = self.generator.mutated(self.methods[path].input_type)
        if self.generator.draw.random() < 0.3:
            flags = self.generator.draw.choice((0, 0, 0, 1, 128, 255))
            return request("localhost", path, bytes([flags]) + len(body).to_bytes(4) + body, _GRPC_WEB, self._more())
        return request("localhost", path, body, "application/proto", self._more())

    def _message_json(self, path: str) -> bytes:
        kind = self.methods[path].input_type
        message = self.generator.well_formed(kind) or self.generator.filled(kind)
        return json_format.MessageToJson(message, indent=None).encode()

    def _connect_json(self) -> bytes:
        path = self._path()
        return request("localhost", path, self._damaged(self._message_json(path)), _JSON, self._more())

    def _get(self) -> bytes:
        path = self._path()
        body = self._damaged(self._message_json(path)).hex()
        encoded = "".join(f"%{body[place : place + 2]}" for place in range(0, len(body), 2))
        head = (
            f"GET {path}?connect=v1&encoding=json&message={encoded} HTTP/1.1\r\nHost: localhost\r\n{self._more()}\r\n"
        )
        return head.encode()

    def _json_route(self) -> bytes:
        draw: random.Random = self.generator.draw
        name = draw.choice(self.generator.names)
        text = draw.choice(self.generator.texts)
        tensor = {"name": "text", "shape": [draw.choice((1, 1, 2, -1, 2**40))], "datatype": "BYTES", "data": [text]}
        outputs = [{"name": name, "parameters": {"binary_data": draw.random() < 0.5}}] if draw.random() < 0.3 else []
        path, content = draw.choice(
            (
                ("/model/parse", {"text": text, "message_id": name}),
                ("/hf/text-classification", {"inputs": [text, name], "parameters": {"top_k": draw.randint(-1, 3)}}),
                (f"/hf/token-classification?task={draw.choice(('slots', 'x', ''))}", {"inputs": text}),
                (f"/v2/models/{name.partition('/')[0]}/infer", {"id": name, "inputs": [tensor], "outputs": outputs}),
                ("/v2/repository/index", {"ready": True}),
            )
        )
        return request("localhost", path, self._damaged(json.dumps(content).encode()), _JSON, self._more())

    def _damaged(self, body: bytes) -> bytes:
        """Return a body, half of the time with bytes changed."""
        data = bytearray(body)
        if self.generator.draw.random() < 0.5:
            self.generator.damage(data)
        return bytes(data)


def fault(status: int, body: bytes) -> str:
    """Return what is wrong with a response. Empty: nothing."""
    if status not in _REFUSALS and status != 200:
        return f"{status} {body[:200]!r}"
    if status != 200 and any(
        word in body for word in (b"Traceback", b".py", b"palm_serve/", str(Path.home()).encode())
    ):
        return f"tells of the inside: {body[:200]!r}"
    return ""
