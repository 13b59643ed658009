"""The Python client with a real server, and with a server that follows a script of errors."""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from palm_serve.client import AsyncClient, Client, ServerError, read_token, tls
from palm_serve.client.credentials import headers
from palm_serve.errors import (
    DeadlineExceeded,
    InvalidRequest,
    NotAllowed,
    NotFound,
    Overloaded,
    PalmServeError,
    TlsError,
    TokenFileError,
    Unavailable,
    Unmeetable,
)
from palm_serve.rpc.messages.status import failure
from palm_serve.rpc.services.dialogue import error_item
from palm_serve.v1 import palm_pb2 as pb

TEXT = "please show me flights from boston to new york"


def test_blocking_client_calls_all_methods(tiny_server: str) -> None:
    with Client(tiny_server) as palm:
        answer = palm.parse(TEXT, request_id="r1", top_k=2, tasks=["intent", "slots"])
        assert (answer.request_id, answer.intent.name, len(answer.ranking)) == ("r1", "flight", 2)
        assert [slot.value for slot in answer.slots] == ["boston", "new york"]
        good, bad = palm.parse_batch(["play a song", " "])
        assert isinstance(good, pb.ParseResponse)
        assert good.intent.name == "music"
        assert isinstance(bad, InvalidRequest)
        assert "text must have at least one visible character, got a blank text" in str(bad)
        assert palm.predict("sentiment", "awful").result.classification.label.name == "negative"
        assert [model.name for model in palm.models()] == ["tiny"]
        assert palm.health()
        assert palm.health("tiny")
        with pytest.raises(NotFound, match="no model 'nope'"):
            palm.health("nope")


def test_asyncio_client_calls_all_methods(tiny_server: str) -> None:
    async def scenario() -> None:
        async with AsyncClient(tiny_server) as palm:
            answers = await asyncio.gather(*(palm.parse(TEXT) for _ in range(8)))
            assert {answer.intent.name for answer in answers} == {"flight"}
            good, bad = await palm.parse_batch(["play a song", ""])
            assert isinstance(good, pb.ParseResponse)
            assert isinstance(bad, InvalidRequest)
            assert (await palm.predict("sentiment", "great")).result.classification.label.name == "positive"
            assert [model.name for model in await palm.models()] == ["tiny"]
            assert await palm.health("tiny")
            with pytest.raises(NotFound, match="no model 'nope'"):
                await palm.parse(TEXT, model="nope")

    asyncio.run(scenario())


def test_server_errors_are_converted(tiny_server: str) -> None:
    with Client(tiny_server) as palm:
        with pytest.raises(InvalidRequest, match="unknown task 'nope'") as caught:
            palm.parse(TEXT, tasks=["nope"])
        assert caught.value.field == "tasks"
        with pytest.raises(InvalidRequest, match="lone surrogate at position 1"):
            palm.parse("a\ud800")


def test_session_id_is_sent_and_checked(tiny_server: str) -> None:
    with Client(tiny_server) as palm:
        assert palm.parse(TEXT, session_id="dialogue 7").intent.name == "flight"
        assert (
            palm.predict("sentiment", "great", session_id="dialogue 7").result.classification.label.name == "positive"
        )
        for bad in ("é", "a\n", "x" * 257):
            with pytest.raises(InvalidRequest, match="must be printable ASCII of at most 256 characters") as caught:
                palm.parse(TEXT, session_id=bad)
            assert caught.value.field == "session_id"


def test_missing_server_is_unavailable() -> None:
    began = time.monotonic()
    with Client("127.0.0.1:1") as palm, pytest.raises(Unavailable, match=r"at 127\.0\.0\.1:1: Connection refused"):
        palm.parse(TEXT)
    assert time.monotonic() - began < 5


