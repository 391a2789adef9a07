"""Templates, tombstones, attempts and deeds in SQLite or PostgreSQL: the same statements for both."""

from __future__ import annotations

import contextlib
import hashlib
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from federation.errors import RefusedError, UnavailableError
from federation.onebit import Decision
from federation.transparency import PersonalKind, TreeHead
from federation.wire.devices import MOST_DEVICES, Admission
from server.sql import Mode, Rows, Transaction
from server.storage.limits import AttemptHistory, AttemptLimits
from server.storage.schema import TEMPLATE, attempts, deeds, sessions, templates, tombstones
from server.storage.sqlcertificates import SqlCertificates
from server.storage.sqltickets import SqlTickets
from server.storage.storage import Deed, MissedAttempt, MissedEnd, Owner, StoredTemplate

if TYPE_CHECKING:
    from collections.abc import Sequence


_TOMBSTONE_TAG = b"intaglio-tombstone/1\0"

# Statements are built once: SQLAlchemy takes longer to build one than to run it.
_key: sa.BindParameter[bytes] = sa.bindparam("key")
_id: sa.BindParameter[bytes] = sa.bindparam("id")
_FIND_TEMPLATE = sa.select(*(templates.c[name] for name in TEMPLATE)).where(templates.c.key_id == _key)
_FIND_DEVICES = (
    sa.select(*(templates.c[name] for name in TEMPLATE))
    .where(templates.c.account == sa.bindparam("account"))
    .order_by(templates.c.enrolled_at, templates.c.admission.is_not(None), templates.c.key_id)
)
_COUNT_DEVICES = sa.select(sa.func.count()).where(templates.c.account == sa.bindparam("account"))
_COUNT_BY_RELEASE = sa.select(templates.c.release_digest, sa.func.count().label("templates")).group_by(
    templates.c.release_digest
)
_ADD_TEMPLATE = templates.insert()
_DELETE_TEMPLATE = templates.delete().where(templates.c.key_id == _key)
_IS_KNOWN = sa.select(
    sa.exists().where(templates.c.key_id == _key) | sa.exists().where(tombstones.c.key_id_hash == sa.bindparam("name"))
)
_FIND_RECEIPTS = sa.select(templates.c.receipts).where(templates.c.key_id == _key).with_for_update()
_REPLACE_RECEIPTS = templates.update().where(templates.c.key_id == _key).values(receipts=sa.bindparam("new"))
_FIND_OWNER = sa.select(templates.c.device_public_key, templates.c.audience).where(templates.c.key_id == _key)
_THIS_TOMBSTONE = tombstones.c.key_id_hash == sa.bindparam("name")
_FIND_TOMBSTONE = sa.select(tombstones).where(_THIS_TOMBSTONE)
_ADD_TOMBSTONE = tombstones.insert()
_FORGET_OWNER = (
    tombstones.update()
    .where(_THIS_TOMBSTONE)
    .values(device_public_key=None, audience=None, request_digest=sa.bindparam("digest"))
)

_LAST_MATCH = (
    sa.select(sa.func.coalesce(sa.func.max(attempts.c.number), 0))
    .where(attempts.c.key_id == _key, attempts.c.decision == "match")
    .scalar_subquery()
)
_HISTORY = sa.select(
    sa.func.count().label("attempts"),
    sa.func.count().filter(attempts.c.decision.is_distinct_from("match")).label("failures"),
    sa.func.count().filter(attempts.c.number > _LAST_MATCH).label("failures_in_a_row"),
    sa.func.max(attempts.c.opened_at).label("last_at"),
).where(attempts.c.key_id == _key)
_FIND_ATTEMPTS = (
    sa.select(attempts.c.opened_at, attempts.c.decision).where(attempts.c.key_id == _key).order_by(attempts.c.number)
)
_ADD_ATTEMPT = attempts.insert()
_IS_GOING_ON = sa.select(
    sa.exists().where(
        attempts.c.session_id == _id,
        attempts.c.key_id == _key,
        attempts.c.transcript_digest == sa.bindparam("digest"),
        attempts.c.decision.is_(None),
    )
)
_CLOSE_ATTEMPT = (
    attempts.update()
    .where(attempts.c.session_id == _id, attempts.c.decision.is_(None))
    .values(decision=sa.bindparam("word"))
)
_CARRY_FAILURES = (
    attempts.update()
    .where(attempts.c.key_id == _key, attempts.c.decision.is_distinct_from("match") | (attempts.c.session_id == _id))
    .values(key_id=sa.bindparam("new_key"))
)

