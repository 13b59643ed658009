"""The file of tokens, and the methods that each scope allows."""

import hashlib
import logging
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from hypothesis import given
from hypothesis import strategies as st

from palm_serve.errors import NotAllowed, TokenFileError, Unauthenticated
from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as oip_stubs
from palm_serve.rpc.access.tokens import Scope, Tokens, client_name, new_token
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

RunningServer = Any  # of conftest.py, which cannot be imported by name
Headers = tuple[tuple[str, str], ...]


def entry(name: str, token: str, scopes: tuple[str, ...] = ("parse",), more: str = "") -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f'[tokens.{name}]\nsha256 = "{digest}"\nscopes = {list(scopes)}\n{more}\n'


def bearer(token: str) -> Headers:
    return (("authorization", f"Bearer {token}"),)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "tokens.toml"
    file.write_text(entry("web", "one") + entry("ops", "two", ("read", "control")))
    return file


@pytest.fixture(scope="module")
def path_of_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a file with one random token."""
    file = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    file.write_text(entry("web", new_token()[0], ("parse", "read", "control", "health")))
    return file


class TestTokens:
    def test_new_token_matches_its_hash(self, path: Path) -> None:
        token, digest = new_token()
        assert len(token) >= 48
        assert new_token()[0] != token
        path.write_text(f'[tokens.a]\nsha256 = "{digest}"\nscopes = ["parse"]')
        assert Tokens(path).check(bearer(token), Scope.PARSE) == "a"

    def test_check_requires_valid_token_and_scope(self, path: Path) -> None:
        tokens = Tokens(path)
        assert tokens.check(bearer("one"), Scope.PARSE) == "web"
        assert tokens.check((("authorization", "bEARER  two "),), Scope.CONTROL) == "ops"
        with pytest.raises(NotAllowed, match="'web' must have the scope 'control', got parse"):
            tokens.check(bearer("one"), Scope.CONTROL)
        for headers in (bearer("three"), bearer(""), bearer("on"), bearer("onee"), bearer("é")):
            with pytest.raises(Unauthenticated, match="unknown to this server, or was revoked"):
                tokens.check(headers, Scope.PARSE)
        basic: Headers = (("authorization", "Basic one"),)
        for without in ((), (("x-authorization", "Bearer one"),), basic, (("authorization", "one"),)):
            with pytest.raises(Unauthenticated, match="Send `authorization: Bearer TOKEN`"):
                tokens.check(without, Scope.PARSE)

    def test_check_accepts_certificate_names(self, path: Path) -> None:
        path.write_text('[tokens.backend]\ncertificate = "b.example"\nscopes = ["read"]\n' + entry("web", "one"))
        tokens = Tokens(path)

        def shown() -> list[bytes]:
            return [b"other", b"b.example"]

        assert tokens.check((), Scope.READ, shown) == "backend"
        assert tokens.check(bearer("one"), Scope.PARSE, shown) == "web"
        with pytest.raises(NotAllowed, match="'backend' must have the scope 'parse', got read"):
            tokens.check((), Scope.PARSE, shown)
        for identities in (lambda: None, lambda: [b"other", b"\xff"]):
            with pytest.raises(Unauthenticated, match="asks for a token"):
                tokens.check((), Scope.READ, identities)
        with pytest.raises(Unauthenticated, match="unknown"):
            tokens.check(bearer("other"), Scope.READ, shown)

    @pytest.mark.parametrize("form", ["{:%Y-%m-%d}", "{:%Y-%m-%dT%H:%M:%S}", "{:%Y-%m-%dT%H:%M:%S+00:00}"])
    def test_expired_token_is_unauthenticated(self, path: Path, form: str) -> None:
        now = datetime.now(UTC)
        for days, valid in ((-1, False), (2, True)):
            path.write_text(entry("web", "one", more=f"expires = {form.format(now + timedelta(days=days))}"))
            tokens = Tokens(path)
            if valid:
                assert tokens.check(bearer("one"), Scope.PARSE) == "web"
            else:
                with pytest.raises(Unauthenticated, match="the token 'web' expired at"):
                    tokens.check(bearer("one"), Scope.PARSE)

    def test_changed_file_is_read_at_the_next_call(self, path: Path) -> None:
        tokens = Tokens(path)
        for _ in range(20):
            path.write_text(entry("web", "new"))
            with pytest.raises(Unauthenticated):
                tokens.check(bearer("one"), Scope.PARSE)
            assert tokens.check(bearer("new"), Scope.PARSE) == "web"
            fresh = path.with_suffix(".new")
            fresh.write_text(entry("web", "one"))
            os.replace(fresh, path)
            assert tokens.check(bearer("one"), Scope.PARSE) == "web"

    def test_broken_file_keeps_former_tokens(self, path: Path, caplog: pytest.LogCaptureFixture) -> None:
        tokens = Tokens(path)
        good = path.read_text()
        with caplog.at_level(logging.ERROR, "palm_serve"):
            path.write_text("[tokens")
            for _ in range(3):
                assert tokens.check(bearer("one"), Scope.PARSE) == "web"
            path.unlink()
            assert tokens.check(bearer("one"), Scope.PARSE) == "web"
        assert [record.getMessage().split(":")[0] for record in caplog.records] == ["the tokens stay as they were"] * 2
        path.write_text(good.replace("web", "other"))
        assert tokens.check(bearer("one"), Scope.PARSE) == "other"

    def test_weight_of_a_client(self, path: Path) -> None:
        path.write_text(entry("web", "one", more="weight = 2") + entry("ops", "two"))
        tokens = Tokens(path)
        names = [client_name(tokens.check(bearer(token), Scope.PARSE)) for token in ("one", "two")]
        assert [tokens.client_weight(name) for name in (*names, "127.0.0.1", "web")] == [2.0, 1.0, 1.0, 1.0]
        path.write_text(entry("web", "one", more="weight = 0.5"))
        tokens.look()
        assert tokens.client_weight(names[0]) == 0.5

    @pytest.mark.parametrize(
        ("content", "match"),
        [
            ("tokens = 1", "must be a file of tokens"),
            ("[token.a]", "must be a file of tokens"),
            ('[tokens.a]\nsha256 = "secret-token"\nscopes = []', r"tokens.a.sha256: String should match"),
            (entry("a", "x", ("admin",)), "'parse', 'read', 'control', 'feedback', 'metrics' or 'health'"),
            (entry("a", "x", more="expire = 2020-01-01"), "tokens.a.expire: Extra inputs"),
            (
                entry("a", "x") + entry("b", "x"),
                "'b' must not have the token or certificate of 'a'. Give each entry its own",
            ),
            ('[tokens.a]\nscopes = ["parse"]', "either sha256 or certificate"),
            (entry("a", "x", more="weight = 0"), "tokens.a.weight: Input should be greater than or equal to 0.1"),
            (entry("a", "x", more="weight = nan"), "tokens.a.weight"),
            (entry("a", "x", more="weight = 101"), "tokens.a.weight: Input should be less than or equal to 100"),
            (entry("a", "x", more="weight = true"), "tokens.a.weight"),
            (entry("a", "x", more='certificate = "y"'), "either sha256 or certificate"),
            ("[", "must be TOML"),
            ("a = " + "9" * 5000, "a number has too many digits"),
            (entry("a", "x", more="expires = 9999-12-31T23:59:59-12:00"), "must lie in the years 1 to 9999 of UTC"),
            (entry("a", "x", more="expires = 0001-01-01T00:00:00+14:00"), "must lie in the years 1 to 9999 of UTC"),
        ],
    )
    def test_invalid_file_raises_token_file_error(self, path: Path, content: str, match: str) -> None:
        path.write_text(content)
        with pytest.raises(TokenFileError, match=match) as caught:
            Tokens(path)
        assert "secret-token" not in str(caught.value)

    def test_missing_file_raises_token_file_error(self, tmp_path: Path) -> None:
        with pytest.raises(TokenFileError, match="none cannot be read: No such file"):
            Tokens(tmp_path / "none")


def code(call: Callable[..., Any], request: Any, token: str = "") -> str:
    """Return the status name of a call, or of a stream's first response."""
    headers = bearer(token) if token else ()
    try:
        answer = call(request, timeout=5, metadata=headers)
        if hasattr(answer, "__next__"):
            next(answer)
            answer.cancel()
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


