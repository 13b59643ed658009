"""Random requests are answered or refused, and never cause an internal error."""

from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from palm_serve.oip import inference_pb2 as oip
from palm_serve.oip import inference_pb2_grpc as stubs

RunningServer = Any  # of conftest.py, which cannot be imported by name
Infer = oip.ModelInferRequest
OUTPUTS = ["intent.label", "intent.fallback", "slots.json", "same.score", "answer.json", "truncated", "x"]

NAMES = st.sampled_from(["text", "text_pair", "", "x"]) | st.text(max_size=5)
PARAMETERS = st.builds(
    lambda kind, number: oip.InferParameter(**kind(number)),
    st.sampled_from(
        [
            lambda n: {"int64_param": n},
            lambda n: {"double_param": float(n)},
            lambda n: {"string_param": str(n)},
            lambda n: {"bool_param": bool(n)},
            lambda n: {},
        ]
    ),
    st.integers(-(2**63), 2**63 - 1),
)
NAMED = st.dictionaries(
    st.sampled_from(["top_k", "offset_unit", "priority", "timeout", "out_of_scope", "x"]), PARAMETERS, max_size=2
)
INPUTS = st.builds(
    lambda name, kind, shape, elements, floats, parameters: Infer.InferInputTensor(
        name=name,
        datatype=kind,
        shape=shape,
        parameters=parameters,
        contents=oip.InferTensorContents(bytes_contents=elements, fp32_contents=floats),
    ),
    NAMES,
    st.sampled_from(["BYTES", "FP32", ""]),
    st.lists(st.integers(-1, 3) | st.integers(-(2**63), 2**63 - 1), max_size=3),
    st.lists(st.sampled_from([b"flight", b"Ada", b"", b"\xff"]) | st.binary(max_size=5), max_size=3),
    st.lists(st.floats(width=32), max_size=1),
    st.dictionaries(st.text(max_size=3), PARAMETERS, max_size=1),
)
GOOD_INPUTS = st.builds(
    lambda name, elements: Infer.InferInputTensor(
        name=name,
        datatype="BYTES",
        shape=[len(elements)],
        contents=oip.InferTensorContents(bytes_contents=elements),
    ),
    st.sampled_from(["text", "text_pair"]),
    st.lists(st.sampled_from(["flight", "Ada", "北京", "\0"]).map(str.encode), min_size=1, max_size=2),
)
REQUESTS = st.builds(
    lambda inputs, outputs, raws, parameters, name: Infer(
        inputs=inputs,
        outputs=[Infer.InferRequestedOutputTensor(name=output) for output in outputs],
        raw_input_contents=raws,
        parameters=parameters,
        model_name=name,
    ),
    st.lists(GOOD_INPUTS | INPUTS, max_size=2),
    st.lists(st.sampled_from(OUTPUTS), max_size=3),
    st.lists(st.sampled_from([b"", b"\x01\x00\x00\x00a"]) | st.binary(max_size=12), max_size=2),
    NAMED,
    st.sampled_from(["fake", "", "x"]),
)
ANSWERS = {"OK", "INVALID_ARGUMENT", "NOT_FOUND"}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(request=REQUESTS)
def test_random_requests_cause_no_internal_error(rpc_server: RunningServer, request: oip.ModelInferRequest) -> None:
    call = stubs.GRPCInferenceServiceStub(rpc_server.channel).ModelInfer
    try:
        call(request, timeout=10)
        code = "OK"
    except grpc.RpcError as error:
        code = error.code().name
    assert code in ANSWERS


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    requests=st.lists(REQUESTS.map(lambda request: request.SerializeToString()) | st.binary(max_size=30), max_size=4)
)
def test_random_stream_messages_are_all_answered(rpc_server: RunningServer, requests: list[bytes]) -> None:
    call = rpc_server.channel.stream_stream(
        "/inference.GRPCInferenceService/ModelStreamInfer",
        response_deserializer=oip.ModelStreamInferResponse.FromString,
    )
    answers = list(call(iter(requests), timeout=10))
    assert len(answers) == len(requests)
    assert {answer.error_message.partition(":")[0] or "OK" for answer in answers} <= ANSWERS
