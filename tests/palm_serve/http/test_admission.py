"""One admission for both doors: tokens, rates, deadlines, ids, records, draining."""

import json
import re
import signal
import ssl
import threading
import time

import grpc
import httpx2 as httpx
import pytest

from palm_serve.rpc.access.tokens import new_token
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

INFER = "/v2/models/tiny/infer"
RESOURCE_EXHAUSTED = 8
CONTENT = {"inputs": [{"name": "text", "shape": [1], "datatype": "BYTES", "data": ["hello"]}]}


def parse(target, text="hello", **options):
    with grpc.insecure_channel(target) as channel:
        return stubs.DialogueUnderstandingStub(channel).Parse(pb.ParseRequest(text=text), **options)


def test_tokens_count_on_both_doors(make_door, tmp_path):
    entries = []
    tokens = {}
    for name, scope in (("web", "parse"), ("ops", "read")):
        tokens[name], digest = new_token()
        entries.append(f'[tokens.{name}]\nsha256 = "{digest}"\nscopes = ["{scope}"]\n')
    file = tmp_path / "tokens.toml"
    file.write_text("".join(entries))
    door = make_door("--tokens", file)

    def status(method, path, token=None):
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        body = {"json": CONTENT} if method == "POST" else {}
        response = door.client.request(method, path, headers=headers, **body)
        if response.status_code == 401:
            assert response.headers["www-authenticate"] == "Bearer"
        return response.status_code

    assert status("POST", INFER) == 401
    assert status("POST", INFER, "palm_wrong") == 401
    assert status("POST", INFER, tokens["web"]) == 200
    assert status("POST", INFER, tokens["ops"]) == 403
    assert status("GET", "/v2/models/tiny", tokens["ops"]) == 200
    assert status("GET", "/v2/models/tiny", tokens["web"]) == 403
    assert status("GET", "/v2/health/ready") == 200
    file.write_text(entries[1])
    assert status("POST", INFER, tokens["web"]) == 401


def test_rate_is_shared_by_both_doors(make_door):
    door = make_door("--max-rate", "0.001", "--max-burst", "2")
    parse(door.target)
    assert door.post(INFER, CONTENT).status_code == 200
    with pytest.raises(grpc.RpcError, match="Send fewer requests"):
        parse(door.target)
    response = door.post(INFER, CONTENT)
    assert response.status_code == 429
    assert 900 < int(response.headers["retry-after"]) <= 1000
    assert "Send fewer requests" in response.json()["error"]
    assert door.get("/v2/health/ready").status_code == 200


def test_calls_in_flight_are_shared_by_both_doors(make_door):
    door = make_door("--max-calls-per-client", "1")
    with door.connect() as connection:
        connection.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n")
        end = time.monotonic() + 60
        while True:
            try:
                parse(door.target)
            except grpc.RpcError as error:
                code = error.code()
                break
            assert time.monotonic() < end, "the call over HTTP does not count"
        assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert door.post(INFER, CONTENT).status_code == 429
    while door.post(INFER, CONTENT).status_code != 200:
        assert time.monotonic() < end, "the call of a client that left stays"


def test_rate_holds_under_load_of_both_doors(make_door):
    rate, burst = 20.0, 10
    door = make_door("--max-rate", str(rate), "--max-burst", str(burst))
    answered: list[str] = []
    refused: list[str] = []
    began = time.monotonic()
    end = began + 2

    def ask_grpc() -> None:
        while time.monotonic() < end:
            try:
                parse(door.target)
                answered.append("grpc")
            except grpc.RpcError:
                refused.append("grpc")

    def ask_http() -> None:
        with httpx.Client(base_url=door.url, timeout=60, trust_env=False) as client:
            while time.monotonic() < end:
                status = client.post(INFER, json=CONTENT).status_code
                assert status in (200, 429)
                (answered if status == 200 else refused).append("http")

    askers = [threading.Thread(target=ask) for ask in (ask_grpc, ask_http, ask_grpc, ask_http)]
    for asker in askers:
        asker.start()
    for asker in askers:
        asker.join()
    seconds = time.monotonic() - began
    assert len(answered) <= burst + rate * seconds + 1
    assert {*answered} == {*refused} == {"grpc", "http"}


