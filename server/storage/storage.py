"""What matching servers share: padded templates, attempts, tombstones, open sessions, deeds that are under way.

Nothing in here can be compared with a face without what the owner's device holds. `server.storage.sqlstorage` keeps it
in SQLite or PostgreSQL; every implementation passes `StorageContract` of the tests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from federation.consent.assertion import ACCOUNT_BYTES
from federation.consent.receipts import Binding
from federation.errors import UsageError
from federation.onebit import Decision, Operation
from federation.presentation.levels import PadLevel
from federation.transparency import PersonalKind, TreeHead
from federation.wire.convert import DEVICE_PUBLIC_KEY_BYTES
from server.storage.certificates import CertificateStorage
from server.storage.limits import AttemptHistory, AttemptLimits
from server.storage.sessions import Repeated, Session, SessionLimits, Step

MOST_TEMPLATE_BYTES = 1024
DIGEST_BYTES = hashlib.sha256().digest_size
NO_TICKET = "this ticket is not valid here: it was used, has ended or was taken back; ask who gave it for another one"


@dataclass(frozen=True)
class StoredTemplate:
    """One enrolled device: its template under a one-time pad that only the device has. Still personal data.

    Attributes:
        device_public_key: Ed25519 public key of the owner's device, 32 bytes.
        template: message, 1 to 1024 bytes; the storage does not look into it.
        release_digest: model release that made it, 32 bytes.
        parameters: name of the parameters of the match.
        purpose: what it may be compared for.
        audience: for whom.
        enrolled_at: seconds since 1970.
        account: 16 random bytes that a ticket brought with it. They stay when the template is renewed, and end with it.
            Nobody is told them but parts of this server: not the owner, and no log.
        receipts: the owner's signed consents as they came, one in a line: the first one and its renewals. Empty is
            none: such a template is not compared.
        admission: by which device of the account this one was let in (`federation.wire.devices.Admission`), None for
            the first. Of a template that a session holds to admit another device: that one's. It distinguishes nothing.

    Raises:
        UsageError: a length is wrong.
    """

    device_public_key: bytes = field(repr=False)
    template: bytes = field(repr=False)
    release_digest: bytes
    parameters: str
    purpose: str
    audience: str
    enrolled_at: int
    account: bytes = field(repr=False)
    receipts: bytes = field(default=b"", repr=False)
    admission: bytes | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.device_public_key) != DEVICE_PUBLIC_KEY_BYTES or len(self.release_digest) != DIGEST_BYTES:
            raise UsageError("a device's public key and a release's digest have 32 bytes")
        if not isinstance(self.account, bytes) or len(self.account) != ACCOUNT_BYTES:
            raise UsageError(f"an account has {ACCOUNT_BYTES} bytes")
        if not 0 < len(self.template) <= MOST_TEMPLATE_BYTES:
            raise UsageError(f"a template has 1 to {MOST_TEMPLATE_BYTES} bytes, not {len(self.template)}")

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the device's key, 32 bytes. It is enrolled once and never again, so it names one template."""
        return key_id_of(self.device_public_key)

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

    @property
    def key_id(self) -> bytes:
        """SHA-256 of the device's key, 32 bytes."""
        return key_id_of(self.device_public_key)


@dataclass(frozen=True)
class IssuedTicket:
    """What is kept of a ticket until somebody has enrolled with it. Then nothing of it is left.

    Attributes:
        digest: of the ticket, 32 bytes; see `federation.wire.ticket.Ticket`. The ticket itself is kept nowhere.
        account: of whoever will have enrolled with it, 16 random bytes. No two tickets have the same.
        client: name in the certificate of the device that alone may bring it; None for any.
        ends_at: first second at which it is worth nothing, seconds since 1970.
        admission: by a device of the account, which is there then (`federation.wire.devices.Admission`); None for what
            an operator gave somebody.
    """

    digest: bytes
    account: bytes = field(repr=False)
    client: str | None
    ends_at: int
    admission: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if len(self.digest) != DIGEST_BYTES or len(self.account) != ACCOUNT_BYTES:
            raise UsageError(f"a ticket's digest has {DIGEST_BYTES} bytes, and its account {ACCOUNT_BYTES}")
        if self.client == "":
            raise UsageError("a ticket is for a certificate with a name, or for any")

    @property
    def name(self) -> str:
        """What an operator calls it by: the beginning of the digest, which does not give the ticket away."""
        return self.digest.hex()[:16]


