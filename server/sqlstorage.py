"""`Storage` in SQLite or PostgreSQL: the same statements for both.

Theory of operation
-------------------
Two front ends must never spend one attempt or one nonce twice. In SQLite a writing transaction holds the only write
lock from its beginning. In PostgreSQL every method that decides about a key id first takes an advisory lock on it,
opening a session takes one on all sessions, and a session's row is locked while its step is decided. Whoever takes
several locks takes them in this order: all sessions, key ids by their number, sessions' rows, the row of the log's
checkpoint. That last row is written as the last thing before the commit, by every durable transaction.
"""

from __future__ import annotations

import hashlib
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self

import sqlalchemy as sa

from federation.errors import ProofError, RefusedError, UnavailableError, UsageError
from federation.onebit import Decision, Operation
from federation.transparency import PersonalKind, TreeHead
from federation.wire.convert import SessionRequest
from server.database import POSTGRES_CONNECTIONS, connect, database_url, is_empty, require_current, upgrade
from server.limits import AttemptHistory, AttemptLimits
from server.schema import TEMPLATE, attempts, deeds, held_templates, log_seen, sessions, templates, tombstones
from server.sessions import Repeated, Session, SessionLimits, Step
from server.storage import Deed, Owner, StoredTemplate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from sqlalchemy.engine import Connection, Engine

_TOMBSTONE_TAG = b"intaglio-tombstone/1\0"
_ALL_SESSIONS = b"sessions"
_OVER = "the session has ended; start again"

# Statements are built once: SQLAlchemy takes longer to build one than to run it.
_id: sa.BindParameter[bytes] = sa.bindparam("id")
_key: sa.BindParameter[bytes] = sa.bindparam("key")
_THIS_SESSION = sessions.c.session_id == _id
_FIND_TEMPLATE = sa.select(*(templates.c[name] for name in TEMPLATE)).where(templates.c.key_id == _key)
_ADD_TEMPLATE = templates.insert()
_DELETE_TEMPLATE = templates.delete().where(templates.c.key_id == _key)
_IS_KNOWN = sa.select(
    sa.exists().where(templates.c.key_id == _key) | sa.exists().where(tombstones.c.key_id_hash == sa.bindparam("name"))
)
_OLD_RECEIPTS: sa.BindParameter[bytes] = sa.bindparam("old")
_REPLACE_RECEIPTS = (
    templates.update()
    .where(templates.c.key_id == _key, templates.c.receipts == _OLD_RECEIPTS)
    .values(receipts=sa.bindparam("new"))
)
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
_CLOSE_ATTEMPT = (
    attempts.update()
    .where(attempts.c.session_id == _id, attempts.c.decision.is_(None))
    .values(decision=sa.bindparam("word"))
)

_ANNOUNCE = deeds.insert()
_FORGET_REVOCATIONS = deeds.delete().where(deeds.c.key_id == _key, deeds.c.kind == PersonalKind.REVOCATION.value)
_FORGET_DEEDS_OF_KEY = deeds.delete().where(deeds.c.key_id == _key)
_FORGET_DEEDS_OF_SESSION = deeds.delete().where(deeds.c.session_id == _id)
_SEEN = sa.select(log_seen.c.size, log_seen.c.root).where(log_seen.c.row == 1)
_SEE = (
    log_seen.update()
    .where(log_seen.c.row == 1, log_seen.c.size < sa.bindparam("new_size"))
    .values(size=sa.bindparam("new_size"), root=sa.bindparam("new_root"))
)