def test_queue_is_shared_by_both_doors(make_door):
    limit = 8
    door = make_door("--max-queue", str(limit), "--max-calls-per-client", "1000")
    texts = [f"fly from boston to denver on monday {number}" for number in range(64)]
    end = time.monotonic() + 2
    refused: set[str] = set()
    most = 0

    def ask_grpc() -> None:
        requests = [pb.ParseRequest(text=text) for text in texts]
        with grpc.insecure_channel(door.target) as channel:
            stub = stubs.DialogueUnderstandingStub(channel)
            while time.monotonic() < end:
                items = stub.ParseBatch(pb.ParseBatchRequest(requests=requests)).items
                if any(item.error.code == RESOURCE_EXHAUSTED for item in items):
                    refused.add("grpc")

    def ask_http() -> None:
        content = {"requests": [{"text": text} for text in texts]}
        with httpx.Client(base_url=door.url, timeout=60, trust_env=False) as client:
            while time.monotonic() < end:
                answer = client.post("/palm_serve.v1.DialogueUnderstanding/ParseBatch", json=content).json()
                if any(item.get("error", {}).get("code") == RESOURCE_EXHAUSTED for item in answer["items"]):
                    refused.add("http")

    askers = [threading.Thread(target=ask) for ask in (ask_grpc, ask_http, ask_grpc, ask_http)]
    for asker in askers:
        asker.start()
    while any(asker.is_alive() for asker in askers):
        waiting = re.findall(r"^palm_queue_requests\{[^}]*\} (\S+)$", door.get("/metrics").text, re.MULTILINE)
        assert waiting
        most = max(most, sum(map(float, waiting)))
    assert 0 < most <= limit
    assert refused == {"grpc", "http"}


def test_request_id_is_that_of_message_header_or_new(make_door):
    door = make_door()
    assert door.post(INFER, CONTENT | {"id": "m 1"}, headers={"X-Request-Id": "h1"}).headers["x-request-id"] == "m 1"
    assert door.post(INFER, CONTENT, headers={"X-Request-Id": "h1"}).headers["x-request-id"] == "h1"
    assert re.fullmatch("[0-9a-f]{32}", door.post(INFER, CONTENT).headers["x-request-id"])
    assert door.post(INFER, {}, headers={"X-Request-Id": "bad"}).headers["x-request-id"] == "bad"
    assert door.post(INFER, CONTENT | {"id": "x" * 300}).status_code == 400


def test_deadline_ends_the_call(make_door):
    door = make_door()
    response = door.post(INFER, CONTENT, headers={"Connect-Timeout-Ms": "0"})
    assert response.status_code == 504
    assert "deadline" in response.json()["error"]
    assert door.post(INFER, CONTENT, headers={"Connect-Timeout-Ms": "60000"}).status_code == 200
    for wrong in ("x", "-1", "1" * 11):
        assert door.post(INFER, CONTENT, headers={"Connect-Timeout-Ms": wrong}).status_code == 400


def test_records_name_the_door(make_door):
    import socket
    import urllib.request

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    door = make_door("--metrics-port", port, "--access-log", "--log-format", "json")
    assert door.post(INFER, CONTENT | {"id": "r1"}).status_code == 200
    assert door.post(INFER, {"id": "r2"}).status_code == 400
    parse(door.target)
    with door.connect() as connection:
        connection.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
    end = time.monotonic() + 60
    series = ('code="OK",door="http",method="ModelInfer"', 'code="INVALID_ARGUMENT",door="http",method="ModelInfer"')
    series += ('code="CANCELLED",door="http",method="ModelInfer"', 'code="OK",door="grpc",method="Parse"')
    while True:
        metrics = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
        if all(f"palm_requests_total{{{labels}}} 1.0" in metrics for labels in series):
            break
        assert time.monotonic() < end, metrics
        time.sleep(0.05)
    door.process.process.send_signal(signal.SIGTERM)
    assert door.process.finish() == 0
    lines = [json.loads(line) for line in door.process.errors]
    calls = {(line["door"], line["method"], line["code"], line["client"]) for line in lines}
    assert ("http", "ModelInfer", "OK", "127.0.0.1") in calls
    assert ("http", "ModelInfer", "INVALID_ARGUMENT", "127.0.0.1") in calls
    assert ("grpc", "Parse", "OK", "127.0.0.1") in calls
    (answered,) = [line for line in lines if line["request_id"] == "r1"]
    assert answered["model"] == "tiny"
    assert answered["request_bytes"] > 50


