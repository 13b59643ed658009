"""Every RPC over a real connection."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palm_serve.errors import BundleError, Overloaded
from palm_serve.registry import LoadFailure
from palm_serve.rpc.lifecycle import State
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.v1 import palm_pb2_grpc as stubs

RunningServer = Any  # of conftest.py, which cannot be imported by name
UTF16, UTF8 = pb.OffsetUnit.OFFSET_UNIT_UTF16, pb.OffsetUnit.OFFSET_UNIT_UTF8_BYTE


def refused(code: str, call: Callable[..., Any], request: Any, **options: Any) -> grpc.RpcError:
    """Return the error of a call that must fail with this code."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=5, **options)
    assert caught.value.code().name == code, caught.value.details()
    return caught.value


def raw(rpc_server: RunningServer, method: str) -> Callable[..., bytes]:
    """Return a call that sends unchanged bytes."""
    call: Callable[..., bytes] = rpc_server.channel.unary_unary(f"/palm_serve.v1.{method}")
    return call


def violated(error: grpc.RpcError) -> str:
    """Return the field that google.rpc.BadRequest names."""
    bad = error_details_pb2.BadRequest()
    assert rpc_status.from_call(error).details[0].Unpack(bad)
    return str(bad.field_violations[0].field)


@pytest.fixture
def dialogue(rpc_server: RunningServer) -> stubs.DialogueUnderstandingStub:
    return stubs.DialogueUnderstandingStub(rpc_server.channel)


@pytest.fixture
def predict(rpc_server: RunningServer) -> Callable[..., pb.PredictResponse]:
    call: Callable[..., pb.PredictResponse] = stubs.PredictionStub(rpc_server.channel).Predict
    return call


