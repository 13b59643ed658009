"""Read the blocks of a tutorial, and run them as a reader would.

The conventions of a page, so that it reads as a page and yet runs:

* `sh`: commands, run by bash in the folder of the repository. The first failing command ends the page.
* `sh background`: a server that stays up. The next such block and the end of the page stop it with Ctrl-C (SIGINT).
* `sh install`: what the reader does once. It is not run: the tests have the environment.
* `python`, `toml` or `yaml` whose first line is the comment `# NAME`: a file that the reader saves.
* `text` after one of the first two: lines that the output has, in this order. Figures and digests may differ,
  and `...` stands for anything.

Only ports are changed, as several tests run at once and the pages name 50051 and 8080, and the options of `_QUICK` are set.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "tutorials"

_BLOCK = re.compile(r"^```([^\n`]+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE_LINE = re.compile(r"# ([\w./-]+\.(?:py|toml|yml|yaml))\n")
_ANYTHING = "..."
_DIGEST = r"[0-9a-f]{12,}"
_TOKENS = re.compile(rf"({_DIGEST})|(-?\d[\d.,]*(?:e[+-]?\d+)?)|(\s+)|([━─]+)|(.)")
_READY = "palm-serve: ready"
_QUICK = {
    "PALM_SERVE_DRAIN_GRACE": "0",
    "PALM_SERVE_LOAD_TIMEOUT": "600",
    "PALM_SERVE_PRECISION": "fp32",
    "PALM_SERVE_PROVIDER": "CPU",
}
"""Options of the servers: no wait for load balancers, and no comparison of the providers, which takes minutes on a loaded machine."""


@dataclass(frozen=True)
class Block:
    """A block of a page: its kind, its text, the file that it is saved as, and the output that it must have."""

    kind: str
    text: str
    line: int
    file: str = ""
    expected: str = ""


def read_blocks(page: Path) -> list[Block]:
    """Return the blocks of a page in order, `text` blocks as the output of the one before.

    Args:
        page: the Markdown file.
    """
    content = page.read_text(encoding="utf-8")
    blocks: list[Block] = []
    for match in _BLOCK.finditer(content):
        kind, text = match[1].strip(), match[2]
        line = content.count("\n", 0, match.start()) + 1
        named = _FILE_LINE.match(text)
        if kind == "text" and blocks and blocks[-1].kind.startswith("sh") and not blocks[-1].expected:
            last = blocks.pop()
            blocks.append(Block(last.kind, last.text, last.line, expected=text))
        elif kind in ("python", "toml", "yaml") and named:
            blocks.append(Block("file", text, line, file=named[1]))
        else:
            blocks.append(Block(kind, text, line))
    return blocks


def find_missing_line(expected: str, output: str) -> str | None:
    """Return the first line of the expected output that the output lacks, or None.

    Args:
        expected: lines of a page, in order.
        output: what the commands printed.
    """
    printed = iter(output.splitlines())
    for line in expected.splitlines():
        if not line.strip() or line.strip() == _ANYTHING:
            continue
        pattern = _line_pattern(line)
        if not any(pattern.fullmatch(candidate.strip()) for candidate in printed):
            return line
    return None


def _line_pattern(line: str) -> re.Pattern[str]:
    parts = []
    for part in line.strip().split(_ANYTHING):
        parts.append("".join(map(_token_pattern, _TOKENS.finditer(part))))
    return re.compile(".*".join(parts))


def _token_pattern(token: re.Match[str]) -> str:
    digest, number, blank, rule, other = token.groups()
    if digest:
        return _DIGEST
    if number:
        return r"-?\d[\d.,]*(?:e[+-]?\d+)?"
    if blank:
        return r"\s+"
    return f"{rule[0]}+" if rule else re.escape(other)


class PageRunner:
    """Runs pages in one folder, as one reader does.

    Args:
        folder: a copy of the repository.
        limit_s: seconds after which a block counts as hung.
    """

    def __init__(self, folder: Path, limit_s: float) -> None:
        self._folder = folder
        self._limit_s = limit_s
        self._ports = (_free_port(), _free_port())
        self._server: subprocess.Popen[bytes] | None = None
        self._log = folder / "server.log"

    def run(self, page: Path) -> None:
        """Run the blocks of a page. Raises AssertionError with the line of the block that fails.

        Args:
            page: the Markdown file.
        """
        try:
            for block in read_blocks(page):
                place = f"{page.name}:{block.line}"
                if block.kind == "file":
                    path = self._folder / block.file
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_text(self._with_free_ports(block.text), encoding="utf-8")
                elif block.kind in ("sh", "sh background"):
                    output = self._serve(block, place) if block.kind != "sh" else self._execute(block, place)
                    missing = find_missing_line(block.expected, output)
                    assert missing is None, f"{place}: no line {missing!r} in the rest of\n{output}"
            self._stop_server()
        finally:
            if self._server is not None:
                self._server.kill()
                self._server.wait()

    def _execute(self, block: Block, place: str) -> str:
        command = ["bash", "-euo", "pipefail", "-c", self._with_free_ports(block.text)]
        done = subprocess.run(
            command,
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=self._limit_s,
        )
        output = done.stdout.decode()
        assert done.returncode == 0, f"{place}: exit code {done.returncode}\n{output}"
        return output

    def _serve(self, block: Block, place: str) -> str:
        """Start a server, and return what it printed until it was ready."""
        self._stop_server()
        command = ["bash", "-c", f"exec {self._with_free_ports(block.text)}"]
        with self._log.open("wb") as log:
            self._server = subprocess.Popen(
                command, cwd=self._folder, env=self._environment(), stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )
        end = time.monotonic() + self._limit_s
        while time.monotonic() < end and self._server.poll() is None:
            output = self._log.read_text(encoding="utf-8")
            if _READY in output:
                return output
            time.sleep(0.1)
        raise AssertionError(f"{place}: the server is not ready\n{self._log.read_text(encoding='utf-8')}")

    def _stop_server(self) -> None:
        if self._server is None:
            return
        self._server.send_signal(signal.SIGINT)
        code = self._server.wait(self._limit_s)
        assert code in (0, 130), f"exit code {code} of the server\n{self._log.read_text(encoding='utf-8')}"
        self._server = None

    def _with_free_ports(self, text: str) -> str:
        """Replace the ports that a page names, and name that of the server to a client that takes the default."""
        port, http_port = map(str, self._ports)
        text = re.sub(r"\b50051\b", port, text)
        text = re.sub(r"\b8080\b", http_port, text)
        return text.replace("palm-serve call ", f"palm-serve call --target 127.0.0.1:{port} ")

    def _environment(self) -> Mapping[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return {**os.environ, **_QUICK, "PATH": path, "PALM_SERVE_PORT": str(self._ports[0])}


def copy_repository(folder: Path) -> None:
    """Copy what git would hold of the working tree: what a fresh clone has once it is committed.

    Args:
        folder: the new folder.
    """
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        source, target = ROOT / name, folder / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
            target.chmod(source.stat().st_mode)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
