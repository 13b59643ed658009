"""A bundle in this process answers as the server does, without one."""

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from google.protobuf.json_format import MessageToDict

from palm_serve import Model
from palm_serve.client import Client
from palm_serve.errors import (
    BundleError,
    ConfigError,
    EngineError,
    InvalidRequest,
    PalmServeError,
    Unavailable,
)
from palm_serve.v1 import palm_pb2 as pb

TEXTS = [
    "please show me flights from boston to new york on monday",
    "hello",
    "Is the weather AWFUL in 北京 next week? \N{EARTH GLOBE ASIA-AUSTRALIA}",
    "play a song 'adele'",
    "مرحبا boston",
    "e\u0301 denver " * 30,
    *(f"fly to {city} on monday {'please ' * repeats}" for city in ("boston", "san francisco") for repeats in range(9)),
]


@pytest.fixture(scope="module")
def model(tiny_bundle):
    with Model.open(tiny_bundle) as model:
        yield model


def content(response: pb.ParseResponse | pb.PredictResponse | PalmServeError) -> bytes:
    """Return a response to the bit, without what belongs to one call: its id and its timings."""
    assert not isinstance(response, PalmServeError), response
    response.ClearField("request_id")
    response.ClearField("timings")
    return response.SerializeToString(deterministic=True)


def leaves(response: pb.ParseResponse | PalmServeError) -> tuple[dict[str, float], dict[str, object]]:
    """Return the fractional numbers of a response, and its other values, each by their place."""
    assert not isinstance(response, PalmServeError), response
    response.ClearField("request_id")
    response.ClearField("timings")
    numbers: dict[str, float] = {}
    values: dict[str, object] = {}

    def add(place: str, value: object) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                add(f"{place}.{key}", part)
        elif isinstance(value, list):
            for index, part in enumerate(value):
                add(f"{place}[{index}]", part)
        elif isinstance(value, float):
            numbers[place] = value
        else:
            values[place] = value

    add("", MessageToDict(response, preserving_proto_field_name=True))
    return numbers, values


def test_parse_equals_the_server_to_the_bit(model, tiny_server):
    fields = [{}, {"offset_unit": pb.OFFSET_UNIT_UTF16, "top_k": 4}, {"tasks": ["slots", "sentiment"]}]
    fields.append({"thresholds": pb.Thresholds(intent_confidence=1.0), "top_k": 1})
    with Client(tiny_server) as client:
        for options in fields:
            for text in TEXTS:
                assert content(model.parse(text, **options)) == content(client.parse(text, **options))


def test_parse_many_equals_parse_batch(model, tiny_server):
    with Client(tiny_server) as client:
        expected = client.parse_batch(TEXTS, offset_unit=pb.OFFSET_UNIT_UTF8_BYTE)
    answers = model.parse_many(iter(TEXTS), offset_unit=pb.OFFSET_UNIT_UTF8_BYTE)
    assert max(answer.timings.batch_size for answer in answers) > 1
    assert [answer.text for answer in answers] == TEXTS
    # Which texts form a batch depends on the machine, and rounding depends on the batch.
    for answer, served in zip(answers, expected, strict=True):
        numbers, values = leaves(answer)
        served_numbers, served_values = leaves(served)
        assert values == served_values
        assert numbers == pytest.approx(served_numbers, abs=2e-5)


def test_predict_equals_the_server(model, tiny_server):
    with Client(tiny_server) as client:
        assert content(model.predict("sentiment", TEXTS[0])) == content(client.predict("sentiment", TEXTS[0]))


def test_parse_many_takes_more_texts_than_a_chunk(model):
    texts = ["fly to boston" if index % 2 else "play a song" for index in range(2500)]
    answers = model.parse_many(texts)
    assert [answer.intent.name for answer in answers] == ["flight" if index % 2 else "music" for index in range(2500)]
    assert model.parse_many([]) == []


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("", {}),
        ("  \n", {}),
        ("a" * 10_001, {}),
        ("lone \ud800", {}),
        ("hello", {"tasks": ["nosuch"]}),
        ("hello", {"tasks": ["intent"] * 4}),
        ("hello", {"offset_unit": 77}),
        ("hello", {"thresholds": pb.Thresholds(intent_confidence=2.0)}),
    ],
)
def test_parse_raises_the_error_of_the_server(model, tiny_server, text, fields):
    with pytest.raises(InvalidRequest) as error:
        model.parse(text, **fields)
    with Client(tiny_server) as client, pytest.raises(InvalidRequest) as expected:
        client.parse(text, **fields)
    assert str(error.value) == str(expected.value).partition(" (request")[0]
    outcomes = model.parse_many([text, "hello"], **fields)
    assert str(outcomes[0]) == str(error.value)


