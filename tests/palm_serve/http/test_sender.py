"""Bytes that are written to a connection in one turn of the event loop leave in one call of the system."""

import asyncio

from palm_serve.http.listener import _Sender


class Recorder(asyncio.Transport):
    """A transport that records what it is told."""

    def __init__(self) -> None:
        super().__init__({"peername": ("127.0.0.1", 1)})
        self.told: list[bytes | str] = []

    def write(self, data: bytes) -> None:
        self.told.append(bytes(data))

    def close(self) -> None:
        self.told.append("close")

    def abort(self) -> None:
        self.told.append("abort")


async def _told(*steps: bytes | str) -> list[bytes | str]:
    transport = Recorder()
    sender = _Sender(transport, asyncio.get_running_loop())
    assert sender.get_extra_info("peername") == ("127.0.0.1", 1)
    for step in steps:
        if step == "turn":
            await asyncio.sleep(0)
        elif isinstance(step, str):
            getattr(sender, step)()
        else:
            sender.write(step)
    await asyncio.sleep(0)
    return transport.told


def test_head_and_body_are_one_write():
    assert asyncio.run(_told(b"head", b"body", b"")) == [b"headbody"]
    assert asyncio.run(_told(b"head", "turn", b"body")) == [b"head", b"body"]
    assert asyncio.run(_told(b"")) == []


def test_connection_is_closed_after_what_was_written():
    assert asyncio.run(_told(b"head", b"body", "close")) == [b"headbody", "close"]
    assert asyncio.run(_told("close")) == ["close"]


def test_nothing_is_sent_on_an_aborted_connection():
    assert asyncio.run(_told(b"head", "abort")) == ["abort"]
