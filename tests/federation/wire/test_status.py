"""Which status stands for which error, both ways, and all that is read from a call that failed."""

from __future__ import annotations

from types import SimpleNamespace

import grpc
import pytest

from federation.errors import (
    BudgetExhaustedError,
    IntaglioError,
    MalformedMessageError,
    PeerError,
    ProofError,
    RefusedError,
    RoundAbortedError,
    UnavailableError,
    UsageError,
)
from federation.wire.status import error_from_call, status_of, trailing_metadata_of

SENT = {
    IntaglioError: "INTERNAL",
    PeerError: "INTERNAL",
    UsageError: "FAILED_PRECONDITION",
    BudgetExhaustedError: "OUT_OF_RANGE",
    MalformedMessageError: "INVALID_ARGUMENT",
    ProofError: "UNAUTHENTICATED",
    RefusedError: "PERMISSION_DENIED",
    RoundAbortedError: "ABORTED",
    UnavailableError: "UNAVAILABLE",
}
"""As clients of another maker read them."""
ARRIVES = {
    "OK": PeerError,
    "CANCELLED": UnavailableError,
    "UNKNOWN": PeerError,
    "INVALID_ARGUMENT": MalformedMessageError,
    "DEADLINE_EXCEEDED": UnavailableError,
    "NOT_FOUND": PeerError,
    "ALREADY_EXISTS": PeerError,
    "PERMISSION_DENIED": RefusedError,
    "UNAUTHENTICATED": ProofError,
    "RESOURCE_EXHAUSTED": UnavailableError,
    "FAILED_PRECONDITION": UsageError,
    "ABORTED": RoundAbortedError,
    "UNIMPLEMENTED": PeerError,
    "INTERNAL": PeerError,
    "UNAVAILABLE": UnavailableError,
    "DATA_LOSS": PeerError,
    "OUT_OF_RANGE": BudgetExhaustedError,
}
SILENT = {"UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"}
"""What gRPC says of itself, when no server said anything."""


def a_call(code, details="reasons", metadata=()):
    return SimpleNamespace(
        code=lambda: grpc.StatusCode[code], details=lambda: details, trailing_metadata=lambda: metadata
    )


@pytest.mark.parametrize("kind", SENT, ids=lambda kind: kind.__name__)
def test_each_error_is_sent_as_its_own_status_and_only_a_busy_server_says_when(kind):
    assert status_of(kind("no")) is grpc.StatusCode[SENT[kind]]
    assert trailing_metadata_of(kind("no")) == ((("retry-after-seconds", "1.000"),) if kind is UnavailableError else ())


def test_an_error_of_somebody_s_own_is_sent_as_the_nearest_that_has_a_status():
    class OwnError(BudgetExhaustedError):
        """Below one that is below another."""

    class BusyError(UnavailableError):
        """Says when, as its parent does."""

    assert status_of(OwnError("no")) is grpc.StatusCode.OUT_OF_RANGE
    busy = BusyError("no", retry_after_seconds=61.2345)
    assert status_of(busy) is grpc.StatusCode.UNAVAILABLE
    assert trailing_metadata_of(busy) == (("retry-after-seconds", "61.234"),)


@pytest.mark.parametrize("code", [code.name for code in grpc.StatusCode])
def test_each_status_arrives_as_one_error_that_says_who_spoke(code):
    error = error_from_call(a_call(code))
    assert type(error) is ARRIVES[code]
    assert str(error) == ("no answer came: reasons" if code in SILENT else "the server says: reasons")
    spoken = error_from_call(a_call(code, metadata=(("other", "7"), ("retry-after-seconds", "9.5"), ("last", "8"))))
    assert type(spoken) is ARRIVES[code]
    assert str(spoken) == "the server says: reasons"
    assert getattr(spoken, "retry_after_seconds", None) == (9.5 if ARRIVES[code] is UnavailableError else None)
    assert str(error_from_call(a_call(code, None, None))).endswith(": no reason given")


@pytest.mark.parametrize(
    ("told", "read"),
    [
        ("0", 0.0),
        ("0.5", 0.5),
        ("-0.001", 1.0),
        ("86400", 86_400.0),
        ("86400.001", 1.0),
        ("nan", 1.0),
        ("", 1.0),
        (b"12", 12.0),
    ],
)
def test_a_time_to_wait_is_from_nothing_to_a_day(told, read):
    for metadata in ((("retry-after-seconds", told),), (("a", "2"), ("retry-after-seconds", told), ("b", "3"))):
        assert error_from_call(a_call("UNAVAILABLE", metadata=metadata)).retry_after_seconds == read
    assert error_from_call(a_call("UNAVAILABLE", metadata=(("retry-after", "5"),))).retry_after_seconds == 1.0
    assert error_from_call(a_call("UNAVAILABLE", metadata=None)).retry_after_seconds == 1.0


def test_a_text_is_500_characters_at_most_and_each_that_does_not_print_is_a_space():
    assert str(error_from_call(a_call("INTERNAL", "a\x1b[1m\nb\u200bc\u00e9"))) == "the server says: a [1m b c\u00e9"
    assert str(error_from_call(a_call("INTERNAL", "x" * 500))) == "the server says: " + "x" * 500
    assert str(error_from_call(a_call("INTERNAL", "x" * 500 + "y"))) == "the server says: " + "x" * 500
