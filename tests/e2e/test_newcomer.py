"""A newcomer gets from the repository's address to answered sentences by README alone: two commands, in an empty folder."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("make") is None or shutil.which("git") is None, reason="needs make and git"),
]

ROOT = Path(__file__).parents[2]
SECONDS = ROOT / "build" / "newcomer.json"
"""What each part took, for whoever reports it. Nothing is asserted of it: machines of tests are loaded."""
MOST_COMMANDS = 2
PARTS = ("installing PALM", "1. train", "2. export", "3. serve", "4. call", "5. stop", "done")
ANSWERS = {
    "play some jazz in the kitchen": "play_music",
    "what's the weather like in lisbon tomorrow?": "get_weather",
    "set a timer for twenty minutes": "set_timer",
}
UNREACHABLE = ("No matching distribution found", "NewConnectionError", "ConnectTimeoutError")
"""Words of pip where its index cannot be reached."""


def quick_start() -> list[str]:
    """Return the commands of README's section "Quick start"."""
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    section = re.search(r"^## Quick start\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    assert section is not None
    [block] = re.findall(r"^```sh\n(.*?)^```", section[1], re.MULTILINE | re.DOTALL)
    return block.splitlines()


def surroundings() -> dict[str, str]:
    """Return the environment of somebody who has no environment of Python active."""
    own = {"VIRTUAL_ENV", "PYTHONPATH", "PALM_DATA", "MAKEFLAGS", "MAKELEVEL", "HF_HUB_OFFLINE"}
    environment = {name: value for name, value in os.environ.items() if name not in own and not name.startswith("GIT_")}
    folders = os.environ["PATH"].split(os.pathsep)
    environment["PATH"] = os.pathsep.join(folder for folder in folders if not folder.startswith(str(ROOT)))
    environment["PYTHON"] = sys._base_executable
    return environment


def test_readme_leads_to_answered_sentences(
    tmp_path: Path,
    start_process: Callable[..., "subprocess.Popen[str]"],
    record_property: Callable[[str, object], None],
) -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    commands = quick_start()
    assert len(commands) == MOST_COMMANDS
    script = "set -eu\n" + "\n".join(commands).replace("URL", str(ROOT))
    begun = time.monotonic()
    process = start_process(
        ["bash", "-c", script], cwd=tmp_path, env=surroundings(), stderr=subprocess.STDOUT, start_new_session=True
    )
    lines: list[str] = []
    starts: dict[str, float] = {"clone": 0.0}
    assert process.stdout is not None
    for line in process.stdout:
        lines.append(line.rstrip())
        for part in PARTS:
            if line.startswith(f"==> {part}"):
                starts[part] = time.monotonic() - begun
    code = process.wait()
    output = "\n".join(lines)
    if code and any(words in output for words in UNREACHABLE):
        pytest.skip("the package index cannot be reached")
    assert code == 0, output
    assert list(starts) == ["clone", *PARTS]
    asked = [line.strip('"') for line in lines if line.startswith('"')]
    intents = re.findall(r"^ intent +(\S+)", output, re.MULTILINE)
    assert dict(zip(asked, intents, strict=True)) == ANSWERS
    assert (tmp_path / "palm" / "runs" / "demo" / "report.html").is_file()

    ends = [*list(starts.values())[1:], time.monotonic() - begun]
    seconds = {part: round(end - start, 1) for (part, start), end in zip(starts.items(), ends, strict=True)}
    seconds["total"] = round(ends[-1], 1)
    record_property("seconds", seconds)
    SECONDS.parent.mkdir(exist_ok=True)
    SECONDS.write_text(json.dumps(seconds, indent=2) + "\n", encoding="utf-8")
