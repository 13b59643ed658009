"""A server that is killed (SIGKILL, as when memory is short) while it works, and is started again."""

import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palm_serve.client import Client
from palm_serve.errors import Unavailable


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def test_server_killed_while_calls_run(start_server: Callable[..., Any], tiny_bundle: Path, tmp_path: Path) -> None:
    """Waiting clients get an error at once, and retries succeed on the next server process."""
    port = free_port()
    arguments = (tiny_bundle, "--port", port, "--cache-dir", tmp_path / "cache", "--log-level", "error")
    first = start_server(*arguments)
    target = first.target()
    outcomes: list[tuple[float, str]] = []
    stop = threading.Event()

    def ask(retries: int) -> None:
        with Client(target, timeout_s=60, retries=retries) as client:
            while not stop.is_set():
                began = time.monotonic()
                try:
                    outcome = client.parse("play a song").intent.name
                except Exception as error:
                    outcome = type(error).__name__
                outcomes.append((time.monotonic() - began, f"{retries} {outcome}"))
                if outcome != "music":
                    return

    callers = [threading.Thread(target=ask, args=(retries,)) for retries in (0, 0, 0, 9)]
    for caller in callers:
        caller.start()
    while len(outcomes) < 50:
        time.sleep(0.01)
    first.process.kill()
    assert first.finish() == -signal.SIGKILL
    for caller in callers[:3]:
        caller.join(20)
        assert not caller.is_alive(), "a call hangs whose server is dead"
    failed = [(seconds, told) for seconds, told in outcomes if "music" not in told]
    assert {told for _, told in failed} == {f"0 {Unavailable.__name__}"}
    assert all(seconds < 10 for seconds, _ in failed)

    second = start_server(*arguments)
    second.wait_for("ready;")
    before = len(outcomes)
    end = time.monotonic() + 60
    while len(outcomes) < before + 20:
        assert time.monotonic() < end
        assert callers[3].is_alive(), outcomes[-1]
        time.sleep(0.01)
    stop.set()
    callers[3].join(60)
    assert {told for _, told in outcomes[before:]} == {"9 music"}
    second.process.send_signal(signal.SIGTERM)
    assert second.finish() == 0
    assert second.errors == []


@pytest.mark.slow
def test_server_killed_while_a_version_is_swapped(
    start_server: Callable[..., Any], make_tiny_bundle: Callable[..., Path], tmp_path: Path
) -> None:
    """The next server process serves the bundles in the directory."""
    models = tmp_path / "models" / "tiny"
    make_tiny_bundle(models / "stable")
    watch = ("--watch", models.parent, "--watch-interval", "0.01", "--cache-dir", tmp_path / "cache")
    for length in (19, 18, 17):
        process = start_server(*watch)
        target = process.target()
        made = make_tiny_bundle(tmp_path / f"made{length}", name="tiny", max_length=length)
        (models / "stable").rename(tmp_path / f"old{length}")
        made.rename(models / "stable")
        with Client(target) as client:
            time.sleep(0.02 * (length - 16))
            assert client.parse("play a song").intent.name == "music"
        process.process.kill()
        process.finish()
    successor = start_server(*watch)
    with Client(successor.target()) as client:
        (model,) = client.models()
        assert (model.max_length_tokens, client.parse("play a song").intent.name) == (17, "music")
    successor.process.send_signal(signal.SIGTERM)
    assert successor.finish() == 0
    assert successor.errors == []
