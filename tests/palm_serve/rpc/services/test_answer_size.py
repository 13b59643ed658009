"""Answers that ordinary clients cannot take: their limit is 4 MiB."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from palm_serve.config import Limits
from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as oip_stubs
from palm_serve.rpc.messages.answer_size import fit_items, max_answer_bytes
from palm_serve.types import Classification, Label, Prediction, TextRequest, Timings
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

RunningServer = Any  # of conftest.py, which cannot be imported by name
CLIENT_LIMIT = 4 << 20
LABELS = tuple(f"a label with a long name number {number:06d}" for number in range(5_000))


def rank_many(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the intent of the fake model have many labels, all of them in its ranking."""
    tasks = dict(model.manifest.tasks)
    tasks["intent"] = tasks["intent"].model_copy(update={"labels": LABELS})
    object.__setattr__(model.manifest, "tasks", tasks)

    async def predict(request: TextRequest) -> Prediction:
        model.requests.append(request)
        ranking = tuple(Label(name, 0.5) for name in LABELS[: request.top_k])
        answers = {"intent": Classification(ranking[0], ranking)}
        return Prediction(answers, False, len(request.text), Timings())

    monkeypatch.setattr(model, "predict", predict)


def refused(method: Callable[..., Any], message: Any) -> grpc.RpcError:
    with pytest.raises(grpc.RpcError) as caught:
        method(message)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    return caught.value


def test_batch_whose_texts_do_not_fit_is_refused_before_it_is_computed(
    make_rpc_server: Callable[..., RunningServer],
) -> None:
    """418 texts of 9,990 bytes are within the limits of a request, and their echo is not within those of an answer."""
    rpc_server = make_rpc_server()
    parse_batch = stubs.DialogueUnderstandingStub(rpc_server.channel).ParseBatch
    fitting = pb.ParseBatchRequest(requests=[pb.ParseRequest(text="x" * 9_990)] * 400)
    assert fitting.ByteSize() < CLIENT_LIMIT
    assert len(parse_batch(fitting).items) == 400
    computed = len(rpc_server.model.requests)
    pairs = pb.ParseBatchRequest(requests=[pb.ParseRequest(text="é" * 4_999)] * 419)
    assert pairs.ByteSize() < CLIENT_LIMIT
    error = refused(parse_batch, pb.ParseBatchRequest(requests=[pb.ParseRequest(text="x" * 10_000)] * 419))
    assert "the answer must have at most 4,194,304 bytes" in error.details()
    assert len(rpc_server.model.requests) == computed


def test_long_rankings_are_refused_before_they_are_computed(
    make_rpc_server: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    rpc_server = make_rpc_server()
    rank_many(rpc_server.model, monkeypatch)
    batch = pb.ParseBatchRequest(requests=[pb.ParseRequest(text="a", tasks=["intent"], top_k=2**32 - 1)] * 1024)
    refused(stubs.DialogueUnderstandingStub(rpc_server.channel).ParseBatch, batch)
    tensor = oip.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[1024])
    tensor.contents.bytes_contents.extend([b"a"] * 1024)
    inference = oip.ModelInferRequest(model_name="fake", inputs=[tensor])
    inference.outputs.add(name="intent.json")
    inference.parameters["top_k"].int64_param = 2**32 - 1
    refused(oip_stubs.GRPCInferenceServiceStub(rpc_server.channel).ModelInfer, inference)
    assert rpc_server.model.requests == []


def test_items_that_do_not_fit_are_answered_with_errors(
    make_rpc_server: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was not certain before is known once it is computed: an ordinary client gets every item, some as errors."""
    rpc_server = make_rpc_server()
    rank_many(rpc_server.model, monkeypatch)
    batch = pb.ParseBatchRequest(requests=[pb.ParseRequest(text="a", tasks=["intent"], top_k=5_000)] * 40)
    answer = stubs.DialogueUnderstandingStub(rpc_server.channel).ParseBatch(batch)
    outcomes = [item.WhichOneof("outcome") for item in answer.items]
    assert len(outcomes) == 40
    answered = outcomes.count("response")
    assert 10 <= answered < 40
    assert outcomes == ["response"] * answered + ["error"] * (40 - answered)
    assert all(len(item.response.ranking) == 5_000 for item in answer.items[:answered])
    assert answer.items[-1].error.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert answer.ByteSize() <= CLIENT_LIMIT


@pytest.mark.parametrize("raw", [False, True])
def test_inference_that_does_not_fit_is_refused(
    make_rpc_server: Callable[..., RunningServer], monkeypatch: pytest.MonkeyPatch, raw: bool
) -> None:
    rpc_server = make_rpc_server()
    rank_many(rpc_server.model, monkeypatch)
    tensor = oip.ModelInferRequest.InferInputTensor(name="text", datatype="BYTES", shape=[40])
    inference = oip.ModelInferRequest(model_name="fake", inputs=[tensor])
    if raw:
        inference.raw_input_contents.append(b"\x01\0\0\0a" * 40)
    else:
        inference.inputs[0].contents.bytes_contents.extend([b"a"] * 40)
    inference.outputs.add(name="intent.json")
    inference.parameters["top_k"].int64_param = 5_000
    stub = oip_stubs.GRPCInferenceServiceStub(rpc_server.channel)
    assert "the answer must have at most" in refused(stub.ModelInfer, inference).details()
    (answer,) = stub.ModelStreamInfer(iter([inference]))
    assert answer.error_message.startswith("INVALID_ARGUMENT: the answer must have at most")


def test_answer_limit_follows_the_limit_of_requests() -> None:
    assert max_answer_bytes(Limits(message_bytes=1)) == CLIENT_LIMIT
    assert max_answer_bytes(Limits(message_bytes=16 << 20)) == 16 << 20


def test_items_of_any_size_fit() -> None:
    items = [
        pb.ParseItem(request_id=str(size), response=pb.ParseResponse(text="x" * size)) for size in (700, 90, 1_200, 9)
    ]
    fit_items(items, 2_400)
    assert [item.WhichOneof("outcome") for item in items] == ["response", "response", "error", "response"]
    assert pb.ParseBatchResponse(items=items).ByteSize() <= 2_400
