"""Values of any length are shortened in messages, in one place for both packages."""

import subprocess
import sys

import pytest

from palm_serve.errors import BundleError, InvalidRequest, shorten_message
from palm_serve.system.plain_text import os_message, plain_message
from palm_trainer.errors import ConfigError, DataError

LONG = "x" * 5000


def test_shorten_message_keeps_ordinary_messages():
    message = f"/{'a/' * 120}b.jsonl:3: \"slots\" is 'x'; correct it\nsecond line: {'word ' * 100}."
    assert shorten_message(message) == message


@pytest.mark.parametrize("value", [LONG, "two words " * 500, "不" * 5000, "'" + "it's " * 1000 + "'", "[" * 5000])
def test_shorten_message_keeps_rule_and_fix(value):
    message = shorten_message(f"file.jsonl:3: KEY must be short, got {value!r}. Shorten it.")
    assert len(message) < 1100
    assert message.startswith("file.jsonl:3: KEY must be short, got ")
    assert "characters left out" in message
    assert message.endswith(". Shorten it.")
    assert shorten_message(message) == message


def test_shorten_message_keeps_the_first_lines():
    message = shorten_message("\n".join(f"fault {number}" for number in range(5000)))
    assert message.startswith("fault 0\nfault 1\n")
    assert message.endswith("fault 99\n... and 4,900 further lines")


@pytest.mark.parametrize("error", [BundleError, ConfigError, DataError, InvalidRequest])
def test_errors_shorten_their_messages(error):
    assert len(str(error(f"got {LONG}"))) < 400
    assert error(f"got {LONG}").args == (f"got {LONG}",)


def test_messages_for_the_terminal_are_shortened_and_escaped():
    assert plain_message(f"\x1b[2J{LONG}").startswith(r"\x1b[2Jxxx")
    assert len(os_message(OSError(36, "File name too long", LONG))) < 400


LINES = {
    "palm-train option": ("palm_trainer.cli.train", "evaluate", "run", f"--{LONG}"),
    "palm-train command": ("palm_trainer.cli.train", LONG),
    "palm-train path": ("palm_trainer.cli.train", "plan", LONG),
    "palm-train init": ("palm_trainer.cli.train", "init", f"folder/{LONG}"),
    "palm-export value": ("palm_trainer.cli.export", "run", "--output", "b", "--precision", LONG),
    "palm-export path": ("palm_trainer.cli.export", LONG, "--output", "b"),
    "palm-serve option": ("palm_serve.cli", "run", "--provider", LONG),
    "palm-serve path": ("palm_serve.cli", "check", LONG),
    "palm-serve variable": ("palm_serve.cli", "run", "bundle", "--log-level", LONG),
    "palm-serve token": ("palm_serve.cli", "token", "new", LONG),
    "palm-serve address": ("palm_serve.cli", "health", LONG),
    "palm-serve host": ("palm_serve.cli", "run", "bundle", "--host", LONG),
    "palm-serve call": ("palm_serve.cli", "call", "hi", "--target", LONG),
}


@pytest.mark.parametrize("arguments", LINES.values(), ids=LINES.keys())
def test_commands_shorten_values_of_the_user(arguments, tmp_path, process_limit_s):
    module, *rest = arguments
    program = f"import sys; from {module} import main; sys.argv = {['palm', *rest]!r}; main()"
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, timeout=process_limit_s
    )
    assert result.returncode in (1, 2)
    assert "Traceback" not in result.stderr
    assert "characters left out" in result.stderr
    assert len(result.stdout + result.stderr) < 2000, result.stderr