class Script:
    """A server that answers ListModels and ParseBatch with the scripted errors in turn, and then with success."""

    def __init__(self) -> None:
        self.errors: list[Exception | None] = []
        """None: that call succeeds."""
        self.items: list[dict[str, Exception]] = []
        """For each ParseBatch: errors of some of its texts."""
        self.batches: list[list[str]] = []
        self.calls = 0
        self.peers: set[str] = set()
        self.headers: list[dict[str, str]] = []

    def list_models(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.begin(context)
        return pb.ListModelsResponse(models=[pb.Model(name="scripted")]).SerializeToString()

    def parse_batch(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self.begin(context)
        texts = [one.text for one in pb.ParseBatchRequest.FromString(request).requests]
        self.batches.append(texts)
        errors = self.items.pop(0) if self.items else {}
        items = [
            error_item(errors[text], "r") if text in errors else pb.ParseItem(response=pb.ParseResponse(text=text))
            for text in texts
        ]
        return pb.ParseBatchResponse(items=items).SerializeToString()

    def begin(self, context: grpc.ServicerContext) -> None:
        self.calls += 1
        self.peers.add(context.peer())
        self.headers.append(dict(context.invocation_metadata()))
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            if isinstance(error, TimeoutError):
                time.sleep(1)
            failed = failure(error, "r")
            context.set_trailing_metadata(failed.trailing_metadata())
            context.abort(failed.code, failed.message)


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def target(script: Script) -> Iterator[str]:
    handlers = {
        "Models": {"ListModels": grpc.unary_unary_rpc_method_handler(script.list_models)},
        "DialogueUnderstanding": {"ParseBatch": grpc.unary_unary_rpc_method_handler(script.parse_batch)},
    }
    with ThreadPoolExecutor(2) as pool:  # waits for handlers that outlive their call
        server = grpc.server(pool)
        server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(f"palm_serve.v1.{name}", methods)
                for name, methods in handlers.items()
            ]
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{port}"
        server.stop(None).wait()


def ask(kind: str, target: str, **options: Any) -> list[str]:
    """List the names of the models with either client."""
    if kind == "sync":
        with Client(target, **options) as palm:
            return [model.name for model in palm.models()]

    async def scenario() -> list[str]:
        async with AsyncClient(target, **options) as palm:
            return [model.name for model in await palm.models()]

    return asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["sync", "async"])
class TestRetries:
    def test_retries_follow_retry_info(self, kind: str, script: Script, target: str) -> None:
        script.errors = [Overloaded("full", 0.3), Unavailable("draining")]
        began = time.monotonic()
        assert ask(kind, target) == ["scripted"]
        assert script.calls == 3
        assert time.monotonic() - began >= 0.3 + 0.2

    def test_retries_share_connection_and_request_id(self, kind: str, script: Script, target: str) -> None:
        script.errors = [Overloaded("full", 0.01)] * 2
        ask(kind, target)
        assert script.calls == 3
        assert len(script.peers) == 1
        (name,) = {headers["x-request-id"] for headers in script.headers}
        assert len(name) == 32

    def test_retries_end_at_their_limit(self, kind: str, script: Script, target: str) -> None:
        script.errors = [Overloaded("full", 0.01)] * 9
        with pytest.raises(Overloaded, match="full") as caught:
            ask(kind, target, retries=2)
        assert script.calls == 3
        assert caught.value.retry_after_s == pytest.approx(0.01)

    def test_retries_stay_within_the_deadline(self, kind: str, script: Script, target: str) -> None:
        script.errors = [Overloaded("full", 60)]
        began = time.monotonic()
        with pytest.raises(Overloaded, match="full"):
            ask(kind, target, timeout_s=5)
        assert script.calls == 1
        assert time.monotonic() - began < 4

    @pytest.mark.parametrize(
        ("error", "match"),
        [
            (InvalidRequest("what", "text"), "what"),
            (NotFound("what"), "what"),
            (NotAllowed("what"), "what"),
            (KeyError("what"), "INTERNAL: internal error"),
        ],
    )
    def test_retries_skip_other_errors(
        self, kind: str, script: Script, target: str, error: Exception, match: str
    ) -> None:
        script.errors = [error]
        expected = type(error) if isinstance(error, PalmServeError) else ServerError
        with pytest.raises(expected, match=match):
            ask(kind, target)
        assert script.calls == 1

    def test_slow_call_raises_deadline_exceeded(self, kind: str, script: Script, target: str) -> None:
        script.errors = [TimeoutError()]
        with pytest.raises(DeadlineExceeded, match="within the deadline"):
            ask(kind, target, timeout_s=0.3)


def test_options_are_keyword_arguments() -> None:
    with pytest.raises(TypeError, match="timeout"):
        Client(timeout=1)  # type: ignore[call-arg]


def parse_batch(kind: str, target: str, texts: Sequence[str], **options: Any) -> list[str]:
    """Return the answered texts and the error classes of the others, with either client."""

    def told(outcomes: list[pb.ParseResponse | PalmServeError]) -> list[str]:
        return [one.text if isinstance(one, pb.ParseResponse) else type(one).__name__ for one in outcomes]

    if kind == "sync":
        with Client(target, **options) as palm:
            return told(palm.parse_batch(texts))

    async def scenario() -> list[str]:
        async with AsyncClient(target, **options) as palm:
            return told(await palm.parse_batch(texts))

    return asyncio.run(scenario())


