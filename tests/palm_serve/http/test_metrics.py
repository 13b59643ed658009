"""Prometheus metrics on the HTTP door."""

import re

from palm_serve.rpc.access.tokens import new_token


def test_metrics_count_the_calls_of_both_doors(door):
    door.post("/model/parse", {"text": "hello"})
    response = door.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=")
    assert 'palm_requests_total{code="OK",door="http",method="Parse"} 1.0' in response.text
    assert "palm_serving 1.0" in response.text
    assert not re.search(r"_created\b", response.text)


def test_metrics_need_their_scope_where_tokens_are_required(make_door, tmp_path):
    tokens, entries = {}, []
    for scope in ("metrics", "parse"):
        tokens[scope], digest = new_token()
        entries.append(f'[tokens.{scope}]\nsha256 = "{digest}"\nscopes = ["{scope}"]\n')
    file = tmp_path / "tokens.toml"
    file.write_text("".join(entries))
    door = make_door("--tokens", file)
    assert door.get("/metrics").status_code == 401
    for scope, status in (("parse", 403), ("metrics", 200)):
        assert door.get("/metrics", headers={"Authorization": f"Bearer {tokens[scope]}"}).status_code == status
