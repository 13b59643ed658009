"""Routing keys of requests, and versions in use until their answers are computed."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from palm_serve.rpc.call import Call
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

RunningServer = Any  # of conftest.py, which cannot be imported by name
SESSION = (("x-session-id", "dialogue 7"),)


@pytest.fixture
def asked(make_rpc_server: Callable[..., RunningServer]) -> tuple[RunningServer, stubs.DialogueUnderstandingStub]:
    rpc_server = make_rpc_server()
    return rpc_server, stubs.DialogueUnderstandingStub(rpc_server.channel)


def test_routing_key_prefers_session_then_item_id() -> None:
    assert Call("call", None).routing_key() == "call"
    assert Call("call", None).routing_key("own") == "own"
    assert Call("call", None, "session").routing_key("own") == "session"


def test_routing_keys_of_all_methods(asked: tuple[RunningServer, stubs.DialogueUnderstandingStub]) -> None:
    rpc_server, dialogue = asked
    dialogue.Parse(pb.ParseRequest(text="a", request_id="mine"))
    dialogue.Parse(pb.ParseRequest(text="a"), metadata=(("x-request-id", "header"),))
    dialogue.Parse(pb.ParseRequest(text="a", request_id="mine"), metadata=SESSION)
    stubs.PredictionStub(rpc_server.channel).Predict(pb.PredictRequest(task="intent", text="a"), metadata=SESSION)
    assert rpc_server.registry.keys == ["mine", "header", "dialogue 7", "dialogue 7"]
    assert dialogue.Parse(pb.ParseRequest(text="a")).request_id == rpc_server.registry.keys[-1]


def test_items_without_id_use_the_key_of_the_call(
    asked: tuple[RunningServer, stubs.DialogueUnderstandingStub],
) -> None:
    rpc_server, dialogue = asked
    batch = pb.ParseBatchRequest(requests=[pb.ParseRequest(text="a", request_id=name) for name in ("", "x", "")])
    dialogue.ParseBatch(batch, metadata=(("x-request-id", "call"),))
    assert rpc_server.registry.keys == ["call", "x", "call"]
    list(dialogue.ParseStream(iter(batch.requests), metadata=(("x-request-id", "stream"),)))
    assert sorted(rpc_server.registry.keys[3:]) == ["stream", "stream", "x"]


def test_session_id_over_limit_is_ignored(asked: tuple[RunningServer, stubs.DialogueUnderstandingStub]) -> None:
    rpc_server, dialogue = asked
    dialogue.Parse(pb.ParseRequest(text="a", request_id="r"), metadata=(("x-session-id", "x" * 257),))
    assert rpc_server.registry.keys == ["r"]


def test_version_is_in_use_while_it_answers(asked: tuple[RunningServer, stubs.DialogueUnderstandingStub]) -> None:
    rpc_server, dialogue = asked
    held: list[int] = []
    answer = type(rpc_server.model).predict

    async def predict(model: Any, request: Any) -> Any:
        held.append(model.holders)
        return await answer(model, request)

    type(rpc_server.model).predict = predict
    try:
        dialogue.Parse(pb.ParseRequest(text="a"))
        dialogue.ParseBatch(pb.ParseBatchRequest(requests=[pb.ParseRequest(text="a")] * 3))
        list(dialogue.ParseStream(iter([pb.ParseRequest(text="a")])))
        stubs.PredictionStub(rpc_server.channel).Predict(pb.PredictRequest(task="intent", text="a"))
        for bad in ("crash", "overloaded"):
            with pytest.raises(grpc.RpcError):
                dialogue.Parse(pb.ParseRequest(text=bad))
    finally:
        type(rpc_server.model).predict = answer
    assert held == [1] * 8
    assert rpc_server.model.holders == 0
