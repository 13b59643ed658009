"""`tritonclient`: over HTTP, in every form, it gets the same bits as over gRPC."""

import pytest

pytestmark = pytest.mark.slow

SCRIPT = r"""
import asyncio, json, sys
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
import tritonclient.http.aio as over_http_aio
from tritonclient.utils import InferenceServerException

target, address, file = sys.argv[1:]
texts = json.load(open(file, encoding="utf-8"))
# What is asked alone is decoded alone, and has the same bits. Which texts of a request meet in a batch is chance.
chunks = [[text] for text in texts[-40:]] + [texts[begin : begin + 64] for begin in range(0, len(texts), 64)]

def tensor(kind, given, **options):
    made = kind.InferInput("text", [len(given), 1], "BYTES")
    made.set_data_from_numpy(np.array([[text] for text in given], dtype=object), **options)
    return made

def bits(array):
    if array.dtype == object:
        # The client leaves strings of JSON as they are, and gives bytes of binary tensors.
        return [one.encode() if isinstance(one, str) else one for one in array.reshape(-1)]
    return array.tobytes()

def same(result, reference):
    names = [output["name"] for output in result.get_response()["outputs"]]
    assert names == list(reference), names
    for name, expected in reference.items():
        found = result.as_numpy(name)
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype), name
        if expected.shape[0] == 1:
            assert bits(found) == bits(expected), name
        elif expected.dtype != object:
            assert np.allclose(found, expected, rtol=0, atol=1e-6), name
        elif not name.endswith(".json"):
            assert bits(found) == bits(expected), name

def error(call):
    try:
        call()
    except InferenceServerException as fault:
        return [fault.status(), fault.message()]

references = []
with over_grpc.InferenceServerClient(target) as client:
    for chunk in chunks:
        answer = client.infer("tiny", [tensor(over_grpc, chunk)])
        names = [output.name for output in answer.get_response().outputs]
        references.append({name: answer.as_numpy(name) for name in names})
names = list(references[0])
seen = {}

with over_http.InferenceServerClient(address, concurrency=4) as client:
    def outputs(binary):
        return [over_http.InferRequestedOutput(name, binary_data=binary) for name in names]

    forms = {
        "binary": (True, {}),
        "binary, outputs named": (True, {"outputs": outputs(True)}),
        "JSON": (False, {"outputs": outputs(False)}),
        "JSON to binary": (False, {"outputs": outputs(True)}),
        "binary to JSON": (True, {"outputs": outputs(False)}),
    }
    for encoding in ("gzip", "deflate"):
        forms[encoding] = (True, {"request_compression_algorithm": encoding, "response_compression_algorithm": encoding})
        forms[encoding + ", JSON"] = (False, {"request_compression_algorithm": encoding, "outputs": outputs(False)})
    for form, (binary, options) in forms.items():
        for chunk, reference in zip(chunks, references):
            same(client.infer("tiny", [tensor(over_http, chunk, binary_data=binary)], **options), reference)
        seen[form] = len(chunks)
    waiting = [client.async_infer("tiny", [tensor(over_http, chunk)]) for chunk in chunks[40:]]
    for one, reference in zip(waiting, references[40:]):
        same(one.get_result(), reference)
    seen["async_infer"] = len(waiting) + 40
    some = client.infer("tiny", [tensor(over_http, ["hello"])], request_id="7", outputs=[over_http.InferRequestedOutput("intent.label")])
    seen["some"] = [some.get_response()["id"], some.as_numpy("intent.label")[0].decode(), len(some.get_response()["outputs"])]
    seen["ready"] = [client.is_server_live(), client.is_server_ready(), client.is_model_ready("tiny"), client.is_model_ready("x")]
    metadata, config = client.get_model_metadata("tiny"), client.get_model_config("tiny")
    seen["metadata"] = metadata["inputs"]
    seen["config"] = [config["name"], config["max_batch_size"]]
    seen["extensions"] = client.get_server_metadata()["extensions"]
    seen["count"] = int(client.get_inference_statistics("tiny")["model_stats"][0]["inference_count"])
    seen["index"] = [[model["name"], model["state"]] for model in client.get_model_repository_index()]
    seen["errors"] = [
        error(lambda: client.infer("nope", [tensor(over_http, ["a"])])),
        error(lambda: client.infer("tiny", [tensor(over_http, [" "])])),
        error(lambda: client.infer("tiny", [tensor(over_http, ["a"])], sequence_id=3)),
        error(lambda: client.load_model("tiny")),
        error(client.get_system_shared_memory_status),
        error(lambda: client.get_trace_settings("tiny")),
    ]

async def main():
    async with over_http_aio.InferenceServerClient(address) as client:
        assert await client.is_model_ready("tiny")
        for chunk, reference in zip(chunks, references):
            same(await client.infer("tiny", [tensor(over_http_aio, chunk)]), reference)
            compressed = {"request_compression_algorithm": "gzip", "response_compression_algorithm": "gzip"}
            same(await client.infer("tiny", [tensor(over_http_aio, chunk)], **compressed), reference)
    seen["aio"] = len(chunks)

asyncio.run(main())
seen["labels"] = [label.decode() for reference in references[40:] for label in reference["intent.label"].reshape(-1)]
print(json.dumps(seen))
"""


def test_http_gives_the_bits_of_grpc(environments, door, texts, text_file, ask):
    python = environments.make_environment("tritonclient", ["tritonclient[grpc,http]==2.73.0"], constrained=False)
    seen = environments.run_python(python, SCRIPT, door.target, f"127.0.0.1:{door.port}", text_file)
    assert seen["labels"] == [answer.intent.name for answer in ask(texts)]
    chunks = 40 + -(-len(texts) // 64)
    forms = ("binary", "binary, outputs named", "JSON", "JSON to binary", "binary to JSON", "gzip", "deflate")
    for form in (*forms, "gzip, JSON", "deflate, JSON", "async_infer", "aio"):
        assert seen[form] == chunks
    assert seen["some"] == ["7", "greeting", 1]
    assert seen["ready"] == [True, True, True, False]
    assert seen["metadata"] == [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}]
    assert seen["config"] == ["tiny", 1024]
    assert "binary_tensor_data" in seen["extensions"]
    assert seen["count"] >= 11 * len(texts)
    assert seen["index"] == [["tiny", "READY"]]
    statuses, messages = zip(*seen["errors"], strict=True)
    assert statuses == ("404", "400", "400", "403", "400", "400")
    assert messages[0] == "no model 'nope'; loaded: tiny"
    assert "visible character" in messages[1]
    assert "is not supported" in messages[4]