def test_revoked_token_ends_open_streams(make_rpc_server: Callable[..., RunningServer], path: Path) -> None:
    rpc_server = make_rpc_server(tokens=path)

    def requests() -> Any:
        yield pb.ParseRequest(text="sleep 0.2", request_id="a")
        time.sleep(0.1)
        path.write_text(entry("web", "new"))
        yield pb.ParseRequest(text="music", request_id="b")

    answers = stubs.DialogueUnderstandingStub(rpc_server.channel).ParseStream(
        requests(), metadata=bearer("one"), timeout=5
    )
    assert next(answers).request_id == "a"
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_rate_limit_counts_calls_by_token(make_rpc_server: Callable[..., RunningServer], path: Path) -> None:
    path.write_text(entry("web", "one") + entry("app", "two"))
    rpc_server = make_rpc_server(tokens=path, max_rate=0.01, max_burst=3)
    dialogue = stubs.DialogueUnderstandingStub(rpc_server.channel)
    batch = pb.ParseBatchRequest(requests=[pb.ParseRequest(text="a")] * 3)
    assert code(dialogue.ParseBatch, batch, "one") == "OK"
    with pytest.raises(grpc.RpcError) as caught:
        dialogue.Parse(pb.ParseRequest(text="a"), metadata=bearer("one"))
    assert "at most 0.01 requests a second and 3 at once" in caught.value.details()
    retry = error_details_pb2.RetryInfo()
    assert rpc_status.from_call(caught.value).details[0].Unpack(retry)
    assert 90 <= retry.retry_delay.seconds <= 100
    for expected in ("OK", "OK", "OK", "RESOURCE_EXHAUSTED"):
        assert code(dialogue.Parse, pb.ParseRequest(text="a"), "two") == expected
    health = health_pb2_grpc.HealthStub(rpc_server.channel)
    assert code(health.Check, health_pb2.HealthCheckRequest()) == "OK"
    assert code(dialogue.Parse, pb.ParseRequest(text="a"), "three") == "UNAUTHENTICATED"
    told = {(record.code, record.client) for record in rpc_server.observed}
    assert ("RESOURCE_EXHAUSTED", "token web") in told
    assert ("UNAUTHENTICATED", "127.0.0.1") in told


