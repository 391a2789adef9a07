"""`Storage` in SQLite or PostgreSQL: sessions, on top of what outlives them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from federation.errors import RefusedError, UnavailableError, UsageError
from federation.onebit import Decision, Operation
from federation.presentation.levels import PadLevel
from federation.wire.convert import SessionRequest
from server.database import connect, database_url, is_empty, name_of, require_current, upgrade
from server.sql import Mode, Transaction
from server.storage.schema import IS_OPEN, TEMPLATE, held_templates, sessions
from server.storage.sessions import Repeated, Session, SessionLimits, Step
from server.storage.sqltemplates import (
    FORGET_DEEDS_OF_SESSION,
    SqlTemplates,
    names_of_admission,
    require_closed,
    row_of_template,
    template_of,
)
from server.storage.storage import StoredTemplate

if TYPE_CHECKING:
    from collections.abc import Callable

    from sqlalchemy.engine import URL


_OVER = "the session has ended; start again"

_id: sa.BindParameter[bytes] = sa.bindparam("id")
_THIS_SESSION = sessions.c.session_id == _id
# A sum is in no index: SQLite would rather read through all that have not expired, also those that are done.
_HAS_TIME = sessions.c.expires_at + sa.literal_column("0") > sa.bindparam("now")
_COUNT_LIVING = sa.select(sa.func.count()).select_from(sessions).where(IS_OPEN, _HAS_TIME)
_COUNT_MINE = _COUNT_LIVING.where(sessions.c.peer == sa.bindparam("peer"))
# Whoever is being swept by another front end, or answered just now, is left to the next sweep.
_SWEEP = sessions.delete().where(
    sessions.c.session_id.in_(
        sa.select(sessions.c.session_id)
        .where(sessions.c.expires_at <= sa.bindparam("now"))
        .with_for_update(skip_locked=True)
    )
)
_NEW_SESSION = (
    "session_id",
    "step",
    "operation",
    "key_id",
    "purpose",
    "audience",
    "peer",
    "nonce",
    "expires_at",
    "taken",
    "audience_nonce",
    "account",
)
_ADD_SESSION = sessions.insert().from_select(
    _NEW_SESSION,
    sa.select(*(sa.bindparam(name, type_=sessions.c[name].type) for name in _NEW_SESSION)).where(
        _COUNT_LIVING.scalar_subquery() < sa.bindparam("capacity"),
        _COUNT_MINE.scalar_subquery() < sa.bindparam("per_peer"),
    ),
)
_WITHOUT_ANSWER = [column for column in sessions.c if column is not sessions.c.answer]
_LOCK_SESSION = sa.select(*_WITHOUT_ANSWER).where(_THIS_SESSION).with_for_update()
_FIND_ANSWER = sa.select(sessions.c.answer).where(_THIS_SESSION)
_TAKE = (
    sessions.update()
    .where(
        _THIS_SESSION,
        sessions.c.taken == 0,
        sessions.c.step == sa.bindparam("expected"),
        sessions.c.expires_at > sa.bindparam("now"),
    )
    .values(taken=1, request_digest=sa.bindparam("digest"), answer=None)
    .returning(*_WITHOUT_ANSWER)
)
_RELEASE = sessions.update().where(_THIS_SESSION).values(taken=0, request_digest=None)
_AWAIT_TOKEN = (
    sessions.update()
    .where(_THIS_SESSION, sessions.c.taken == 1)
    .values(
        {name: sa.bindparam(f"new_{name}") for name in ("operation", "answer", "token_digest", "logged", "pad")}
        | {"step": Step.TOKEN.value, "taken": 0}
    )
)
_FINISH = (
    sessions.update()
    .where(_THIS_SESSION)
    .values(
        {name: sa.bindparam(f"new_{name}") for name in ("answer", "expires_at")}
        | {"step": Step.DONE.value, "taken": 0, "token_digest": None, "logged": None, "account": None, "pad": None}
    )
)
_END = sessions.delete().where(_THIS_SESSION)
_HOLD = held_templates.insert()
_FIND_HELD = sa.select(*(held_templates.c[name] for name in TEMPLATE)).where(held_templates.c.session_id == _id)
_LET_GO = held_templates.delete().where(held_templates.c.session_id == _id)


def open_storage(database: str | Path, *, may_begin: Callable[[], bool] = lambda: True) -> SqlStorage:
    """Opens the storage of a matching server.

    Args:
        database: path of an SQLite file, made when missing; or the URL of a PostgreSQL database that
            `intaglio-server database upgrade` has prepared.
        may_begin: whether a new file may be made; asked only where there is none. It may not where a log knows of
            people: theirs is lost then, or somewhere else.

    Raises:
        UsageError: out of reach, not our database, of another schema, or missing where none may begin.
    """
    url = database_url(database)
    if is_missing(url) and not may_begin():
        raise UsageError(
            f"there is no database {name_of(url)}, and the log knows of people who are enrolled. Name the database that"
            " was there, or restore a backup; a new one is made by `intaglio-server database reconcile`, and then all"
            " of them enrol again"
        )
    engine = connect(url)
    try:
        if engine.dialect.name == "sqlite" and is_empty(engine):
            upgrade(url)
        require_current(engine)
    except BaseException:
        engine.dispose()
        raise
    return SqlStorage(engine)


def _session_of(row: Any) -> Session:  # noqa: ANN401 - a row of sessions without its answer
    return Session(
        session_id=row.session_id,
        step=Step(row.step),
        request=SessionRequest(
            key_id=row.key_id, purpose=row.purpose, audience=row.audience, audience_nonce=row.audience_nonce
        ),
        peer=row.peer,
        nonce=row.nonce,
        expires_at=row.expires_at,
        operation=Operation[row.operation],
        token_digest=row.token_digest,
        logged=row.logged,
        account=row.account,
        pad=PadLevel(row.pad or PadLevel.NONE.value),
    )


def is_missing(url: URL) -> bool:
    """Whether an SQLite file would be made."""
    if url.get_backend_name() != "sqlite":
        return False
    path = Path(str(url.database))
    return not path.exists() or path.stat().st_size == 0


def _names(operation: Operation, held: StoredTemplate | None) -> set[bytes]:
    """What is locked beside a session's template."""
    if held is None:
        return set()
    if operation is Operation.ADMIT_DEVICE:
        return {held.key_id} | names_of_admission(held)
    return {held.key_id, held.account}


