"""`examples/dialogue_turn.py`: every way a turn can go, against a server that answers as told."""

import io
import runpy
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest

from palm_serve.client import Client
from palm_serve.errors import InvalidRequest, NotFound, Overloaded, Unavailable
from palm_serve.rpc.messages.status import failure
from palm_serve.v1 import palm_pb2 as pb

SCRIPT = Path(__file__).parents[2] / "examples" / "dialogue_turn.py"
FLIGHT = pb.ParseResponse(
    intent=pb.Label(name="flight"),
    ranking=[pb.Label(name="flight"), pb.Label(name="fare")],
    slots=[pb.Span(name="city", value="boston")],
)


def unsure(reason: "pb.Fallback.Reason") -> pb.ParseResponse:
    answer = pb.ParseResponse()
    answer.CopyFrom(FLIGHT)
    answer.fallback.CopyFrom(pb.Fallback(triggered=True, reason=reason))
    return answer


class Server(grpc.GenericRpcHandler):
    """Gives these answers, one call after the other."""

    def __init__(self) -> None:
        self.answers: list[pb.ParseResponse | Exception] = []
        self.sessions: list[str] = []
        self.peers: set[str] = set()

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        return grpc.unary_unary_rpc_method_handler(self._answer)

    def _answer(self, message: bytes, context: grpc.ServicerContext) -> bytes:
        self.peers.add(context.peer())
        self.sessions.append(dict(context.invocation_metadata())["x-session-id"])
        answer = self.answers.pop(0)
        if isinstance(answer, pb.ParseResponse):
            return answer.SerializeToString()
        failed = failure(answer, "r")
        context.set_trailing_metadata(failed.trailing_metadata())
        context.abort(failed.code, failed.message)
        raise AssertionError


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def target(server: Server) -> Iterator[str]:
    with ThreadPoolExecutor(2) as pool:
        running = grpc.server(pool, handlers=(server,))
        port = running.add_insecure_port("127.0.0.1:0")
        running.start()
        yield f"127.0.0.1:{port}"
        running.stop(None).wait()


@pytest.fixture
def example() -> Any:
    return SimpleNamespace(**runpy.run_path(str(SCRIPT)))


@pytest.mark.parametrize(
    ("answers", "act"),
    [
        ([FLIGHT], ("flight", (("city", "boston"),))),
        ([Overloaded("full", 0.01), Unavailable("draining"), FLIGHT], ("flight", (("city", "boston"),))),
        ([unsure(pb.Fallback.LOW_CONFIDENCE)], ("ask_again", ())),
        ([unsure(pb.Fallback.AMBIGUOUS)], ("ask_which", (("choice", "flight"), ("choice", "fare")))),
        ([unsure(pb.Fallback.OUT_OF_SCOPE)], ("hand_over", ())),
        ([unsure(pb.Fallback.UNKNOWN_LANGUAGE)], ("hand_over", ())),
        ([InvalidRequest("blank", "text")], ("ask_again", ())),
        ([Overloaded("full", 60)], ("apologize", ())),
        ([Unavailable("draining")] * 9, ("apologize", ())),
    ],
)
def test_turns(example: Any, server: Server, target: str, answers: list[Any], act: tuple[Any, ...]) -> None:
    server.answers = [*answers]
    with Client(target) as palm:
        found = example.turn(palm, "fly to boston", "s1")
    assert (found.name, found.slots) == act
    assert {*server.sessions} == {"s1"}


def test_what_is_wrong_for_good_is_no_turn(example: Any, server: Server, target: str) -> None:
    server.answers = [NotFound("no model")]
    with Client(target) as palm, pytest.raises(NotFound, match="no model"):
        example.turn(palm, "fly", "s1")


def test_the_script(
    server: Server, target: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.answers = [FLIGHT, unsure(pb.Fallback.OUT_OF_SCOPE)]
    monkeypatch.setattr(sys, "argv", ["dialogue_turn.py", target])
    monkeypatch.setattr(sys, "stdin", io.StringIO("fly to boston\nwhat is love\n"))
    runpy.run_path(str(SCRIPT), run_name="__main__")
    assert capsys.readouterr().out == "flight city='boston'\nhand_over\n"
    assert len({*server.sessions}) == len(server.peers) == 1
