"""Status codes and details of errors. Internal errors stay hidden."""

import logging

import pytest
from google.rpc import error_details_pb2, status_pb2

from palm_serve import errors
from palm_serve.rpc.messages.status import failure


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InvalidRequest("m", "text"), "INVALID_ARGUMENT"),
        (errors.NotFound("m"), "NOT_FOUND"),
        (errors.Overloaded("m"), "RESOURCE_EXHAUSTED"),
        (errors.DeadlineExceeded("m"), "DEADLINE_EXCEEDED"),
        (errors.Unavailable("m"), "UNAVAILABLE"),
        (errors.NotAllowed("m"), "PERMISSION_DENIED"),
    ],
)
def test_client_errors_have_their_status_codes(error: errors.PalmServeError, code: str) -> None:
    failed = failure(error, "r1")
    assert (failed.code.name, failed.message) == (code, "m")


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("secret /home/x"),
        errors.EngineError("secret"),
        errors.BundleError("secret"),
        errors.PalmServeError("secret"),
        ExceptionGroup("secret", [KeyError("secret")]),
    ],
)
def test_other_errors_are_logged_and_hidden(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.ERROR):
        failed = failure(error, "r1")
    assert (failed.code.name, failed.message) == ("INTERNAL", "internal error (request id r1)")
    assert not failed.trailing_metadata()
    assert "r1" in caplog.text
    assert "secret" in caplog.text


def details(error: Exception) -> status_pb2.Status:
    """Return the status in grpc-status-details-bin."""
    return status_pb2.Status.FromString(dict(failure(error, "r1").trailing_metadata())["grpc-status-details-bin"])


def test_invalid_request_names_its_field() -> None:
    bad = error_details_pb2.BadRequest()
    assert details(errors.InvalidRequest("too long", "text")).details[0].Unpack(bad)
    assert [(v.field, v.description) for v in bad.field_violations] == [("text", "too long")]


def test_overloaded_has_retry_info() -> None:
    retry = error_details_pb2.RetryInfo()
    assert details(errors.Overloaded("full", 0.25)).details[0].Unpack(retry)
    assert retry.retry_delay.ToMilliseconds() == 250


def test_overloaded_has_retry_pushback() -> None:
    assert dict(failure(errors.Overloaded("full", 0.25), "r1").trailing_metadata())["grpc-retry-pushback-ms"] == "250"
    assert "grpc-retry-pushback-ms" not in dict(failure(errors.InvalidRequest("m"), "r1").trailing_metadata())


def test_long_messages_fit_into_headers() -> None:
    failed = failure(errors.InvalidRequest("北 " * 10_000, "text"), "r1")
    assert len(failed.message.encode()) <= 1_010
    assert failed.message.endswith(" ...")
