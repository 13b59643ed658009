"""Clients of NVIDIA Riva's language understanding ask a PALM server: a gRPC server with Riva's methods.

    python examples/adapters/riva.py [--port 50052] [--target 127.0.0.1:50051]

`AnalyzeIntent` (intent and slots) and `ClassifyText` (the ranking of intents) are answered. Riva has deprecated them; this
is for programs that call them. Riva's offsets count code points, and its `end` is that of the last character. Source:
nvidia-riva/common, riva_nlp.proto; the package `nvidia-riva-client`.
"""

import argparse
import asyncio
from collections.abc import Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pb2
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass

from palm_serve.client import AsyncClient
from palm_serve.errors import PalmServeError
from palm_serve.rpc.messages.status import failure
from palm_serve.v1 import palm_pb2 as pb

PACKAGE = "nvidia.riva.nlp"
# Field 100 was a string, `request_id`, and is a message now: as bytes both forms can be read and sent back.
MESSAGES = {
    "Classification": "string class_name 1; float score 2",
    "Span": "uint32 start 1; uint32 end 2",
    "TokenClassValue": "string token 1; *Classification label 2; *Span span 3",
    "NLPModelParams": "string model_name 1",
    "AnalyzeIntentRequest": "string query 1; bytes id 100",
    "AnalyzeIntentResponse": "Classification intent 1; *TokenClassValue slots 2; string domain_str 3; bytes id 100",
    "TextClassRequest": "*string text 1; uint32 top_n 2; NLPModelParams model 3; bytes id 100",
    "ClassificationResult": "*Classification labels 1",
    "TextClassResponse": "*ClassificationResult results 1; bytes id 100",
}
"""Riva's messages, as far as they are used: type, name and number of each field. A star: repeated."""


def message_classes() -> dict[str, Any]:
    """Return the class of each message."""
    file = descriptor_pb2.FileDescriptorProto(name="riva.proto", package=PACKAGE, syntax="proto3")
    for name, fields in MESSAGES.items():
        message = file.message_type.add(name=name)
        for line in fields.split("; "):
            kind, field_name, number = line.lstrip("*").split()
            field = message.field.add(name=field_name, number=int(number), label=3 if line[0] == "*" else 1)
            if kind in MESSAGES:
                field.type, field.type_name = field.TYPE_MESSAGE, f".{PACKAGE}.{kind}"
            else:
                field.type = getattr(field, f"TYPE_{kind.upper()}")
    pool = DescriptorPool()
    pool.Add(file)
    return {name: GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in MESSAGES}


RIVA = message_classes()


def slots(answer: pb.ParseResponse) -> list[dict[str, Any]]:
    """Return the slots of an answer in Riva's form."""
    tokens: list[dict[str, Any]] = []
    for slot in answer.slots:
        label = {"class_name": slot.name, "score": slot.confidence}
        tokens.append({"token": slot.value, "label": [label], "span": [{"start": slot.start, "end": slot.end - 1}]})
    return tokens


def handlers(palm: AsyncClient) -> grpc.GenericRpcHandler:
    """Return the methods. The client asks the PALM server."""

    async def analyze_intent(request: Any) -> Any:
        answer = await palm.parse(request.query)
        intent = {"class_name": answer.intent.name, "score": answer.intent.confidence}
        fields = {"intent": intent, "slots": slots(answer), "domain_str": answer.model}
        return RIVA["AnalyzeIntentResponse"](id=request.id, **fields)

    async def classify_text(request: Any) -> Any:
        response = RIVA["TextClassResponse"](id=request.id)
        for answer in await palm.parse_batch(request.text, model=request.model.model_name, top_k=request.top_n):
            if isinstance(answer, PalmServeError):
                raise answer
            labels = [{"class_name": label.name, "score": label.confidence} for label in answer.ranking]
            response.results.add(labels=labels)
        return response

    def method(answer: Callable[[Any], Any], request: str) -> grpc.RpcMethodHandler:
        async def handle(message: Any, context: grpc.aio.ServicerContext) -> Any:
            try:
                return await answer(message)
            except PalmServeError as error:
                failed = failure(error, "")
                await context.abort(failed.code, failed.message, failed.trailing_metadata())

        read, write = RIVA[request].FromString, lambda told: told.SerializeToString()
        return grpc.unary_unary_rpc_method_handler(handle, read, write)

    intents, texts = method(analyze_intent, "AnalyzeIntentRequest"), method(classify_text, "TextClassRequest")
    methods = {"AnalyzeIntent": intents, "ClassifyText": texts}
    return grpc.method_handlers_generic_handler(f"{PACKAGE}.RivaLanguageUnderstanding", methods)


async def serve(port: int, target: str) -> None:
    """Answer clients until the process ends. `target` is the address of the PALM server."""
    async with AsyncClient(target) as palm:
        server = grpc.aio.server()
        server.add_generic_rpc_handlers((handlers(palm),))
        print(f"riva: listening on 127.0.0.1:{server.add_insecure_port(f'127.0.0.1:{port}')}", flush=True)
        await server.start()
        await server.wait_for_termination()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=50052)
    parser.add_argument("--target", default="127.0.0.1:50051", help="address of the PALM server")
    arguments = parser.parse_args()
    asyncio.run(serve(arguments.port, arguments.target))
