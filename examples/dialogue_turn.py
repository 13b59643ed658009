"""One turn of a dialogue: what the user said -> what the system does next.

    python examples/dialogue_turn.py [HOST:PORT] < what_the_user_said.txt

Each line is a turn, of one session: while a new version of the model is tried out on a share of the sessions, a dialogue stays with the
version that it began with. A turn has a second; within it a call that the server refuses is tried again when the server says so.
"""

import sys
import uuid
from collections.abc import Iterable
from dataclasses import dataclass

from palm_serve.client import Client
from palm_serve.errors import DeadlineExceeded, InvalidRequest, Overloaded, Unavailable
from palm_serve.v1 import palm_pb2 as pb

TURN_S = 1.0


@dataclass(frozen=True)
class Act:
    """What the system does: an intent of the model with its slots, or one of its own ways out."""

    name: str
    slots: tuple[tuple[str, str], ...] = ()


def turn(palm: Client, text: str, session_id: str, timeout_s: float = TURN_S) -> Act:
    """Understands one utterance, or finds something polite to do."""
    try:
        answer = palm.parse(text, session_id=session_id, timeout_s=timeout_s)
    except InvalidRequest:  # blank, or longer than the server reads: the message says which
        return Act("ask_again")
    except (Overloaded, Unavailable, DeadlineExceeded):  # after all retries that the turn had time for
        return Act("apologize")
    if answer.fallback.triggered:
        return _fallback(answer)
    return Act(answer.intent.name, tuple((slot.name, slot.value) for slot in answer.slots))


def _fallback(answer: pb.ParseResponse) -> Act:
    """The model is not sure enough to act. What it thinks is still there."""
    if answer.fallback.reason in (pb.Fallback.OUT_OF_SCOPE, pb.Fallback.UNKNOWN_LANGUAGE):
        return Act("hand_over")
    if answer.fallback.reason == pb.Fallback.AMBIGUOUS:
        first, second = answer.ranking[:2]
        return Act("ask_which", (("choice", first.name), ("choice", second.name)))
    return Act("ask_again")


def main(target: str, lines: Iterable[str]) -> None:
    """Prints what the system does after each line."""
    session_id = uuid.uuid4().hex
    with Client(target) as palm:  # one connection for all turns; threads may share it
        for line in lines:
            act = turn(palm, line.strip(), session_id)
            print(act.name, *(f"{name}={value!r}" for name, value in act.slots))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "127.0.0.1:50051", sys.stdin)