class SqlStorage(SqlTemplates):
    """See `Storage`. Made by `open_storage`; use it as a context manager."""

    def start_session(self, session: Session, *, now: int, limits: SessionLimits) -> None:
        """See `Storage`. A crash leaves the session or none."""
        row: dict[str, object] = {
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
            "account": session.account,
            "now": now,
            "capacity": limits.capacity,
            "per_peer": limits.per_peer,
        }
        with self._begin(Mode.SINGLE) as run:
            if run.execute(_ADD_SESSION, row).rowcount == 1:
                return
        with self._begin(Mode.READ) as run:
            are_all = run.execute(_COUNT_LIVING, {"now": now}).scalar() >= limits.capacity
        raise UnavailableError(
            f"too many sessions {'are open' if are_all else 'of this client are open'}; try again in a minute",
            retry_after_seconds=limits.lifetime_seconds,
        )

    def take_session(
        self, session_id: bytes, step: Step, *, request_digest: bytes, now: int
    ) -> Session | Repeated | None:
        """See `Storage`. A crash after it leaves a session that only waits for its end."""
        this = {"id": session_id, "now": now, "expected": step.value, "digest": request_digest}
        while True:
            with self._begin(Mode.SINGLE) as run:
                row = run.execute(_TAKE, this).one_or_none()
            if row is not None:
                return _session_of(row)
            with self._begin(Mode.RELAXED) as run:
                row = run.execute(_LOCK_SESSION, this).one_or_none()
                if row is None or row.expires_at <= now:
                    return None
                if row.request_digest == request_digest:
                    return Repeated(run.execute(_FIND_ANSWER, this).scalar())
                if row.taken or row.step != step.value:
                    run.execute(_END, this)
                    return None  # else it was put back a moment ago

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
        """See `Storage`. A crash before it leaves a session that only waits for its end."""
        values = {
            "id": session_id,
            "new_operation": operation.name,
            "new_answer": answer,
            "new_token_digest": token_digest,
            "new_logged": logged,
            "new_pad": pad.value,
        }
        with self._begin(Mode.SINGLE if held is None else Mode.RELAXED) as run:
            if run.execute(_AWAIT_TOKEN, values).rowcount != 1:
                raise RefusedError(_OVER)
            if held is not None:
                run.execute(_HOLD, {"session_id": session_id} | row_of_template(held))

    def held_template(self, session_id: bytes) -> StoredTemplate | None:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return template_of(run.execute(_FIND_HELD, {"id": session_id}).one_or_none())

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
        """See `Storage`. A crash leaves a counted failure, or the whole of it, which can be asked for again."""
        this, is_match = {"id": session.session_id}, decision is Decision.MATCH
        changes = is_match and session.operation is not Operation.VERIFY
        with self._begin() as run:
            self._lock(run, session.request.key_id, *_names(session.operation, held))
            found, closing = run.execute(_LOCK_SESSION, this), None
            if session.operation is not Operation.ENROL and not changes:
                closing = self._close_attempt(run, session.session_id, decision)  # before anything is waited for
            row = found.one_or_none()
            if (row is None or not row.taken) and not (is_match and held):
                raise RefusedError(_OVER)
            if closing is not None:
                require_closed(closing)
            if changes:
                self._put_in_force(run, session, held, now, request_digest)
            run.execute(_FINISH, this | {"new_answer": answer, "new_expires_at": expires_at})
            run.execute(_LET_GO, this)
            run.execute(FORGET_DEEDS_OF_SESSION, this)
        if is_match and held:  # an old template or an announced one was deleted; the rest goes with the next sweep
            self._database.fold_in()

    def _put_in_force(
        self, run: Transaction, session: Session, held: StoredTemplate | None, now: int, request_digest: bytes
    ) -> None:
        """What a match does to templates."""
        if held is None:
            raise RefusedError(_OVER)
        match session.operation:
            case Operation.RENEW_CONSENT:
                require_closed(self._close_attempt(run, session.session_id, Decision.MATCH))
                self._renew_consent(run, held)
            case Operation.ADMIT_DEVICE:
                require_closed(self._close_attempt(run, session.session_id, Decision.MATCH))
                self._admit(run, held.account, held.admission or b"", now)
            case Operation.REMOVE_DEVICE:
                require_closed(self._close_attempt(run, session.session_id, Decision.MATCH))
                self._end_for(run, held.key_id, None, now, request_digest)
            case _ if self.template(held.key_id) == held:
                pass  # somebody has finished it
            case Operation.RENEW_TEMPLATE:
                require_closed(self._close_attempt(run, session.session_id, Decision.MATCH))
                self._take_place(run, session.request.key_id, held, session.session_id, now, request_digest)
            case _:
                self._enrol_with_ticket(run, held)

    def sweep(self, *, now: int) -> None:
        """See `Storage`. A crash leaves them to the next one."""
        with self._begin(Mode.SINGLE) as run:
            swept = run.execute(_SWEEP, {"now": now}).rowcount
        self._forget_ended_tickets(now)
        self._forget_ended_renewals(now)
        if swept:
            self._database.fold_in()

    def release_session(self, session_id: bytes) -> None:
        """See `Storage`."""
        with self._begin(Mode.SINGLE) as run:
            run.execute(_RELEASE, {"id": session_id})

    def end_session(self, session_id: bytes) -> None:
        """See `Storage`."""
        with self._begin(Mode.SINGLE) as run:
            run.execute(_END, {"id": session_id})

    def open_sessions(self, *, now: int) -> int:
        """See `Storage`."""
        with self._begin(Mode.READ) as run:
            return int(run.execute(_COUNT_LIVING, {"now": now}).scalar())