@dataclass(frozen=True)
class Deed:
    """Something that is about to be logged and then done. `server.matching.deeds` says why it is announced first.

    Attributes:
        commitment: of the entry that the log is to get, 32 bytes. An erasure gets its entry's commitment only while it
            is logged, so it has 32 random bytes here.
        kind: what is done, never an attempt. A revocation is also what happens to a template that another one takes
            the place of; a renewal is one of a consent.
        key_id: to whose template, 32 bytes.
        announced_at: seconds since 1970.
        request_digest: of the request that asked for it, 32 bytes.
        session_id: of the session that ends with it; None for what an owner asked for without a session.
        template: what comes in force with it: of an enrolment the template; of a renewal the template with the longer
            chain of consents; of a revocation the one that takes the revoked one's place, if there is one. That one's
            enrolment is a deed of its own for the log, and has none.
    """

    commitment: bytes
    kind: PersonalKind
    key_id: bytes
    announced_at: int
    request_digest: bytes
    session_id: bytes | None = None
    template: StoredTemplate | None = None


@dataclass(frozen=True)
class MissedAttempt:
    """An attempt that only the log knows of.

    Attributes:
        key_id: of the template, 32 bytes.
        transcript_digest: which one, 32 bytes.
        time: seconds since 1970.
    """

    key_id: bytes
    transcript_digest: bytes
    time: int


@dataclass(frozen=True)
class MissedEnd:
    """That a template has ended, or cannot be served any more, which only the log knows of.

    Attributes:
        key_id: of the template, 32 bytes.
        time: seconds since 1970.
        request_digest: of the request that asked for it, 32 bytes, or of nobody's.
        owner: who may still ask about it, where the template itself is not there to say so.
        is_erased: whether nobody may.
    """

    key_id: bytes
    time: int
    request_digest: bytes
    owner: Owner | None = None
    is_erased: bool = False


