"""The Open Inference Protocol over HTTP answers as it does over gRPC."""

import gzip
import json
import re
import struct
import zlib

import grpc
import pytest

from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as stubs

INFER = "/v2/models/tiny/infer"
TEXTS = ["fly from boston to denver", "hello", "\N{GRINNING FACE} in 北京 on monday", "e\u0301 مرحبا boston"]


def tensor(texts, **more):
    return {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": texts, **more}


def binary(texts):
    """Return the bytes of a BYTES tensor."""
    return b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)


def send_binary(door, content, tail, **headers):
    head = json.dumps(content).encode()
    headers = {"Inference-Header-Content-Length": str(len(head)), **headers}
    return door.client.post(INFER, content=head + tail, headers=headers)


def read_binary(response):
    """Return the JSON of a response with binary outputs, and the bytes of each output."""
    length = int(response.headers["inference-header-content-length"])
    content, tail = json.loads(response.content[:length]), response.content[length:]
    tensors = {}
    for output in content["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is not None:
            tensors[output["name"]], tail = tail[:size], tail[size:]
    assert tail == b""
    return content, tensors


def over_grpc(door, texts=TEXTS, raw=False):
    request = oip.ModelInferRequest(model_name="tiny", id="7")
    added = request.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    if raw:
        request.raw_input_contents.append(binary(texts))
    else:
        added.contents.bytes_contents.extend(text.encode() for text in texts)
    with grpc.insecure_channel(door.target) as channel:
        return stubs.GRPCInferenceServiceStub(channel).ModelInfer(request)


@pytest.mark.parametrize("rows", [TEXTS, [[text] for text in TEXTS]])
def test_json_equals_grpc(door, close, rows):
    content = door.post(INFER, {"id": "7", "inputs": [tensor(rows)]}).json()
    expected = over_grpc(door)
    assert (content["model_name"], content["model_version"], content["id"]) == ("tiny", expected.model_version, "7")
    assert [output["name"] for output in content["outputs"]] == [output.name for output in expected.outputs]
    for output, reference in zip(content["outputs"], expected.outputs, strict=True):
        assert (output["datatype"], output["shape"]) == (reference.datatype, [*reference.shape])
        contents = reference.contents
        values = [value.decode() for value in contents.bytes_contents]
        assert close(output["data"], values or [*contents.fp32_contents] or [*contents.bool_contents])


@pytest.mark.parametrize("text", TEXTS)
def test_binary_equals_raw_grpc_to_the_bit(door, text):
    given = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(binary([text]))}}
    response = send_binary(door, {"inputs": [given], "parameters": {"binary_data_output": True}}, binary([text]))
    assert response.headers["content-type"] == "application/octet-stream"
    content, tensors = read_binary(response)
    expected = over_grpc(door, [text], raw=True)
    names = [output.name for output in expected.outputs]
    assert tensors == dict(zip(names, expected.raw_output_contents, strict=True))
    assert not any("data" in output for output in content["outputs"])


def test_binary_and_json_mix_in_one_message(door):
    outputs = [
        {"name": "intent.label", "parameters": {"binary_data": True}},
        {"name": "intent.confidence"},
        {"name": "truncated", "parameters": {"binary_data": True}},
    ]
    response = door.post(INFER, {"inputs": [tensor(["hello", "fly"])], "outputs": outputs})
    content, tensors = read_binary(response)
    assert tensors == {"intent.label": binary(["greeting", "flight"]), "truncated": b"\0\0"}
    assert content["outputs"][1]["data"] == pytest.approx([0.948, 0.948], abs=1e-3)
    given = tensor(["hello"], parameters={"binary_data_size": len(binary(["hello"]))})
    del given["data"]
    response = send_binary(door, {"inputs": [given], "outputs": [{"name": "intent.label"}]}, binary(["hello"]))
    assert response.json()["outputs"][0]["data"] == ["greeting"]


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_compressed_body_is_read(door, encoding):
    body = json.dumps({"inputs": [tensor(["hello"])], "outputs": [{"name": "intent.label"}]}).encode()
    compressed = gzip.compress(body) if encoding == "gzip" else zlib.compress(body)
    response = door.client.post(INFER, content=compressed, headers={"Content-Encoding": encoding})
    assert response.json()["outputs"][0]["data"] == ["greeting"]


def test_parameters_and_versions_count(door):
    version = door.get("/v2/models/tiny").json()["versions"][0]
    given = {"inputs": [tensor(["hello"])], "parameters": {"top_k": 2, "intent_confidence": 0.999, "priority": 2}}
    for path in (INFER, f"/v2/models/tiny/versions/{version}/infer", "/v2/models/tiny/versions/stable/infer"):
        outputs = {output["name"]: output["data"] for output in door.post(path, given).json()["outputs"]}
        assert len(json.loads(outputs["intent.json"][0])["ranking"]) == 2
        assert outputs["intent.fallback"] == ["low_confidence"]


def test_health_always_has_a_json_body(door):
    for path, content in (
        ("/v2/health/live", {"live": True}),
        ("/v2/health/ready", {"ready": True}),
        ("/v2/models/tiny/ready", {"name": "tiny", "ready": True}),
        ("/v2/models/tiny/versions/stable/ready", {"name": "tiny", "ready": True}),
    ):
        response = door.get(path)
        assert (response.status_code, response.json()) == (200, content)
    response = door.get("/v2/models/nosuch/ready")
    assert (response.status_code, response.json()) == (404, {"name": "nosuch", "ready": False})


