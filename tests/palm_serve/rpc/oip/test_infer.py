"""ModelInfer and ModelStreamInfer over a real connection, with the fake models of conftest.py."""

import json
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as stubs
from palm_serve.rpc.lifecycle import State

RunningServer = Any  # of conftest.py, which cannot be imported by name
Infer = oip.ModelInferRequest
VERSION = "f" * 64
SINGLE = ("intent.label", "intent.confidence", "intent.fallback", "intent.json", "slots.json")
SINGLE += ("topics.label", "topics.confidence", "topics.json")
PAIRED = ("same.label", "same.confidence", "same.score", "same.json", "answer.text", "answer.confidence", "answer.json")


def ask(
    *texts: str, pairs: tuple[str, ...] = (), outputs: tuple[str, ...] = (), **parameters: Any
) -> oip.ModelInferRequest:
    """Create a request with typed contents."""
    request = Infer(outputs=[Infer.InferRequestedOutputTensor(name=name) for name in outputs])
    for name, values in (("text", texts), ("text_pair", pairs)):
        if values:
            tensor = request.inputs.add(name=name, datatype="BYTES", shape=[len(values)])
            tensor.contents.bytes_contents.extend(value.encode() for value in values)
    for name, value in parameters.items():
        kind = {str: "string_param", int: "int64_param", float: "double_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


def columns(answer: oip.ModelInferResponse) -> dict[str, list[Any]]:
    """Return the values by output name, with JSON parsed."""
    found: dict[str, list[Any]] = {}
    for output in answer.outputs:
        [(field, values)] = output.contents.ListFields()
        assert (
            field.name == {"BYTES": "bytes_contents", "FP32": "fp32_contents", "BOOL": "bool_contents"}[output.datatype]
        )
        assert [*output.shape] == [len(values)]
        found[output.name] = [json.loads(v) if output.name.endswith(".json") else v for v in values]
    return found


def refused(code: str, call: Callable[..., Any], request: Any) -> grpc.RpcError:
    """Return the error of a call that must fail with this code."""
    with pytest.raises(grpc.RpcError) as caught:
        call(request, timeout=5)
    assert caught.value.code().name == code, caught.value.details()
    return caught.value


def eventually(condition: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.005)
    return condition()


@pytest.fixture
def service(rpc_server: RunningServer) -> stubs.GRPCInferenceServiceStub:
    return stubs.GRPCInferenceServiceStub(rpc_server.channel)


class TestModelInfer:
    def test_infer_runs_all_tasks_on_one_text(self, service: stubs.GRPCInferenceServiceStub) -> None:
        request = ask("a flight for Zoë, a flight", "music")
        request.id = "mine"
        answer, call = service.ModelInfer.with_call(request)
        assert (answer.id, answer.model_name, answer.model_version) == ("mine", "fake", VERSION)
        assert dict(call.trailing_metadata())["x-request-id"] == "mine"
        found = columns(answer)
        assert tuple(found) == (*SINGLE, "truncated")
        assert found["intent.label"] == [b"flight", b"music"]
        assert found["intent.confidence"] == pytest.approx([0.6, 0.5])
        assert found["intent.json"][0]["ranking"][0] == {"name": "flight", "confidence": pytest.approx(0.6)}
        assert [span["value"] for span in found["slots.json"][0]["spans"]] == ["Zoë"]
        assert found["slots.json"][1] == {"spans": []}
        assert found["topics.label"] == [b"long", b"short"]

    def test_infer_accepts_shape_n_1(self, service: stubs.GRPCInferenceServiceStub) -> None:
        request = ask("music", "flight", outputs=("intent.label",))
        request.inputs[0].shape[:] = [2, 1]
        assert columns(service.ModelInfer(request)) == {"intent.label": [b"music", b"flight"]}

    def test_infer_answers_raw_requests_raw(self, service: stubs.GRPCInferenceServiceStub) -> None:
        request = Infer(
            inputs=[Infer.InferInputTensor(name="text", datatype="BYTES", shape=[1])],
            raw_input_contents=[b"\x05\x00\x00\x00music"],
            outputs=[Infer.InferRequestedOutputTensor(name=name) for name in ("truncated", "intent.label")],
        )
        answer = service.ModelInfer(request)
        assert [*answer.raw_output_contents] == [b"\x00", b"\x05\x00\x00\x00music"]
        assert not any(output.HasField("contents") for output in answer.outputs)

    def test_infer_outputs_select_tasks(
        self, rpc_server: RunningServer, service: stubs.GRPCInferenceServiceStub
    ) -> None:
        answer = service.ModelInfer(ask("music", outputs=("topics.label", "slots.json", "topics.label")))
        assert tuple(columns(answer)) == ("topics.label", "slots.json")
        assert rpc_server.model.requests[-1].tasks == ("topics", "slots")

    def test_infer_reports_truncation(self, service: stubs.GRPCInferenceServiceStub) -> None:
        found = columns(service.ModelInfer(ask("a" * 50, "a", outputs=("truncated",))))
        assert found == {"truncated": [True, False]}

    def test_infer_reports_fallback(self, service: stubs.GRPCInferenceServiceStub) -> None:
        texts = ("nothing", "flight")
        assert columns(service.ModelInfer(ask(*texts, outputs=("intent.fallback",)))) == {
            "intent.fallback": [b"low_confidence", b"none"]
        }
        strict = ask(*texts, outputs=("intent.fallback",), intent_confidence=0.0, out_of_scope=0.4)
        assert columns(service.ModelInfer(strict)) == {"intent.fallback": [b"out_of_scope", b"out_of_scope"]}

    def test_infer_uses_offset_unit_and_top_k(self, service: stubs.GRPCInferenceServiceStub) -> None:
        request = ask("😀 Ada", outputs=("slots.json", "intent.json"), offset_unit="utf8_byte", top_k=1)
        found = columns(service.ModelInfer(request))
        [span] = found["slots.json"][0]["spans"]
        assert (span["start"], span["end"]) == (5, 8)
        assert len(found["intent.json"][0]["ranking"]) == 1

    def test_infer_runs_pair_tasks(self, rpc_server: RunningServer, service: stubs.GRPCInferenceServiceStub) -> None:
        found = columns(service.ModelInfer(ask("a b c", "x", pairs=("a b", "y"))))
        assert tuple(found) == (*PAIRED, "truncated")
        assert found["same.label"] == [b"yes", b"no"]
        assert found["same.score"] == pytest.approx([2 / 3, 0])
        assert found["answer.text"] == [b"", b""]
        assert {request.tasks for request in rpc_server.model.requests[-4:]} == {("same",), ("answer",)}

    def test_infer_runs_single_and_pair_tasks_together(self, service: stubs.GRPCInferenceServiceStub) -> None:
        request = ask("music", pairs=("no music here",), outputs=("intent.label", "answer.json"))
        found = columns(service.ModelInfer(request))
        assert found["intent.label"] == [b"music"]
        assert (found["answer.json"][0]["text"], found["answer.json"][0]["start"]) == ("music", 3)

    def test_infer_uses_priority_and_earlier_deadline(
        self, rpc_server: RunningServer, service: stubs.GRPCInferenceServiceStub
    ) -> None:
        now = time.monotonic()
        service.ModelInfer(ask("music", priority=2, timeout=2_000_000), timeout=60)
        asked = rpc_server.model.requests[-1]
        assert asked.priority.name == "BATCH"
        assert 0 < asked.deadline - now < 10
        service.ModelInfer(ask("music", timeout=2**40), timeout=20)
        assert rpc_server.model.requests[-1].deadline - now < 30

    @pytest.mark.parametrize(
        ("request_", "field", "match"),
        [
            (ask(), "inputs", "the input 'text' is missing. Send it as BYTES"),
            (ask("a", outputs=("same.label",)), "inputs", "'text_pair' is missing. Task 'same' reads pairs"),
            (
                ask("a", pairs=("b",), outputs=("slots.json",)),
                "text_pair",
                "task 'slots', which reads a single text. Remove it",
            ),
            (ask("a", "b", pairs=("b",)), "text_pair", "'text_pair' must have as many rows as 'text' .2., got 1"),
            (ask("a", outputs=("intent",)), "outputs", "unknown output 'intent'. Model 'fake' has intent.label, "),
            (ask("a", sequence_id=1), "parameters", "unknown parameter 'sequence_id'"),
            (ask("a", " "), "text", "row 1: text must have .* got a blank text"),
            (ask("a" * 101), "text", "row 0: text must have at most 100 bytes, got 101"),
            (ask("a", pairs=("",)), "text_pair", "row 0: text_pair must have .* got an empty text"),
            (ask("a", "b", "c", "d", "e"), "text", "must have at most 4 rows, got 5"),
            (
                ask("a", intent_confidence=80),
                "thresholds.intent_confidence",
                "row 0: .* must be between 0 and 1, got 80",
            ),
        ],
    )
    def test_invalid_infer_request_names_its_field(
        self, service: stubs.GRPCInferenceServiceStub, request_: oip.ModelInferRequest, field: str, match: str
    ) -> None:
        error = refused("INVALID_ARGUMENT", service.ModelInfer, request_)
        bad = error_details_pb2.BadRequest()
        assert rpc_status.from_call(error).details[0].Unpack(bad)
        assert bad.field_violations[0].field == field
        assert re.search(match, error.details()), error.details()

    def test_invalid_inputs_are_refused(self, service: stubs.GRPCInferenceServiceStub) -> None:
        twice, other, both, few = ask("a"), ask("a"), ask("a"), ask("a")
        twice.inputs.append(twice.inputs[0])
        other.inputs[0].name = "TEXT"
        both.raw_input_contents.append(b"")
        few.inputs[0].ClearField("contents")
        few.raw_input_contents.extend([b"", b""])
        for request, told in (
            (twice, "input 'text' must not be repeated"),
            (other, "unknown input 'TEXT'. Model 'fake' reads text, text_pair"),
            (both, "both contents and raw_input_contents"),
            (few, "raw_input_contents must have one element per input (1), got 2"),
        ):
            assert told in refused("INVALID_ARGUMENT", service.ModelInfer, request).details()

    def test_output_parameters_are_refused(self, service: stubs.GRPCInferenceServiceStub) -> None:
        request = ask("a", outputs=("intent.label",))
        request.outputs[0].parameters["classification"].int64_param = 2
        error = refused("INVALID_ARGUMENT", service.ModelInfer, request)
        assert error.details() == "output 'intent.label' must not have parameters, got 'classification'. Remove it."

    def test_infer_errors_equal_those_of_parse(
        self, rpc_server: RunningServer, service: stubs.GRPCInferenceServiceStub
    ) -> None:
        unknown = ask("a")
        unknown.model_name = "nope"
        assert "loaded: fake" in refused("NOT_FOUND", service.ModelInfer, unknown).details()
        refused("RESOURCE_EXHAUSTED", service.ModelInfer, ask("full", "a", "b"))
        assert len(rpc_server.model.refusals) == 3
        busy = rpc_status.from_call(refused("RESOURCE_EXHAUSTED", service.ModelInfer, ask("a", "overloaded")))
        retry = error_details_pb2.RetryInfo()
        assert busy.details[0].Unpack(retry)
        assert retry.retry_delay.ToMilliseconds() == 250
        crash = refused("INTERNAL", service.ModelInfer, ask("crash"))
        assert "secret" not in crash.details()
        raw = rpc_server.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        assert (
            "must be a message of type inference.ModelInferRequest"
            in refused("INVALID_ARGUMENT", raw, b"\x0a").details()
        )

    def test_infer_id_over_limit_is_refused(self, service: stubs.GRPCInferenceServiceStub) -> None:
        request = ask("a")
        request.id = "i" * 257
        assert "must have at most 256 bytes" in refused("INVALID_ARGUMENT", service.ModelInfer, request).details()

    def test_cancelled_infer_cancels_its_requests(
        self, rpc_server: RunningServer, service: stubs.GRPCInferenceServiceStub
    ) -> None:
        before, asked = rpc_server.model.cancelled, len(rpc_server.model.requests)
        future = service.ModelInfer.future(ask("sleep 5"))
        assert eventually(lambda: len(rpc_server.model.requests) == asked + 1)
        future.cancel()
        assert eventually(lambda: rpc_server.model.cancelled == before + 1)

    def test_infer_while_loading_is_unavailable(self, make_rpc_server: Callable[..., RunningServer]) -> None:
        service = stubs.GRPCInferenceServiceStub(make_rpc_server(State.LOADING).channel)
        refused("UNAVAILABLE", service.ModelInfer, ask("a"))
        assert service.ServerLive(oip.ServerLiveRequest()).live
        assert not service.ServerReady(oip.ServerReadyRequest()).ready
        assert not service.ModelReady(oip.ModelReadyRequest(name="fake")).ready


class TestModelStreamInfer:
    def test_stream_items_have_answer_or_error(self, service: stubs.GRPCInferenceServiceStub) -> None:
        requests = [ask(text, outputs=("intent.label",)) for text in ("sleep 0.3", " ", "music")]
        for number, request in enumerate(requests):
            request.id = str(number)
        seen = {}
        for response in service.ModelStreamInfer(iter(requests)):
            answer = response.infer_response
            seen[answer.id] = response.error_message or columns(answer)["intent.label"][0]
            assert bool(response.error_message) != answer.parameters["triton_final_response"].bool_param
        assert seen == {
            "0": b"flight",
            "1": "INVALID_ARGUMENT: row 0: text must have at least one visible character, got a blank text. Send some text.",
            "2": b"music",
        }
        assert next(reversed(seen)) == "0"  # as they are ready

    def test_stream_answers_invalid_bytes_with_error(self, rpc_server: RunningServer) -> None:
        call = rpc_server.channel.stream_stream(
            "/inference.GRPCInferenceService/ModelStreamInfer",
            response_deserializer=oip.ModelStreamInferResponse.FromString,
        )
        [response] = call(iter([b"\x0a"]))
        assert "must be a message of type inference.ModelInferRequest" in response.error_message

    def test_stream_limits_unanswered_items(
        self, rpc_server: RunningServer, service: stubs.GRPCInferenceServiceStub
    ) -> None:
        before = len(rpc_server.model.requests)
        responses = service.ModelStreamInfer(iter([ask("sleep 0.2") for _ in range(6)]))
        next(responses)
        assert len(rpc_server.model.requests) - before <= 4  # two answered, two read since
        assert len(list(responses)) == 5

    def test_cancelled_stream_cancels_its_requests(
        self, rpc_server: RunningServer, service: stubs.GRPCInferenceServiceStub
    ) -> None:
        before, asked = rpc_server.model.cancelled, len(rpc_server.model.requests)
        responses = service.ModelStreamInfer(iter([ask("sleep 5")] * 2))
        assert eventually(lambda: len(rpc_server.model.requests) == asked + 2)
        responses.cancel()
        assert eventually(lambda: rpc_server.model.cancelled == before + 2)

    def test_draining_stream_answers_read_messages(self, make_rpc_server: Callable[..., RunningServer]) -> None:
        rpc_server = make_rpc_server()
        waiting: queue.SimpleQueue[oip.ModelInferRequest | None] = queue.SimpleQueue()
        waiting.put(ask("sleep 0.3"))
        requests: Iterator[oip.ModelInferRequest] = iter(waiting.get, None)
        responses = stubs.GRPCInferenceServiceStub(rpc_server.channel).ModelStreamInfer(requests)
        assert eventually(lambda: len(rpc_server.model.requests) == 1)
        rpc_server.set_state(State.DRAINING)
        assert next(responses).infer_response.model_name == "fake"
        with pytest.raises(grpc.RpcError) as caught:
            next(responses)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        waiting.put(None)


def test_concurrent_requests_get_their_own_answers(rpc_server: RunningServer) -> None:
    """Rows of concurrent requests are not mixed up."""
    service = stubs.GRPCInferenceServiceStub(rpc_server.channel)
    wrong: list[bytes] = []

    def work(label: str) -> None:
        for _ in range(10):
            answer = service.ModelInfer(ask(*[label] * 3, outputs=("intent.label",)))
            wrong.extend(v for v in columns(answer)["intent.label"] if v != label.encode())

    threads = [threading.Thread(target=work, args=(label,)) for label in ("flight", "weather", "music")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
