"""A server with the part of the Hub's protocol that pushes and reads of bundles use: repositories, commits, files, Git LFS."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

LARGE_BYTES = 2_000
"""Larger files are sent by Git LFS, as on the Hub."""


@dataclass
class HubDouble:
    """The repositories, each a list of commits: the files after each, by name."""

    token: str
    repositories: dict[str, list[dict[str, bytes]]] = field(default_factory=dict)
    private: set[str] = field(default_factory=set)
    messages: list[str] = field(default_factory=list)
    large: dict[str, bytes] = field(default_factory=dict)
    """Contents of Git LFS by digest."""
    requests: list[str] = field(default_factory=list)
    url: str = ""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubDouble

    def log_message(self, *_: object) -> None:
        """Print nothing."""

    def do_GET(self) -> None:
        """Answer facts and contents."""
        self._answer()

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

    def _answer(self) -> None:
        hub = self.hub
        body = self.rfile.read(int(self.headers["Content-Length"] or 0))
        path = unquote(urlsplit(self.path).path)
        hub.requests.append(f"{self.command} {path}")
        if path.startswith("/lfs/"):  # addresses of a store, which need no token
            hub.large[path.removeprefix("/lfs/")] = body
            return self._send(200, b"")
        if self.headers["Authorization"] != f"Bearer {hub.token}":
            return self._send(401, b'{"error": "Invalid username or password."}')
        if path == "/api/validate-yaml":
            return self._send_json({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'owner'}/{asked['name']}"
            if name in hub.repositories:
                return self._send(409, json.dumps({"url": f"{hub.url}/{name}", "error": "exists"}).encode())
            hub.repositories[name] = [{}]
            if asked.get("private") or asked.get("visibility") == "private":
                hub.private.add(name)
            return self._send_json({"url": f"{hub.url}/{name}"})
        if found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = []
            for item in json.loads(body)["objects"]:
                upload = {"href": f"{hub.url}/lfs/{item['oid']}"}
                objects.append({**item, "actions": {} if item["oid"] in hub.large else {"upload": upload}})
            return self._send_json({"transfer": "basic", "objects": objects})
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._resolve(*found.groups())
        if (found := re.match(r"/api/models/([^/]+/[^/]+)(/.*)?$", path)) and found[1] in hub.repositories:
            return self._api(found[1], found[2] or "", body)
        return self._send(404, b'{"error": "not found"}', {"X-Error-Code": "RepoNotFound"})

    def _api(self, name: str, rest: str, body: bytes) -> None:
        commits = self.hub.repositories[name]
        if rest.startswith("/preupload/"):
            files = []
            for file in json.loads(body)["files"]:
                mode = "lfs" if file["size"] > LARGE_BYTES else "regular"
                files.append({"path": file["path"], "uploadMode": mode, "shouldIgnore": False, "oid": None})
            return self._send_json({"files": files})
        if rest.startswith("/commit/"):
            return self._commit(name, body)
        if rest.startswith("/paths-info/"):
            form = dict(part.split("=", 1) for part in body.decode().split("&")) if b"=" in body else json.loads(body)
            paths = form["paths"] if isinstance(form["paths"], list) else [unquote(form["paths"])]
            return self._send_json([_facts(path, commits[-1][path]) for path in paths if path in commits[-1]])
        if rest.startswith("/tree/"):
            return self._send_json([_facts(path, content) for path, content in commits[-1].items()])
        siblings = [{"rfilename": path} for path in commits[-1]]
        return self._send_json({"_id": "1", "id": name, "sha": _commit_id(name, len(commits)), "siblings": siblings})

    def _commit(self, name: str, body: bytes) -> None:
        commits = self.hub.repositories[name]
        files = dict(commits[-1])
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.hub.messages.append(value["summary"])
            elif entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                content = self.hub.large[value["oid"]]
                assert hashlib.sha256(content).hexdigest() == value["oid"]
                files[value["path"]] = content
        commits.append(files)
        commit = _commit_id(name, len(commits))
        self._send_json({"commitUrl": f"{self.hub.url}/{name}/commit/{commit}", "commitOid": commit, "success": True})

    def _resolve(self, name: str, revision: str, path: str) -> None:
        content = self.hub.repositories.get(name, [{}])[-1].get(path)
        if content is None:
            return self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        headers = {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": revision}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "")
        if asked is None:
            return self._send(200, content, headers)
        part = content[int(asked[1]) : int(asked[2] or len(content)) + 1]
        return self._send(206, part, headers)

    def _send_json(self, content: Any) -> None:
        self._send(200, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _commit_id(name: str, number: int) -> str:
    return hashlib.sha1(f"{name} {number}".encode()).hexdigest()


def _facts(path: str, content: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = {"type": "file", "path": path, "size": len(content)}
    facts["oid"] = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    if len(content) > LARGE_BYTES:
        digest = hashlib.sha256(content).hexdigest()
        facts["lfs"] = {"oid": digest, "size": len(content), "pointerSize": 127}
    return facts


@contextmanager
def running_hub(token: str) -> Iterator[HubDouble]:
    """Run a server, and yield what it holds."""
    hub = HubDouble(token)
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
