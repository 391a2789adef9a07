"""A database that is behind its log does not serve: what is gone through when a server starts, and what puts it right.

Theory of operation
-------------------
Whatever the log says about a template is explained by the database, at every moment and through every crash: it was
announced or counted there first (`server.matching.deeds`). The database also records how far the log had come, in the
same transaction as what it does. What the log said up to there was announced before, so a database with that record has
it too, or what became of it: crashes and backups keep a beginning of a database's history, never a part without what
came before. So only the entries since then are gone through::

    entry                        explained by                        otherwise, `reconcile` makes
    refusal, read, public entry  nothing to explain
    comparison, no opening       nothing: an enrolment's, or erased
    attempt                      its row; no template                an attempt without a decision: a failure
    enrolment                    template, tombstone, announcement   a tombstone: that key enrols no more
    revocation                   no template; announcement           a tombstone
    renewal of a consent         the receipt; no template;           a tombstone, and a revocation in the log: only the
                                 announcement                        owner could sign such a receipt again
    admission of a device        nothing to explain: its owner admits it once more
    erasure                      whoever may ask has an enrolment    a tombstone that names no owner
                                 in the log, or an announcement

Tickets stand in no log. One that was used since a backup was made is there again when that is restored, and nobody can
say which: so where the log has an enrolment that the database has not seen, `reconcile` takes all tickets away.

An erasure's entry names nobody. But it took all openings of its owner with it, and nothing else does; so whoever is in
the database and has no opening of an enrolment was erased. `reconcile` looks at everybody in this way, and also finds
templates that the log never saw.

What is announced and logged is finished; a start does it, and a server that runs does it every few seconds, for deeds
that a busy database cut off. Doing it while the front end that announced it still works on it is no harm: every deed
done twice is the same deed.

The log is read first and the database after it. Whatever explains an entry was there before the entry, and is followed,
never preceded, by what explains it next: announcement, deed, a record of the log that covers it. They are looked at in
this order. So another front end that serves meanwhile cannot make an entry look unexplained.

The other direction, a log that lacks entries that the database knows, or has others there, cannot be put right: the
log's word was given and is gone. Nothing is served on it.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from federation.errors import ProofError, UsageError
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    LogEntry,
    Opening,
    PersonalEntry,
    PersonalKind,
    TreeHead,
    entry_from_bytes,
)
from federation.transparency.entries import SALT_BYTES
from server.log.storage import Addition, KeptOpening
from server.storage.storage import Deed, MissedAttempt, MissedEnd, Owner, Storage

if TYPE_CHECKING:
    from server.log.transparency_log import TransparencyLog

_PATIENCE_SECONDS = 3600
"""After this, what was announced and not logged is forgotten. No step takes so long; one that did would be noticed."""
_NOBODY = bytes(32)
"""In the place of a request's digest, where no request asked."""


class What(enum.Enum):
    """What the log knows and the database does not. The values are how a person reads it."""

    ATTEMPT = "attempts"
    REVOCATION = "revocations"
    ERASURE = "erasures"
    ENROLMENT = "enrolments whose templates are lost"
    CONSENT = "consents that are lost"
    TEMPLATE = "templates that the log never saw"
    TICKET = "tickets with which somebody may have enrolled since"


_STRENGTH = (What.ERASURE, What.REVOCATION, What.ENROLMENT, What.TEMPLATE, What.CONSENT)
"""What ends a template, the strongest first."""
_BLOCKED = (What.CONSENT, What.TEMPLATE)
"""What was never revoked, and cannot be served any more: it is revoked, so the log says so first."""


@dataclass(frozen=True)
class Missed:
    """Something that only the log knows of.

    Attributes:
        what: it is.
        effect: what the database is to make of it.
    """

    what: What
    effect: MissedAttempt | MissedEnd


@dataclass(frozen=True)
class Gap:
    """How far a database is behind its log.

    Attributes:
        head: tree of the log up to which this is everything.
        missed: in the log's order.
        has_enrolments: whether the log has any that the database has not seen, or may not have.
        void_tickets: how many `reconcile` took away for that.
    """

    head: TreeHead
    missed: tuple[Missed, ...]
    has_enrolments: bool = False
    void_tickets: int = 0

    @property
    def counts(self) -> dict[What, int]:
        """How many of what."""
        return Counter(one.what for one in self.missed) | Counter({What.TICKET: self.void_tickets})