_IS_OPEN = sessions.c.step != Step.DONE.value
_COUNT_SESSIONS = sa.select(
    sa.func.count().label("total"), sa.func.count().filter(sessions.c.peer == sa.bindparam("peer")).label("mine")
).where(_IS_OPEN)
_COUNT_LIVING = sa.select(sa.func.count()).where(_IS_OPEN, sessions.c.expires_at > sa.bindparam("now"))
_SWEEP = sessions.delete().where(sessions.c.expires_at <= sa.bindparam("now"))
_ADD_SESSION = sessions.insert()
_LOCK_SESSION = (
    sa.select(*(column for column in sessions.c if column is not sessions.c.answer))
    .where(_THIS_SESSION)
    .with_for_update()
)
_FIND_ANSWER = sa.select(sessions.c.answer).where(_THIS_SESSION)
_TAKE = sessions.update().where(_THIS_SESSION).values(taken=1, request_digest=sa.bindparam("digest"), answer=None)
_RELEASE = sessions.update().where(_THIS_SESSION).values(taken=0, request_digest=None)
_AWAIT_TOKEN = (
    sessions.update()
    .where(_THIS_SESSION, sessions.c.taken == 1)
    .values(
        {name: sa.bindparam(f"new_{name}") for name in ("operation", "answer", "token_digest", "logged")}
        | {"step": Step.TOKEN.value, "taken": 0}
    )
)
_FINISH = (
    sessions.update()
    .where(_THIS_SESSION)
    .values(
        {name: sa.bindparam(f"new_{name}") for name in ("answer", "expires_at")}
        | {"step": Step.DONE.value, "taken": 0, "token_digest": None, "logged": None}
    )
)
_END = sessions.delete().where(_THIS_SESSION)
_END_ALL_OF_KEY = sessions.delete().where(sessions.c.key_id == _key)
_END_OTHERS_OF_KEY = sessions.delete().where(sessions.c.key_id == _key, sessions.c.session_id != _id)
_HOLD = held_templates.insert()
_FIND_HELD = sa.select(*(held_templates.c[name] for name in TEMPLATE)).where(held_templates.c.session_id == _id)
_LET_GO = held_templates.delete().where(held_templates.c.session_id == _id)
_LOCK_NAME = sa.select(sa.func.pg_advisory_xact_lock(sa.bindparam("number")))
_PING = sa.select(1)


def open_storage(database: str | Path) -> SqlStorage:
    """Opens the storage of a matching server.

    Args:
        database: path of an SQLite file, made when missing; or the URL of a PostgreSQL database that
            `intaglio-server database upgrade` has prepared.

    Raises:
        UsageError: out of reach, not our database, or of another schema.
    """
    url = database_url(database)
    engine = connect(url)
    try:
        if engine.dialect.name == "sqlite" and is_empty(engine):
            upgrade(url)
        require_current(engine)
    except BaseException:
        engine.dispose()
        raise
    return SqlStorage(engine)


