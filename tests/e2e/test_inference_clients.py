"""Unmodified clients of the Open Inference Protocol: `tritonclient` (blocking, asyncio, stream) and `kserve`, each in an environment of its own."""

from types import ModuleType

import pytest

pytestmark = pytest.mark.slow

TRITON = r"""
import asyncio, json, queue, sys
import numpy as np
import tritonclient.grpc as blocking
import tritonclient.grpc.aio as aio
from tritonclient.utils import InferenceServerException

def tensor(*texts):
    given = blocking.InferInput("text", [len(texts), 1], "BYTES")
    given.set_data_from_numpy(np.array([[text] for text in texts], dtype=object))
    return given

def error(call):
    try:
        call()
    except InferenceServerException as fault:
        return [fault.status(), fault.message()]

target, out = sys.argv[1], {}
client = blocking.InferenceServerClient(target)
out["ready"] = [client.is_server_live(), client.is_server_ready(), client.is_model_ready("tiny"), client.is_model_ready("x")]
out["metadata"] = client.get_model_metadata("tiny", as_json=True)
out["config"] = client.get_model_config("tiny", as_json=True)["config"]
texts = ["fly from boston to denver", "play a song", "\U0001F600 in \u5317\u4eac on monday"]
answer = client.infer("tiny", [tensor(*texts)], request_id="7", parameters={"top_k": 2}, timeout=5_000_000, priority=2)
out["id"] = answer.get_response().id
out["labels"] = [label.decode() for label in answer.as_numpy("intent.label")]
out["confidences"] = answer.as_numpy("intent.confidence").tolist()
out["slices"] = [
    [text[span["start"]:span["end"]] for span in json.loads(spans)["spans"]]
    for text, spans in zip(texts, answer.as_numpy("slots.json"))
]
one = client.infer("tiny", [tensor("hello")], outputs=[blocking.InferRequestedOutput("sentiment.label")])
out["selected"] = [output.name for output in one.get_response().outputs]
answers = queue.Queue()
client.start_stream(lambda result, error: answers.put((result, error)))
for number, text in enumerate(["hello", " ", "play a song"]):
    client.async_stream_infer("tiny", [tensor(text)], request_id=str(number), enable_empty_final_response=True)
got = [answers.get(timeout=10) for _ in range(3)]
client.stop_stream()
out["stream"] = sorted(result.get_response().id for result, fault in got if fault is None)
out["stream_errors"] = [fault.message() for _, fault in got if fault is not None]
out["count"] = client.get_inference_statistics("tiny", as_json=True)["model_stats"][0]["inference_count"]
out["index"] = [[model.name, model.state] for model in client.get_model_repository_index().models]
out["errors"] = [
    error(lambda: client.infer("nope", [tensor("a")])),
    error(lambda: client.infer("tiny", [tensor("a")], sequence_id=3)),
    error(lambda: client.load_model("tiny")),
    error(lambda: client.unload_model("tiny")),
    error(client.get_system_shared_memory_status),
]

async def main():
    async with aio.InferenceServerClient(target) as client:
        answer = await client.infer("tiny", [tensor("play a song")])
        out["aio"] = answer.as_numpy("intent.label")[0].decode()
        async def requests():
            for number in range(3):
                yield {"model_name": "tiny", "inputs": [tensor("hello")], "request_id": str(number)}
        out["aio_stream"] = sorted([result.get_response().id async for result, fault in client.stream_infer(requests())])

asyncio.run(main())
print(json.dumps(out))
"""

KSERVE = r"""
import asyncio, json, logging, sys
import grpc
import numpy as np
from kserve import InferenceGRPCClient, InferInput, InferRequest
from kserve.protocol.infer_type import RequestedOutput

logging.disable()

async def main():
    out = {}
    async with InferenceGRPCClient(sys.argv[1]) as client:
        out["ready"] = [await client.is_server_live(), await client.is_server_ready(), await client.is_model_ready("tiny")]
        typed = InferInput("text", [2], "BYTES", data=["fly to boston", "hello"])
        answer = await client.infer(InferRequest("tiny", [typed], request_id="typed"))
        out["typed"] = {output.name: output.data for output in answer.outputs if output.name in ("intent.label", "truncated")}
        out["typed"]["intent.label"] = [label.decode() for label in out["typed"]["intent.label"]]
        raw = InferInput("text", [2], "BYTES")
        raw.set_data_from_numpy(np.array(["fly to boston", "hello"], dtype=object), binary_data=True)
        wanted = [RequestedOutput("intent.label"), RequestedOutput("intent.confidence")]
        answer = await client.infer(InferRequest("tiny", [raw], request_id="raw", request_outputs=wanted))
        out["raw"] = [answer.id, [label.decode() for label in answer.outputs[0].as_numpy()], len(answer.outputs)]
        try:
            await client.infer(InferRequest("nope", [typed]))
        except grpc.RpcError as fault:
            out["unknown"] = fault.code().name
    print(json.dumps(out))

asyncio.run(main())
"""


def test_tritonclient(environments: ModuleType, tiny_server: str) -> None:
    python = environments.make_environment("tritonclient", ["tritonclient[grpc,http]==2.73.0"], constrained=False)
    out = environments.run_python(python, TRITON, tiny_server)
    assert out["ready"] == [True, True, True, False]
    assert out["metadata"]["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": ["-1", "1"]}]
    assert (out["config"]["platform"], out["config"]["max_batch_size"]) == ("onnxruntime_onnx", 1024)
    assert (out["id"], out["labels"][:2], len(out["confidences"])) == ("7", ["flight", "music"], 3)
    assert out["slices"] == [["boston", "denver"], [], ["北京", "monday"]]
    assert out["selected"] == ["sentiment.label"]
    assert out["stream"] == ["0", "2"]
    blank = "row 0: text must have at least one visible character, got a blank text. Send some text."
    assert out["stream_errors"] == [f"INVALID_ARGUMENT: {blank}"]
    assert int(out["count"]) >= 6
    assert out["index"] == [["tiny", "READY"]]
    codes, messages = zip(*out["errors"], strict=True)
    assert [code.removeprefix("StatusCode.") for code in codes] == [
        "NOT_FOUND",
        "INVALID_ARGUMENT",
        "PERMISSION_DENIED",
        "PERMISSION_DENIED",
        "UNIMPLEMENTED",
    ]
    assert messages[0] == "no model 'nope'; loaded: tiny"
    assert (out["aio"], out["aio_stream"]) == ("music", ["0", "1", "2"])


def test_kserve(environments: ModuleType, tiny_server: str) -> None:
    python = environments.make_environment("kserve", ["kserve==0.21.0"], constrained=False)
    out = environments.run_python(python, KSERVE, tiny_server)
    assert out["ready"] == [True, True, True]
    assert out["typed"] == {"intent.label": ["flight", "greeting"], "truncated": [False, False]}
    assert out["raw"] == ["raw", ["flight", "greeting"], 2]
    assert out["unknown"] == "NOT_FOUND"
