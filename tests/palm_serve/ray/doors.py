"""Calls every method of a server, and prints what it answers as JSON: for a comparison of two doors.

    python doors.py TARGET

What differs between two calls of one door is left out: times, and counts of calls.
"""

import base64
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

import grpc
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc

TIMEOUT_S = 60.0
CHANGING = frozenset(("timings", "inferenceStats", "batchStats", "lastInference", "inferenceCount", "executionCount"))
OF_RAY = frozenset(("request_id",))
"""Trailing metadata that Ray adds."""
ID = (("x-request-id", "a call"),)
TEXT = "please show me flights from boston to new york"


def fields(value: Any) -> Any:
    if isinstance(value, Message):
        value = MessageToDict(value)
    if isinstance(value, dict):
        return {key: fields(inner) for key, inner in value.items() if key not in CHANGING}
    if isinstance(value, list):
        return [fields(inner) for inner in value]
    return value


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return fields(call())
    except grpc.RpcError as error:
        metadata = {}
        for key, value in error.trailing_metadata() or ():
            if key not in OF_RAY:
                metadata[key] = base64.b64encode(value).decode() if isinstance(value, bytes) else value
        return {"code": error.code().name, "details": error.details(), "metadata": metadata}


def answers(target: str) -> dict[str, Any]:
    channel = grpc.insecure_channel(target)
    dialogue = palm_pb2_grpc.DialogueUnderstandingStub(channel)
    prediction = palm_pb2_grpc.PredictionStub(channel)
    models = palm_pb2_grpc.ModelsStub(channel)
    health = health_pb2_grpc.HealthStub(channel)
    protocol = inference_pb2_grpc.GRPCInferenceServiceStub(channel)
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel)
    found: dict[str, Any] = {}

    def unary(name: str, method: Any, request: Message | bytes, **options: Any) -> None:
        found[name] = outcome(lambda: method(request, timeout=TIMEOUT_S, metadata=options.get("metadata", ID)))

    def stream(name: str, method: Any, requests: Iterable[Message], key: str) -> None:
        # Answers come in the order in which they are ready.
        found[name] = outcome(
            lambda: sorted(
                (fields(response) for response in method(iter(requests), timeout=TIMEOUT_S, metadata=ID)),
                key=lambda response: json.dumps(response.get(key, response)),
            )
        )

    parse = pb.ParseRequest(text=TEXT, request_id="one", top_k=2)
    bad = pb.ParseRequest(text=" ", request_id="two")
    unary("Parse", dialogue.Parse, parse)
    unary("Parse, tasks", dialogue.Parse, pb.ParseRequest(text="awful", tasks=["sentiment"], model="tiny"))
    unary("Parse, id", dialogue.Parse, pb.ParseRequest(text="hello", request_id="grüße"))
    unary("ParseBatch", dialogue.ParseBatch, pb.ParseBatchRequest(requests=[parse, bad, parse]))
    stream("ParseStream", dialogue.ParseStream, [parse, bad], "requestId")
    unary("Predict", prediction.Predict, pb.PredictRequest(task="sentiment", text="great"))
    unary("ListModels", models.ListModels, pb.ListModelsRequest())
    unary("GetModel", models.GetModel, pb.GetModelRequest(name="tiny"))
    unary("Check", health.Check, health_pb2.HealthCheckRequest())
    unary("Check, model", health.Check, health_pb2.HealthCheckRequest(service="tiny"))
    watch = health.Watch(health_pb2.HealthCheckRequest(), timeout=TIMEOUT_S)
    found["Watch"] = outcome(lambda: next(watch))
    watch.cancel()
    infer = oip.ModelInferRequest(model_name="tiny", id="three")
    infer.inputs.add(name="text", datatype="BYTES", shape=[2, 1]).contents.bytes_contents.extend([b"hello", b"rain"])
    unary("ServerLive", protocol.ServerLive, oip.ServerLiveRequest())
    unary("ServerReady", protocol.ServerReady, oip.ServerReadyRequest())
    unary("ModelReady", protocol.ModelReady, oip.ModelReadyRequest(name="tiny"))
    unary("ServerMetadata", protocol.ServerMetadata, oip.ServerMetadataRequest())
    unary("ModelMetadata", protocol.ModelMetadata, oip.ModelMetadataRequest(name="tiny"))
    unary("ModelInfer", protocol.ModelInfer, infer)
    stream("ModelStreamInfer", protocol.ModelStreamInfer, [infer, oip.ModelInferRequest(id="four")], "errorMessage")
    unary("ModelConfig", protocol.ModelConfig, oip.ModelConfigRequest(name="tiny"))
    unary("ModelStatistics", protocol.ModelStatistics, oip.ModelStatisticsRequest(name="tiny"))
    unary("RepositoryIndex", protocol.RepositoryIndex, oip.RepositoryIndexRequest())
    listed = reflection_pb2.ServerReflectionRequest(list_services="")
    stream("ServerReflectionInfo", reflection.ServerReflectionInfo, [listed], "validHost")

    # One status of each kind, and where the details of one differ.
    unary("INVALID_ARGUMENT", dialogue.Parse, bad)
    unary("INVALID_ARGUMENT, long", dialogue.Parse, pb.ParseRequest(text="a" * 20_000))
    unary("INVALID_ARGUMENT, bytes", channel.unary_unary("/palm_serve.v1.DialogueUnderstanding/Parse"), b"\xff\xff")
    unary("NOT_FOUND", dialogue.Parse, pb.ParseRequest(text="hello", model="other"))
    unary("NOT_FOUND, health", health.Check, health_pb2.HealthCheckRequest(service="other"))
    unary("PERMISSION_DENIED", models.LoadModel, pb.LoadModelRequest(name="tiny"))
    unary("PERMISSION_DENIED, unload", models.UnloadModel, pb.UnloadModelRequest(name="tiny"))
    unary("PERMISSION_DENIED, protocol", protocol.RepositoryModelLoad, oip.RepositoryModelLoadRequest(model_name="a"))
    unary("UNIMPLEMENTED", channel.unary_unary("/palm_serve.v1.DialogueUnderstanding/Other"), b"")
    # Last: gRPC's own server may end the connection with it.
    unary("RESOURCE_EXHAUSTED", dialogue.Parse, pb.ParseRequest(text="a" * 5_000_000))
    return found


if __name__ == "__main__":
    print(json.dumps(answers(sys.argv[1])))