class SqlStorage:
    """See `Storage`. Made by `open_storage`; use it as a context manager.

    Args:
        engine: connected to a database of the newest schema.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_sqlite = engine.dialect.name == "sqlite"
        self._local = threading.local()
        self._head: Callable[[], TreeHead] | None = None
        self._recorded = 0  # entries of the largest tree that this process knows to be recorded; only grows
        self._growing = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes every connection; SQLite folds its write-ahead log into the file."""
        self._engine.dispose()

    @property
    def parallel(self) -> int:
        """See `Storage`. SQLite has one writer, who would only wait for himself."""
        return 1 if self._is_sqlite else POSTGRES_CONNECTIONS

    def ping(self) -> None:
        """See `Storage`."""
        with self._begin(reading=True) as run:
            run.execute(_PING)

    # ------------------------------------------------------------------ the log

    def seen(self) -> TreeHead:
        """See `Storage`."""
        with self._begin(reading=True) as run:
            row = run.execute(_SEEN).one()
        return TreeHead(row.size, row.root)

    def follow(self, head: Callable[[], TreeHead]) -> None:
        """See `Storage`."""
        self._remember(self.seen().size)
        self._head = head

    # ------------------------------------------------------------------ templates

    def template(self, key_id: bytes) -> StoredTemplate | None:
        """See `Storage`."""
        with self._begin(reading=True) as run:
            row = run.execute(_FIND_TEMPLATE, {"key": key_id}).mappings().one_or_none()
        return StoredTemplate(**row) if row else None

    def require_new(self, key_id: bytes) -> None:
        """See `Storage`."""
        with self._begin(reading=True) as run:
            if run.execute(_IS_KNOWN, {"key": key_id, "name": _tombstone(key_id)}).scalar_one():
                raise RefusedError("this key is enrolled already, or was revoked; create a new wallet to enrol again")

    def enrol(self, template: StoredTemplate) -> None:
        """See `Storage`. A crash leaves no template or the whole of it."""
        with self._begin() as run:
            self._lock(run, template.key_id)
            self.require_new(template.key_id)
            run.execute(_ADD_TEMPLATE, {"key_id": template.key_id} | _row(template))

    def revoke(self, key_id: bytes, *, now: int, request_digest: bytes) -> None:
        """See `Storage`. A crash leaves the template with no tombstone, or the tombstone with no template."""
        with self._begin() as run:
            self._lock(run, key_id)
            run.execute(_END_ALL_OF_KEY, {"key": key_id})
            self._bury(run, key_id, now=now, request_digest=request_digest)
            run.execute(_FORGET_REVOCATIONS, {"key": key_id})
        self._fold_in()

    def owner(self, key_id: bytes) -> Owner | None:
        """See `Storage`."""
        with self._begin(reading=True) as run:
            row = run.execute(_FIND_OWNER, {"key": key_id}).one_or_none()
            row = row or run.execute(_FIND_TOMBSTONE, {"name": _tombstone(key_id)}).one_or_none()
        if row is None or row.device_public_key is None:
            return None
        return Owner(row.device_public_key, row.audience)

    def erase(self, key_id: bytes, *, request_digest: bytes) -> None:
        """See `Storage`. A crash leaves an owner who may ask once more, or none."""
        with self._begin() as run:
            run.execute(_FORGET_OWNER, {"name": _tombstone(key_id), "digest": request_digest})
            run.execute(_FORGET_DEEDS_OF_KEY, {"key": key_id})
        self._fold_in()

    def is_erased_by(self, key_id: bytes, request_digest: bytes) -> bool:
        """See `Storage`."""
        with self._begin(reading=True) as run:
            row = run.execute(_FIND_TOMBSTONE, {"name": _tombstone(key_id)}).one_or_none()
        return row is not None and row.device_public_key is None and row.request_digest == request_digest

    def announce(self, *deeds: Deed) -> None:
        """See `Storage`. A crash leaves all of them or none; `server.deeds` says what either means."""
        with self._begin() as run:
            for deed in deeds:
                run.execute(_ANNOUNCE, _row_of(deed))

    # ------------------------------------------------------------------ attempts

    def open_attempt(
        self, *, session_id: bytes, key_id: bytes, transcript_digest: bytes, now: int, limits: AttemptLimits
    ) -> None:
        """See `Storage`. A crash after it leaves a counted failure: the answer may have left, so it must count."""
        with self._begin() as run:
            self._lock(run, key_id)
            limits.require_room(self.history(key_id), now=now)
            try:
                run.execute(
                    _ADD_ATTEMPT,
                    {
                        "session_id": session_id,
                        "transcript_digest": transcript_digest,
                        "key_id": key_id,
                        "opened_at": now,
                    },
                )
            except sa.exc.IntegrityError as error:
                raise RefusedError("not enrolled any more, or the session was used before") from error

    def history(self, key_id: bytes) -> AttemptHistory:
        """See `Storage`."""
        with self._begin(reading=True) as run:
            return AttemptHistory(**run.execute(_HISTORY, {"key": key_id}).mappings().one())

    def attempts_of(self, key_id: bytes) -> list[tuple[int, str | None]]:
        """See `Storage`."""
        with self._begin(reading=True) as run:
            return [(row.opened_at, row.decision) for row in run.execute(_FIND_ATTEMPTS, {"key": key_id})]

    # ------------------------------------------------------------------ sessions

    def start_session(self, session: Session, *, now: int, limits: SessionLimits) -> None:
        """See `Storage`. A crash leaves the session or none."""
        with self._begin(relaxed=True) as run:
            self._lock(run, _ALL_SESSIONS)
            run.execute(_SWEEP, {"now": now})
            total, mine = run.execute(_COUNT_SESSIONS, {"peer": session.peer}).one()
            if total >= limits.capacity or mine >= limits.per_peer:
                whose = "are open" if total >= limits.capacity else "of this client are open"
                raise UnavailableError(
                    f"too many sessions {whose}; try again in a minute", retry_after_seconds=limits.lifetime_seconds
                )
            row = {
                "session_id": session.session_id,
                "step": session.step.value,
                "key_id": session.request.key_id,
                "purpose": session.request.purpose,
                "audience": session.request.audience,
                "peer": session.peer,
                "nonce": session.nonce,
                "expires_at": session.expires_at,
                "operation": session.operation.name,
                "taken": 0,
                "audience_nonce": session.request.audience_nonce,
            }
            run.execute(_ADD_SESSION, row)

    def take_session(
        self, session_id: bytes, step: Step, *, request_digest: bytes, now: int
    ) -> Session | Repeated | None:
        """See `Storage`. A crash after it leaves a session that only waits for its end."""
        this = {"id": session_id}
        with self._begin(relaxed=True) as run:
            row = run.execute(_LOCK_SESSION, this).one_or_none()
            if row is None or row.expires_at <= now:
                return None
            if row.request_digest == request_digest:
                return Repeated(run.execute(_FIND_ANSWER, this).scalar_one())
            if row.taken or row.step != step.value:
                run.execute(_END, this)
                return None
            run.execute(_TAKE, this | {"digest": request_digest})
        return Session(
            session_id=session_id,
            step=step,
            request=SessionRequest(
                key_id=row.key_id, purpose=row.purpose, audience=row.audience, audience_nonce=row.audience_nonce
            ),
            peer=row.peer,
            nonce=row.nonce,
            expires_at=row.expires_at,
            operation=Operation[row.operation],
            token_digest=row.token_digest,
            logged=row.logged,
        )

    def await_token(
        self,
        session_id: bytes,
        *,
        operation: Operation,
        answer: bytes,
        token_digest: bytes,
        logged: bytes | None = None,
        held: StoredTemplate | None = None,
    ) -> None:
        """See `Storage`. A crash before it leaves a session that only waits for its end."""
        values = {
            "id": session_id,
            "new_operation": operation.name,
            "new_answer": answer,
            "new_token_digest": token_digest,
            "new_logged": logged,
        }
        with self._begin(relaxed=True) as run:
            if run.execute(_AWAIT_TOKEN, values).rowcount != 1:
                raise RefusedError(_OVER)
            if held is not None:
                run.execute(_HOLD, {"session_id": session_id} | _row(held))

    def held_template(self, session_id: bytes) -> StoredTemplate | None:
        """See `Storage`."""
        with self._begin(reading=True) as run:
            row = run.execute(_FIND_HELD, {"id": session_id}).mappings().one_or_none()
        return StoredTemplate(**row) if row else None

    def decide(self, session: Session, decision: Decision, *, answer: bytes, now: int, expires_at: int) -> None:
        """See `Storage`. A crash leaves a counted failure, or the whole of it, which can be asked for again."""
        this, key_id = {"id": session.session_id}, session.request.key_id
        with self._begin() as run:
            held = self.held_template(session.session_id)
            self._lock(run, key_id, *([held.key_id] if held else []))
            row = run.execute(_LOCK_SESSION, this).one_or_none()
            if row is None or not row.taken:
                raise RefusedError(_OVER)
            if decision is Decision.MATCH:
                self._put_in_force(run, session, held, now=now, request_digest=row.request_digest)
            elif session.operation is not Operation.ENROL:
                self._close_attempt(run, session.session_id, "non-match")
            run.execute(_FINISH, this | {"new_answer": answer, "new_expires_at": expires_at})
            run.execute(_LET_GO, this)
            run.execute(_FORGET_DEEDS_OF_SESSION, this)
        if decision is Decision.MATCH and session.operation is Operation.RENEW_TEMPLATE:
            self._fold_in()

    def release_session(self, session_id: bytes) -> None:
        """See `Storage`."""
        with self._begin(relaxed=True) as run:
            run.execute(_RELEASE, {"id": session_id})

    def end_session(self, session_id: bytes) -> None:
        """See `Storage`."""
        with self._begin(relaxed=True) as run:
            run.execute(_END, {"id": session_id})

    def open_sessions(self, *, now: int) -> int:
        """See `Storage`."""
        with self._begin(reading=True) as run:
            return int(run.execute(_COUNT_LIVING, {"now": now}).scalar_one())

    # ------------------------------------------------------------------ parts of transactions

    def _put_in_force(
        self, run: Connection, session: Session, held: StoredTemplate | None, *, now: int, request_digest: bytes
    ) -> None:
        """What a match does."""
        key_id = session.request.key_id
        if held is None and session.operation is not Operation.VERIFY:
            raise RefusedError(_OVER)
        match session.operation, held:
            case Operation.ENROL, StoredTemplate():
                self.enrol(held)
            case Operation.RENEW_TEMPLATE, StoredTemplate() if self.template(held.key_id) != held:
                self._close_attempt(run, session.session_id, "match")
                self._replace(run, key_id, held, session.session_id, now=now, request_digest=request_digest)
            case Operation.RENEW_CONSENT, StoredTemplate():
                self._close_attempt(run, session.session_id, "match")
                self._renew_consent(run, held)
            case Operation.VERIFY, _:
                self._close_attempt(run, session.session_id, "match")

    def _close_attempt(self, run: Connection, session_id: bytes, word: str) -> None:
        if run.execute(_CLOSE_ATTEMPT, {"id": session_id, "word": word}).rowcount != 1:
            raise RefusedError("the attempt is not open; the template was revoked meanwhile, perhaps")

    def _renew_consent(self, run: Connection, renewed: StoredTemplate) -> None:
        """Puts the chain of consents in the place of the one that lacks its last. Doing it twice changes nothing."""
        old, _, _ = renewed.receipts.rpartition(b"\n")
        values = {"key": renewed.key_id, "old": old, "new": renewed.receipts}
        if run.execute(_REPLACE_RECEIPTS, values).rowcount != 1 and self.template(renewed.key_id) != renewed:
            raise RefusedError("not enrolled any more, or another consent came first; ask for the current one")

    def _replace(
        self,
        run: Connection,
        key_id: bytes,
        successor: StoredTemplate,
        session_id: bytes,
        *,
        now: int,
        request_digest: bytes,
    ) -> None:
        """Revokes a template and enrols another in its place. The session that asked for it goes on."""
        run.execute(_END_OTHERS_OF_KEY, {"key": key_id, "id": session_id})
        self._bury(run, key_id, now=now, request_digest=request_digest)
        self.enrol(successor)

    def _bury(self, run: Connection, key_id: bytes, *, now: int, request_digest: bytes) -> None:
        """A tombstone in the place of whatever there is of a template."""
        name = _tombstone(key_id)
        owner = run.execute(_FIND_OWNER, {"key": key_id}).mappings().one_or_none()
        run.execute(_DELETE_TEMPLATE, {"key": key_id})  # attempts go with it
        if run.execute(_FIND_TOMBSTONE, {"name": name}).one_or_none() is None:
            run.execute(
                _ADD_TOMBSTONE,
                {"key_id_hash": name, "revoked_at": now, "request_digest": request_digest}
                | dict(owner or {"device_public_key": None, "audience": None}),
            )

    # ------------------------------------------------------------------ transactions

    def _fold_in(self) -> None:
        """SQLite's write-ahead log holds deleted pages; a crash before this leaves them to its next checkpoint."""
        if self._is_sqlite:
            with self._engine.connect() as connection:
                driver: Any = connection.connection.driver_connection
                driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    @contextmanager
    def _begin(self, *, reading: bool = False, relaxed: bool = False) -> Iterator[Connection]:
        """The transaction of this thread, or a new one."""
        running: Connection | None = getattr(self._local, "connection", None)
        if running is not None:
            if running.get_execution_options()["relaxed"] and not (reading or relaxed):
                raise UsageError("this step must reach the disk; its transaction need not")
            yield running
            return
        options = {"reading": reading, "relaxed": relaxed, "binary": True}
        try:
            with self._engine.connect().execution_options(**options) as connection:
                self._local.connection = connection
                try:
                    with connection.begin():
                        yield connection
                        recorded = 0 if reading or relaxed else self._see(connection)
                    self._remember(recorded)
                finally:
                    self._local.connection = None
        except (sa.exc.OperationalError, sa.exc.InterfaceError, sa.exc.TimeoutError) as error:
            raise UnavailableError("the database is busy or out of reach; try again") from error

    def _see(self, run: Connection) -> int:
        """Records how far the log has come. Entries of the tree that is recorded then."""
        if self._head is None:
            return 0
        expected = self._recorded  # read first: what was recorded by now, the next statement sees
        size: int = run.execute(_SEEN).one().size
        if size < expected:
            raise ProofError(
                f"the database went back while it was served: it knew {expected} entries of the log and knows {size}."
                " Stop its servers; starting one says what to do"
            )
        head = self._head()
        if head.size > size:
            run.execute(_SEE, {"new_size": head.size, "new_root": head.root})
        return max(size, head.size)

    def _remember(self, size: int) -> None:
        with self._growing:
            self._recorded = max(self._recorded, size)

    def _lock(self, run: Connection, *names: bytes) -> None:
        """Until the transaction ends, nobody else passes here with these names. SQLite's write lock does it already."""
        if not self._is_sqlite:
            digests = (hashlib.sha256(name).digest()[:8] for name in names)
            for number in sorted({int.from_bytes(digest, "big", signed=True) for digest in digests}):
                run.execute(_LOCK_NAME, {"number": number})


def _row_of(deed: Deed) -> dict[str, object]:
    row = {
        "commitment": deed.commitment,
        "kind": deed.kind.value,
        "key_id": deed.key_id,
        "announced_at": deed.announced_at,
        "request_digest": deed.request_digest,
        "session_id": deed.session_id,
    }
    return row | (_row(deed.template) if deed.template else dict.fromkeys(TEMPLATE))


def _row(template: StoredTemplate) -> dict[str, object]:
    return {name: getattr(template, name) for name in TEMPLATE}


def _tombstone(key_id: bytes) -> bytes:
    """Hashed once more, so a tombstone cannot be matched with a key id in somebody's log without trying it."""
    return hashlib.sha256(_TOMBSTONE_TAG + key_id).digest()
