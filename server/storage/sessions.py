"""Sessions: what a matching server expects next from a device. Kept by the storage, so any front end serves any step.

Theory of operation
-------------------
A session moves through its steps, each taken once::

    PROBE -> TOKEN -> DONE

What a match does, its *operation*, is known when the probe has come. A session that was opened to verify renews a
consent or a template if the probe brought one; the new template or consent then waits with the session.

A step is *taken* in one transaction before it is worked on, and *answered* in another. The digest of the request that
took it stays with the session. So the session and its step are the name of a request that may be repeated: the same
bytes get the same answer, without a second comparison and without a second attempt; other bytes end the session. A
front end that dies in between leaves a taken session that nobody can go on with, and the attempt stays counted.

Of a token only its SHA-256 is stored, which the reply shows to the device anyway. Three things of a session are worth
something to a thief of the database while it is there. A reply hides the template computationally, not perfectly
(docs/onebit.md, section 6). The answer of a finished session holds the assertion, which an audience takes for its
owner's as long as it waits for that nonce. And a held template is one under a pad, as every stored one. So sessions are
deleted when they have expired, whether or not somebody comes (`Storage.sweep`): an answer after half a minute.
"""

from __future__ import annotations

import enum
import hashlib
import hmac
import secrets
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from federation.errors import UsageError
from federation.presentation.levels import PadLevel
from federation.wire.convert import NONCE_BYTES, SESSION_ID_BYTES

if TYPE_CHECKING:
    from federation.onebit import Operation
    from federation.wire.convert import SessionRequest


class Step(enum.Enum):
    """What is to come next. The values are in the database."""

    PROBE = "probe"
    TOKEN = "token"  # noqa: S105 - the name of a step
    DONE = "done"


@dataclass(frozen=True)
class Session:
    """An open session.

    Attributes:
        session_id: 16 random bytes.
        step: what is to come next.
        request: who, what for, and for whom.
        peer: SHA-256 of the certificate that opened it, 32 bytes; for counting only.
        nonce: 32 random bytes, signed by the device in the session's transcript.
        expires_at: seconds since 1970. Going on does not lengthen it.
        operation: what a match does: `ENROL`, or `VERIFY` until a probe brings something to renew.
        token_digest: SHA-256 of the token that a match reveals, 32 bytes, when `step` expects a token.
        logged: the log's entry about the comparison with its proof, when an assertion may be wanted.
        account: of the ticket that opened it, 16 bytes; None unless it enrols.
        pad: what stood between a presentation attack and the comparison.
    """

    session_id: bytes
    step: Step
    request: SessionRequest
    peer: bytes
    nonce: bytes = field(repr=False)
    expires_at: int
    operation: Operation
    token_digest: bytes | None = field(default=None, repr=False)
    logged: bytes | None = field(default=None, repr=False)
    account: bytes | None = field(default=None, repr=False)
    pad: PadLevel = PadLevel.NONE

    @classmethod
    def fresh(
        cls,
        request: SessionRequest,
        *,
        operation: Operation,
        peer: bytes,
        expires_at: int,
        account: bytes | None = None,
    ) -> Session:
        """A session with a new id and a new nonce."""
        return cls(
            session_id=secrets.token_bytes(SESSION_ID_BYTES),
            step=Step.PROBE,
            request=request,
            peer=peer,
            nonce=secrets.token_bytes(NONCE_BYTES),
            expires_at=expires_at,
            operation=operation,
            account=account,
        )

    def expects(self, token: bytes | None) -> bool:
        """Whether `token` is the one that the session waits for. Takes the same time for every wrong one."""
        if token is None or self.token_digest is None:
            return False
        return hmac.compare_digest(hashlib.sha256(token).digest(), self.token_digest)


@dataclass(frozen=True)
class Repeated:
    """The answer to a step that was taken before, by the same bytes.

    Attributes:
        answer: the stored answer, or None while the first request is still being worked on.
    """

    answer: bytes | None = field(repr=False)


@dataclass(frozen=True)
class SessionLimits:
    """Bounds in number and in time, so strangers cannot fill the database.

    In SQLite the numbers are exact. Front ends on PostgreSQL do not wait for each other to count, so sessions that are
    opened at the same moment may exceed either number: by one less than all front ends have connections, five each.

    Attributes:
        capacity: most unfinished sessions at once, over all front ends; one whose probe was compared holds its reply.
        per_peer: most unfinished sessions of one client certificate; fewer than all, or one could close the service.
        lifetime_seconds: from opening to the last message.
        answer_seconds: how long a finished session remembers its answer, for a device that lost it.
    """

    capacity: int = 1024
    per_peer: int = 128
    lifetime_seconds: int = 60
    answer_seconds: int = 30

    def __post_init__(self) -> None:
        if not 0 < self.per_peer < self.capacity or min(self.lifetime_seconds, self.answer_seconds) < 1:
            raise UsageError("session limits need 0 < per peer < capacity and times of at least a second")
