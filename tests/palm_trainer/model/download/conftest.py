"""A local server with the Hub's protocol, and faults on request."""

import hashlib
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import huggingface_hub
import pytest
from huggingface_hub.utils import close_session

from palm_trainer.model.download import hub as module

REPO = "google-bert/bert-base-uncased"
COMMIT = "86b5e0934494bd15c9632b12f734a8a67f723594"
LARGE = 1000  # bytes; larger files are in Git LFS, served from another address, as on the Hub


@dataclass
class Asked:
    """One request, and what of the body was sent."""

    method: str
    path: str
    range: str | None
    authorization: str | None
    status: int = 0
    sent: int = 0


@dataclass
class Hub:
    """The files of one repository; `fault(asked)` may return a status to answer with, or after how many bytes to hang up."""

    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[Asked] = field(default_factory=list)
    fault: Callable[[Asked], int | None] = lambda asked: None
    page: bool = False  # of a network that wants a log-in: HTML for everything
    gated: bool = False
    plain_etags: bool = False  # a mirror's, that are no checksums
    corrupt: str = ""  # the file of which other bytes are sent than were announced
    stalled: threading.Event = field(default_factory=threading.Event)
    stall: bool = False  # where `fault` cuts, keep the line open
    url: str = ""
    store: str = ""  # of large files: the same server by another name, so another host to the client

    def requests(self, name: str, method: str = "GET") -> list[Asked]:
        """Answered requests for the contents of a file, redirections aside."""
        digest = hashlib.sha256(self.files[name]).hexdigest()
        paths = (f"/{REPO}/resolve/{COMMIT}/{name}", f"/cdn/{digest}")
        return [a for a in self.asked if a.method == method and a.path in paths and a.status != 302]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        hub, path = self.hub, self.path.split("?")[0]
        file = path.removeprefix(f"/{REPO}/resolve/{COMMIT}/")
        asked = Asked(self.command, path, self.headers["Range"], self.headers["Authorization"])
        hub.asked.append(asked)
        fault = hub.fault(asked)
        if hub.page:
            self._send(asked, 200, b"<html>Please log in</html>", {"Content-Type": "text/html"})
        elif fault is not None and 400 <= fault < 600:
            self._send(asked, fault, b"")
        elif path.startswith(f"/api/models/{REPO}"):
            siblings = [{"rfilename": name} for name in hub.files]
            body = json.dumps({"_id": "1", "id": REPO, "modelId": REPO, "sha": COMMIT, "siblings": siblings})
            self._send(asked, 200, body.encode(), {"Content-Type": "application/json"})
        elif hub.gated:
            self._send(asked, 403, b"", {"X-Error-Code": "GatedRepo"})
        elif path.startswith(f"/{REPO}/resolve/{COMMIT}/") and file in hub.files:
            self._resolve(asked, file, fault)
        elif path.startswith("/cdn/"):
            digest = path.removeprefix("/cdn/")
            [name] = [name for name, body in hub.files.items() if hashlib.sha256(body).hexdigest() == digest]
            self._body(asked, name, {}, fault)
        else:
            self._send(asked, 404, b"", {"X-Error-Code": "RepoNotFound"})

    def _resolve(self, asked: Asked, name: str, fault: int | None) -> None:
        body = self.hub.files[name]
        headers = {"X-Repo-Commit": COMMIT}
        if len(body) <= LARGE:
            blob = hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
            self._body(asked, name, headers | {"ETag": 'W/"x1"' if self.hub.plain_etags else f'"{blob}"'}, fault)
            return
        digest = hashlib.sha256(body).hexdigest()
        headers |= {
            "X-Linked-Size": str(len(body)),
            "X-Linked-Etag": f'"{digest}"',
            "Location": f"{self.hub.store}/cdn/{digest}",
        }
        self._send(asked, 302, b"", headers)

    def _body(self, asked: Asked, name: str, headers: dict[str, str], cut: int | None) -> None:
        status, body = 200, self.hub.files[name]
        body = body[::-1] if name == self.hub.corrupt else body
        if asked.range is not None:
            start = int(asked.range.removeprefix("bytes=").removesuffix("-"))
            headers = headers | {"Content-Range": f"bytes {start}-{len(body) - 1}/{len(body)}"}
            status, body = 206, body[start:]
        self._send(asked, status, body, headers, cut)

    def _send(
        self, asked: Asked, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        asked.status = status
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        part = body if cut is None else body[:cut]
        self.wfile.write(part)
        self.wfile.flush()
        asked.sent = len(part)
        if cut is not None:
            self.close_connection = True
            if self.hub.stall:
                self.hub.stalled.wait(30)


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A running server, which HF_ENDPOINT names; no waits between tries, and partial files are written as they come."""
    served = Hub(
        files={
            "README.md": b"# not needed",
            "config.json": b'{"model_type": "bert"}',
            "vocab.txt": b"[PAD]\n[UNK]\n",
            "tokenizer_config.json": b'{"do_lower_case": true}',
            "tf_model.h5": b"not needed" * 1000,
            "model.safetensors": bytes(range(256)) * 32,
            "pytorch_model.bin": b"not needed either" * 1000,
        }
    )
    handler = type("Handler", (_Handler,), {"hub": served})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    served.url = f"http://127.0.0.1:{server.server_port}"
    served.store = f"http://localhost:{server.server_port}"
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)  # it was read when the tests began
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1000)
    monkeypatch.setattr(module, "_WAITS_S", (0.0, 0.0, 0.0))
    yield served
    served.stalled.set()
    close_session()
    server.shutdown()
    thread.join()
    server.server_close()
