"""Ask a real server, through the client, every text of `data/texts.jsonl`.

`make.sh` calls this file with the code of the old commit. The test calls the same functions with the code of today.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict

from palm_serve.client import Client

OPTIONS = ("--port", "0", "--provider", "CPU", "--precision", "fp32")
CHANGING = ("timings", "requestId")
"""Fields of a response that differ from call to call."""


@contextmanager
def server(command: Sequence[str], bundle: Path) -> Iterator[str]:
    """Start a server process, and stop it at the end of the block.

    Args:
        command: what runs `palm-serve`.
        bundle: the bundle to serve.

    Yields:
        The address of the server.
    """
    process = subprocess.Popen([*command, "run", str(bundle), *OPTIONS], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    target = ""
    try:
        for line in process.stdout:
            address = re.search(r"listening on (\S+)", line)
            target = address[1] if address else target
            if "ready" in line:
                break
        assert target, f"the server ended with code {process.wait()}"
        yield target
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def ask(target: str, texts: Path) -> list[dict[str, Any]]:
    """Ask for the answer of every task to every text that it reads.

    Args:
        target: the address of the server.
        texts: JSON lines with `text`, and `text_pair` for the tasks on pairs.

    Returns:
        One record a call, without the fields that differ from call to call.
    """
    rows = [json.loads(line) for line in texts.read_text(encoding="utf-8").splitlines()]
    records = []
    with Client(target) as client:
        for row in rows:
            if "text_pair" in row:
                for task in ("same", "answer"):
                    records.append(_record(client.predict(task, row["text"], row["text_pair"])))
            else:
                records.append(_record(client.parse(row["text"])))
                records.append(_record(client.predict("topics", row["text"], top_k=2)))
    return records


def _record(response: Any) -> dict[str, Any]:
    fields: dict[str, Any] = MessageToDict(response)
    return {name: value for name, value in fields.items() if name not in CHANGING}


def main() -> None:
    """Write the record: `served.py BUNDLE TEXTS RECORD`."""
    bundle, texts, record = (Path(argument) for argument in sys.argv[1:])
    with server(["palm-serve"], bundle) as target:
        records = ask(target, texts)
    lines = [json.dumps(answer, ensure_ascii=False) + "\n" for answer in records]
    record.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