def test_stream_is_read_at_the_rate_limit(make_rpc_server: Callable[..., RunningServer]) -> None:
    dialogue = stubs.DialogueUnderstandingStub(make_rpc_server(max_rate=50, max_burst=5).channel)
    began = time.monotonic()
    items = list(dialogue.ParseStream(iter([pb.ParseRequest(text="music")] * 20)))
    assert len(items) == 20
    assert all(item.response.intent.name == "music" for item in items)
    assert time.monotonic() - began >= 15 / 50 - 0.02


def test_rate_limit_counts_rows_of_infer_request(make_rpc_server: Callable[..., RunningServer]) -> None:
    rpc_server = make_rpc_server(max_rate=0.01, max_burst=3)
    tensor = oip.ModelInferRequest.InferInputTensor(
        name="text", datatype="BYTES", shape=[5], contents=oip.InferTensorContents(bytes_contents=[b"a"] * 5)
    )
    infer = oip_stubs.GRPCInferenceServiceStub(rpc_server.channel).ModelInfer
    request = oip.ModelInferRequest(model_name="fake", inputs=[tensor])
    assert code(infer, request) == "OK"
    assert code(infer, request) == "RESOURCE_EXHAUSTED"


@given(header=st.text(max_size=200), scope=st.sampled_from(list(Scope)))
def test_arbitrary_headers_are_unauthenticated(path_of_one: Path, header: str, scope: Scope) -> None:
    tokens = Tokens(path_of_one)
    for value in (header, f"Bearer {header}", header.encode("utf-8", "replace")):
        with pytest.raises(Unauthenticated):
            tokens.check((("authorization", value),), scope)