_ANNOUNCE = deeds.insert()
_IS_UNDER_WAY = sa.select(sa.exists().where(deeds.c.key_id == _key, deeds.c.session_id.is_distinct_from(_id)))
_FORGET_REVOCATIONS = deeds.delete().where(deeds.c.key_id == _key, deeds.c.kind == PersonalKind.REVOCATION.value)
_FORGET_DEEDS_OF_KEY = deeds.delete().where(deeds.c.key_id == _key)
FORGET_DEEDS_OF_SESSION = deeds.delete().where(deeds.c.session_id == _id)
_FORGET_DEED = deeds.delete().where(deeds.c.commitment == sa.bindparam("commitment"))
_IS_ANNOUNCED = sa.select(sa.exists().where(deeds.c.commitment == sa.bindparam("commitment")))
_FIND_DEEDS = sa.select(deeds)
_FIND_OWNERS = sa.union_all(
    sa.select(templates.c.device_public_key, templates.c.audience),
    sa.select(tombstones.c.device_public_key, tombstones.c.audience).where(tombstones.c.device_public_key.is_not(None)),
)
_KNOWS_ATTEMPT = sa.select(sa.exists().where(attempts.c.transcript_digest == sa.bindparam("digest")))
_NAME_OWNER = (
    tombstones.update()
    .where(_THIS_TOMBSTONE, tombstones.c.device_public_key.is_(None))
    .values(device_public_key=sa.bindparam("device"), audience=sa.bindparam("theirs"))
)
_END_EVERY_SESSION = sessions.delete()
_END_OTHERS_OF_KEY = sessions.delete().where(sessions.c.key_id == _key, sessions.c.session_id != _id)


