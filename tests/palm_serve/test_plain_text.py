"""Text of others is shown without its control characters and without markup."""

import io
import json
import logging

import pytest
from rich.table import Table

from palm_serve.observability import configure_logging
from palm_serve.system.plain_text import plain, plain_console, plain_json

HOSTILE = "\x1b]0;title\x07[/x] [red]\x9b2J\u202e\u2028\u2066:smile:\ud83d"
SHOWN = r"\x1b]0;title\x07[/x] [red]\x9b2J\u202e\u2028\u2066:smile:\ud83d"


def test_plain_writes_control_characters_as_escapes():
    assert plain(HOSTILE) == SHOWN
    assert plain("北京 é 👩‍🚀 naïve") == "北京 é 👩‍🚀 naïve"
    assert (plain("a\nb\tc"), plain("a\nb\tc", keep="\n")) == ("a\\nb\\tc", "a\nb\\tc")
    assert plain(ValueError("\x1b")) == "\\x1b"


def test_plain_json_keeps_the_value():
    line = json.dumps({"a\x9b": HOSTILE, "b": "\U000e0041"}, ensure_ascii=False, indent=1)
    assert json.loads(plain_json(line)) == json.loads(line)
    assert plain_json(line).isascii()


def test_plain_console_prints_every_text_as_it_is():
    stream = io.StringIO()
    console = plain_console(file=stream, width=200, force_terminal=True, highlight=False)
    table = Table(box=None, title=HOSTILE)
    table.add_column(f"head {HOSTILE}")
    table.add_row(f"cell {HOSTILE}")
    console.print(table)
    console.print(f"line {HOSTILE}")
    shown = stream.getvalue()
    for place in ("head", "cell", "line"):
        assert f"{place} {SHOWN}" in shown
    assert "\x07" not in shown
    assert "\x1b]" not in shown


@pytest.mark.parametrize("json_lines", [False, True])
def test_logs_hold_no_control_characters(json_lines):
    stream = io.StringIO()
    configure_logging("info", json_lines=json_lines, stream=stream, texts=True)
    try:
        raise ValueError(HOSTILE)
    except ValueError:
        logging.getLogger("palm_serve.test").exception("failed: %s", HOSTILE)
    lines = stream.getvalue()
    assert not set(lines) & set("\x1b\x07\x9b\u202e\u2028\u2066\ud83d")
    if json_lines:
        assert json.loads(lines)["message"] == f"failed: {HOSTILE}"


def test_console_prints_where_the_terminal_has_no_width(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "0")
    plain_console().print("words")
    assert capsys.readouterr().out == "words\n"
