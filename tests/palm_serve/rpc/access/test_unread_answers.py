"""Answers that clients do not read are counted until gRPC has sent them."""

from collections.abc import Callable
from typing import Any

import pytest

from palm_serve.errors import Overloaded
from palm_serve.rpc.access.unread_answers import CLIENT_BYTES, TOTAL_BYTES, UnreadAnswers


class FakeCall:
    """What `UnreadAnswers` uses of the context of grpc.aio."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[Any], None]] = []

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self.callbacks.append(callback)

    def end(self) -> None:
        for callback in self.callbacks:
            callback(self)


def hold(answers: UnreadAnswers, client: str, size: int) -> FakeCall:
    call = FakeCall()
    answers.hold(client, call, size)  # type: ignore[arg-type]
    return call


def test_client_that_reads_nothing_is_refused_until_it_reads() -> None:
    answers = UnreadAnswers()
    calls = [hold(answers, "slow", CLIENT_BYTES // 2) for _ in range(2)]
    with pytest.raises(Overloaded, match="Read them first"):
        answers.check("slow")
    with pytest.raises(Overloaded):
        hold(answers, "slow", 1)
    answers.check("other")
    calls[0].end()
    answers.check("slow")
    calls[1].end()
    answers.check("slow")


def test_many_clients_share_the_memory() -> None:
    answers = UnreadAnswers()
    size = CLIENT_BYTES // 4
    clients = TOTAL_BYTES // size + 1
    for number in range(clients - 1):
        hold(answers, str(number), size)
        if number < TOTAL_BYTES // CLIENT_BYTES:
            answers.check(str(number))
    hold(answers, "last", size)
    with pytest.raises(Overloaded):
        answers.check("0")
    answers.check("new")


def test_calls_without_bytes_count_too() -> None:
    """gRPC holds a call, however small its answer is."""
    answers = UnreadAnswers()
    for _ in range(CLIENT_BYTES // 4096):
        hold(answers, "slow", 0)
    with pytest.raises(Overloaded):
        answers.check("slow")
