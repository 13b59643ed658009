"""The shell commands and the Python code of docs/how-to/serve/call_it.md get answers from a real server."""

import asyncio
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from palm_serve.client import Client
from palm_serve.v1 import palm_pb2 as pb

PAGE = (Path(__file__).parents[3] / "docs/how-to/serve/call_it.md").read_text(encoding="utf-8")
CURL = re.findall(r"^curl (.+)$", PAGE, re.MULTILINE)


def section(heading: str) -> str:
    """Return the text below a heading of any level."""
    text = PAGE.split(f"# {heading}\n", 1)[1]
    return re.split(r"^#+ \w", text, maxsplit=1, flags=re.MULTILINE)[0]


@pytest.fixture
def run_python(door: Any, tiny_bundle: Path) -> Callable[..., dict[str, Any]]:
    """Return `run_python(CODE, **names)`, which runs code of the page with the server and the bundle of the tests."""

    def run(code: str, **names: Any) -> dict[str, Any]:
        here = code.replace("127.0.0.1:50051", door.target).replace("bundles/demo", str(tiny_bundle))
        exec(compile(here, "call_it.md", "exec"), names)
        return names

    return run


def python_blocks(heading: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", section(heading), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("line", CURL, ids=lambda line: line.split()[0].partition("/")[2])
def test_curl_line_is_answered(door: Any, line: str) -> None:
    address, *rest = shlex.split(line.replace("/demo/", "/tiny/").replace("wake me at seven", "fly to boston"))
    options = dict(zip(rest[::2], rest[1::2], strict=True))
    assert options.keys() <= {"-d", "-H"}
    # The type that curl sends with -d, where no other is named.
    name, _, content_type = options.get("-H", "content-type: application/x-www-form-urlencoded").partition(": ")
    response = door.client.post("/" + address.partition("/")[2], content=options["-d"], headers={name: content_type})
    assert response.status_code == 200, response.text
    assert response.json()


def test_python_of_the_page_is_answered(run_python: Callable[..., dict[str, Any]], door: Any) -> None:
    first, second = python_blocks("Python")
    answer = run_python(first)["answer"]
    assert isinstance(answer, pb.ParseResponse)
    assert answer.intent.name
    with Client(door.target) as client:
        assert run_python(second, client=client)["answer"].intent.name


def test_asyncio_of_the_page_is_answered(run_python: Callable[..., dict[str, Any]]) -> None:
    (block,) = python_blocks("asyncio")
    assert asyncio.run(run_python(block)["ask"]("fly to boston")) == "flight"


def test_model_of_the_page_answers_without_a_server(run_python: Callable[..., dict[str, Any]]) -> None:
    (block,) = python_blocks("Python without a server")
    names = run_python(block)
    assert [type(answer) for answer in (names["answer"], *names["answers"])] == [pb.ParseResponse] * 3
