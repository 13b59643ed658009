"""What decides which version answers, and that a version is held until its answer is there."""

from collections.abc import Callable
from typing import Any

import grpc
import pytest

from palm_serve.rpc.call_handling import Call
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

Door = Any  # of conftest.py, which cannot be imported by name
SESSION = (("x-session-id", "dialogue 7"),)


@pytest.fixture
def asked(make_door: Callable[..., Door]) -> tuple[Door, stubs.DialogueUnderstandingStub]:
    door = make_door()
    return door, stubs.DialogueUnderstandingStub(door.channel)


def test_the_session_comes_before_the_request_and_that_before_the_call() -> None:
    assert Call("call", None).routing_key() == "call"
    assert Call("call", None).routing_key("own") == "own"
    assert Call("call", None, "session").routing_key("own") == "session"


def test_keys_of_every_call(asked: tuple[Door, stubs.DialogueUnderstandingStub]) -> None:
    door, dialogue = asked
    dialogue.Parse(pb.ParseRequest(text="a", request_id="mine"))
    dialogue.Parse(pb.ParseRequest(text="a"), metadata=(("x-request-id", "header"),))
    dialogue.Parse(pb.ParseRequest(text="a", request_id="mine"), metadata=SESSION)
    stubs.PredictionStub(door.channel).Predict(pb.PredictRequest(task="intent", text="a"), metadata=SESSION)
    assert door.registry.keys == ["mine", "header", "dialogue 7", "dialogue 7"]
    assert dialogue.Parse(pb.ParseRequest(text="a")).request_id == door.registry.keys[-1]


def test_items_without_an_id_of_their_own_go_with_their_call(
    asked: tuple[Door, stubs.DialogueUnderstandingStub],
) -> None:
    door, dialogue = asked
    batch = pb.ParseBatchRequest(requests=[pb.ParseRequest(text="a", request_id=name) for name in ("", "x", "")])
    dialogue.ParseBatch(batch, metadata=(("x-request-id", "call"),))
    assert door.registry.keys == ["call", "x", "call"]
    list(dialogue.ParseStream(iter(batch.requests), metadata=(("x-request-id", "stream"),)))
    assert sorted(door.registry.keys[3:]) == ["stream", "stream", "x"]


def test_ids_that_are_too_long_for_a_session_are_ignored(asked: tuple[Door, stubs.DialogueUnderstandingStub]) -> None:
    door, dialogue = asked
    dialogue.Parse(pb.ParseRequest(text="a", request_id="r"), metadata=(("x-session-id", "x" * 257),))
    assert door.registry.keys == ["r"]


def test_a_version_is_held_while_it_answers(asked: tuple[Door, stubs.DialogueUnderstandingStub]) -> None:
    door, dialogue = asked
    held: list[int] = []
    answer = type(door.model).predict

    async def predict(model: Any, request: Any) -> Any:
        held.append(model.holders)
        return await answer(model, request)

    type(door.model).predict = predict
    try:
        dialogue.Parse(pb.ParseRequest(text="a"))
        dialogue.ParseBatch(pb.ParseBatchRequest(requests=[pb.ParseRequest(text="a")] * 3))
        list(dialogue.ParseStream(iter([pb.ParseRequest(text="a")])))
        stubs.PredictionStub(door.channel).Predict(pb.PredictRequest(task="intent", text="a"))
        for bad in ("crash", "overloaded"):
            with pytest.raises(grpc.RpcError):
                dialogue.Parse(pb.ParseRequest(text=bad))
    finally:
        type(door.model).predict = answer
    assert held == [1] * 8
    assert door.model.holders == 0