def test_stopping_server_loses_no_request(make_door):
    door = make_door("--drain-grace", "0.3")
    outcomes: list[object] = []
    closed: list[httpx.TransportError] = []

    def ask() -> None:
        with httpx.Client(base_url=door.url, timeout=60, trust_env=False) as client:
            while not closed:
                try:
                    response = client.post(INFER, json=CONTENT)
                except httpx.ConnectError as error:  # the server has stopped
                    closed.append(error)
                else:
                    outcomes.append(response.status_code)

    askers = [threading.Thread(target=ask) for _ in range(4)]
    for asker in askers:
        asker.start()
    while len(outcomes) < 50:
        time.sleep(0.01)
    door.process.process.send_signal(signal.SIGTERM)
    for asker in askers:
        asker.join()
    assert set(outcomes) <= {200, 503}
    assert outcomes.count(200) > 50
    assert door.process.finish() == 0
    assert door.process.errors == []


def test_stopping_server_ends_calls_that_wait_for_their_body(make_door):
    door = make_door("--stop-timeout", "1")
    with door.connect() as connection:
        connection.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        while door.get("/v2/health/live").status_code != 200:
            time.sleep(0.01)
        door.process.process.send_signal(signal.SIGTERM)
        answer = door.receive_all(connection)
    assert door.status_of(answer) == 503
    assert b"shutting down" in answer
    assert door.process.finish() == 0


def test_tls_is_that_of_grpc(make_door, make_certificate):
    certificate, key = make_certificate("one")
    context = ssl.create_default_context(cafile=str(certificate))
    door = make_door("--tls-cert", certificate, "--tls-key", key, client={"verify": context})
    assert door.url.startswith("https://")
    assert door.post(INFER, CONTENT).status_code == 200
    renewed, renewed_key = make_certificate("two")
    renewed_key.replace(key)
    renewed.replace(certificate)
    other = ssl.create_default_context(cafile=str(certificate))
    end = time.monotonic() + 60
    while True:
        try:
            with httpx.Client(base_url=door.url, verify=other, trust_env=False) as client:
                assert client.post(INFER, json=CONTENT).status_code == 200
                break
        except httpx.ConnectError:
            assert time.monotonic() < end, "the new certificate is not used"
            time.sleep(0.1)
    with door.connect() as connection:
        connection.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert not door.receive_all(connection).startswith(b"HTTP")


def test_client_certificate_is_an_identity(make_door, make_certificate, tmp_path):
    certificate, key = make_certificate("server")
    own, own_key = make_certificate("client", names="DNS:backend.example")
    tokens = tmp_path / "tokens.toml"
    tokens.write_text('[tokens.backend]\ncertificate = "backend.example"\nscopes = ["parse"]\n')
    context = ssl.create_default_context(cafile=str(certificate))
    context.load_cert_chain(own, own_key)
    door = make_door(
        *("--tls-cert", certificate, "--tls-key", key, "--tls-client-ca", own, "--tokens", tokens),
        client={"verify": context},
    )
    assert door.post(INFER, CONTENT).status_code == 200
    assert door.get("/v2").status_code == 403


def test_port_in_use_is_one_message(start_server, tiny_bundle, make_door):
    door = make_door()
    process = start_server(tiny_bundle, "--http-port", door.port)
    assert process.finish() == 2
    assert f"cannot listen on 127.0.0.1:{door.port}" in process.errors[0]
