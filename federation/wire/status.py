"""How errors cross the wire: one table, error <-> gRPC status.

An error that one side raises on purpose arrives as the same class on the other side. Statuses that gRPC itself makes
up (deadline, unknown method, a crash) become `UnavailableError` or `PeerError`. Only the text of family errors
travels; it carries no secrets by the family's rule.
"""

from __future__ import annotations

from typing import Protocol

import grpc

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

RETRY_AFTER_KEY = "retry-after-seconds"
"""Trailing metadata of an `UnavailableError`."""

_LONGEST_RETRY_SECONDS = 86_400.0
_LONGEST_MESSAGE = 500


TABLE: dict[type[IntaglioError], grpc.StatusCode] = {
    UsageError: grpc.StatusCode.FAILED_PRECONDITION,
    BudgetExhaustedError: grpc.StatusCode.OUT_OF_RANGE,
    PeerError: grpc.StatusCode.INTERNAL,
    MalformedMessageError: grpc.StatusCode.INVALID_ARGUMENT,
    ProofError: grpc.StatusCode.UNAUTHENTICATED,
    RefusedError: grpc.StatusCode.PERMISSION_DENIED,
    RoundAbortedError: grpc.StatusCode.ABORTED,
    UnavailableError: grpc.StatusCode.UNAVAILABLE,
}
"""No two classes share a status."""

_BY_STATUS = {status: error for error, status in TABLE.items()}
_TRANSIENT = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)
"""gRPC's own; the last one when a server has more calls at once than it takes."""


_OF_GRPC = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED, grpc.StatusCode.DEADLINE_EXCEEDED)
"""Where nobody of ours may have spoken: what a server says under these, it says with `RETRY_AFTER_KEY`."""


class FailedCall(Protocol):
    """The part of a failed gRPC call that `error_from_call` reads; `grpc.Call` has it."""

    def code(self) -> grpc.StatusCode:
        """Status of the call."""

    def details(self) -> str | None:
        """Text that came with the status."""

    def trailing_metadata(self) -> tuple[tuple[str, str | bytes], ...] | None:
        """Key and value pairs that came after the answer."""


def status_of(error: IntaglioError) -> grpc.StatusCode:
    """The status of `error`'s class, or of its nearest ancestor that has one."""
    return next((TABLE[kind] for kind in type(error).__mro__ if kind in TABLE), TABLE[PeerError])


def trailing_metadata_of(error: IntaglioError) -> tuple[tuple[str, str], ...]:
    """What must travel beside status and text."""
    if isinstance(error, UnavailableError):
        return ((RETRY_AFTER_KEY, f"{error.retry_after_seconds:.3f}"),)
    return ()


def error_from_call(call: FailedCall) -> IntaglioError:
    """The error that a failed call stands for. The other side chose its text: it is shortened and made printable."""
    details = "".join(c if c.isprintable() else " " for c in (call.details() or "no reason given")[:_LONGEST_MESSAGE])
    has_spoken = call.code() not in _OF_GRPC or any(key == RETRY_AFTER_KEY for key, _ in call.trailing_metadata() or ())
    message = f"the server says: {details}" if has_spoken else f"no answer came: {details}"
    kind = UnavailableError if call.code() in _TRANSIENT else _BY_STATUS.get(call.code(), PeerError)
    if kind is UnavailableError:
        return UnavailableError(message, retry_after_seconds=_retry_after(call))
    return kind(message)


def _retry_after(call: FailedCall) -> float:
    """Seconds to wait as the server wrote them, or 1 when it wrote nothing sensible."""
    for key, value in call.trailing_metadata() or ():
        if key == RETRY_AFTER_KEY:
            try:
                seconds = float(value)
            except ValueError:
                break
            if 0 <= seconds <= _LONGEST_RETRY_SECONDS:  # also false for NaN
                return seconds
    return 1.0
