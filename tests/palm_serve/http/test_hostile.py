"""Requests that are refused, and clients that are slow, large or ambiguous. The server goes on."""

import gzip
import json
import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

INFER = "/v2/models/tiny/infer"
BODY = json.dumps({"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]}).encode()
HEAD = b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture(scope="module")
def door(make_shared_door):
    names = ("--http-allow-host", "palm.example, other.example")
    return make_shared_door("--max-message-mib", "0.25", "--message-timeout", "2", *names)


def answers(door) -> bool:
    return door.client.post(INFER, content=BODY).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example", "evil.example:80", "1.2.3.4.evil.example", "[x]"]
)
def test_foreign_host_is_refused(door, host):
    response = door.client.post(INFER, content=BODY, headers={"Host": host})
    assert response.status_code == 421
    assert "--http-allow-host" in response.json()["error"]


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:99",
        "127.0.0.1:1",
        "10.1.2.3",
        "[::1]:80",
        "palm.example",
        "other.example:8080",
        socket.gethostname(),
    ],
)
def test_own_names_and_addresses_are_taken(door, host):
    assert door.client.post(INFER, content=BODY, headers={"Host": host}).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "https://evil.example", "Content-Type": "text/plain"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "navigate"},
    ],
)
def test_post_of_another_site_is_refused(door, headers):
    response = door.client.post(INFER, content=BODY, headers=headers)
    assert response.status_code == 403
    assert "access-control-allow-origin" not in response.headers


def test_pages_of_this_server_and_links_to_it_are_taken(door):
    own = {"Origin": door.url, "Sec-Fetch-Site": "same-origin"}
    assert door.client.post(INFER, content=BODY, headers=own).status_code == 200
    link = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert door.get("/v2", headers=link).status_code == 200
    picture = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}
    assert door.get("/v2", headers=picture).status_code == 403


def test_preflight_needs_permission(door, make_door):
    asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
    assert door.client.options(INFER, headers=asked).status_code == 403
    allowing = make_door("--http-allow-origin", "https://app.example,https://b.example")
    response = allowing.client.options(INFER, headers=asked)
    assert response.status_code == 200
    assert response.headers["access-control-allow-origin"] == "https://app.example"
    response = allowing.client.post(INFER, content=BODY, headers={"Origin": "https://app.example"})
    assert (response.status_code, response.headers["access-control-allow-origin"]) == (200, "https://app.example")
    assert allowing.client.post(INFER, content=BODY, headers={"Origin": "https://evil.example"}).status_code == 403


def test_body_is_refused_by_its_declared_length(door):
    answer = door.exchange(HEAD + b"Content-Length: 1000000000\r\n\r\n")
    assert door.status_of(answer) == 413
    assert b"connection: close" in answer
    assert answers(door)