def test_metadata_has_numbers_and_the_binary_extension(door):
    server = door.get("/v2").json()
    assert server["name"] == "palm-serve"
    assert "binary_tensor_data" in server["extensions"]
    model = door.get("/v2/models/tiny").json()
    assert model["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert {"name": "intent.label", "datatype": "BYTES", "shape": [-1]} in model["outputs"]
    assert door.get("/v2/models/tiny/versions/stable").json() == model
    config = door.get("/v2/models/tiny/config").json()
    assert (config["name"], config["max_batch_size"], config["input"][0]["dims"]) == ("tiny", 1024, [1])
    door.post(INFER, {"inputs": [tensor(["hello"])]})
    for path in ("/v2/models/stats", "/v2/models/tiny/stats"):
        (statistics,) = door.get(path).json()["model_stats"]
        assert statistics["inference_count"] >= 1
    (entry,) = door.post("/v2/repository/index").json()
    assert (entry["name"], entry["state"]) == ("tiny", "READY")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be JSON"),
        (b"{", "must be JSON"),
        (b"[]", "not valid"),
        (b"\xff\xfe", "must be JSON"),
        (b"[" * 10_000, "must be JSON"),
        (b"[" * 100_000, "at most 24,576 values"),
        ({}, "inputs is not valid"),
        ({"inputs": []}, "the input 'text' is missing"),
        ({"inputs": [tensor([])]}, r"shape \[n\]"),
        ({"inputs": [tensor(["a"], shape=[2])]}, "must have 2 elements"),
        ({"inputs": [tensor(["a"], shape=[2**70])]}, "not valid"),
        ({"inputs": [tensor(["a"], datatype="FP32")]}, "datatype BYTES"),
        ({"inputs": [tensor([1])]}, "not valid"),
        ({"inputs": [tensor(["a"], name="x")]}, "unknown input 'x'"),
        ({"inputs": [tensor(["a"], data=None)]}, "must have data"),
        ({"inputs": [tensor([""])]}, "row 0"),
        ({"inputs": [tensor(["a"], parameters={"shared_memory_region": "x"})]}, "must not have parameters"),
        ({"inputs": [tensor(["a"], parameters={"binary_data_size": 1})]}, "either data or binary_data_size"),
        ({"inputs": [tensor(["a"])], "parameters": {"top_k": "x"}}, "parameter 'top_k'"),
        ({"inputs": [tensor(["a"])], "parameters": {"nosuch": 1}}, "unknown parameter"),
        ({"inputs": [tensor(["a"])], "outputs": [{"name": "nosuch"}]}, "unknown output"),
        ({"inputs": [tensor(["a"])], "outputs": [{"name": "truncated", "parameters": {"x": 1}}]}, "parameters"),
        ({"inputs": [tensor(["a"] * 2000)]}, "at most 1,024 rows"),
        ({"inputs": [tensor(["a" * 10_001])]}, "at most 10,000 bytes"),
        ({"inputs": [tensor(["a"])] * 65}, "not valid"),
    ],
)
def test_invalid_request_is_told(door, content, message):
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    response = door.client.post(INFER, content=body)
    assert response.status_code == 400
    assert re.search(message, response.json()["error"])


@pytest.mark.parametrize(
    ("size", "tail", "header", "message"),
    [
        (9, binary(["hello"])[:-1], None, "at most the 8 bytes"),
        (10, binary(["hello"]), None, "at most the 9 bytes"),
        (8, binary(["hello"]), None, "got 1 more bytes"),
        (8, binary(["hello"])[:-1], None, "must hold 1 elements"),
        (-1, b"", None, "either data or"),
        (True, b"", None, "either data or"),
        (9, binary(["hello"]), "99999", "at most the length of the body"),
        (9, binary(["hello"]), "-1", "the length of the JSON"),
        (9, binary(["hello"]), "1" * 30, "the length of the JSON"),
    ],
)
def test_wrong_binary_tail_is_told(door, size, tail, header, message):
    given = {"name": "text", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": size}}
    more = {} if header is None else {"Inference-Header-Content-Length": header}
    response = send_binary(door, {"inputs": [given]}, tail, **more)
    assert response.status_code == 400
    assert message in response.json()["error"]


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/v2/models/nosuch/infer", 404),
        ("POST", "/v2/models/tiny/versions/99999999/infer", 404),
        ("GET", "/v2/models/nosuch", 404),
        ("GET", "/v2/models/nosuch/config", 404),
        ("POST", "/v2/repository/models/tiny/load", 403),
        ("POST", "/v2/repository/models/tiny/unload", 403),
        ("GET", "/v2/logging", 400),
        ("POST", "/v2/trace/setting", 400),
        ("GET", "/v2/systemsharedmemory/status", 400),
        ("GET", "/v2/cudasharedmemory/region/a/status", 400),
        ("GET", "/nosuch", 404),
    ],
)
def test_errors_have_the_status_of_their_code(door, method, path, status):
    body = {"json": {"inputs": [tensor(["a"])]}} if method == "POST" else {}
    response = door.client.request(method, path, **body)
    assert response.status_code == status
    assert list(response.json()) == ["error"]
    assert door.client.request("DELETE", INFER).status_code == 405