def test_max_text_bytes_bounds_the_text(tiny_bundle):
    with Model.open(tiny_bundle, max_text_bytes=5) as model:
        assert model.parse("hello").intent.name == "greeting"
        with pytest.raises(InvalidRequest, match="at most 5 bytes"):
            model.parse("hello!")


def test_threads_share_one_model(model):
    alone = [content(model.parse(text)) for text in TEXTS]
    together = [content(answer) for answer in model.parse_many(TEXTS)]
    begin = threading.Barrier(8)

    def ask(number: int) -> None:
        begin.wait()
        for _ in range(20):
            if number % 2:
                assert [content(model.parse(text)) for text in TEXTS] == alone
            else:
                assert [content(answer) for answer in model.parse_many(TEXTS)] == together

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))


def test_close_refuses_later_calls(tiny_bundle):
    model = Model.open(tiny_bundle, provider="CPU", precision="fp32", threads=1)
    assert (model.name, model.info.provider, model.info.precision) == ("tiny", "CPU", "fp32")
    assert len(model.version) == 64
    model.close()
    model.close()
    for call in (model.parse, lambda text: model.parse_many([text]), lambda text: model.predict("intent", text)):
        with pytest.raises(Unavailable, match="is closed"):
            call("hello")


def test_open_checks_the_bundle(tmp_path, make_tiny_bundle, reseal_bundle):
    bundle = make_tiny_bundle(tmp_path / "a")
    with pytest.raises(BundleError, match=r"digest|sha256"):
        Model.open(f"{bundle}@sha256:{'0' * 64}")
    golden = bundle / "golden.jsonl"
    golden.write_text(golden.read_text(encoding="utf-8").replace('"flight"', '"music"'), encoding="utf-8")
    with pytest.raises(BundleError):
        Model.open(bundle)
    reseal_bundle(bundle)
    with pytest.raises(BundleError, match="golden check failed"):
        Model.open(bundle)
    golden.unlink()
    reseal_bundle(bundle)
    with pytest.raises(BundleError, match="golden"):
        Model.open(bundle)
    Model.open(bundle, allow_unproven=True).close()
    with pytest.raises(BundleError, match="trust must be a folder that holds a public key"):
        Model.open(make_tiny_bundle(tmp_path / "b"), trust=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "TPU"}, "provider must be auto, CPU"),
        ({"precision": "fp4"}, "precision must be one of auto, fp32"),
        ({"threads": 0}, "threads must be at least 1"),
    ],
)
def test_open_refuses_options_that_are_not_valid(tiny_bundle, options, message):
    with pytest.raises(ConfigError, match=message):
        Model.open(tiny_bundle, **options)


def test_engine_failure_is_an_engine_error(tiny_bundle):
    with Model.open(tiny_bundle) as model:
        model._pipeline.engine.run = lambda batch, outputs: {}
        with pytest.raises(EngineError, match="failed on this batch"):
            model.parse("hello")


def test_unknown_attribute_of_the_package_is_named():
    import palm_serve

    with pytest.raises(AttributeError, match="nosuch"):
        palm_serve.nosuch  # noqa: B018


def test_model_opens_no_socket_and_no_event_loop(tiny_bundle):
    code = (
        "import asyncio, socket, sys\n"
        "def refuse(*arguments, **options): raise AssertionError(arguments)\n"
        "asyncio.new_event_loop = refuse\n"
        "sys.addaudithook(lambda event, arguments: event.startswith('socket.') and refuse(event))\n"
        "from palm_serve import Model\n"
        f"with Model.open({str(tiny_bundle)!r}) as model: print(model.parse('fly to boston').intent.name)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (result.returncode, result.stdout) == (0, "flight\n"), result.stderr
