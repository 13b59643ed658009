"""Connect and gRPC-Web: the client of the library `connectrpc`, a matrix by hand, and errors."""

import asyncio
import base64
import gzip
import json
import struct
import urllib.parse

import grpc
import pytest
from connectrpc.client import ConnectClient
from connectrpc.code import Code
from connectrpc.compat import google_protobuf_codecs
from connectrpc.errors import ConnectError
from connectrpc.method import IdempotencyLevel, MethodInfo, StreamType
from connectrpc.protocol import ProtocolType
from google.rpc import error_details_pb2

from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

DIALOGUE = "palm_serve.v1.DialogueUnderstanding"
PARSE = f"/{DIALOGUE}/Parse"
TEXTS = [
    "fly from boston to new york on monday",
    "hello",
    "\N{GRINNING FACE} in 北京 on monday",
    "e\u0301 مرحبا boston",
]


def expected(door, text, **fields):
    with grpc.insecure_channel(door.target) as channel:
        return content(stubs.DialogueUnderstandingStub(channel).Parse(pb.ParseRequest(text=text, **fields)))


def content(response):
    response.ClearField("request_id")
    response.ClearField("timings")
    return response


def test_no_side_effects_are_declared():
    quiet = []
    for service in pb.DESCRIPTOR.services_by_name.values():
        quiet += [method.name for method in service.methods if method.GetOptions().idempotency_level == 1]
    assert sorted(quiet) == ["GetModel", "ListModels", "Parse", "Predict"]


@pytest.mark.parametrize("protocol", [ProtocolType.CONNECT, ProtocolType.GRPC_WEB])
@pytest.mark.parametrize("codec", ["proto", "json"])
@pytest.mark.parametrize("use_get", [False, True])
def test_client_of_connectrpc_equals_grpc(door, protocol, codec, use_get):
    if protocol is ProtocolType.GRPC_WEB and (codec == "json" or use_get):
        pytest.skip("gRPC-Web has neither here")
    method = MethodInfo(
        name="Parse",
        service_name=DIALOGUE,
        input=pb.ParseRequest,
        output=pb.ParseResponse,
        idempotency_level=IdempotencyLevel.NO_SIDE_EFFECTS,
        stream_type=StreamType.UNARY,
    )
    (chosen,) = [item for item in google_protobuf_codecs() if item.name() == codec]

    async def ask():
        async with ConnectClient(door.url, codec=chosen, protocol=protocol) as client:
            for text in TEXTS:
                request = pb.ParseRequest(text=text, offset_unit=pb.OFFSET_UNIT_UTF16)
                response = await client.execute_unary(
                    request=request, method=method, use_get=use_get, timeout_ms=60_000
                )
                assert content(response) == expected(door, text, offset_unit=pb.OFFSET_UNIT_UTF16)
            with pytest.raises(ConnectError, match="text must have") as error:
                await client.execute_unary(request=pb.ParseRequest(), method=method, use_get=use_get)
            assert error.value.code is Code.INVALID_ARGUMENT

    asyncio.run(ask())


@pytest.mark.parametrize("query", [{}, {"base64": "1"}, {"compression": "gzip", "base64": "1"}])
@pytest.mark.parametrize("encoding", ["json", "proto"])
def test_get_reads_the_message_of_the_query(door, encoding, query):
    message = (
        b'{"text": "fly to boston"}'
        if encoding == "json"
        else pb.ParseRequest(text="fly to boston").SerializeToString()
    )
    if query.get("compression"):
        message = gzip.compress(message)
    text = base64.urlsafe_b64encode(message).decode().rstrip("=") if query.get("base64") else message
    options = urllib.parse.urlencode({"connect": "v1", "encoding": encoding, "message": text, **query})
    response = door.get(f"{PARSE}?{options}")
    assert response.headers["content-type"] == f"application/{encoding}"
    answer = pb.ParseResponse.FromString(response.content) if encoding == "proto" else response.json()
    assert (answer["intent"]["name"] if encoding == "json" else answer.intent.name) == "flight"


def test_other_methods_answer(door):
    assert door.post("/palm_serve.v1.Models/ListModels", {}).json()["models"][0]["name"] == "tiny"
    assert door.get("/palm_serve.v1.Models/GetModel?encoding=json&message={}").json()["name"] == "tiny"
    assert door.post("/palm_serve.v1.Prediction/Predict", {"task": "sentiment", "text": "awful"}).json()["result"]
    batch = door.post(f"/{DIALOGUE}/ParseBatch", {"requests": [{"text": "hello"}, {"text": ""}]}).json()
    assert ["response" in item for item in batch["items"]] == [True, False]
    assert door.post("/grpc.health.v1.Health/Check", {}).json() == {"status": "SERVING"}
    response = door.post("/palm_serve.v1.Models/UnloadModel", {"name": "tiny"})
    assert (response.status_code, response.json()["code"]) == (403, "permission_denied")
    assert door.get("/palm_serve.v1.Models/UnloadModel?encoding=json&message={}").status_code == 405
    assert door.post(f"/{DIALOGUE}/ParseStream", {}).status_code == 404