def test_chunked_body_is_refused_at_the_limit(door):
    chunk = b"8000\r\n" + b"a" * 0x8000 + b"\r\n"
    with door.connect() as connection:
        connection.sendall(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(8):
            connection.sendall(chunk)
        connection.sendall(b"1\r\na\r\n")
        assert door.status_of(door.receive_all(connection)) == 413


def test_decompression_is_bounded(door):
    def memory_kib() -> int:
        status = Path(f"/proc/{door.process.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])

    bomb = gzip.compress(b"\0" * (128 << 20))
    assert len(bomb) < 0.25 * 2**20
    before = memory_kib() if Path("/proc/self/status").exists() else 0
    for _ in range(4):
        response = door.client.post(INFER, content=bomb, headers={"Content-Encoding": "gzip"})
        assert response.status_code == 413
    if before:
        assert memory_kib() - before < 32 << 10
    assert answers(door)


@pytest.mark.parametrize(
    ("encoding", "body", "status"),
    [
        ("br", BODY, 415),
        ("gzip, gzip", BODY, 415),
        ("gzip", BODY, 400),
        ("gzip", gzip.compress(BODY, mtime=0)[:-4], 400),
    ],
)
def test_wrong_encoding_is_told(door, encoding, body, status):
    response = door.client.post(INFER, content=body, headers={"Content-Encoding": encoding})
    assert response.status_code == status
    assert response.json()["error"]


def test_slow_body_times_out(door):
    with door.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
        answer = door.receive_all(connection)
    assert door.status_of(answer) == 504
    assert b"must arrive whole within 2 s" in answer
    assert answers(door)


def test_slow_bodies_do_not_keep_others_of_their_address_waiting(make_door):
    """The slow ones hold every slot of the address for the time of a message."""
    door = make_door("--message-timeout", "60")
    assert answers(door)
    with ExitStack() as slow:
        for _ in range(40):
            connection = slow.enter_context(door.connect())
            connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n{")
        time.sleep(0.5)
        began = time.monotonic()
        assert answers(door)
        assert time.monotonic() - began < 10


def test_trickled_body_times_out(door):
    with door.connect() as connection:
        connection.sendall(HEAD + b"Content-Length: 100000\r\n\r\n")
        stop = threading.Event()

        def trickle() -> None:
            while not stop.wait(0.2):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

        sender = threading.Thread(target=trickle)
        sender.start()
        answer = door.receive_all(connection)
        stop.set()
        sender.join()
    assert door.status_of(answer) == 504


@pytest.mark.parametrize("begin", [b"", b"POST /v2 HT", HEAD + b"X-Header: a"])
def test_slow_headers_are_disconnected(door, begin):
    with door.connect() as connection:
        connection.sendall(begin)
        assert door.receive_all(connection) == b""


def test_trickled_headers_are_disconnected_on_a_used_connection(door):
    with door.connect() as connection:
        connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        end = time.monotonic() + 60
        try:
            for letter in b"GET / HTTP/1.1\r\nX: " + b"a" * 1000:
                connection.sendall(bytes([letter]))
                time.sleep(0.1)
                assert time.monotonic() < end, "the connection stays open"
        except OSError:
            return


def test_large_header_is_refused(door):
    answer = door.exchange(HEAD + b"X-Large: " + b"a" * 2**20)
    assert answer == b"" or door.status_of(answer) == 400
    assert answers(door)


@pytest.mark.parametrize(
    "header",
    [
        b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc",
        b"Content-Length : 3\r\n\r\nabc",
        b"Content-Length: +3\r\n\r\nabc",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n-1\r\n\r\n",
        b"Host: evil.example\r\nContent-Length: 0\r\n\r\n",
        b"X: a\r\n b\r\n\x00: c\r\n\r\n",
    ],
)
def test_ambiguous_request_is_refused(door, header):
    answer = door.exchange(HEAD + header)
    assert 400 <= door.status_of(answer) <= 501
    assert answer.count(b"HTTP/1.1") == 1
    assert answers(door)


def test_pipelined_requests_are_answered_in_order(door):
    one = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %d\r\n\r\n"
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: 9\r\nConnection: close\r\n\r\n"
    answer = door.exchange(b"".join(one % number for number in range(5)) + last)
    ids = [line.split(b": ")[1] for line in answer.split(b"\r\n") if line.startswith(b"x-request-id")]
    assert ids == [b"0", b"1", b"2", b"3", b"4", b"9"]


def test_random_bytes_never_end_the_server(door):
    for data in (
        b"\x16\x03\x01\x02\x00\x01",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"\0" * 100,
        b"GET /%ff%00 HTTP/1.1\r\nHost: a\r\n\r\n",
    ):
        answer = door.exchange(data + b"\r\n\r\n")
        assert door.status_of(answer) in (400, 404, 421)
    assert answers(door)


def test_upgrade_to_websocket_is_not_taken(door):
    upgrade = b"Connection: Upgrade, close\r\nUpgrade: websocket\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    answer = door.exchange(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n" + upgrade)
    assert door.status_of(answer) == 200
