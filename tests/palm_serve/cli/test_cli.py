"""The command line in this process. test_server.py runs `palm-serve run` as a process."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from palm_serve.cli import app

TEXT = "please show me flights from boston to new york"


def palm_serve(*arguments: object) -> tuple[int, str, str]:
    """Run a command and return its exit code, standard output and standard error."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "100", "GRPC_VERBOSITY": "NONE"})
    return result.exit_code, result.stdout, result.stderr


def test_token_new_prints_token_and_entry() -> None:
    first, second = (palm_serve("token", "new", "web_1", "--scope", "read", "--scope", "parse") for _ in range(2))
    assert first[0] == 0
    assert first != second
    assert '[tokens.web_1]\nsha256 = "' in first[1]
    assert 'scopes = ["read", "parse"]' in first[1]
    assert "Example: palm-serve token new" in palm_serve("token", "new", "--help")[1]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["a b"], "1 to 64 letters, digits, '_' or '-'"),
        (["a", "--scope", "all"], "'all' is not one of"),
        (["a", "--expires", "soon"], "does not match the format"),
    ],
)
def test_token_new_refuses_invalid_arguments(arguments: list[str], match: str) -> None:
    code, out, err = palm_serve("token", "new", *arguments)
    assert (code, out) == (2, "")
    assert match in " ".join(err.replace("│", " ").split())


@pytest.mark.parametrize("command", ["run", "check", "call", "health", "bench", "plan"])
def test_help_shows_an_example(command: str) -> None:
    code, out, _ = palm_serve(command, "--help")
    assert code == 0
    assert f"Example: palm-serve {command}" in out


def test_check_prints_the_tasks(tiny_bundle: Path) -> None:
    code, out, err = palm_serve("check", tiny_bundle, "--provider", "CPU")
    assert (code, err) == (0, "")
    for part in ("tiny", "24 tokens", "CPU in fp32", "3: city, day, artist", "2: negative, positive", "golden"):
        assert part in out


def test_check_of_invalid_bundle_exits_with_2(make_tiny_bundle: Callable[..., Path], tmp_path: Path) -> None:
    bundle = make_tiny_bundle(tmp_path / "bundle")
    (bundle / "golden.jsonl").write_text("{}\n")
    code, out, err = palm_serve("check", bundle)
    assert (code, out) == (2, "")
    assert "golden.jsonl" in err
    assert len(err.splitlines()) == 1


def test_check_with_missing_provider_exits_with_2(tiny_bundle: Path) -> None:
    code, _, err = palm_serve("check", tiny_bundle, "--provider", "TensorRT")
    assert code == 2
    assert "TensorRT" in err


def test_call_prints_the_answers(tiny_server: str) -> None:
    code, out, err = palm_serve("call", TEXT, "--target", tiny_server)
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines()]
    assert rows[1][:2] == ["intent", "flight"]
    assert [row[:-1] for row in rows[2:4]] == [["slot", "city", "boston"], ["slot", "city", "new", "york"]]
    assert rows[4][:2] == ["sentiment", "positive"]


def test_call_prints_json(tiny_server: str) -> None:
    code, out, _ = palm_serve("call", "hello 北京", "--target", tiny_server, "--json")
    answer = json.loads(out)
    assert code == 0
    assert answer["intent"]["name"] == "greeting"
    assert answer["slots"][0]["value"] == "北京"
    assert "truncated" in answer


def test_call_runs_one_task(tiny_server: str) -> None:
    code, out, _ = palm_serve("call", "awful rain", "--task", "sentiment", "--target", tiny_server)
    assert code == 0
    assert out.splitlines()[1].split()[:2] == ["sentiment", "negative"]


def test_call_prints_markup_as_text(tiny_server: str) -> None:
    code, out, _ = palm_serve("call", "[bold]boston[/bold] to boston [/red]", "--target", tiny_server)
    assert code == 0
    assert "boston" in out


def test_call_reports_truncation(tiny_server: str) -> None:
    _, out, _ = palm_serve("call", TEXT * 9, "--target", tiny_server)
    assert "Its end was not read" in out


@pytest.mark.parametrize(
    ("arguments", "code", "match"),
    [
        (["call", " "], 2, "text must have at least one visible character, got a blank text"),
        (["call", TEXT, "--model", "nope"], 2, "no model 'nope'"),
        (["call", TEXT, "--task", "nope"], 2, "unknown task 'nope'"),
        (["call", TEXT, "--pair", "x"], 2, "requires --task"),
    ],
)
def test_invalid_call_exits_with_2(tiny_server: str, arguments: list[str], code: int, match: str) -> None:
    got, out, err = palm_serve(*arguments, "--target", tiny_server)
    assert (got, out) == (code, "")
    assert match in err


def test_call_without_server_exits_with_1() -> None:
    code, out, err = palm_serve("call", TEXT, "--target", "127.0.0.1:1")
    assert (code, out) == (1, "")
    assert err == "palm-serve: no answer from a PALM server at 127.0.0.1:1: Connection refused\n"


def test_run_without_bundle_exits_with_2() -> None:
    assert palm_serve("run")[0] == 2
    assert palm_serve("run", "x", "--port", "99999")[0] == 2
    assert palm_serve("run", "x", "--provider", "TPU")[0] == 2
