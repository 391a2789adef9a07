"""Open sessions: what the server expects next from a device, in memory, for a minute.

A session is a chain of states, each taken out before it is worked on, so nothing can be sent twice::

    AwaitingTemplate -> AwaitingTemplateToken -> AwaitingProbe -> AwaitingToken      (enrolment)
                                                 AwaitingProbe -> AwaitingToken      (verification)

A server that stops forgets its sessions; the attempts they made stay counted, because the storage counts them.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from federation.errors import RefusedError, UnavailableError
from federation.wire.convert import NONCE_BYTES, SESSION_ID_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable

    from federation.wire.convert import SessionRequest
    from server.storage import StoredTemplate


def _fresh_nonce() -> bytes:
    return secrets.token_bytes(NONCE_BYTES)


@dataclass(frozen=True)
class AwaitingTemplate:
    """Enrolment, first leg: the template is to come."""

    request: SessionRequest
    nonce: bytes = field(default_factory=_fresh_nonce, repr=False)


@dataclass(frozen=True)
class AwaitingTemplateToken:
    """Enrolment, first leg: the zero test's token is to come."""

    request: SessionRequest
    pending: StoredTemplate
    token: bytes = field(repr=False)


@dataclass(frozen=True)
class AwaitingProbe:
    """A probe is to come; `pending` is the template of an enrolment's second leg, not stored yet."""

    request: SessionRequest
    pending: StoredTemplate | None
    nonce: bytes = field(default_factory=_fresh_nonce, repr=False)


@dataclass(frozen=True)
class AwaitingToken:
    """The device is to say what it found."""

    pending: StoredTemplate | None
    token: bytes = field(repr=False)


State = AwaitingTemplate | AwaitingTemplateToken | AwaitingProbe | AwaitingToken
_S = TypeVar("_S", AwaitingTemplate, AwaitingTemplateToken, AwaitingProbe, AwaitingToken)


class Sessions:
    """Open sessions by id. Bounded in number and in time, so strangers cannot fill the memory.

    Args:
        capacity: most sessions at once; an enrolling one holds about 330 kB.
        lifetime_seconds: from opening to the last message.
        clock: monotonic seconds.
    """

    def __init__(
        self, *, capacity: int = 512, lifetime_seconds: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._capacity = capacity
        self._lifetime_seconds = lifetime_seconds
        self._clock = clock
        self._open: dict[bytes, tuple[float, State]] = {}

    def __len__(self) -> int:
        return len(self._open)

    def start(self, state: State) -> bytes:
        """Opens a session and returns its id, 16 random bytes.

        Raises:
            UnavailableError: too many are open.
        """
        self._forget_expired()
        if len(self._open) >= self._capacity:
            raise UnavailableError("too many sessions are open; try again in a minute", retry_after_seconds=60)
        session_id = secrets.token_bytes(SESSION_ID_BYTES)
        self._open[session_id] = (self._clock() + self._lifetime_seconds, state)
        return session_id

    def take(self, session_id: bytes, kind: type[_S]) -> tuple[_S, float]:
        """Takes the session out; the caller puts it back with `advance`, or it is over.

        Returns:
            The state, and the time at which the session expires.

        Raises:
            RefusedError: unknown, expired, used, or in another state; the session is over in each case.
        """
        self._forget_expired()
        deadline, state = self._open.pop(session_id, (0.0, None))
        if not isinstance(state, kind):
            raise RefusedError("no session waits for this message: it is unknown, used or expired; start again")
        return state, deadline

    def advance(self, session_id: bytes, state: State, deadline: float) -> None:
        """Puts a taken session back in its next state. Its time does not begin anew."""
        self._open[session_id] = (deadline, state)

    def _forget_expired(self) -> None:
        now = self._clock()
        for session_id in [key for key, (deadline, _) in self._open.items() if deadline <= now]:
            del self._open[session_id]
