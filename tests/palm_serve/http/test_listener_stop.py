"""A listener that stops: connections that were made before are answered, whether or not it has accepted them.

The event loop of the listener does not run while the tests connect, so that what waits in the queue of the socket is no chance.
"""

import asyncio
import socket
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from palm_serve.config import ServeOptions, TlsFiles
from palm_serve.http.listener import HttpServer
from palm_serve.rpc.transport.tls import Certificates

REQUEST = b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nhello"
GRACE_S = 60.0


async def echo(scope, receive, send) -> None:
    body = (await receive())["body"]
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % len(body))]})
    await send({"type": "http.response.body", "body": body})


async def started(certificates=None) -> tuple[HttpServer, int]:
    server = HttpServer(echo, ServeOptions(bundles=(), http_port=0), certificates)
    port = server.bind().local_name
    await server.start()
    return server, int(port)


def connect(port: int) -> socket.socket:
    return socket.create_connection(("127.0.0.1", port), timeout=GRACE_S)


def receive_all(connection: socket.socket) -> bytes:
    """Return what comes until the server closes the connection. Raises ConnectionResetError."""
    received = b""
    while chunk := connection.recv(65536):
        received += chunk
    connection.close()
    return received


def assert_last_answer(received: bytes) -> None:
    assert received.startswith(b"HTTP/1.1 200 ")
    assert received.endswith(b"\r\n\r\nhello")
    assert received.lower().count(b"\r\nconnection: close\r\n") == 1


def test_queued_connections_are_answered_at_the_stop():
    async def run() -> list[bytes]:
        server, port = await started()
        clients = [connect(port) for _ in range(40)]
        for client in clients[:20]:
            client.sendall(REQUEST)
        server.drain()
        for client in clients[20:]:  # what a client sends after its connection was accepted
            client.sendall(REQUEST)
        with ThreadPoolExecutor(len(clients)) as threads:
            loop = asyncio.get_running_loop()
            answers = [loop.run_in_executor(threads, receive_all, client) for client in clients]
            await server.stop(GRACE_S)
            return await asyncio.gather(*answers)

    answers = asyncio.run(run())
    assert len(answers) == 40
    for received in answers:
        assert_last_answer(received)


def test_no_connection_is_made_after_the_drain():
    async def run() -> None:
        server, port = await started()
        server.drain()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.to_thread(connect, port)
        await server.stop(GRACE_S)

    asyncio.run(run())


def test_queued_connection_with_tls_is_answered_at_the_stop(make_certificate):
    certificate, key = make_certificate("one")
    context = ssl.create_default_context(cafile=str(certificate))

    def ask(client: socket.socket) -> bytes:
        with context.wrap_socket(client, server_hostname="localhost") as secured:
            secured.sendall(REQUEST)
            return receive_all(secured)

    async def run() -> list[bytes]:
        server, port = await started(Certificates(TlsFiles(certificate, key, None)))
        clients = [connect(port) for _ in range(4)]
        server.drain()
        asked = [asyncio.create_task(asyncio.to_thread(ask, client)) for client in clients]
        await server.stop(GRACE_S)
        return await asyncio.gather(*asked)

    for received in asyncio.run(run()):
        assert_last_answer(received)


def test_request_on_its_way_to_an_idle_connection_is_answered():
    def ask_once(client: socket.socket) -> None:
        client.sendall(REQUEST)
        received = b""
        while not received.endswith(b"hello"):
            received += client.recv(65536)

    async def run() -> tuple[bytes, bytes]:
        server, port = await started()
        busy, idle = connect(port), connect(port)
        for client in (busy, idle):
            await asyncio.to_thread(ask_once, client)
        busy.sendall(REQUEST)
        server.drain()
        answers = [asyncio.create_task(asyncio.to_thread(receive_all, client)) for client in (busy, idle)]
        await server.stop(GRACE_S)
        return await answers[0], await answers[1]

    answer, nothing = asyncio.run(run())
    assert_last_answer(answer)
    assert nothing == b""


def test_silent_connection_ends_with_the_grace():
    async def run() -> bytes:
        server, port = await started()
        with connect(port) as client:
            began = time.monotonic()
            await server.stop(0.2)
            assert time.monotonic() - began < GRACE_S
            try:
                return await asyncio.to_thread(client.recv, 1)
            except ConnectionResetError:
                return b""

    assert asyncio.run(run()) == b""


@pytest.mark.parametrize("has_tls", [False, True])
def test_drain_passes_over_connections_that_are_just_lost(make_certificate, has_tls):
    certificate, key = make_certificate("one")
    context = ssl.create_default_context(cafile=str(certificate))

    def ask(port: int) -> socket.socket:
        client = connect(port)
        if has_tls:
            client = context.wrap_socket(client, server_hostname="localhost")
        client.sendall(REQUEST)
        received = b""
        while not received.endswith(b"hello"):
            received += client.recv(65536)
        return client

    async def run() -> None:
        server, port = await started(Certificates(TlsFiles(certificate, key, None)) if has_tls else None)
        client = await asyncio.to_thread(ask, port)
        (connection,) = server._opened
        connection.transport.abort()
        drained = asyncio.get_running_loop().create_future()

        def drain() -> None:
            try:
                server.drain()
            except Exception as error:
                drained.set_exception(error)
            else:
                drained.set_result(None)

        # The socket is closed in the next run of the event loop, and the protocol learns it in the one after that.
        asyncio.get_running_loop().call_soon(drain)
        try:
            await drained
        finally:
            client.close()
        await server.stop(GRACE_S)

    asyncio.run(run())