def test_unknown_fields_of_json_are_ignored(door):
    assert door.post(PARSE, {"text": "hello", "nonsense": 1}).json()["intent"]["name"] == "greeting"


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        (b"", "application/json", 400, "invalid_argument"),
        (b"{", "application/json", 400, "invalid_argument"),
        (b'{"text": 3}', "application/json", 400, "invalid_argument"),
        (b'"text"', "application/json", 400, "invalid_argument"),
        (b"[]", "application/json", 400, "invalid_argument"),
        (b'{"text": "a", "offset_unit": "UTF16"}', "application/json", 400, "invalid_argument"),
        (b'{"text": "a", "offset_unit": "\\ud800"}', "application/json", 400, "invalid_argument"),
        (b'{"text": "a", "top_k": "\\ud800"}', "application/json", 400, "invalid_argument"),
        (b'{"text": "\\ud800"}', "application/json", 400, "invalid_argument"),
        (b'{"\\ud800": 1, "\\ud800": 2}', "application/json", 400, "invalid_argument"),
        (b"[" * 16_000, "application/json", 400, "invalid_argument"),
        (b'{"requests":[' + b"{}," * 100_000 + b"{}]}", "application/json", 400, "invalid_argument"),
        (b'{"text": "' + b'\\"' * 200_000, "application/json", 400, "invalid_argument"),
        (b"\xff", "application/json", 400, "invalid_argument"),
        (b"\xff\xff", "application/proto", 400, "invalid_argument"),
        (b"", "application/proto", 400, "invalid_argument"),
        (b"\x0a\x02\xff\xfe", "application/proto", 400, "invalid_argument"),
        (b'{"text": "a", "model": "nosuch"}', "application/json; charset=utf-8", 404, "not_found"),
        (b'{"text": "a"}', "text/plain", 415, "invalid_argument"),
        (b'{"text": "a"}', "", 415, "invalid_argument"),
        (b"a" * 5_000_000, "application/proto", 413, "invalid_argument"),
    ],
)
def test_errors_are_those_of_connect(door, body, content_type, status, code):
    response = door.client.post(PARSE, content=body, headers={"Content-Type": content_type} if content_type else {})
    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.headers["content-type"] == "application/json"


def test_details_name_the_field(door):
    (detail,) = door.post(PARSE, {"text": ""}).json()["details"]
    assert detail["type"] == "google.rpc.BadRequest"
    value = base64.b64decode(detail["value"] + "==")
    assert error_details_pb2.BadRequest.FromString(value).field_violations[0].field == "text"


def test_overload_has_the_delay(make_door):
    door = make_door("--max-rate", "0.001", "--max-burst", "1")
    assert door.post(PARSE, {"text": "a"}).status_code == 200
    response = door.post(PARSE, {"text": "a"})
    assert (response.status_code, response.json()["code"]) == (429, "resource_exhausted")
    (detail,) = response.json()["details"]
    assert detail["type"] == "google.rpc.RetryInfo"
    delay = error_details_pb2.RetryInfo.FromString(base64.b64decode(detail["value"] + "==")).retry_delay
    assert 900 < delay.seconds <= 1000


def test_deadline_has_its_code(door):
    response = door.post(PARSE, {"text": "a"}, headers={"Connect-Timeout-Ms": "0"})
    assert (response.status_code, response.json()["code"]) == (504, "deadline_exceeded")


@pytest.mark.parametrize(
    "query",
    [
        "",
        "?encoding=xml&message={}",
        "?encoding=proto&base64=1&message=%C3%A9",
        "?encoding=json&base64=1&message=%25%25%25%25",
        "?encoding=json&message={}&compression=br",
    ],
)
def test_wrong_query_is_told(door, query):
    response = door.get(f"/palm_serve.v1.Models/GetModel{query}")
    assert response.status_code in (400, 415)
    assert response.json()["code"] == "invalid_argument"


def frames(body):
    """Return the flag and the content of each frame."""
    found = []
    while body:
        flag, size = struct.unpack_from(">BI", body)
        found.append((flag, body[5 : 5 + size]))
        body = body[5 + size :]
    return found


@pytest.mark.parametrize(
    "media_type", ["application/grpc-web", "application/grpc-web+proto", "application/grpc-web-text"]
)
def test_grpc_web_has_frames_and_trailers(door, media_type):
    is_text = media_type.endswith("text")

    def ask(body):
        response = door.client.post(
            PARSE, content=base64.b64encode(body) if is_text else body, headers={"Content-Type": media_type}
        )
        assert response.status_code == 200
        assert response.headers["content-type"] == f"application/grpc-web{'-text' if is_text else ''}+proto"
        return frames(base64.b64decode(response.content) if is_text else response.content)

    message = pb.ParseRequest(text="fly to boston").SerializeToString()
    (data, trailers) = ask(struct.pack(">BI", 0, len(message)) + message)
    assert (data[0], pb.ParseResponse.FromString(data[1]).intent.name) == (0, "flight")
    assert trailers == (0x80, b"grpc-status: 0\r\n")
    for body in (
        b"",
        b"\0",
        struct.pack(">BI", 0, 9) + b"a",
        struct.pack(">BI", 1, 1) + b"a",
        struct.pack(">BI", 0, 0),
    ):
        ((flag, content),) = ask(body)
        assert flag == 0x80
        assert content.startswith(b"grpc-status: 3\r\ngrpc-message: ")
        assert b"grpc-status-details-bin: " in content


def test_grpc_timeout_is_a_deadline(door):
    message = pb.ParseRequest(text="a").SerializeToString()
    body = struct.pack(">BI", 0, len(message)) + message
    for timeout, status in (("0n", b"4"), ("60S", b"0"), ("1H", b"0"), ("x", b"3")):
        headers = {"Content-Type": "application/grpc-web", "grpc-timeout": timeout}
        response = door.client.post(PARSE, content=body, headers=headers)
        assert frames(response.content)[-1][1].startswith(b"grpc-status: " + status)


def test_many_values_are_refused_before_they_are_parsed(door):
    body = json.dumps({"tasks": ["a"] * 30_000, "text": "a"})
    response = door.client.post(PARSE, content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == 400
    assert "at most 24,576 values" in response.json()["message"]
    text = ",[{" * 3_000
    assert door.post(PARSE, {"text": text}).status_code == 200