def take_up(storage: Storage, log: TransparencyLog, *, now: int) -> None:
    """Makes sure that a database knows everything in its log, finishes what a crash cut off, and follows the log.

    Args:
        storage: of the server that starts.
        log: opened.
        now: seconds since 1970.

    Raises:
        UsageError: the database is behind its log.
        ProofError: the log is behind the database, or another one.
        UnavailableError: one of them cannot be used now.
    """
    found = gap_between(storage, log, now=now)
    if found.missed:
        listed = ", ".join(f"{count} {what.value}" for what, count in found.counts.items())
        raise UsageError(
            f"the database is behind its log and lacks {listed}: it was restored from a backup, or is new while its log"
            " is not. Serving it would undo what people were promised. Stop all its servers and run"
            " `intaglio-server database reconcile`"
        )
    storage.follow(lambda: log.head)
    finish(storage, log, now=now)


def finish(storage: Storage, log: TransparencyLog, *, now: int) -> None:
    """Does what was announced and logged, and forgets what was announced long ago and never logged.

    The storage follows the log, so it is level with it.
    """
    deeds = storage.deeds()
    if not deeds:
        return
    logged = [deed for deed in deeds if _is_logged(deed, log)]
    log.sign()  # so that the log's head, which is recorded when they are forgotten, covers their entries
    for deed in deeds:
        if deed in logged:
            storage.finish(deed, now=now)
        if deed in logged or deed.announced_at + _PATIENCE_SECONDS < now:
            storage.forget(deed)


def reconcile(storage: Storage, log: TransparencyLog, *, now: int) -> Gap:
    """Brings a database level with its log. Its servers are stopped.

    What has to be revoked for that is logged first. The rest is one transaction: a crash before it leaves a database
    that is still behind and can be reconciled again.

    Args:
        storage: that nobody else uses.
        log: opened.
        now: seconds since 1970.

    Returns:
        What was missing.

    Raises:
        ProofError: the log is behind the database, or another one.
        UnavailableError: one of them cannot be used now.
    """
    log.require_begins_with(storage.seen())
    for deed in storage.deeds():
        if _is_logged(deed, log):
            storage.finish(deed, now=now)  # and stays announced: its entry is not a gap, even if nothing came of it
    found = gap_between(storage, log, now=now, everybody=True)
    for one in found.missed:
        if one.what in _BLOCKED:
            log.append([_revocation(one, now)])
    effects = [one.effect for one in found.missed]
    void = storage.catch_up(effects, found.head, keeps_tickets=not found.has_enrolments)
    return replace(found, void_tickets=void)


def gap_between(storage: Storage, log: TransparencyLog, *, now: int, everybody: bool = False) -> Gap:
    """What the log knows and the database does not.

    Args:
        storage: the database.
        log: opened.
        now: seconds since 1970.
        everybody: whether to look at every template, not only at what was logged since the database last recorded it.

    Raises:
        ProofError: the log is behind the database, or another one; or it lacks an entry, or an opening is of another.
    """
    seen = storage.seen()
    log.require_begins_with(seen)
    head = log.checkpoint().head
    deeds = storage.deeds()  # after the log's head, and before what became of them
    announced = {deed.commitment for deed in deeds}
    coming = {deed.template.key_id for deed in deeds if deed.template}
    missed, erased, enrolled, position = list[tuple[int, Missed]](), False, False, seen.size
    while position < head.size:
        page = [entry_from_bytes(leaf) for leaf in log.entries(position, head.size)]
        if not page:
            raise ProofError(f"entry {position} is missing from the log's database")
        kept = log.openings_between(position, position + len(page))
        for one in kept:
            entry = page[one.position - position]
            one.opening.check(entry)
            if one.opening.commitment not in announced and (lost := _unexplained(storage, entry, one, coming)):
                missed.append((one.position, lost))
        erased |= any(entry.kind is PersonalKind.ERASURE for entry in page)
        enrolled |= any(entry.kind is PersonalKind.ENROLMENT for entry in page)
        position += len(page)
    strangers = _strangers(storage, log, now) if everybody else []
    vanished = _vanished(storage, log, now) if erased or everybody else []
    known = storage.seen().size  # at last: another front end may have gone on meanwhile
    logged = [one for position, one in missed if position >= known]
    return Gap(head, _settled(logged + vanished + strangers), has_enrolments=enrolled)


