"""The calls of README's table "Calling it" are answered by a server, as they stand there."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[3]
PYTHON_CALLS = ("Python", "Python, without a server")


def rows() -> dict[str, str]:
    """Return the call of each row."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Calling it\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    assert section is not None
    return dict(re.findall(r"^\| ([^|]+) \|[^`|]*`([^`]+)`", section[1], re.MULTILINE))


@pytest.fixture
def door(make_door: Callable[..., Any]) -> Any:
    return make_door()


def test_calls_of_the_readme_are_answered(door: Any, tiny_bundle: Path) -> None:
    calls = rows()
    assert {"a shell", "curl", "a browser", *PYTHON_CALLS} <= calls.keys()
    address = door.url.partition("://")[2]

    shell = calls["a shell"].removeprefix("palm-serve ")
    [text] = re.findall(r'"([^"]*)"', shell)
    command = [
        sys.executable,
        "-c",
        "from palm_serve.cli import main; main()",
        "call",
        text,
        "--target",
        door.target,
        "--json",
    ]
    asked = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert json.loads(asked.stdout)["intent"]["name"], asked.stderr

    for name in PYTHON_CALLS:
        call = calls[name].replace("localhost:50051", door.target).replace("bundles/mine", str(tiny_bundle))
        script = f"import palm_serve.client\nprint({call}.intent.name)"
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
        assert done.stdout.strip(), done.stderr

    page = door.get(calls["a browser"].partition("8080")[2] or "/", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")

    if shutil.which("curl"):
        call = calls["curl"].replace("localhost:8080", address)
        done = subprocess.run(
            ["bash", "-c", f"{call} --silent --show-error"], capture_output=True, text=True, timeout=300
        )
        assert json.loads(done.stdout)["intent"]["name"], done.stderr


def test_files_of_the_readme_calls_exist() -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.search(r"^\| Node \| `node client\.js [^|]* in `examples/node_client` \|$", page, re.MULTILINE)
    assert (ROOT / "examples" / "node_client" / "client.js").is_file()
