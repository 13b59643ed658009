"""The Open Inference Protocol with a real bundle, engine and process, and a client that uses reflection only."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pool import Default, DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as stubs
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc

TEXTS = ("please show me flights from boston to new york", "is the weather awful in 北京 next week?", "play a song 😀")


@pytest.fixture(scope="module")
def channel(tiny_server: str) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(tiny_server) as opened:
        yield opened


def request(*texts: str, **parameters: Any) -> oip.ModelInferRequest:
    asked = oip.ModelInferRequest()
    tensor = asked.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
    tensor.contents.bytes_contents.extend(text.encode() for text in texts)
    for name, value in parameters.items():
        asked.parameters[name].CopyFrom(value)
    return asked


def test_infer_and_parse_give_equal_answers(channel: grpc.Channel) -> None:
    utf16 = oip.InferParameter(string_param="utf16")
    answer = stubs.GRPCInferenceServiceStub(channel).ModelInfer(request(*TEXTS, offset_unit=utf16))
    found = {output.name: output.contents for output in answer.outputs}
    parse = palm_pb2_grpc.DialogueUnderstandingStub(channel).Parse
    for row, text in enumerate(TEXTS):
        native = parse(pb.ParseRequest(text=text, offset_unit=pb.OffsetUnit.OFFSET_UNIT_UTF16))
        assert found["intent.label"].bytes_contents[row] == native.intent.name.encode()
        assert found["intent.confidence"].fp32_contents[row] == pytest.approx(native.intent.confidence, abs=1e-5)
        spans = ParseDict(json.loads(found["slots.json"].bytes_contents[row]), pb.Spans()).spans
        told = [(s.name, s.value, s.start, s.end) for s in spans]
        assert told == [(s.name, s.value, s.start, s.end) for s in native.slots]
        assert found["sentiment.label"].bytes_contents[row] == native.results[0].classification.label.name.encode()
    assert answer.model_version == native.version


def test_statistics_count_texts_and_batches(channel: grpc.Channel) -> None:
    service = stubs.GRPCInferenceServiceStub(channel)

    def look() -> oip.ModelStatistics:
        [stats] = service.ModelStatistics(oip.ModelStatisticsRequest(name="tiny")).model_stats
        return stats

    before = look()
    service.ModelInfer(request(*["play a song"] * 8))
    with pytest.raises(grpc.RpcError):
        service.ModelInfer(request(" "))
    palm_pb2_grpc.DialogueUnderstandingStub(channel).Parse(pb.ParseRequest(text="hello"))
    after = look()
    assert after.inference_count - before.inference_count == 9
    assert 2 <= after.execution_count - before.execution_count <= 9
    assert after.last_inference > before.last_inference
    old, new = before.inference_stats, after.inference_stats
    for name in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(new, name).count - getattr(old, name).count == 9
    parts = (new.queue.ns, new.compute_input.ns, new.compute_infer.ns, new.compute_output.ns)
    assert new.success.ns == sum(parts) > old.success.ns
    assert new.compute_infer.ns > old.compute_infer.ns
    assert sum(batch.batch_size * batch.compute_infer.count for batch in after.batch_stats) == after.inference_count
    assert sum(batch.compute_infer.count for batch in after.batch_stats) == after.execution_count


def test_infer_with_unmeetable_deadline_is_refused(channel: grpc.Channel) -> None:
    asked = request("play a song", timeout=oip.InferParameter(int64_param=1))
    with pytest.raises(grpc.RpcError) as caught:
        stubs.GRPCInferenceServiceStub(channel).ModelInfer(asked)
    assert caught.value.code().name in {"DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}


def test_health_of_a_model_by_its_name(channel: grpc.Channel) -> None:
    check = health_pb2_grpc.HealthStub(channel).Check
    for name in ("", "tiny"):
        assert check(health_pb2.HealthCheckRequest(service=name)).status == health_pb2.HealthCheckResponse.SERVING


def test_generic_client_works_by_reflection(channel: grpc.Channel) -> None:
    database = ProtoReflectionDescriptorDatabase(channel)
    services = database.get_services()
    assert {"inference.GRPCInferenceService", "palm_serve.v1.DialogueUnderstanding"} <= {*services}
    pool = DescriptorPool(database)
    for name in services:
        assert pool.FindServiceByName(name).methods

    def call(path: str, content: dict[str, Any]) -> dict[str, Any]:
        service, _, method = path.partition("/")
        found = pool.FindServiceByName(service).methods_by_name[method]
        ask, answer = map(message_factory.GetMessageClass, (found.input_type, found.output_type))
        ask_for: Callable[..., Any] = channel.unary_unary(
            f"/{path}", request_serializer=ask.SerializeToString, response_deserializer=answer.FromString
        )
        return MessageToDict(ask_for(ParseDict(content, ask())), preserving_proto_field_name=True)

    tensor = {"name": "text", "datatype": "BYTES", "shape": [1], "contents": {"bytes_contents": ["cGxheSBhIHNvbmc="]}}
    answer = call(
        "inference.GRPCInferenceService/ModelInfer", {"inputs": [tensor], "outputs": [{"name": "intent.label"}]}
    )
    assert answer["outputs"][0]["contents"]["bytes_contents"] == ["bXVzaWM="]
    assert call("palm_serve.v1.DialogueUnderstanding/Parse", {"text": "play a song"})["intent"]["name"] == "music"


def test_default_descriptor_pool_has_no_oip_messages() -> None:
    with pytest.raises(KeyError):
        Default().FindMessageTypeByName("inference.ModelInferRequest")
