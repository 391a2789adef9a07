"""Whatever is done to a template is announced, logged, and then done.

Theory of operation
-------------------
Two databases have to agree: the log's, which everybody can check, and this server's. A deed goes through three durable
steps in this order, and nobody is told that it happened before the last one:

1. *announced*: a row in this server's database, with the commitment of the log's entry and what it takes to finish;
2. *logged*: the entry and its opening, which name the key id and what is done;
3. *done*, and the announcement forgotten, in one transaction. In it the database also records how far the log has come.

Who is told gets the entry with its proof. A device believes nothing else: whoever terminates TLS can say anything.

So an entry of the log about a deed is explained, at every moment, by what this database holds: an announcement, or what
was done. An attempt has the same order without an announcement of its own: it is counted, then logged. A crash, at any
step and of however many front ends, leaves what `server.restoring.reconciling` finishes without a person::

    dies after    | is there afterwards            | at the next start
    (nothing)     | nothing                        | nothing
    announced     | a row, no entry                | forgotten after an hour, which is longer than a step takes
    logged        | a row and its entry            | done, as if there had been no crash
    done          | no row, the entry, the deed    | nothing

A database that lacks an entry's explanation is not the one that was there when the entry was written.

What a session wants is announced only while it is possible and nobody else has announced anything about its keys
(`Storage.announce`), so it is refused before anything is logged. An owner's revocation alone may still come in between.

The entry decides: once it is there the deed is done, by whoever comes to it first, also when its session has ended or
when the person was told that the server is not available. Who was told "refused" may rely on it: whatever makes a deed
impossible stays, because nothing that was revoked, enrolled or consented to is ever undone.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from federation.errors import RefusedError
from federation.onebit import Decision, Operation
from federation.transparency import Opening, PersonalKind
from federation.transparency.entries import COMMITMENT_BYTES, SALT_BYTES
from federation.wire.convert import RecordedDecision
from federation.wire.devices import Admission
from federation.wire.logged import LogReceipt, admission_facts, enrolment_facts, renewal_facts, revocation_facts
from server.matching.journal import Journal
from server.restoring.reconciling import finish
from server.storage.disk import Disk
from server.storage.sessions import Session
from server.storage.storage import Deed, Storage, StoredTemplate

if TYPE_CHECKING:
    from federation.wire.v1 import verification_pb2 as pb


class Deeds:
    """Does things to templates, in the one order that outlives crashes.

    Args:
        storage: of the templates.
        disk: calls it.
        journal: writes the log.
        clock: seconds since 1970.
    """

    def __init__(self, storage: Storage, disk: Disk, journal: Journal, *, clock: Callable[[], float]) -> None:
        self._storage = storage
        self._on_disk = disk
        self._journal = journal
        self._clock = clock

    async def decide(
        self,
        session: Session,
        decision: Decision,
        *,
        assertion: str | None,
        log_size: int,
        expires_at: int,
        request_digest: bytes,
    ) -> pb.SubmitTokenResponse:
        """Ends a session; see `Storage.decide` for what a match does.

        Args:
            session: taken, in its last step.
            decision: of the comparison.
            assertion: for the audience, or None.
            log_size: entries in the last checkpoint that the device saw.
            expires_at: until when the answer is kept for a device that sends its token again, seconds since 1970.
            request_digest: of the message that brought the token.

        Returns:
            The answer, with the log's entries about what the match put in force.

        Raises:
            RefusedError: the session has ended meanwhile, or what it wants is not possible any more.
            UnavailableError: log or database cannot be used now.
        """
        held, deeds = None, tuple[LogReceipt, ...]()
        if decision is Decision.MATCH and session.operation is not Operation.VERIFY:
            held = await self._on_disk(self._storage.held_template, session.session_id)
            if held is not None:  # else the session is over, and the storage says so
                deeds = await self._announce_and_log(session, held, request_digest, log_size)
        answer = RecordedDecision(decision, assertion, deeds).to_proto()
        kept = answer.SerializeToString(deterministic=True)
        decided = (session, decision, held, kept, expires_at, request_digest)
        if held is None:
            await self._on_disk.step(self._decide, *decided, lasts=True)
        else:  # what it deletes is folded into the file, in no transaction
            await self._on_disk(self._decide, *decided)
        return answer

    async def revoke(self, key_id: bytes, request_digest: bytes, *, log_size: int = 0) -> LogReceipt:
        """Deletes a template, with its attempts and consents. It stays with the first time.

        Args:
            key_id: of a template that is there, or was.
            request_digest: of the message that asks for it.
            log_size: entries in the last checkpoint that the device saw.

        Returns:
            The log's entry about it. When the template is gone already, the one about how that came. When the log has
            none, because a database's accident took the template, one is logged now.
        """
        if await self._on_disk(self._storage.template, key_id) is None:
            logged = await self._journal.revocation(key_id, log_size=log_size)
            if logged is not None:
                return logged
        opening = _revocation(key_id, request_digest)
        await self._on_disk(self._announce, self._deed(opening, key_id, request_digest))
        (receipt,) = await self._journal.about_to((key_id, opening), log_size=log_size)
        await self._on_disk(self._revoke, key_id, request_digest)
        return receipt

    async def erase(self, key_id: bytes, request_digest: bytes) -> LogReceipt | None:
        """Deletes the template if it is there, then the openings, then the last thing by which the owner is known.

        In this order a crash leaves an owner who can ask again.

        Returns:
            The tombstone in the log with its only opening, or None when the log had nothing about the key.
        """
        now, name = int(self._clock()), secrets.token_bytes(COMMITMENT_BYTES)
        await self._on_disk(self._announce, Deed(name, PersonalKind.ERASURE, key_id, now, request_digest))
        if await self._on_disk(self._storage.template, key_id) is not None:
            await self.revoke(key_id, request_digest)
        tombstone = await self._journal.erase(key_id)
        await self._on_disk(self._erase, key_id, request_digest)
        return tombstone

    async def finish(self) -> None:
        """Does what stands in the log and could not be done, because the database was busy or a front end died."""
        await self._on_disk(self._finish)

    async def _announce_and_log(
        self, session: Session, held: StoredTemplate, request_digest: bytes, log_size: int
    ) -> tuple[LogReceipt, ...]:
        key_id, comes = session.request.key_id, session.operation in {Operation.ENROL, Operation.RENEW_TEMPLATE}
        if comes and await self._on_disk(self._find, held) != held:
            await self._on_disk(self._storage.require_new, held.key_id)  # before the log says what will be refused
        match session.operation:
            case Operation.RENEW_CONSENT:
                openings = [(key_id, _renewal(held))]
            case Operation.ADMIT_DEVICE:
                openings = [(key_id, _admission(held))]
            case Operation.REMOVE_DEVICE:
                if await self._on_disk(self._find, held) is None:
                    raise RefusedError("that device was removed already")
                openings = [(held.key_id, _revocation(held.key_id, request_digest))]
            case Operation.RENEW_TEMPLATE:
                openings = [(key_id, _revocation(key_id, request_digest)), (held.key_id, _enrolment(held))]
            case _:
                openings = [(key_id, _enrolment(held))]
        brought = (None,) if session.operation is Operation.REMOVE_DEVICE else (held, None)
        deeds = [
            self._deed(opening, theirs, request_digest, session_id=session.session_id, template=template)
            for (theirs, opening), template in zip(openings, brought, strict=False)
        ]
        await self._on_disk(self._announce, *deeds)
        return await self._journal.about_to(*openings, log_size=log_size)

    def _deed(
        self,
        opening: Opening,
        key_id: bytes,
        request_digest: bytes,
        *,
        session_id: bytes | None = None,
        template: StoredTemplate | None = None,
    ) -> Deed:
        now = int(self._clock())
        return Deed(opening.commitment, opening.kind, key_id, now, request_digest, session_id, template)

    # ------------------------------------------------------------------ on a storage thread, one transaction each

    def _find(self, template: StoredTemplate) -> StoredTemplate | None:
        return self._storage.template(template.key_id)

    def _finish(self) -> None:
        finish(self._storage, self._journal.log, now=int(self._clock()))

    def _announce(self, *deeds: Deed) -> None:
        self._storage.announce(*deeds)

    def _decide(
        self,
        session: Session,
        decision: Decision,
        held: StoredTemplate | None,
        answer: bytes,
        expires_at: int,
        request_digest: bytes,
    ) -> None:
        self._storage.decide(
            session,
            decision,
            held=held,
            answer=answer,
            now=int(self._clock()),
            expires_at=expires_at,
            request_digest=request_digest,
        )

    def _revoke(self, key_id: bytes, request_digest: bytes) -> None:
        self._storage.revoke(key_id, now=int(self._clock()), request_digest=request_digest)

    def _erase(self, key_id: bytes, request_digest: bytes) -> None:
        self._storage.erase(key_id, request_digest=request_digest)


def _enrolment(template: StoredTemplate) -> Opening:
    facts = enrolment_facts(
        device_public_key=template.device_public_key,
        audience=template.audience,
        template=template.binding.template_digest,
        receipt=template.receipts,
    )
    return _opening(PersonalKind.ENROLMENT, facts)


def _renewal(template: StoredTemplate) -> Opening:
    _, _, receipt = template.receipts.rpartition(b"\n")
    return _opening(PersonalKind.RENEWAL, renewal_facts(key_id=template.key_id, receipt=receipt))


def _admission(template: StoredTemplate) -> Opening:
    let = Admission.from_bytes(template.admission or b"")
    return _opening(PersonalKind.ADMISSION, admission_facts(key_id=template.key_id, admits=let.ticket))


def _revocation(key_id: bytes, request_digest: bytes) -> Opening:
    return _opening(PersonalKind.REVOCATION, revocation_facts(key_id=key_id, request=request_digest))


def _opening(kind: PersonalKind, facts: dict[str, str]) -> Opening:
    return Opening(kind, facts, secrets.token_bytes(SALT_BYTES))