class TestParse:
    def test_parse_answers_all_single_text_tasks(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        request = pb.ParseRequest(text="a flight for Zoë, a flight", request_id="mine")
        answer, call = dialogue.Parse.with_call(request)
        assert (answer.request_id, answer.model, answer.version, answer.text) == (
            "mine",
            "fake",
            "f" * 64,
            request.text,
        )
        assert dict(call.trailing_metadata())["x-request-id"] == "mine"
        assert answer.intent.name == "flight"
        assert answer.intent.confidence == pytest.approx(0.6)
        assert [label.name for label in answer.ranking] == ["flight", "weather", "music"]
        assert answer.ranking[0] == answer.intent
        assert [(s.name, s.value, s.start, s.end) for s in answer.slots] == [("name", "Zoë", 13, 16)]
        assert [result.task for result in answer.results] == ["topics"]
        assert answer.results[0].classification.labels[0].name == "long"
        assert answer.HasField("fallback")
        assert not answer.fallback.triggered
        assert answer.fallback.out_of_scope_score == pytest.approx(0.4)
        assert (answer.truncated, answer.seen) == (False, len(request.text))
        assert answer.timings == pb.Timings(tokenize_us=1, queue_us=2, inference_us=3, decode_us=4, batch_size=5)

    def test_request_ids_are_created_and_echoed(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        first, call = dialogue.Parse.with_call(pb.ParseRequest(text="a"))
        assert len(first.request_id) == 32
        assert dict(call.trailing_metadata())["x-request-id"] == first.request_id
        assert dialogue.Parse(pb.ParseRequest(text="a")).request_id != first.request_id
        from_header = dialogue.Parse(pb.ParseRequest(text="a"), metadata=[("x-request-id", "h1")])
        assert from_header.request_id == "h1"

    def test_request_id_is_percent_encoded_in_header(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        answer, call = dialogue.Parse.with_call(pb.ParseRequest(text="a", request_id="北\n1"))
        assert answer.request_id == "北\n1"
        assert dict(call.trailing_metadata())["x-request-id"] == "%E5%8C%97%0A1"
        error = refused("INVALID_ARGUMENT", dialogue.Parse, pb.ParseRequest(text="a", request_id="x" * 257))
        assert violated(error) == "request_id"

    def test_failed_call_returns_its_request_id(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        error = refused("INVALID_ARGUMENT", dialogue.Parse, pb.ParseRequest(request_id="r7"))
        assert dict(error.trailing_metadata())["x-request-id"] == "r7"
        assert violated(error) == "text"

    @pytest.mark.parametrize(("unit", "start", "end", "seen"), [(0, 2, 6, 6), (UTF16, 3, 8, 8), (UTF8, 5, 12, 12)])
    def test_parse_uses_the_offset_unit(
        self, dialogue: stubs.DialogueUnderstandingStub, unit: int, start: int, end: int, seen: int
    ) -> None:
        # An upper-case Deseret letter lies beyond the basic plane.
        text = "😀 Ab\U00010400c"
        answer = dialogue.Parse(pb.ParseRequest(text=text, offset_unit=unit, tasks=["slots"]))
        (slot,) = answer.slots
        assert (slot.value, slot.start, slot.end, answer.seen) == (text[2:], start, end, seen)

    def test_parse_reports_truncation_in_the_unit(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        answer = dialogue.Parse(pb.ParseRequest(text="é" * 45, offset_unit=UTF8, tasks=["topics"]))
        assert (answer.truncated, answer.seen) == (True, 80)

    def test_parse_runs_only_selected_tasks(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        answer = dialogue.Parse(pb.ParseRequest(text="a flight for Ada", tasks=["slots"]))
        assert len(answer.slots) == 1
        set_fields = {field.name for field, _ in answer.ListFields()}
        assert set_fields.isdisjoint({"intent", "fallback", "ranking", "results"})

    def test_parse_thresholds_override_the_bundle(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        def reason(**thresholds: float) -> str:
            request = pb.ParseRequest(text="music", top_k=1, thresholds=pb.Thresholds(**thresholds))
            answer = dialogue.Parse(request)  # music 0.5, others 0.25
            assert answer.intent.name == "music"
            assert len(answer.ranking) == 1
            assert answer.fallback.triggered == bool(answer.fallback.reason)
            return pb.Fallback.Reason.Name(answer.fallback.reason)

        assert reason() == "REASON_UNSPECIFIED"
        assert reason(intent_confidence=0.6) == "LOW_CONFIDENCE"
        assert reason(ambiguity_margin=0.3) == "AMBIGUOUS"
        assert reason(out_of_scope=0.4) == "OUT_OF_SCOPE"
        low = dialogue.Parse(pb.ParseRequest(text="nothing"))  # the bundle's own: 0.4
        assert (low.intent.name, low.fallback.reason) == ("flight", pb.Fallback.LOW_CONFIDENCE)

    @pytest.mark.parametrize(
        ("data", "match"),
        [
            (
                b"\xff\xff\xff",
                "must be a message of type palm_serve.v1.ParseRequest with UTF-8 strings, got 3 other bytes",
            ),
            (b"\x0a\x02\xc3\x28", "ParseRequest with UTF-8 strings"),
            (pb.ParseRequest(text="a", offset_unit=77).SerializeToString(), "OFFSET_UNIT_UTF8_BYTE = 3, got 77"),
            (pb.ParseRequest(text="a", tasks=["x"]).SerializeToString(), "unknown task 'x'"),
            (pb.ParseRequest(text="a" * 101).SerializeToString(), "must have at most 100 bytes, got 101"),
        ],
    )
    def test_invalid_bytes_are_refused(self, rpc_server: RunningServer, data: bytes, match: str) -> None:
        error = refused("INVALID_ARGUMENT", raw(rpc_server, "DialogueUnderstanding/Parse"), data)
        assert match in error.details()
        assert rpc_status.from_call(error).code == code_pb2.INVALID_ARGUMENT
        assert "palm_pb2" not in error.details()

    def test_unknown_model_is_not_found(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        error = refused("NOT_FOUND", dialogue.Parse, pb.ParseRequest(text="a", model="nope"))
        assert "no model 'nope'" in error.details()
        refused("NOT_FOUND", dialogue.Parse, pb.ParseRequest(text="a", version="nope"))

    def test_internal_error_hides_its_message(
        self, dialogue: stubs.DialogueUnderstandingStub, caplog: pytest.LogCaptureFixture
    ) -> None:
        error = refused("INTERNAL", dialogue.Parse, pb.ParseRequest(text="crash", request_id="r9"))
        assert error.details() == "internal error (request id r9)"
        assert "secret at /home" in caplog.text
        assert "r9" in caplog.text

    def test_overload_has_retry_info(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        error = refused("RESOURCE_EXHAUSTED", dialogue.Parse, pb.ParseRequest(text="overloaded"))
        retry = error_details_pb2.RetryInfo()
        assert rpc_status.from_call(error).details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 250

    def test_overload_is_told_before_the_message_is_read(
        self, rpc_server: RunningServer, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The message of this call never comes."""
        monkeypatch.setattr(rpc_server.registry, "overload", Overloaded("the queue is full", 0.25))
        silent = threading.Event()

        def messages() -> Iterator[bytes]:
            silent.wait(30)
            yield from ()

        for method in ("DialogueUnderstanding/Parse", "Prediction/Predict"):
            call = rpc_server.channel.stream_unary(f"/palm_serve.v1.{method}")
            error = refused("RESOURCE_EXHAUSTED", call, messages())
            assert "the queue is full" in error.details()
            assert ("grpc-retry-pushback-ms", "250") in error.trailing_metadata()
        silent.set()

    def test_deadline_is_passed_to_the_pipeline(
        self, rpc_server: RunningServer, dialogue: stubs.DialogueUnderstandingStub
    ) -> None:
        dialogue.Parse(pb.ParseRequest(text="by then"), timeout=3)
        deadline = rpc_server.model.requests[-1].deadline
        assert deadline - time.monotonic() == pytest.approx(3, abs=1)  # grpc rounds up a little
        dialogue.Parse(pb.ParseRequest(text="no haste"))
        assert rpc_server.model.requests[-1].deadline is None

    def test_passed_deadline_cancels_the_request(
        self, rpc_server: RunningServer, dialogue: stubs.DialogueUnderstandingStub
    ) -> None:
        before = rpc_server.model.cancelled
        with pytest.raises(grpc.RpcError) as caught:
            dialogue.Parse(pb.ParseRequest(text="sleep 5"), timeout=0.1)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert eventually(lambda: rpc_server.model.cancelled == before + 1)

    def test_message_over_limit_is_refused(self, rpc_server: RunningServer) -> None:
        refused("RESOURCE_EXHAUSTED", raw(rpc_server, "DialogueUnderstanding/Parse"), bytes(5_000))


def eventually(condition: Callable[[], bool], seconds: float = 3) -> bool:
    """Wait a few seconds for a condition and return whether it holds."""
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)
    return condition()


class TestParseBatch:
    def test_batch_reports_errors_at_their_positions(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        requests = [
            pb.ParseRequest(text="a flight", request_id="a"),
            pb.ParseRequest(text=" ", request_id="b"),
            pb.ParseRequest(text="overloaded", request_id="c"),
            pb.ParseRequest(text="music", model="nope"),
        ]
        items = dialogue.ParseBatch(pb.ParseBatchRequest(requests=requests)).items
        assert [item.WhichOneof("outcome") for item in items] == ["response", "error", "error", "error"]
        assert [item.request_id for item in items[:3]] == ["a", "b", "c"]
        assert items[0].response.intent.name == "flight"
        assert items[0].response.request_id == "a"
        codes = [code_pb2.Code.Name(item.error.code) for item in items[1:]]
        assert codes == ["INVALID_ARGUMENT", "RESOURCE_EXHAUSTED", "NOT_FOUND"]
        assert "text must have at least one visible character, got a blank text" in items[1].error.message
        assert [item.error.retry_after_ms for item in items] == [0, 0, 250, 0]

    def test_batch_without_room_is_refused_unchecked_and_each_priority_for_itself(
        self, rpc_server: RunningServer, dialogue: stubs.DialogueUnderstandingStub
    ) -> None:
        before = len(rpc_server.model.requests)
        requests = [
            pb.ParseRequest(text="full", priority=pb.PRIORITY_BATCH, request_id="a"),
            pb.ParseRequest(text=" ", priority=pb.PRIORITY_BATCH, request_id="b"),
            pb.ParseRequest(text="a flight", request_id="c"),
            pb.ParseRequest(text="music", priority=pb.PRIORITY_BATCH),
        ]
        items = dialogue.ParseBatch(pb.ParseBatchRequest(requests=requests)).items
        assert [item.WhichOneof("outcome") for item in items] == ["error", "error", "response", "error"]
        assert [item.request_id for item in items[:3]] == ["a", "b", "c"]
        assert len(items[3].request_id) == 32
        for item in (items[0], items[1], items[3]):
            assert code_pb2.Code.Name(item.error.code) == "RESOURCE_EXHAUSTED"
            assert item.error.retry_after_ms == 250
        assert [request.text for request in rpc_server.model.requests[before:]] == ["a flight"]
        assert len(rpc_server.model.refusals) == 3

    def test_batch_empty_and_over_limit(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        assert not dialogue.ParseBatch(pb.ParseBatchRequest()).items
        large = pb.ParseBatchRequest(requests=[pb.ParseRequest(text="a")] * 5)
        error = refused("INVALID_ARGUMENT", dialogue.ParseBatch, large)
        assert "requests must have at most 4 items, got 5" in error.details()
        assert violated(error) == "requests"

    def test_batch_internal_error_hides_its_message(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        batch = pb.ParseBatchRequest(requests=[pb.ParseRequest(text="crash")])
        assert "secret" not in refused("INTERNAL", dialogue.ParseBatch, batch).details()


class TestParseStream:
    def test_stream_answers_arrive_when_ready(self, dialogue: stubs.DialogueUnderstandingStub) -> None:
        requests = [
            pb.ParseRequest(text="sleep 0.3", request_id="slow"),
            pb.ParseRequest(text="music", request_id="quick"),
            pb.ParseRequest(text=" ", request_id="bad"),
            pb.ParseRequest(text="crash", request_id="crash"),
            pb.ParseRequest(text="flight", request_id="last"),
        ]
        items = list(dialogue.ParseStream(iter(requests)))
        by_id = {item.request_id: item for item in items}
        assert set(by_id) == {"slow", "quick", "bad", "crash", "last"}
        assert items[-1].request_id == "slow"
        assert by_id["quick"].response.intent.name == "music"
        assert code_pb2.Code.Name(by_id["bad"].error.code) == "INVALID_ARGUMENT"
        assert by_id["crash"].error.message == "internal error (request id crash)"

    def test_stream_answers_invalid_bytes_and_continues(self, rpc_server: RunningServer) -> None:
        call = rpc_server.channel.stream_stream(
            "/palm_serve.v1.DialogueUnderstanding/ParseStream", response_deserializer=pb.ParseItem.FromString
        )
        good = pb.ParseRequest(text="a", request_id="good").SerializeToString()
        items = list(call(iter([b"\xff\xff", good])))
        assert sorted(item.WhichOneof("outcome") for item in items) == ["error", "response"]

    def test_stream_limits_unanswered_items(
        self, rpc_server: RunningServer, dialogue: stubs.DialogueUnderstandingStub
    ) -> None:
        before = len(rpc_server.model.requests)
        requests = [pb.ParseRequest(text="sleep 0.2")] * 6
        responses = dialogue.ParseStream(iter(requests))
        assert eventually(lambda: len(rpc_server.model.requests) > before)
        assert len(rpc_server.model.requests) - before <= 2
        assert len(list(responses)) == 6

    def test_cancelled_stream_cancels_its_items(
        self, rpc_server: RunningServer, dialogue: stubs.DialogueUnderstandingStub
    ) -> None:
        before = rpc_server.model.cancelled
        asked = len(rpc_server.model.requests)
        responses = dialogue.ParseStream(iter([pb.ParseRequest(text="sleep 5")] * 2))
        assert eventually(lambda: len(rpc_server.model.requests) == asked + 2)
        responses.cancel()
        assert eventually(lambda: rpc_server.model.cancelled == before + 2)
        assert eventually(
            lambda: (rpc_server.observed[-1].method, rpc_server.observed[-1].code) == ("ParseStream", "CANCELLED")
        )

    def test_disconnected_clients_log_no_errors(
        self, rpc_server: RunningServer, dialogue: stubs.DialogueUnderstandingStub, caplog: pytest.LogCaptureFixture
    ) -> None:
        asked = len(rpc_server.observed)
        for _ in range(40):
            responses = dialogue.ParseStream(iter([pb.ParseRequest(text="music")] * 8))
            next(responses)
            responses.cancel()
        assert eventually(lambda: len(rpc_server.observed) == asked + 40)
        assert {seen.code for seen in rpc_server.observed[asked:]} <= {"CANCELLED", "OK"}
        assert caplog.text == ""

    def test_draining_stream_answers_read_messages(self, make_rpc_server: Callable[..., RunningServer]) -> None:
        rpc_server = make_rpc_server()
        stop = threading.Event()

        def requests() -> Iterator[pb.ParseRequest]:
            yield pb.ParseRequest(text="sleep 0.3", request_id="a")
            stop.wait(5)

        responses = stubs.DialogueUnderstandingStub(rpc_server.channel).ParseStream(requests())
        assert eventually(lambda: len(rpc_server.model.requests) == 1)
        rpc_server.set_state(State.DRAINING)
        assert next(responses).request_id == "a"
        with pytest.raises(grpc.RpcError) as caught:
            next(responses)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "Open the stream again" in caught.value.details()
        stop.set()


class TestPredict:
    def test_predict_classification(self, predict: Callable[..., pb.PredictResponse]) -> None:
        answer = predict(pb.PredictRequest(task="intent", text="music", request_id="r", top_k=2))
        assert (answer.request_id, answer.model, answer.result.task) == ("r", "fake", "intent")
        assert answer.result.classification.label.name == "music"
        assert len(answer.result.classification.ranking) == 2

    def test_predict_spans(self, predict: Callable[..., pb.PredictResponse]) -> None:
        answer = predict(pb.PredictRequest(task="slots", text="😀 Ada", offset_unit=UTF16))
        assert [(s.value, s.start, s.end) for s in answer.result.spans.spans] == [("Ada", 3, 6)]

    def test_predict_match(self, predict: Callable[..., pb.PredictResponse]) -> None:
        answer = predict(pb.PredictRequest(task="same", text="a b c", text_pair="a b"))
        assert answer.result.match.label.name == "yes"
        assert answer.result.match.score == pytest.approx(2 / 3)

    def test_predict_answer_offsets_refer_to_the_passage(self, predict: Callable[..., pb.PredictResponse]) -> None:
        passage = "😀😀 in Paris"
        request = pb.PredictRequest(task="answer", text="Paris", text_pair=passage, offset_unit=UTF8)
        answer = predict(request).result.answer
        assert passage.encode()[answer.start : answer.end].decode() == answer.text == "Paris"
        (other,) = answer.alternatives
        assert passage.encode()[other.start : other.end].decode() == other.text == "P"
        nothing = predict(pb.PredictRequest(task="answer", text="Rome", text_pair=passage)).result.answer
        assert nothing.no_answer
        assert nothing.text == ""

    def test_predict_invalid_bytes_are_refused(self, rpc_server: RunningServer) -> None:
        refused("INVALID_ARGUMENT", raw(rpc_server, "Prediction/Predict"), b"\xff")


class TestModels:
    def test_list_models_and_get_model(self, rpc_server: RunningServer) -> None:
        models = stubs.ModelsStub(rpc_server.channel)
        (model,) = models.ListModels(pb.ListModelsRequest()).models
        assert model == models.GetModel(pb.GetModelRequest(name="fake"))
        assert (model.name, model.version, list(model.labels), model.ready) == ("fake", "f" * 64, ["stable"], True)
        assert (model.max_length_tokens, model.max_text_bytes) == (16, 100)
        assert (model.provider, model.precision) == ("CPU", "fp32")
        tasks = {task.name: task for task in model.tasks}
        assert (tasks["slots"].kind, tasks["slots"].role) == ("sequence_label", "slots")
        assert list(tasks["slots"].labels) == ["name", "hour"]
        assert list(tasks["intent"].labels) == ["flight", "weather", "music"]
        refused("NOT_FOUND", models.GetModel, pb.GetModelRequest(name="nope"))

    def test_model_control_is_off_by_default(self, rpc_server: RunningServer) -> None:
        models = stubs.ModelsStub(rpc_server.channel)
        error = refused("PERMISSION_DENIED", models.LoadModel, pb.LoadModelRequest(name="other"))
        assert "--allow-model-control" in error.details()
        refused("PERMISSION_DENIED", models.UnloadModel, pb.UnloadModelRequest(name="fake"))

    def test_load_model_and_unload_model(self, make_rpc_server: Callable[..., RunningServer], tmp_path: Path) -> None:
        rpc_server = make_rpc_server(allow_model_control=True, model_folder=tmp_path)
        models = stubs.ModelsStub(rpc_server.channel)
        assert models.LoadModel(pb.LoadModelRequest(name="other")).name == "other"
        assert len(models.ListModels(pb.ListModelsRequest()).models) == 2
        models.UnloadModel(pb.UnloadModelRequest(name="other"))
        assert len(models.ListModels(pb.ListModelsRequest()).models) == 1
        refused("NOT_FOUND", models.UnloadModel, pb.UnloadModelRequest(name="other"))
        refused("INVALID_ARGUMENT", models.UnloadModel, pb.UnloadModelRequest())
        refused("NOT_FOUND", models.LoadModel, pb.LoadModelRequest(name="absent"))
        for name in ("../other", "/etc", "", "a/b", "..", "a" * 101):
            error = refused("INVALID_ARGUMENT", models.LoadModel, pb.LoadModelRequest(name=name))
            assert "not a path" in error.details()
        broken = refused("INVALID_ARGUMENT", models.LoadModel, pb.LoadModelRequest(name="broken"))
        assert "secret" not in broken.details()

    def test_load_failure_hides_paths(self, make_rpc_server: Callable[..., RunningServer]) -> None:
        rpc_server = make_rpc_server()
        error = BundleError("/home/secret/model.onnx: changed byte")
        rpc_server.registry.failures["fake", "canary"] = LoadFailure("fake", "canary", error)
        answer = stubs.ModelsStub(rpc_server.channel).ListModels(pb.ListModelsRequest())
        assert [(failure.name, failure.label) for failure in answer.failures] == [("fake", "canary")]
        assert "secret" not in str(answer)
        health = health_pb2_grpc.HealthStub(rpc_server.channel)
        assert health.Check(health_pb2.HealthCheckRequest(service="fake")).status == 1, "the old version goes on"
        rpc_server.registry.failures["new", "stable"] = LoadFailure("new", "stable", error)
        assert health.Check(health_pb2.HealthCheckRequest(service="new")).status == 2
        assert health.Check(health_pb2.HealthCheckRequest()).status == 1

    def test_load_model_requires_a_model_folder(self, make_rpc_server: Callable[..., RunningServer]) -> None:
        models = stubs.ModelsStub(make_rpc_server(allow_model_control=True).channel)
        error = refused("PERMISSION_DENIED", models.LoadModel, pb.LoadModelRequest(name="other"))
        assert "--model-folder" in error.details()


class TestHealth:
    SERVING, NOT_SERVING, UNKNOWN = 1, 2, 3

    def test_health_follows_the_server_state(self, make_rpc_server: Callable[..., RunningServer]) -> None:
        rpc_server = make_rpc_server(state=State.LOADING)
        health = health_pb2_grpc.HealthStub(rpc_server.channel)

        def check(name: str = "") -> int:
            return int(health.Check(health_pb2.HealthCheckRequest(service=name)).status)

        watched = health.Watch(health_pb2.HealthCheckRequest())
        assert next(watched).status == check() == check("fake") == self.NOT_SERVING
        parse = stubs.DialogueUnderstandingStub(rpc_server.channel).Parse
        assert "loading" in refused("UNAVAILABLE", parse, pb.ParseRequest(text="a")).details()
        rpc_server.set_state(State.SERVING)
        assert next(watched).status == check() == check("fake") == self.SERVING
        refused("NOT_FOUND", health.Check, health_pb2.HealthCheckRequest(service="nope"))
        rpc_server.model.ready = False  # nobody tells health
        assert next(watched).status == check() == check("fake") == self.NOT_SERVING
        rpc_server.model.ready = True
        assert next(watched).status == self.SERVING
        rpc_server.set_state(State.DRAINING)
        assert check() == self.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            list(watched)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE

    def test_health_watch_follows_a_model(self, make_rpc_server: Callable[..., RunningServer], tmp_path: Path) -> None:
        rpc_server = make_rpc_server(allow_model_control=True, model_folder=tmp_path)
        watched = health_pb2_grpc.HealthStub(rpc_server.channel).Watch(health_pb2.HealthCheckRequest(service="other"))
        models = stubs.ModelsStub(rpc_server.channel)
        assert next(watched).status == self.UNKNOWN
        models.LoadModel(pb.LoadModelRequest(name="other"))
        assert next(watched).status == self.SERVING
        models.UnloadModel(pb.UnloadModelRequest(name="other"))
        assert next(watched).status == self.UNKNOWN
        watched.cancel()

    def test_health_without_models_is_not_serving(self, make_rpc_server: Callable[..., RunningServer]) -> None:
        rpc_server = make_rpc_server()
        rpc_server.registry.models.clear()
        health = health_pb2_grpc.HealthStub(rpc_server.channel)
        assert health.Check(health_pb2.HealthCheckRequest()).status == self.NOT_SERVING


def test_calls_per_client_are_limited(make_rpc_server: Callable[..., RunningServer]) -> None:
    rpc_server = make_rpc_server(max_calls_per_client=2)
    parse = stubs.DialogueUnderstandingStub(rpc_server.channel).Parse
    with ThreadPoolExecutor(2) as pool:
        running = [pool.submit(parse, pb.ParseRequest(text="sleep 0.4")) for _ in range(2)]
        assert eventually(lambda: len(rpc_server.model.requests) == 2)
        error = refused("RESOURCE_EXHAUSTED", parse, pb.ParseRequest(text="a"))
        assert "the client must have at most 2 calls in flight" in error.details()
        assert rpc_status.from_call(error).details[0].Is(error_details_pb2.RetryInfo.DESCRIPTOR)
        health_pb2_grpc.HealthStub(rpc_server.channel).Check(health_pb2.HealthCheckRequest())
        assert all(call.result().text == "sleep 0.4" for call in running)
    assert parse(pb.ParseRequest(text="a")).text == "a"


def test_finished_calls_are_recorded(make_rpc_server: Callable[..., RunningServer]) -> None:
    rpc_server = make_rpc_server()
    parse = stubs.DialogueUnderstandingStub(rpc_server.channel).Parse
    parse(pb.ParseRequest(text="a"))
    refused("INVALID_ARGUMENT", parse, pb.ParseRequest())
    assert eventually(lambda: len(rpc_server.observed) == 2)
    assert [(seen.method, seen.code) for seen in rpc_server.observed] == [
        ("Parse", "OK"),
        ("Parse", "INVALID_ARGUMENT"),
    ]
    assert all(0 <= seen.seconds < 5 for seen in rpc_server.observed)


def test_deadline_is_recorded_as_deadline_exceeded(make_rpc_server: Callable[..., RunningServer]) -> None:
    rpc_server = make_rpc_server()
    parse = stubs.DialogueUnderstandingStub(rpc_server.channel).Parse
    with pytest.raises(grpc.RpcError):
        parse(pb.ParseRequest(text="sleep 20"), timeout=0.3)
    left = parse.future(pb.ParseRequest(text="sleep 20"), timeout=20)
    assert eventually(lambda: len(rpc_server.model.requests) == 2)
    left.cancel()
    assert eventually(lambda: len(rpc_server.observed) == 2)
    assert [seen.code for seen in rpc_server.observed] == ["DEADLINE_EXCEEDED", "CANCELLED"]


RPCS = {
    "DialogueUnderstanding/Parse": pb.ParseRequest(text="Ada", tasks=["slots"], top_k=2, offset_unit=UTF16),
    "DialogueUnderstanding/ParseBatch": pb.ParseBatchRequest(requests=[pb.ParseRequest(text="Ada")] * 2),
    "Prediction/Predict": pb.PredictRequest(task="same", text="a b", text_pair="a", model="fake"),
    "Models/GetModel": pb.GetModelRequest(name="fake", version="stable"),
    "Models/LoadModel": pb.LoadModelRequest(name="fake"),
}


@pytest.mark.parametrize("method", RPCS)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_random_bytes_cause_no_internal_error(rpc_server: RunningServer, method: str, data: st.DataObject) -> None:
    """Mutations of a valid message never cause INTERNAL or UNKNOWN."""
    message = bytearray(RPCS[method].SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(message)))
        message[start : start + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    call = rpc_server.channel.unary_unary(f"/palm_serve.v1.{method}").future(bytes(message), timeout=5)
    assert call.code().name in {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "PERMISSION_DENIED"}, call.details()


def test_call_at_the_end_of_the_stop_gets_unavailable(make_rpc_server: Callable[..., RunningServer]) -> None:
    """gRPC would end it with CANCELLED, which clients do not retry."""
    rpc_server = make_rpc_server()
    running = stubs.DialogueUnderstandingStub(rpc_server.channel).Parse.future(pb.ParseRequest(text="sleep 600"))
    assert eventually(lambda: len(rpc_server.model.requests) == 1)
    rpc_server.loop.call_soon_threadsafe(rpc_server.lifecycle.end_calls)
    assert running.code() is grpc.StatusCode.UNAVAILABLE
    assert eventually(lambda: [record.code for record in rpc_server.observed] == ["UNAVAILABLE"])
