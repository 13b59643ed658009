"""Values of any wording, read by libraries in another process."""

import json
import os
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from palm_serve import Model
from palm_serve.bundle.values_file import SlotValues, ValuesFile
from palm_serve.client import Client
from palm_serve.errors import BundleError
from palm_serve.types import Moment, Prediction, Span, Spans, TextRequest, Timings
from palm_serve.v1 import palm_pb2 as pb
from palm_serve.values import ValueResolver
from palm_serve.values.libraries import Libraries
from palm_serve.values.question import Question
from palm_serve.values.resolver_process import ResolverProcess, Unanswered, check_installed

ROOT = Path(__file__).parents[3]
NOW = datetime(2026, 11, 30, 10, tzinfo=ZoneInfo("Europe/Berlin"))
HANGS = "monday " * 10
"""Duckling needs minutes for it."""
FAKE = """
import sys, time
print("ready", flush=True)
for line in sys.stdin:
    if "sleep" in line: time.sleep(600)
    if "exit" in line: sys.exit(1)
    print("failed" if "fail" in line else '["x", "{}"]', flush=True)
"""


@pytest.fixture(scope="module")
def libraries():
    pytest.importorskip("duckling")
    pytest.importorskip("jionlp")
    return Libraries()


@pytest.mark.parametrize(
    ("resolver", "text", "canonical", "content"),
    [
        ("number", "two thousand three hundred", "2300", {"value": 2300}),
        ("number", "负四", "-4", {"value": -4}),
        ("ordinal", "twenty third", "23", {"value": 23}),
        ("ordinal", "第二十一", "21", {"value": 21}),
        ("duration", "half an hour", "PT30M", {"duration": "PT30M", "seconds": 1800}),
        ("duration", "six months", "P6M", {"duration": "P6M"}),
        ("duration", "一个半小时", "PT1H30M", {"duration": "PT1H30M", "seconds": 5400}),
        ("date", "the day after tomorrow", "2026-12-02", {"date": "2026-12-02", "grain": "day"}),
        ("date", "next month", "2026-12", {"date": "2026-12", "grain": "month"}),
        ("date", "下周三", "2026-12-09", {"date": "2026-12-09"}),
        (
            "time",
            "tomorrow at seven",
            "2026-12-01T07:00:00+01:00",
            {"time": "2026-12-01T07:00:00+01:00", "grain": "hour"},
        ),
        ("time", "明天上午九点半", "2026-12-01T09:30:00+01:00", {"time": "2026-12-01T09:30:00+01:00"}),
        ("money", "twenty dollars and fifty cents", "20.5 USD", {"amount": 20.5, "currency": "USD"}),
        ("money", "£3 million", "3000000 GBP", {"amount": 3000000, "currency": "GBP"}),
        ("money", "五百块", "500 CNY", {"amount": 500, "currency": "CNY"}),
    ],
)
def test_libraries_read_values(libraries, resolver, text, canonical, content):
    reading = libraries.read(Question(resolver, text, NOW, "Europe/Berlin"))
    assert (reading.canonical, json.loads(reading.json)) == (canonical, content)


@pytest.mark.parametrize("resolver", ["number", "ordinal", "duration", "date", "time", "money"])
def test_libraries_do_not_read_other_words(libraries, resolver):
    assert libraries.read(Question(resolver, "adele and friends", NOW, "UTC")) is None


def test_libraries_are_right_on_the_sentences_of_the_benchmark(libraries):
    """187 of 200 when they were chosen; see docs/how-to/serve/resolve_values.md."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import values as benchmark
    finally:
        sys.path.pop(0)
    rows = benchmark.read_rows()
    right = 0
    for row in rows:
        try:
            reading = libraries.read(Question(row.kind, row.text, datetime(2026, 11, 30, 10, tzinfo=UTC), "UTC"))
        except ValueError:
            continue
        if reading is not None:
            right += benchmark.normalize(row.kind, reading.canonical) == benchmark.normalize(row.kind, row.resolved)
    assert len(rows) == 200
    assert right >= 185


def ask(process, text):
    return process.ask(Question("number", text, NOW, "UTC"))


def wait_for_answer(process, text):
    """Ask until the process has started anew."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        try:
            return ask(process, text)
        except Unanswered:
            time.sleep(0.05)
    raise AssertionError("the process did not start anew")


