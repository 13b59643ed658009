"""Invalid requests and their messages."""

import math
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from palm_serve.bundle.manifest import Manifest
from palm_serve.config import Limits
from palm_serve.errors import InvalidRequest
from palm_serve.rpc.messages.requests import check_parse_request, check_predict_request
from palm_serve.types import Moment, Priority, Thresholds
from palm_serve.v1 import palm_pb2 as pb

LIMITS = Limits(text_bytes=30)


@pytest.mark.parametrize(
    ("message", "field", "match"),
    [
        (pb.ParseRequest(), "text", "text must have .* got an empty text"),
        (pb.ParseRequest(text=" \n\u3000"), "text", "text must have .* got a blank text"),
        (pb.ParseRequest(text="北" * 11), "text", "text must have at most 30 bytes, got 33"),
        (
            pb.ParseRequest(text="a", offset_unit=9),
            "offset_unit",
            "offset_unit must be one of .*OFFSET_UNIT_UTF16 = 2.* got 9",
        ),
        (pb.ParseRequest(text="a", priority=-1), "priority", "priority must be one of .* got -1"),
        (pb.ParseRequest(text="a", tasks=["nope"]), "tasks", "unknown task 'nope'. Model 'fake' has intent, slots"),
        (pb.ParseRequest(text="a", tasks=["n" * 99]), "tasks", "unknown task 'n{64}...'"),
        (pb.ParseRequest(text="a", tasks=["same"]), "tasks", "'same' reads a pair of texts.*--task same --pair TEXT"),
        (
            pb.ParseRequest(text="a", thresholds=pb.Thresholds(intent_confidence=80)),
            "thresholds.intent_confidence",
            "must be between 0 and 1, got 80",
        ),
        (
            pb.ParseRequest(text="a", thresholds=pb.Thresholds(out_of_scope=math.nan)),
            "thresholds.out_of_scope",
            "must be a number, got NaN",
        ),
        *(
            (pb.ParseRequest(text="a", time_zone=name), "time_zone", "must be a name of the IANA time zone database")
            for name in (
                "Berlin",
                "Europe",
                "../../etc/passwd",
                "/etc/passwd",
                "a\0b",
                "x" * 5000,
                "北京",
                "UTC+1",
                " ",
            )
        ),
        *(
            (pb.ParseRequest(text="a", reference_time=time), "reference_time", "must be a time of the years 2 to 9998")
            for time in (
                Timestamp(seconds=1 << 62),
                Timestamp(seconds=-(1 << 62)),
                Timestamp(nanos=-1),
                Timestamp(nanos=1 << 30),
            )
        ),
    ],
)
def test_invalid_parse_request_names_its_field(
    message: pb.ParseRequest, field: str, match: str, manifest: Manifest
) -> None:
    with pytest.raises(InvalidRequest, match=match) as caught:
        check_parse_request(message, manifest, LIMITS, None)
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("message", "field", "match"),
    [
        (pb.PredictRequest(text="a"), "task", "task must not be empty. Use one of intent, slots, topics, same, answer"),
        (pb.PredictRequest(task="x", text="a"), "task", "unknown task 'x'"),
        (pb.PredictRequest(task="intent"), "text", "text must have .* got an empty text"),
        (pb.PredictRequest(task="same", text="a"), "text_pair", "text_pair must have .* got an empty text"),
        (
            pb.PredictRequest(task="same", text="a", text_pair="b" * 31),
            "text_pair",
            "text_pair must have at most 30 bytes, got 31",
        ),
        (pb.PredictRequest(task="intent", text="a", text_pair="b"), "text_pair", "reads a single text"),
        (
            pb.PredictRequest(task="intent", text="a", offset_unit=7),
            "offset_unit",
            "offset_unit must be one of .* got 7",
        ),
    ],
)
def test_invalid_predict_request_names_its_field(
    message: pb.PredictRequest, field: str, match: str, manifest: Manifest
) -> None:
    with pytest.raises(InvalidRequest, match=match) as caught:
        check_predict_request(message, manifest, LIMITS, None)
    assert caught.value.field == field


def test_parse_of_pair_model_suggests_predict(manifest: Manifest) -> None:
    pairs = manifest.model_copy(update={"tasks": {name: manifest.tasks[name] for name in ("same", "answer")}})
    with pytest.raises(
        InvalidRequest, match=r"only pairs of texts, .* --task NAME --pair TEXT\) with one of same, answer"
    ):
        check_parse_request(pb.ParseRequest(text="a"), pairs, LIMITS, None)


def test_parse_request_defaults(manifest: Manifest) -> None:
    asked = check_parse_request(pb.ParseRequest(text="a"), manifest, LIMITS, 7.5)
    assert asked.request.tasks == ("intent", "slots", "topics")
    assert (asked.top_k, asked.request.deadline, asked.request.priority) == (3, 7.5, Priority.INTERACTIVE)
    assert asked.thresholds == Thresholds(intent_confidence=0.4)


def test_parse_request_has_no_time_by_default(manifest: Manifest) -> None:
    assert check_parse_request(pb.ParseRequest(text="a"), manifest, LIMITS, None).request.moment == Moment(None, UTC)


def test_parse_request_has_the_time_and_the_zone_of_the_user(manifest: Manifest) -> None:
    time = datetime(2026, 3, 29, 1, 30, tzinfo=ZoneInfo("Europe/Berlin"))
    for given_time in (time, Timestamp(seconds=int(time.timestamp()))):
        message = pb.ParseRequest(text="a", reference_time=given_time, time_zone="Asia/Shanghai")
        moment = check_parse_request(message, manifest, LIMITS, None).request.moment
        assert moment == Moment(time, ZoneInfo("Asia/Shanghai"))
    zone_only = check_parse_request(pb.ParseRequest(text="a", time_zone="Asia/Tokyo"), manifest, LIMITS, None)
    assert zone_only.request.moment == Moment(None, ZoneInfo("Asia/Tokyo"))
    for year in (2, 9998):
        edge = pb.ParseRequest(text="a", reference_time=datetime(year, 1, 1, tzinfo=UTC), time_zone="Pacific/Apia")
        moment = check_parse_request(edge, manifest, LIMITS, None).request.moment
        assert moment.time is not None
        assert moment.time.astimezone(moment.zone) == datetime(year, 1, 1, tzinfo=UTC)


def test_parse_request_options_are_used(manifest: Manifest) -> None:
    message = pb.ParseRequest(
        text="a",
        tasks=["slots", "intent", "slots"],
        top_k=1,
        priority=pb.Priority.PRIORITY_BATCH,
        offset_unit=pb.OffsetUnit.OFFSET_UNIT_UTF16,
        thresholds=pb.Thresholds(intent_confidence=0, ambiguity_margin=0.5, out_of_scope=-3),
    )
    asked = check_parse_request(message, manifest, LIMITS, None)
    assert asked.request.tasks == ("slots", "intent")
    assert (asked.top_k, asked.unit, asked.request.priority) == (1, 2, Priority.BATCH)
    assert asked.request.top_k == 2  # the fallback compares two
    assert asked.thresholds == Thresholds(0, 0.5, -3)
