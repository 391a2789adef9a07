"""What matching servers share: encrypted templates, attempts, tombstones, open sessions.

Nothing in here can be compared with a face without a key that the owner's device holds. `server.sqlstorage` keeps it
in SQLite or PostgreSQL; every implementation passes `StorageContract` of the tests.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from federation.onebit import Decision
from federation.receipts import Binding
from server.limits import AttemptHistory, AttemptLimits
from server.sessions import Repeated, Session, SessionLimits, Step


@dataclass(frozen=True)
class StoredTemplate:
    """One enrolled device. Encrypted under the device's own key, and still personal data.

    Attributes:
        key_id: SHA-256 of `public_key`, 32 bytes. It is enrolled once and never again, so it names one template.
        public_key: homomorphic public key.
        device_public_key: Ed25519 public key of the owner's device, 32 bytes.
        template: ciphertext.
        release_digest: model release that made it, 32 bytes.
        parameters: name of the encryption parameters of both ciphertexts.
        purpose: what it may be compared for.
        audience: for whom.
        enrolled_at: seconds since 1970.
        receipts: the owner's signed consents as they came, one in a line: the first one and its renewals. Empty is
            none: such a template is not compared.
    """

    key_id: bytes
    public_key: bytes = field(repr=False)
    device_public_key: bytes = field(repr=False)
    template: bytes = field(repr=False)
    release_digest: bytes
    parameters: str
    purpose: str
    audience: str
    enrolled_at: int
    receipts: bytes = field(default=b"", repr=False)

    @property
    def binding(self) -> Binding:
        """What a consent must be bound to."""
        return Binding(
            device_public_key=self.device_public_key,
            key_id=self.key_id,
            template_digest=hashlib.sha256(self.template).digest(),
            release_digest=self.release_digest,
        )


@dataclass(frozen=True)
class Owner:
    """Who may ask about a key id, also after the template is gone.

    Attributes:
        device_public_key: Ed25519, 32 bytes.
        audience: where the template was enrolled.
    """

    device_public_key: bytes
    audience: str


class Storage(Protocol):
    """What the matching service needs. Threads and processes may share one database.

    Each method is one transaction: a crash leaves the state before it or after it. Methods called inside a
    `transaction` block are one together. Every method raises `UnavailableError` when the database is busy or out of
    reach.
    """

    @property
    def parallel(self) -> int:
        """How many threads use it with profit."""

    def transaction(self, *, durable: bool = True) -> AbstractContextManager[None]:
        """Makes the calls of the block, in this thread, one transaction; an exception undoes them.

        Args:
            durable: whether the commit reaches the disk before the block ends. Without it a power failure may take the
                last moments back, in order; a process that is killed takes nothing back. Only steps of sessions may be
                in such a transaction; others raise `UsageError`.
        """

    def ping(self) -> None:
        """Raises `UnavailableError` unless the database answers."""

    # ------------------------------------------------------------------ templates

    def template(self, key_id: bytes) -> StoredTemplate | None:
        """The enrolled device of that name."""

    def require_new(self, key_id: bytes) -> None:
        """Raises `RefusedError` when the key id is enrolled or was revoked."""

    def enrol(self, template: StoredTemplate) -> None:
        """Stores a template.

        Raises:
            RefusedError: the key id is enrolled or was revoked.
        """

    def replace_receipts(self, key_id: bytes, *, old: bytes, new: bytes) -> None:
        """Puts `new` in the place of the consents `old` of a template.

        Raises:
            RefusedError: no longer enrolled, or the consents are others by now.
        """

    def owner(self, key_id: bytes) -> Owner | None:
        """Who may ask about a key id: of a template, or of one that was revoked and not yet erased."""

    def revoke(self, key_id: bytes, *, now: int, request_digest: bytes) -> None:
        """Deletes template, attempts and sessions, leaves a tombstone. Doing it twice changes nothing.

        Args:
            key_id: 32 bytes.
            now: seconds since 1970.
            request_digest: of the request that asked for it, 32 bytes; stays with the tombstone.
        """

    def erase(self, key_id: bytes, *, request_digest: bytes) -> None:
        """Takes the owner out of the tombstone of a revoked template, so that nobody may ask about the key any more.

        Args:
            key_id: 32 bytes.
            request_digest: of the request that asked for it, 32 bytes; stays with the tombstone.
        """

    def is_erased_by(self, key_id: bytes, request_digest: bytes) -> bool:
        """Whether this very request had the key id erased before."""

    def attempts_of(self, key_id: bytes) -> list[tuple[int, str | None]]:
        """Every attempt on a template in order: when (seconds since 1970), and "match", "non-match" or None."""

    # ------------------------------------------------------------------ attempts

    def open_attempt(self, *, session_id: bytes, key_id: bytes, now: int, limits: AttemptLimits) -> None:
        """Counts an attempt, as a failure until `close_attempt` says otherwise. Limit and count are one transaction.

        Raises:
            RefusedError: no longer enrolled, or the template has used up its failures.
            UnavailableError: too many failures in a row; says when to come back.
        """

    def close_attempt(self, *, session_id: bytes, decision: Decision) -> None:
        """Records the decision of an open attempt.

        Raises:
            RefusedError: there is no such open attempt; the template was revoked meanwhile, perhaps.
        """

    def history(self, key_id: bytes) -> AttemptHistory:
        """Attempts of one device."""

    # ------------------------------------------------------------------ sessions

    def start_session(
        self, session: Session, *, now: int, limits: SessionLimits, template_of: bytes | None = None
    ) -> None:
        """Opens a session; forgets those that have expired.

        Args:
            session: fresh.
            now: seconds since 1970.
            limits: bounds.
            template_of: session whose held template goes over to this one.

        Raises:
            UnavailableError: too many are open, or too many of this peer.
        """

    def take_session(
        self, session_id: bytes, step: Step, *, request_digest: bytes, now: int
    ) -> Session | Repeated | None:
        """Takes a session out to work on its step. Exactly one caller gets it.

        Returns:
            The session; or `Repeated`, when the same request took it before; or None, when it is unknown, expired, or
            waits for something else. In the last case it is over.
        """

    def answer_session(
        self,
        session_id: bytes,
        *,
        step: Step,
        answer: bytes,
        expires_at: int,
        token_digest: bytes | None = None,
        logged: bytes | None = None,
    ) -> None:
        """Puts a taken session back in its next step, with the answer for a device that asks again.

        A session that is done lets go of the template that it held.

        Raises:
            RefusedError: the session has ended meanwhile.
        """

    def release_session(self, session_id: bytes) -> None:
        """Puts a taken session back as it was, for a step that could not be worked on."""

    def end_session(self, session_id: bytes) -> None:
        """Forgets a session and the template that it holds."""

    def open_sessions(self, *, now: int) -> int:
        """How many sessions are neither finished nor expired."""

    def hold_template(self, session_id: bytes, template: StoredTemplate) -> None:
        """Keeps the template of an enrolment that has not ended, as long as its session lives.

        Raises:
            RefusedError: the session has ended meanwhile.
        """

    def held_template(self, session_id: bytes) -> StoredTemplate | None:
        """The template that a session holds."""
