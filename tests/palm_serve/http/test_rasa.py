"""`POST /model/parse` answers as Rasa's server does."""

import json

import grpc
import httpx2 as httpx
import pytest

from palm_serve.rpc.access.tokens import new_token
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

TEXTS = [
    "fly from boston to new york on monday",
    "hello",
    "\N{GRINNING FACE} in 北京 on monday",
    "e\u0301 مرحبا boston",
]


def parse(door, text, **fields):
    with grpc.insecure_channel(door.target) as channel:
        return stubs.DialogueUnderstandingStub(channel).Parse(pb.ParseRequest(text=text, **fields))


def test_message_is_understood_as_over_grpc(door):
    for text in TEXTS:
        content = door.post("/model/parse", {"text": text}).json()
        expected = parse(door, text, top_k=10)
        ranking = [{"name": label.name, "confidence": label.confidence} for label in expected.ranking]
        assert (content["text"], content["intent"], content["intent_ranking"]) == (text, ranking[0], ranking)
        assert len(content["entities"]) == len(expected.slots)
        for entity, slot in zip(content["entities"], expected.slots, strict=True):
            assert text[entity["start"] : entity["end"]] == entity["value"] == slot.value
            assert (entity["entity"], entity["confidence_entity"]) == (slot.name, slot.confidence)
            assert entity["extractor"] == "PALM"


def test_message_of_the_client_of_rasa_is_read(door):
    """`RasaNLUHttpInterpreter` sends these fields, and reads these."""
    content = door.post("/model/parse", {"token": None, "text": TEXTS[0], "message_id": "sender 1"}).json()
    assert content["text"]
    assert content["intent"]["name"] == "flight"
    assert isinstance(content["entities"], list)


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json", "x"])
def test_content_type_does_not_matter(door, content_type):
    headers = {"Content-Type": content_type}
    response = door.client.post(
        "/model/parse?emulation_mode=&model=tiny", content=b'{"text": "hello"}', headers=headers
    )
    assert response.json()["intent"]["name"] == "greeting"
    assert door.client.post("/model/parse", content=b'{"text": "hello"}').status_code == 200


def test_first_text_of_a_list_is_read(door):
    assert door.post("/model/parse", {"text": ["hello", "fly"], "model": "x", "time": 1}).json()["text"] == "hello"


def test_message_id_is_the_request_id(door):
    assert door.post("/model/parse", {"text": "a", "message_id": "m1"}).headers["x-request-id"] == "m1"
    assert door.post("/model/parse", {"text": "a", "message_id": "m" * 999}).status_code == 200


@pytest.mark.parametrize(
    "body",
    [
        *(b"", b"{", b"[]", b"null", b"{}", b'{"text": null}', b'{"text": 3}', b'{"text": []}', b'{"text": ""}'),
        *(
            b'{"text": " "}',
            b'{"text": "\xff"}',
            b'{"text": {"a": 1}}',
            b'{"text": "' + b"a" * 10_001 + b'"}',
            b"[" * 9999,
        ),
        b'{"text": "\\ud800"}',
    ],
)
def test_malformed_body_gets_the_error_of_rasa(door, body):
    response = door.client.post("/model/parse", content=body)
    content = response.json()
    assert response.status_code == content["code"] == 400
    assert (content["status"], content["reason"], content["details"], content["help"]) == (
        "failure",
        "BadRequest",
        {},
        None,
    )
    assert content["message"]
    assert content["version"]


def test_unknown_model_of_the_query_is_not_found(door):
    response = door.post("/model/parse?model=nosuch", {"text": "a"})
    assert (response.status_code, response.json()["reason"]) == (404, "NotFound")


def test_other_routes_of_rasa(door):
    response = door.get("/")
    assert (response.status_code, response.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert response.text.startswith("Hello from PALM")
    assert door.get("/version").json() == {"version": "3.6.21", "minimum_compatible_version": "3.0.0"}
    status = door.get("/status").json()
    assert (status["model_file"], status["num_active_training_jobs"]) == ("tiny", 0)
    assert len(status["model_id"]) == 64
    for method, path in (
        ("POST", "/model/train"),
        ("PUT", "/model"),
        ("GET", "/domain"),
        ("POST", "/webhooks/rest/webhook"),
    ):
        response = door.client.request(method, path)
        assert response.status_code == 404
        assert "no route" in response.json()["error"]


def with_threshold(bundle, reseal, threshold):
    """Give the intent of a bundle a threshold of its confidence."""
    tasks = json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["tasks"]
    tasks["intent"]["thresholds"] = {"intent_confidence": threshold}
    return reseal(bundle, tasks=tasks)


def test_fallback_is_an_intent_before_the_others(start_server, make_tiny_bundle, reseal_bundle, tmp_path):
    bundle = with_threshold(make_tiny_bundle(tmp_path / "a"), reseal_bundle, 0.97)
    for option, name in (
        ((), "nlu_fallback"),
        (("--rasa-fallback-intent", "out"), "out"),
        (("--rasa-fallback-intent", "off"), ""),
    ):
        process = start_server(bundle, "--http-port", "0", "--drain-grace", "0", *option)
        url = process.wait_for(r"listening on (http://\S+)$")
        process.target()
        content = httpx.post(f"{url}/model/parse", json={"text": "hello"}, trust_env=False, timeout=60).json()
        ranking = content["intent_ranking"]
        if name:
            assert content["intent"] == ranking[0] == {"name": name, "confidence": pytest.approx(0.97)}
            assert ranking[1]["name"] == "greeting"
        else:
            assert content["intent"]["name"] == ranking[0]["name"] == "greeting"


def test_token_is_taken_from_header_query_or_body(make_door, tmp_path):
    token, digest = new_token()
    file = tmp_path / "tokens.toml"
    file.write_text(f'[tokens.bot]\nsha256 = "{digest}"\nscopes = ["parse"]\n')
    door = make_door("--tokens", file, "--message-timeout", "2")
    assert door.post("/model/parse", {"text": "a", "token": token}).status_code == 200
    assert door.post(f"/model/parse?token={token}", {"text": "a"}).status_code == 200
    header = {"Authorization": f"Bearer {token}"}
    assert door.post("/model/parse", {"text": "a", "token": "other"}, headers=header).status_code == 200
    for content, query in (
        ({"text": "a"}, ""),
        ({"text": "a", "token": "x"}, ""),
        ({"text": "a", "token": token}, "?token=x"),
    ):
        response = door.post(f"/model/parse{query}", content)
        assert (response.status_code, response.json()["reason"]) == (401, "NotAuthenticated")
    assert door.client.post("/model/parse", content=b"{").status_code == 401
    assert door.client.post("/model/parse", content=b"a" * 100_000).status_code == 401
    assert door.get("/").status_code == 200
    assert door.get("/status").json()["reason"] == "NotAuthenticated"
    with door.connect() as connection:
        connection.sendall(b"POST /model/parse HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{")
        assert door.status_of(door.receive_all(connection)) == 401