def _unexplained(storage: Storage, entry: LogEntry, kept: KeptOpening, coming: set[bytes]) -> Missed | None:
    """What an entry says that was not announced and that the database does not know.

    Args:
        storage: the database.
        entry: of the log.
        kept: what stands behind it.
        coming: key ids of templates that were announced. They may be there in a moment, and what the log says of one
            that has not come yet is of a time that this database never saw.
    """
    facts, key_id = kept.opening.reveal(), kept.subject
    match entry:
        case AttemptEntry(outcome=AttemptOutcome.OPENED):
            transcript = bytes.fromhex(facts["transcript"])
            if not storage.knows_attempt(transcript) and _is_there(storage, key_id, coming):
                return Missed(What.ATTEMPT, MissedAttempt(key_id, transcript, entry.time))
        case PersonalEntry(kind=PersonalKind.ENROLMENT):
            if not storage.knows(key_id):
                end = MissedEnd(key_id, entry.time, _NOBODY, _owner_of(key_id, facts))
                return Missed(What.ENROLMENT, end)
        case PersonalEntry(kind=PersonalKind.REVOCATION):
            if _is_there(storage, key_id, coming):
                end = MissedEnd(key_id, entry.time, bytes.fromhex(facts.get("request", _NOBODY.hex())))
                return Missed(What.REVOCATION, end)
        case PersonalEntry(kind=PersonalKind.RENEWAL):
            template = storage.template(key_id)
            known = _digests(template.receipts) if template else set()
            if facts["receipt"] not in known and _is_there(storage, key_id, coming):
                return Missed(What.CONSENT, MissedEnd(key_id, entry.time, _NOBODY))
        case _:
            pass
    return None


def _is_there(storage: Storage, key_id: bytes, coming: set[bytes]) -> bool:
    return storage.template(key_id) is not None or (key_id in coming and not storage.knows(key_id))


def _vanished(storage: Storage, log: TransparencyLog, now: int) -> list[Missed]:
    """Who was erased, and may still ask here."""
    candidates = [owner.key_id for owner in storage.owners()]
    enrolled = log.subjects(PersonalKind.ENROLMENT)
    announced = {deed.key_id for deed in storage.deeds() if deed.kind is PersonalKind.ERASURE}
    return [
        Missed(What.ERASURE, MissedEnd(key_id, now, _NOBODY, is_erased=True))
        for key_id in candidates
        if key_id not in enrolled | announced and storage.owner(key_id) is not None
    ]


def _strangers(storage: Storage, log: TransparencyLog, now: int) -> list[Missed]:
    """Templates in the place of the one that the log knows. Who has none there at all has vanished."""
    found = []
    for key_id in (owner.key_id for owner in storage.owners()):
        template = storage.template(key_id)
        logged = [o.reveal() for o in log.openings(key_id).values() if o.kind is PersonalKind.ENROLMENT]
        if (
            template is not None
            and logged
            and _digest(template.template) not in {facts["template"] for facts in logged}
        ):
            found.append(Missed(What.TEMPLATE, MissedEnd(key_id, now, _NOBODY)))
    return found


def _settled(missed: list[Missed]) -> tuple[Missed, ...]:
    """One end for each template, the strongest, and no attempts on what ends."""
    ends = dict[bytes, Missed]()
    for one in missed:
        if isinstance(one.effect, MissedEnd):
            known = ends.get(one.effect.key_id)
            if known is None or _STRENGTH.index(one.what) < _STRENGTH.index(known.what):
                ends[one.effect.key_id] = one
    return tuple(one for one in missed if one is ends.get(one.effect.key_id) or (one.effect.key_id not in ends))


def _is_logged(deed: Deed, log: TransparencyLog) -> bool:
    openings = log.openings(deed.key_id).values()
    if deed.kind is PersonalKind.ERASURE:
        return all(opening.kind is not PersonalKind.ENROLMENT for opening in openings)
    return any(opening.commitment == deed.commitment for opening in openings)


def _revocation(blocked: Missed, now: int) -> Addition:
    key_id = blocked.effect.key_id
    facts = {"key_id": key_id.hex(), "reason": f"the database was restored from a backup: {blocked.what.value}"}
    opening = Opening(PersonalKind.REVOCATION, facts, secrets.token_bytes(SALT_BYTES))
    return Addition(PersonalEntry(PersonalKind.REVOCATION, now, opening.commitment), opening, key_id)


def _owner_of(key_id: bytes, facts: Mapping[str, str]) -> Owner | None:
    """Whom an enrolment's opening names; those of older versions name nobody."""
    if "device_public_key" not in facts:
        return None
    owner = Owner(bytes.fromhex(facts["device_public_key"]), facts["audience"])
    if owner.key_id != key_id:
        raise ProofError("an opening of an enrolment names another owner than the one that it is kept under")
    return owner


def _digests(receipts: bytes) -> set[str]:
    return {_digest(receipt) for receipt in receipts.splitlines()}


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