class Storage(CertificateStorage, Protocol):
    """What the matching service needs. Threads and processes may share one database.

    Each method is one transaction: a crash leaves the state before it or after it. Every method raises
    `UnavailableError` when the database is busy or out of reach, takes nothing more, or is not the one that was opened;
    it says which.

    Methods that change templates, attempts, tombstones or deeds are on disk when they return. In the same transaction
    they record the log's checkpoint that `follow` was given. Steps of sessions are not: a power failure may take the
    last moments of them back, in order; a process that is killed takes nothing back.
    """

    @property
    def parallel(self) -> int:
        """How many threads use it with profit."""

    def ping(self) -> None:
        """Raises `UnavailableError` unless the database is the one that was opened, and takes what is written."""

    def together(self, calls: Sequence[Callable[[], Any]], *, lasts: bool) -> list[Any]:
        """Runs calls that each use one method of this storage, in one transaction: one wait for the disk for all.

        Each call has its whole effect or none, as if it ran alone, one after the other. None of them is visible to
        anybody before all are.

        Args:
            calls: none of them enrols, renews, revokes or erases.
            lasts: whether any of the methods must be on disk when this returns.

        Returns:
            What each returned, or the exception that it raised, in order.

        Raises:
            UnavailableError: the database could not be used, and nothing happened of any of them; or it did, and the
                answer was lost.
        """

    # ------------------------------------------------------------------ the log

    def seen(self) -> TreeHead:
        """The largest tree of the log that was recorded here."""

    def follow(self, head: Callable[[], TreeHead]) -> None:
        """From now on, every durable transaction records how far the log has come, if that is further than before.

        Whoever calls this has made sure that the database knows of everything in that log
        (`server.restoring.reconciling`). From now on a database that is put back behind this process's back is noticed:
        `ping` and whatever must last raise `UnavailableError`.

        Args:
            head: a tree of which a checkpoint was signed; called in every durable transaction.
        """

    def deeds(self) -> list[Deed]:
        """What was announced and is not done."""

    def finish(self, deed: Deed, *, now: int) -> None:
        """Does what was announced and logged, however far others have come with it. The announcement stays.

        What has become impossible is passed over, as `decide` refuses it: what revokes was revoked before, another
        consent came first, or the key id that is to be enrolled is known.
        """

    def forget(self, deed: Deed) -> None:
        """Takes an announcement away."""

    def owners(self) -> list[Owner]:
        """Everybody who may ask about a key id; see `owner`."""

    def knows(self, key_id: bytes) -> bool:
        """Whether the key id is enrolled or was revoked."""

    def knows_attempt(self, transcript_digest: bytes) -> bool:
        """Whether that attempt was counted, and its template is still there."""

    def catch_up(
        self, missed: Sequence[MissedAttempt | MissedEnd], head: TreeHead, *, keeps_tickets: bool = True
    ) -> int:
        """Brings the database level with its log: everything in order, all or nothing. Ends all sessions.

        Args:
            missed: what only the log knows of. Attempts are of templates that are there until their end comes.
            head: tree of the log up to which that is everything.
            keeps_tickets: whether nobody has enrolled that this database does not know of. The log does not say with
                which ticket somebody did, so otherwise all of them go.

        Returns:
            How many tickets went.
        """

    # ------------------------------------------------------------------ templates

    def template(self, key_id: bytes) -> StoredTemplate | None:
        """The enrolled device of that name."""

    def require_new(self, key_id: bytes) -> None:
        """Raises `RefusedError` when the key id is enrolled or was revoked."""

    def enrol(self, template: StoredTemplate) -> None:
        """Stores a template, and asks nobody for a ticket: `decide` and `finish` do.

        Raises:
            RefusedError: the key id is enrolled or was revoked.
        """

    def devices(self, account: bytes) -> list[StoredTemplate]:
        """The templates of an account, the first to enrol first."""

    def releases(self) -> dict[bytes, int]:
        """How many templates there are of each release, by its digest. Nobody is named."""

    # ------------------------------------------------------------------ tickets

    def issue(self, ticket: IssuedTicket) -> None:
        """Lets somebody enrol who brings that ticket.

        Raises:
            RefusedError: it is there already, or another one with its account.
        """

    def ticket(self, digest: bytes, *, now: int) -> IssuedTicket | None:
        """The ticket of that digest, while somebody may enrol with it."""

    def tickets(self, *, now: int) -> list[IssuedTicket]:
        """Those with which somebody may enrol, the first to end first."""

    def withdraw(self, digest: bytes) -> bool:
        """Takes a ticket back.

        Returns:
            Whether there was one, and no enrolment with it is announced: else that happens.
        """

    # ------------------------------------------------------------------ owners

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

    def announce(self, *deeds: Deed) -> None:
        """Remembers deeds until they are done: `decide`, `revoke` and `erase` forget what they did.

        What a session wants is announced only while it is possible, and nothing else is announced about its key ids or
        with its ticket: so it is refused before anything is logged, and what was logged is done. What a session
        announced before may be announced again, also when it was done meanwhile. What an owner asks for without a
        session is always announced. A ticket with which an enrolment is announced stays until that is done or
        forgotten.

        Raises:
            RefusedError: a key id that is to be enrolled is enrolled or was revoked, or its ticket was used, has ended
                or was taken back; the template that is to be renewed, or that admits, is not there any more; its
                account has as many devices as it may; or another consent came first.
            UnavailableError: something else is announced about one of the key ids, or with the ticket.
        """

    # ------------------------------------------------------------------ attempts

    def open_attempt(
        self, *, session_id: bytes, key_id: bytes, transcript_digest: bytes, now: int, limits: AttemptLimits
    ) -> None:
        """Counts an attempt, as a failure until `decide` says otherwise. Limit and count are one transaction.

        The same attempt of the same session, which was counted and cut off before anything left, goes on and is not
        counted again.

        Args:
            session_id: of the session, 16 bytes; it makes one attempt.
            key_id: of the template, 32 bytes.
            transcript_digest: SHA-256 of what the session is bound to, as the log's opening has it.
            now: seconds since 1970.
            limits: how many there may be.

        Raises:
            RefusedError: no longer enrolled, another attempt was made in this session, or the template has used up its
                failures.
            UnavailableError: too many failures in a row; says when to come back.
        """

    def history(self, key_id: bytes) -> AttemptHistory:
        """Attempts of one device."""

    # ------------------------------------------------------------------ sessions

    def start_session(self, session: Session, *, now: int, limits: SessionLimits) -> None:
        """Opens a session.

        Args:
            session: fresh.
            now: seconds since 1970.
            limits: bounds.

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

    def await_token(
        self,
        session_id: bytes,
        *,
        operation: Operation,
        answer: bytes,
        token_digest: bytes,
        logged: bytes | None = None,
        pad: PadLevel = PadLevel.NONE,
        held: StoredTemplate | None = None,
    ) -> None:
        """Puts a session whose probe was compared in its last step.

        Args:
            session_id: of a session that was taken.
            operation: what a match does; the probe's change said so.
            answer: for a device that sends its probe again.
            token_digest: SHA-256 of the token that a match reveals.
            logged: the log's entry about the comparison, when an assertion may be wanted.
            pad: what stood between a presentation attack and the comparison.
            held: what a match puts in force. For an enrolment and a renewed template it is the new template, for a
                renewed consent the enrolled one with the longer chain of receipts, for a verification None. It is kept
                as long as the session lives.

        Raises:
            RefusedError: the session has ended meanwhile.
        """

    def held_template(self, session_id: bytes) -> StoredTemplate | None:
        """What a match in that session puts in force."""

    def decide(
        self,
        session: Session,
        decision: Decision,
        *,
        held: StoredTemplate | None,
        answer: bytes,
        now: int,
        expires_at: int,
        request_digest: bytes,
    ) -> None:
        """Ends a session: the decision, what it does, and the answer, all or nothing. Doing it twice changes nothing.

        What a match puts in force stands in the log by now, so it happens also when the session has ended meanwhile.

        ============== ======================= ====================================================================
        operation      attempt                 on a match
        ============== ======================= ====================================================================
        ENROL          it has none             the held template is enrolled, and the ticket of its account is gone
        VERIFY         closed                  nothing more
        RENEW_CONSENT  closed                  the held template's receipts replace those that they prolong
        RENEW_TEMPLATE closed, and on a match  the old template is revoked, with a tombstone, and the held one is
                       gone with its template  enrolled. Other sessions of the old one end. If the releases differ, this
                                               attempt and all failures before it are of the held one then
        ADMIT_DEVICE   closed                  the ticket of the held template's admission is issued for an hour, in
                                               the place of the one that its account had
        REMOVE_DEVICE  closed                  the held template is revoked, with a tombstone
        ============== ======================= ====================================================================

        Args:
            session: taken, in its last step.
            decision: of the comparison.
            held: what `held_template` said of the session.
            answer: for a device that sends its token again.
            now: seconds since 1970.
            expires_at: until when the answer is kept, seconds since 1970.
            request_digest: of the message that brought the token; stays with a tombstone.

        Raises:
            RefusedError: nothing is put in force and the session has ended; its template was revoked; the new key id
                is enrolled or was revoked; its ticket is gone; or another consent came first. Nothing has changed then,
                and nothing will: `finish` does not do it either.
        """

    def sweep(self, *, now: int) -> None:
        """Forgets sessions that have expired, with what they hold, and tickets that have ended.

        A ticket goes an hour after its end, and not while an enrolment with it is announced.

        Args:
            now: seconds since 1970.
        """

    def release_session(self, session_id: bytes) -> None:
        """Puts a taken session back as it was, for a step that could not be worked on."""

    def end_session(self, session_id: bytes) -> None:
        """Forgets a session and the template that it holds."""

    def open_sessions(self, *, now: int) -> int:
        """How many sessions are neither finished nor expired."""


def key_id_of(device_public_key: bytes) -> bytes:
    """The name of a device: SHA-256 of its Ed25519 public key, 32 bytes."""
    return hashlib.sha256(device_public_key).digest()