class SqlTemplates(SqlTickets, SqlCertificates):
    """The part of `Storage` that outlives sessions."""

    def template(self, key_id: bytes) -> StoredTemplate | None:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return template_of(run.execute(_FIND_TEMPLATE, {"key": key_id}).one_or_none())

    def devices(self, account: bytes) -> list[StoredTemplate]:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            found = run.execute(_FIND_DEVICES, {"account": account}).all
        return [template for template in map(template_of, found) if template is not None]

    def releases(self) -> dict[bytes, int]:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return {row.release_digest: row.templates for row in run.execute(_COUNT_BY_RELEASE).all}

    def require_new(self, key_id: bytes) -> None:
        """See `Storage`."""
        if self.knows(key_id):
            raise RefusedError("this key is enrolled already, or was revoked; create a new wallet to enrol again")

    def knows(self, key_id: bytes) -> bool:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return bool(run.execute(_IS_KNOWN, {"key": key_id, "name": _tombstone(key_id)}).scalar())

    def enrol(self, template: StoredTemplate) -> None:
        """See `Storage`. A crash leaves no template or the whole of it."""
        with self._begin() as run:
            self._lock(run, template.key_id)
            self.require_new(template.key_id)
            run.execute(_ADD_TEMPLATE, {"key_id": template.key_id} | row_of_template(template))

    def revoke(self, key_id: bytes, *, now: int, request_digest: bytes) -> None:
        """See `Storage`. A crash leaves the template with no tombstone, or the tombstone with no template."""
        with self._begin() as run:
            self._lock(run, key_id, *self._account_of(key_id))
            self._end_for(run, key_id, None, now, request_digest)
            run.execute(_FORGET_REVOCATIONS, {"key": key_id})
        self._database.fold_in()

    def owner(self, key_id: bytes) -> Owner | None:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            row = run.execute(_FIND_OWNER, {"key": key_id}).one_or_none()
            # Asked in any case: who is refused must not see by the time whose key is enrolled.
            buried = run.execute(_FIND_TOMBSTONE, {"name": _tombstone(key_id)}).one_or_none()
            row = row or buried
        if row is None or row.device_public_key is None:
            return None
        return Owner(row.device_public_key, row.audience)

    def erase(self, key_id: bytes, *, request_digest: bytes) -> None:
        """See `Storage`. A crash leaves an owner who may ask once more, or none."""
        with self._begin() as run:
            run.execute(_FORGET_OWNER, {"name": _tombstone(key_id), "digest": request_digest})
            run.execute(_FORGET_DEEDS_OF_KEY, {"key": key_id})
        self._database.fold_in()

    def is_erased_by(self, key_id: bytes, request_digest: bytes) -> bool:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            row = run.execute(_FIND_TOMBSTONE, {"name": _tombstone(key_id)}).one_or_none()
        return row is not None and row.device_public_key is None and row.request_digest == request_digest

    def announce(self, *deeds: Deed) -> None:
        """See `Storage`. A crash leaves all of them or none; `server.matching.deeds` says what either means."""
        with self._begin() as run:
            self._lock(run, *{name for deed in deeds for name in _key_ids(deed) | _accounts(deed)})
            for deed in deeds:
                if deed.session_id is not None:
                    self._require_possible(run, deed, deed.session_id)
            for deed in deeds:
                run.execute(_ANNOUNCE, _row_of(deed))

    def open_attempt(
        self, *, session_id: bytes, key_id: bytes, transcript_digest: bytes, now: int, limits: AttemptLimits
    ) -> None:
        """See `Storage`. A crash after it leaves a counted failure: the answer may have left, so it must count."""
        try:
            with self._begin() as run:
                self._lock(run, key_id)
                this = {"id": session_id, "key": key_id, "digest": transcript_digest}
                going_on, history = run.execute(_IS_GOING_ON, this), run.execute(_HISTORY, this)
                if going_on.scalar():
                    return
                limits.require_room(AttemptHistory(*history.one()), now=now)
                run.execute(_ADD_ATTEMPT, _row_of_attempt(session_id, key_id, transcript_digest, now))
        except self._database.conflict as error:
            raise RefusedError("not enrolled any more, or the session was used before") from error

    def history(self, key_id: bytes) -> AttemptHistory:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return AttemptHistory(*run.execute(_HISTORY, {"key": key_id}).one())

    def attempts_of(self, key_id: bytes) -> list[tuple[int, str | None]]:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return [(row.opened_at, row.decision) for row in run.execute(_FIND_ATTEMPTS, {"key": key_id}).all]

    def knows_attempt(self, transcript_digest: bytes) -> bool:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return bool(run.execute(_KNOWS_ATTEMPT, {"digest": transcript_digest}).scalar())

    def owners(self) -> list[Owner]:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return [Owner(row.device_public_key, row.audience) for row in run.execute(_FIND_OWNERS).all]

    def deeds(self) -> list[Deed]:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return [_deed_of(row) for row in run.execute(_FIND_DEEDS).all]

    def finish(self, deed: Deed, *, now: int) -> None:
        """See `Storage`. A crash leaves the deed announced, or announced and done."""
        key_id, template, digest = deed.key_id, deed.template, deed.request_digest
        with self._begin() as run:
            self._lock(run, *_key_ids(deed), *_accounts(deed), *self._account_of(key_id))
            match deed.kind, template:
                case PersonalKind.RENEWAL, StoredTemplate():
                    with contextlib.suppress(RefusedError):  # revoked, or another one came first
                        self._renew_consent(run, template)
                case PersonalKind.ENROLMENT, StoredTemplate() if not self.knows(key_id):
                    with contextlib.suppress(RefusedError):  # somebody else has spent the ticket
                        self._enrol_with_ticket(run, template)
                case PersonalKind.ADMISSION, StoredTemplate(admission=bytes() as admission) if self.template(key_id):
                    if not run.execute(_IS_ANNOUNCED, {"commitment": deed.commitment}).scalar():
                        return  # somebody else has done it, and its ticket may have been spent or taken back since
                    with contextlib.suppress(RefusedError):  # somebody else has let the same code in
                        self._admit(run, template.account, admission, now)
                case PersonalKind.REVOCATION, StoredTemplate():
                    if self.template(key_id) is not None and not self.knows(template.key_id):
                        self._close_attempt(run, deed.session_id or b"", Decision.MATCH)
                        self._take_place(run, key_id, template, deed.session_id, now, digest)
                case ((PersonalKind.REVOCATION | PersonalKind.ERASURE), None):
                    self._end_for(run, key_id, None, now, digest)
                    if deed.kind is PersonalKind.ERASURE:
                        run.execute(_FORGET_OWNER, {"name": _tombstone(key_id), "digest": digest})
        self._database.fold_in()

    def forget(self, deed: Deed) -> None:
        """See `Storage`. A crash leaves the deed announced, or forgotten."""
        with self._begin() as run:
            run.execute(_FORGET_DEED, {"commitment": deed.commitment})
            if self._head is not None:  # nothing else may explain its entry now, so the record must cover it
                self._record(run, self._head())

    def catch_up(
        self, missed: Sequence[MissedAttempt | MissedEnd], head: TreeHead, *, keeps_tickets: bool = True
    ) -> int:
        """See `Storage`. A crash leaves the database behind its log, or level with it."""
        with self._begin() as run:
            self._lock_everybody(run)
            run.execute(_END_EVERY_SESSION)
            void = 0 if keeps_tickets else self._void_tickets(run)
            for one in missed:
                match one:
                    case MissedAttempt():
                        run.execute(_ADD_ATTEMPT, _row_of_attempt(None, one.key_id, one.transcript_digest, one.time))
                    case MissedEnd():
                        self._bury(run, one.key_id, now=one.time, request_digest=one.request_digest)
                        self._name_owner(run, one)
            self._record(run, head)
        self._database.fold_in()
        return void

    # ------------------------------------------------------------------ parts of transactions

    def _account_of(self, key_id: bytes) -> set[bytes]:
        """Of a template, to lock what may be enrolled with it; it never changes."""
        template = self.template(key_id)
        return set() if template is None else {template.account}

    def _close_attempt(self, run: Transaction, session_id: bytes, decision: Decision) -> Rows:
        """Writes the decision; `require_closed` says whether there was an attempt to be closed."""
        word = "match" if decision is Decision.MATCH else "non-match"
        return run.execute(_CLOSE_ATTEMPT, {"id": session_id, "word": word})

    def _require_possible(self, run: Transaction, deed: Deed, session_id: bytes) -> None:
        """Returns when nothing but an owner's revocation can come in the way of a session's deed. Needs its locks."""
        for key_id in _key_ids(deed):
            if run.execute(_IS_UNDER_WAY, {"key": key_id, "id": session_id}).scalar():
                raise UnavailableError("something else is being done to this template, or with the new key; try again")
        match deed.kind, deed.template:
            case PersonalKind.RENEWAL, StoredTemplate() as renewed:
                self._is_to_renew(run, renewed)
            case ((PersonalKind.ENROLMENT | PersonalKind.REVOCATION), StoredTemplate() as new):
                if self.template(new.key_id) == new:  # somebody has finished it; saying so again is no harm
                    return
                self.require_new(new.key_id)
                if deed.kind is PersonalKind.ENROLMENT:
                    self._require_ticket(run, deed, session_id, new)
                elif self.template(deed.key_id) is None:
                    raise RefusedError("the template that is to be renewed was revoked meanwhile")
            case PersonalKind.ADMISSION, StoredTemplate() as admitting:
                self._require_room(run, admitting)

    def _require_room(self, run: Transaction, admitting: StoredTemplate) -> None:
        """Returns when a device may admit another one. Needs its account's lock."""
        if self.template(admitting.key_id) is None:
            raise RefusedError("the template of the device that admits another was revoked meanwhile")
        self._require_own_code(run, admitting.account, Admission.from_bytes(admitting.admission or b"").ticket)
        self._require_unused(run, admitting.account)
        if run.execute(_COUNT_DEVICES, {"account": admitting.account}).scalar() >= MOST_DEVICES:
            raise RefusedError(f"there are {MOST_DEVICES} devices already, as many as may be; remove one first")

    def _enrol_with_ticket(self, run: Transaction, template: StoredTemplate) -> None:
        """Stores somebody's first template, and spends the ticket of its account. Needs the locks of both."""
        self.enrol(replace(template, admission=self._spend(run, template)))

    def _renew_consent(self, run: Transaction, renewed: StoredTemplate) -> None:
        """Puts the chain of consents in the place of the one that lacks its last. Doing it twice changes nothing."""
        if self._is_to_renew(run, renewed):
            run.execute(_REPLACE_RECEIPTS, {"key": renewed.key_id, "new": deflated(renewed.receipts)})

    def _is_to_renew(self, run: Transaction, renewed: StoredTemplate) -> bool:
        """Whether the chain of consents is there without its last; False when it is there as a whole."""
        old, _, _ = renewed.receipts.rpartition(b"\n")
        stored = run.execute(_FIND_RECEIPTS, {"key": renewed.key_id}).scalar()
        if stored is not None and zlib.decompress(stored) == old:
            return True
        if self.template(renewed.key_id) != renewed:
            raise RefusedError("not enrolled any more, or another consent came first; ask for the current one")
        return False

    def _take_place(
        self,
        run: Transaction,
        key_id: bytes,
        new: StoredTemplate,
        session_id: bytes | None,
        now: int,
        request_digest: bytes,
    ) -> None:
        """Enrols a template where another one ends, by a match of that session. Needs the locks of both.

        To another release failures come along: it is no new start for somebody who guesses. Matches do not, since what
        answers told was of the old code; but the last one does, and ends the failures in a row.
        """
        old = self.template(key_id)
        self.enrol(new)  # first, because an attempt is of a template that is there
        if old is not None and old.release_digest != new.release_digest:
            run.execute(_CARRY_FAILURES, {"key": key_id, "new_key": new.key_id, "id": session_id or b""})
        self._end_for(run, key_id, session_id, now, request_digest)

    def _end_for(
        self, run: Transaction, key_id: bytes, session_id: bytes | None, now: int, request_digest: bytes
    ) -> None:
        """Revokes a template. The session that asked for it, if one did, goes on. Needs its lock and its account's."""
        run.execute(_END_OTHERS_OF_KEY, {"key": key_id, "id": session_id or b""})
        ended = self.template(key_id)
        if ended is not None:  # whoever revokes a device may not know whom it let in
            self._end_admission(run, ended.account)
        self._bury(run, key_id, now=now, request_digest=request_digest)

    def _bury(self, run: Transaction, key_id: bytes, *, now: int, request_digest: bytes) -> None:
        """A tombstone in the place of whatever there is of a template."""
        name = _tombstone(key_id)
        owner = run.execute(_FIND_OWNER, {"key": key_id}).one_or_none()
        run.execute(_DELETE_TEMPLATE, {"key": key_id})  # attempts go with it
        if run.execute(_FIND_TOMBSTONE, {"name": name}).one_or_none() is None:
            run.execute(
                _ADD_TOMBSTONE,
                {"key_id_hash": name, "revoked_at": now, "request_digest": request_digest}
                | (owner._asdict() if owner else {"device_public_key": None, "audience": None}),
            )

    def _name_owner(self, run: Transaction, end: MissedEnd) -> None:
        name = _tombstone(end.key_id)
        if end.is_erased:
            run.execute(_FORGET_OWNER, {"name": name, "digest": end.request_digest})
        elif end.owner is not None:
            run.execute(
                _NAME_OWNER, {"name": name, "device": end.owner.device_public_key, "theirs": end.owner.audience}
            )


