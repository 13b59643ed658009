"""The playground's page, its files, and its examples."""

import json

import httpx2 as httpx
import pytest

from palm_serve.http.playground import FOLDER
from palm_serve.rpc.access.tokens import new_token

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
FILES = sorted(path.name for path in FOLDER.iterdir() if path.name != "index.html")


def open_client(process) -> httpx.Client:
    """Return a client of the page's address, once the server is ready."""
    process.wait_for("ready;")
    url = process.wait_for(r"^palm-serve: playground at (http://\S+)$")
    return httpx.Client(base_url=url, timeout=60, trust_env=False)


def test_browsers_get_the_page_and_others_the_greeting(door):
    page = door.get("/", headers=BROWSER)
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert page.text.startswith("<!doctype html>")
    assert page.headers["vary"] == "accept"
    assert door.get("/playground").text == page.text
    for accepted in ("*/*", "application/json", "text/plain"):
        assert door.get("/", headers={"Accept": accepted}).text.startswith("Hello from PALM")


@pytest.mark.parametrize("path", ["/playground", *(f"/playground/{name}" for name in FILES)])
def test_files_forbid_what_is_not_of_this_server(door, path):
    response = door.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"].split("; ")
    assert policy[0] == "default-src 'self'"
    assert "unsafe" not in response.headers["content-security-policy"]
    assert {"frame-ancestors 'none'", "base-uri 'none'", "require-trusted-types-for 'script'"} <= set(policy)
    assert response.headers["x-content-type-options"] == "nosniff"
    again = door.get(path, headers={"If-None-Match": response.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    head = door.client.head(path)
    assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", response.headers["etag"])


def test_page_is_small():
    sizes = [path.stat().st_size for path in FOLDER.iterdir()]
    assert len(sizes) >= 4
    assert sum(sizes) <= 60 * 1024


def test_page_names_only_files_that_are_served(door):
    page = door.get("/playground").text
    for name in ("playground/page.js", "playground/style.css", "playground/icon.svg"):
        assert f'"{name}"' in page
        assert door.get(f"/{name}").status_code == 200
    everything = "".join(path.read_text(encoding="utf-8") for path in FOLDER.iterdir())
    for sign in ("http://", "https://", "innerHTML", "insertAdjacentHTML", "eval(", "style="):
        assert sign not in everything.replace('"http://www.w3.org/2000/svg"', ""), sign


def test_pages_of_other_sites_cannot_read_the_examples(door):
    assert door.get("/playground/examples", headers={"Origin": "https://evil.example"}).status_code == 403
    assert door.client.post("/playground").status_code == 405


def test_examples_are_texts_of_the_golden_examples(door):
    examples = door.get("/playground/examples").json()["examples"]
    assert {"text": "please play a song"} in examples
    assert all(set(example) == {"text"} for example in examples)
    assert door.get("/playground/examples?model=nosuch").status_code == 404


def test_examples_are_short_and_of_different_answers(make_tiny_bundle, reseal_bundle, start_server, tmp_path):
    bundle = make_tiny_bundle(tmp_path / "a")
    lines = (bundle / "golden.jsonl").read_text(encoding="utf-8")
    further = [
        {"text": f"please play a song {n}", "pair": None, "answers": {"intent": {"label": "music"}}} for n in range(30)
    ]
    long = {"text": "a " * 200, "pair": None, "answers": {}}
    content = "".join(json.dumps(row) + "\n" for row in [long, *further]) + lines
    (bundle / "golden.jsonl").write_text(content, encoding="utf-8")
    reseal_bundle(bundle)
    with open_client(start_server(bundle, "--http-port", "0", "--drain-grace", "0")) as client:
        texts = [row["text"] for row in client.get("/playground/examples").json()["examples"]]
    assert len(texts) == 12
    assert texts[0] == "please play a song 0"
    assert "is the weather awful in 北京 next week?" in texts[:3]
    assert max(map(len, texts)) <= 120


def test_examples_need_the_scope_read(start_server, tiny_bundle, tmp_path):
    secrets = {}
    content = ""
    for scope in ("read", "parse"):
        secrets[scope], digest = new_token()
        content += f'[tokens.{scope}]\nsha256 = "{digest}"\nscopes = ["{scope}"]\n'
    tokens = tmp_path / "tokens.toml"
    tokens.write_text(content)
    with open_client(start_server(tiny_bundle, "--http-port", "0", "--tokens", tokens, "--host", "0.0.0.0")) as client:
        check_scopes(client, secrets)


def check_scopes(client, secrets):
    assert client.get("/playground").status_code == 200
    assert client.get("/playground/examples").status_code == 401
    for scope, status in (("parse", 403), ("read", 200)):
        headers = {"Authorization": f"Bearer {secrets[scope]}"}
        response = client.get("/playground/examples", headers=headers)
        assert response.status_code == status
    assert response.json()["examples"]


def test_strangers_get_no_examples(start_server, tiny_bundle):
    with open_client(start_server(tiny_bundle, "--http-port", "0", "--host", "0.0.0.0")) as client:
        assert client.base_url.host == "localhost"  # no browser opens 0.0.0.0 everywhere
        assert client.get("/playground/examples").json() == {"examples": []}


def test_server_prints_the_address_of_the_page(door):
    url = door.process.wait_for(r"^palm-serve: playground at (http://\S+)$")
    assert url == f"{door.url}/"
    assert httpx.get(url, headers=BROWSER, trust_env=False, timeout=60).text.startswith("<!doctype html>")
