"""palm-serve as a process: pipes, closed and full outputs, terminals without UTF-8, hang-ups."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palm_serve.client import Client
from palm_serve.errors import PalmServeError

COMMAND = f"'{sys.executable}' -m palm_serve.cli"
TEXT = "play 中文 é 😀"
LIMIT_S = 120
FULL = Path("/dev/full")
pytestmark = pytest.mark.skipif(not FULL.exists(), reason="needs /dev/full")


def shell(rest: str, **variables: str) -> tuple[int, bytes, str]:
    """Run `palm-serve REST` in a shell. Return exit code, standard output and standard error."""
    line = f"set -o pipefail; {COMMAND} {rest}"
    result = subprocess.run(
        ["bash", "-c", line], capture_output=True, env={**os.environ, **variables}, timeout=LIMIT_S, check=False
    )
    err = result.stderr.decode(errors="replace")
    assert "Traceback" not in err
    assert "Exception ignored" not in err
    return result.returncode, result.stdout, err


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_call_json_is_right_in_every_encoding(tiny_server: str, encoding: str) -> None:
    code, out, err = shell(f"call '{TEXT}' --target {tiny_server} --json", PYTHONIOENCODING=encoding)
    assert (code, err) == (0, "")
    response = json.loads(out.decode(encoding))
    assert response["text"] == TEXT


@pytest.mark.parametrize("encoding", ["ascii", "latin-1"])
def test_answers_that_a_terminal_lacks_are_escaped(tiny_server: str, encoding: str) -> None:
    code, out, err = shell(f"call '{TEXT}' --target {tiny_server}", PYTHONIOENCODING=encoding)
    assert (code, err) == (0, "")
    assert b"music" in out
    code, out, err = shell("check /nowhere/中文", PYTHONIOENCODING=encoding)
    assert (code, out) == (2, b"")
    assert r"\u4e2d\u6587" in err


def test_closed_pipe_ends_quietly_with_141(tiny_server: str) -> None:
    assert shell(f"call music --target {tiny_server} | true") == (141, b"", "")
    assert shell("--help | true") == (141, b"", "")


def test_full_disk_behind_the_output_is_one_message() -> None:
    code, _, err = shell("token new web > /dev/full")
    assert (code, err) == (2, "palm-serve: standard output cannot be written: No space left on device\n")


def test_closed_output_is_no_error(tiny_server: str) -> None:
    assert shell(f"call music --target {tiny_server} >&-") == (0, b"", "")
    assert shell("check /nowhere 2>&-") == (2, b"", "")


def test_call_with_bytes_that_are_no_text_is_one_message(tiny_server: str) -> None:
    for arguments in ("$'play \\xff'", "play --model $'\\xff'", "play --task intent --pair $'\\xff'"):
        code, out, err = shell(f"call {arguments} --target {tiny_server}")
        assert (code, out, err.count("\n")) == (2, b"", 1)
        assert "must be valid" in err


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.mark.parametrize("output", ["pipe", "full"])
def test_server_goes_on_without_its_output(start_server: Callable[..., Any], tiny_bundle: Path, output: str) -> None:
    """Its lines go into a pipe that nobody reads any more, or to a full disk. Then the terminal hangs up."""
    if output == "pipe":
        reader, writer = os.pipe()
        os.close(reader)
    else:
        writer = os.open(FULL, os.O_WRONLY)
    port = free_port()
    process = start_server(tiny_bundle, "--port", str(port), stdout=writer)
    os.close(writer)
    with Client(f"127.0.0.1:{port}", retries=0) as client:
        end = time.monotonic() + LIMIT_S
        ready = False
        while not ready and time.monotonic() < end:
            assert process.process.poll() is None, process.errors
            try:
                ready = client.health(timeout_s=5)
            except PalmServeError:
                time.sleep(0.1)  # it does not listen yet
        process.process.send_signal(signal.SIGHUP)
        assert client.parse("music", timeout_s=LIMIT_S).intent.name
    process.process.send_signal(signal.SIGTERM)
    assert process.finish(LIMIT_S) == 0
    assert any("standard output cannot be written" in line for line in process.errors)
    assert "Traceback" not in "".join(process.errors)


def test_server_that_is_hung_up_while_it_starts_serves(start_server: Callable[..., Any], tiny_bundle: Path) -> None:
    process = start_server(tiny_bundle)
    process.wait_for("listening on")
    process.process.send_signal(signal.SIGHUP)
    target = process.target()
    with Client(target) as client:
        assert client.parse("music").intent.name
    process.process.send_signal(signal.SIGTERM)
    assert process.finish() == 0