def require_closed(closing: Rows) -> None:
    """Raises `RefusedError` when what was to be closed was no open attempt."""
    if closing.rowcount != 1:
        raise RefusedError("the attempt is not open; the template was revoked meanwhile, perhaps")


def _row_of_attempt(session_id: bytes | None, key_id: bytes, transcript_digest: bytes, now: int) -> dict[str, object]:
    return {"session_id": session_id, "transcript_digest": transcript_digest, "key_id": key_id, "opened_at": now}


def _key_ids(deed: Deed) -> set[bytes]:
    return {deed.key_id} | ({deed.template.key_id} if deed.template else set())


def _accounts(deed: Deed) -> set[bytes]:
    """The one whose ticket is to be spent, or issued; and the ticket that is to be issued."""
    match deed.kind, deed.template:
        case PersonalKind.ENROLMENT, StoredTemplate(account=account):
            return {account}
        case PersonalKind.ADMISSION, StoredTemplate() as admitting:
            return names_of_admission(admitting)
    return set()


def names_of_admission(admitting: StoredTemplate) -> set[bytes]:
    """What is locked to admit a device: account and ticket."""
    return {admitting.account, Admission.from_bytes(admitting.admission or b"").ticket}


def _deed_of(row: Any) -> Deed:  # noqa: ANN401 - a row of deeds
    return Deed(
        commitment=row.commitment,
        kind=PersonalKind(row.kind),
        key_id=row.key_id,
        announced_at=row.announced_at,
        request_digest=row.request_digest,
        session_id=row.session_id,
        template=None if row.template is None else template_of(row),
    )