@pytest.mark.parametrize("kind", ["sync", "async"])
class TestRefusedTexts:
    """Refused texts of a batch whose other texts are answered."""

    def test_refused_items_are_retried_and_no_others(self, kind: str, script: Script, target: str) -> None:
        full = Overloaded("full", 0.2)
        script.items = [{"b": full, "c": InvalidRequest("bad"), "d": full}, {"d": Unmeetable("late", 0.1)}]
        began = time.monotonic()
        assert parse_batch(kind, target, "abcd") == ["a", "b", "InvalidRequest", "d"]
        assert time.monotonic() - began >= 0.2 + 0.1
        assert script.batches == [["a", "b", "c", "d"], ["b", "d"], ["d"]]
        (name,) = {headers["x-request-id"] for headers in script.headers}
        assert name, "a share of the traffic is drawn by it: all tries go to one version"

    def test_refused_items_end_with_the_retries(self, kind: str, script: Script, target: str) -> None:
        script.items = [{"b": Overloaded("full", 0.01)}] * 9
        assert parse_batch(kind, target, "ab", retries=2) == ["a", "Overloaded"]
        assert script.batches == [["a", "b"], ["b"], ["b"]]

    def test_items_due_after_deadline_are_not_retried(self, kind: str, script: Script, target: str) -> None:
        script.items = [{"a": Overloaded("full", 60), "c": Overloaded("full", 0.01)}]
        assert parse_batch(kind, target, "abc", timeout_s=5) == ["Overloaded", "b", "c"]
        assert script.batches == [["a", "b", "c"], ["c"]]

    def test_later_failure_keeps_former_answers(self, kind: str, script: Script, target: str) -> None:
        script.items = [{"b": Overloaded("full", 0.01)}]
        script.errors = [None, NotAllowed("revoked")]
        assert parse_batch(kind, target, "ab") == ["a", "Overloaded"]
        assert script.calls == 2

    def test_failure_of_the_whole_batch_is_raised(self, kind: str, script: Script, target: str) -> None:
        script.errors = [Overloaded("full", 0.01), NotAllowed("revoked")]
        with pytest.raises(NotAllowed, match="revoked"):
            parse_batch(kind, target, "ab")
        assert parse_batch(kind, target, "") == []


def test_batch_larger_than_queue_is_answered(start_server: Callable[..., Any], tiny_bundle: Path) -> None:
    """A real server answers it part by part, so that no text is refused and no retry is needed."""
    process = start_server(tiny_bundle, "--max-queue", "4", "--log-level", "error")
    texts = ["play a song", "hello", "rain"] * 8
    with Client(process.target(), retries=0) as palm:
        answers = palm.parse_batch(texts)
    names = [answer.intent.name for answer in answers if isinstance(answer, pb.ParseResponse)]
    assert names == ["music", "greeting", "weather"] * 8


def test_retry_budget_is_shared_by_all_calls(script: Script, target: str) -> None:
    """A server that refuses everything receives few more calls than without retries."""
    script.errors = [Overloaded("full", 0.001)] * 1000
    with Client(target) as palm:
        for _ in range(60):
            with pytest.raises(Overloaded, match="full"):
                palm.models()
        assert 60 + 10 <= script.calls <= 60 + 10 + 60 / 5
        script.errors.clear()
        for _ in range(10):
            palm.models()
        script.errors, script.calls = [Overloaded("full", 0.001)], 0
        palm.models()
        assert script.calls == 2


class TestTokens:
    @pytest.mark.parametrize(
        "target",
        [
            "127.0.0.1:1",
            "localhost:1",
            "[::1]:1",
            "dns:///localhost:1",
            "ipv6:[::1]:1",
            "dns:127.0.0.9",
            "unix:/run/palm",
        ],
    )
    def test_tokens_stay_local_in_plain_text(self, target: str) -> None:
        Client(target, token="t").close()
        assert headers(target, None, "t", False) == (("authorization", "Bearer t"),)

    @pytest.mark.parametrize("target", ["10.0.0.7:1", "palm.example:1", "dns://8.8.8.8/palm:1", "[2001:db8::1]:1"])
    def test_tokens_leave_only_with_plain_token(self, target: str) -> None:
        with pytest.raises(TlsError, match=r"must not be sent to .* in plain text. Give credentials=tls"):
            Client(target, token="t")
        Client(target, token="t", plain_token=True).close()
        Client(target, token="t", credentials=tls()).close()

    @pytest.mark.parametrize("token", ["", "two\nlines", "é"])
    def test_invalid_token_raises_token_file_error(self, token: str) -> None:
        with pytest.raises(TokenFileError, match="printable ASCII"):
            Client(token=token)

    def test_missing_credential_files_raise_errors(self, tmp_path: Path) -> None:
        (tmp_path / "token").write_text("palm_x\n")
        assert read_token(tmp_path / "token") == "palm_x"
        with pytest.raises(TokenFileError, match="none cannot be read"):
            read_token(tmp_path / "none")