@pytest.mark.parametrize(("text", "reason"), [("sleep", "timeout"), ("exit", "failed"), ("fail", "failed")])
def test_question_without_an_answer_is_told_and_the_next_is_answered(text, reason):
    process = ResolverProcess((sys.executable, "-c", FAKE), 1.0 if text == "sleep" else 60.0)
    try:
        assert ask(process, "a").canonical == "x"
        with pytest.raises(Unanswered) as caught:
            ask(process, text)
        assert caught.value.reason == reason
        assert wait_for_answer(process, "a").canonical == "x"
    finally:
        process.close()


def test_process_ends_with_its_owner():
    process = ResolverProcess((sys.executable, "-c", FAKE), 60.0)
    pid = process.pid
    os.kill(pid, 0)
    del process
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_process_that_does_not_start_is_refused():
    with pytest.raises(BundleError, match="the resolvers must start"):
        ResolverProcess((sys.executable, "-c", "raise SystemExit(3)"))


def test_missing_library_is_refused_with_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "jionlp", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        BundleError, match=r"needs the package of the module 'duckling'.*pip install -c constraints\.txt '\.\[values\]'"
    ):
        check_installed()


@pytest.fixture
def bundle(make_tiny_bundle, reseal_bundle, tmp_path):
    pytest.importorskip("duckling")
    pytest.importorskip("jionlp")
    path = make_tiny_bundle(tmp_path / "tiny")
    slots = {"day": {"resolver": "date"}, "city": {"values": ["Boston"]}}
    (path / "values.json").write_text(json.dumps({"tasks": {"slots": slots}}), encoding="utf-8")
    return reseal_bundle(path)


def test_reference_time_and_zone_decide_the_date(bundle):
    with Model.open(bundle) as model:
        for zone, expected in (("", "2026-11-30"), ("Asia/Shanghai", "2026-12-07")):
            answer = model.parse(
                "boston on monday", reference_time=datetime(2026, 11, 29, 17, tzinfo=UTC), time_zone=zone
            )
            city, day = answer.slots
            assert (day.value, day.resolved.canonical, day.resolved.kind) == ("monday", expected, "date")
            assert city.resolved.canonical == "Boston"


def test_hanging_value_is_not_resolved_and_neighbours_are(bundle):
    resolver = ValueResolver(
        ValuesFile(tasks={"slots": {"day": SlotValues(resolver="date"), "city": SlotValues(values=("X",))}})
    )
    moment = Moment(NOW, ZoneInfo("Europe/Berlin"))

    def resolve(day):
        spans = Spans((Span("day", day, 0, len(day), 0.5), Span("city", "x", 0, 1, 0.5)))
        request = TextRequest(day, ("slots",), moment=moment)
        return resolver.resolve(request, Prediction({"slots": spans}, False, 0, Timings())).answers["slots"].spans

    try:
        day, city = resolve(HANGS.strip())
        assert day.resolved is None
        assert city.resolved.canonical == "X"
        assert resolver.failures["timeout"] == 1
        end = time.monotonic() + 120
        while resolve("tomorrow")[0].resolved is None and time.monotonic() < end:
            time.sleep(0.1)
        assert resolve("tomorrow")[0].resolved.canonical == "2026-12-01"
        assert resolve("x" * 101)[0].resolved is None
    finally:
        resolver.close()


def test_server_resolves_with_the_time_of_the_request(bundle, start_server):
    process = start_server(bundle, "--provider", "CPU", "--drain-grace", "0")
    with Client(process.target()) as client:
        answer = client.parse("on monday", reference_time=NOW, time_zone="Europe/Berlin")
        assert [slot.resolved.canonical for slot in answer.slots] == ["2026-12-07"]
        assert answer.timings.resolve_us > 0
        batch = client.parse_batch(["on monday", "hello"], reference_time=NOW)
        assert isinstance(batch[0], pb.ParseResponse)
        assert batch[0].slots[0].resolved.canonical == "2026-12-07"
    os.kill(process.process.pid, signal.SIGTERM)
    assert process.process.wait(60) == 0


def test_server_without_the_libraries_ends_with_code_2(bundle, start_server, tmp_path):
    (tmp_path / "sitecustomize.py").write_text("import sys\nsys.modules['duckling'] = None\n", encoding="utf-8")
    process = start_server(bundle, env={**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert process.process.wait(120) == 2
    assert "'.[values]'" in "".join(process.errors)