def _row_of(deed: Deed) -> dict[str, object]:
    row = {
        "commitment": deed.commitment,
        "kind": deed.kind.value,
        "key_id": deed.key_id,
        "announced_at": deed.announced_at,
        "request_digest": deed.request_digest,
        "session_id": deed.session_id,
    }
    return row | (row_of_template(deed.template) if deed.template else dict.fromkeys(TEMPLATE))


def row_of_template(template: StoredTemplate) -> dict[str, object]:
    """Its columns. Consents are mostly words, half of what is stored of a person, and half as long when deflated."""
    return {name: getattr(template, name) for name in TEMPLATE} | {"receipts": deflated(template.receipts)}


def template_of(row: Any) -> StoredTemplate | None:  # noqa: ANN401 - a row with the columns of a template, or None
    """The template of its columns."""
    if row is None:
        return None
    columns = {name: getattr(row, name) for name in TEMPLATE}
    return StoredTemplate(**columns | {"receipts": zlib.decompress(row.receipts)})


def deflated(receipts: bytes) -> bytes:
    """Receipts as they are stored."""
    return zlib.compress(receipts)


def _tombstone(key_id: bytes) -> bytes:
    """Hashed once more, so a tombstone cannot be matched with a key id in somebody's log without trying it."""
    return hashlib.sha256(_TOMBSTONE_TAG + key_id).digest()
