"""Logins under way: asked, answered, given a code, exchanged. A row each, which lives for minutes.

Whoever reads the database can continue nobody's login: what a browser or a client shows is there as its SHA-256 only,
and each step is taken once, by an update that another step of the same login finds done. A row that is lost costs a
person another click, so the tables have no migrations: a version that needs others has tables of another name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import sqlalchemy as sa

from federation.consent.login import LoginRequest
from federation.errors import RefusedError, UnavailableError, UsageError
from server.database import connect, database_url, name_of
from server.sql import Database, Mode, Transaction

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.engine import Engine

LOGIN_SECONDS: Final = 600
"""From the question to the face: consent is read, and perhaps an enrolment made."""
CODE_SECONDS: Final = 60
TOKEN_SECONDS: Final = 300
MOST_LOGINS: Final = 10_000
"""Under way, in all; an address has far fewer (`server.login.provider.LoginLimits`)."""
_UNKNOWN: Final = "no such login is under way in this browser; go back to the site and begin again"

_metadata = sa.MetaData()
_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_logins = sa.Table(
    "logins_1",
    _metadata,
    sa.Column("handle_digest", sa.LargeBinary, primary_key=True),
    sa.Column("browser_digest", sa.LargeBinary, nullable=False),
    sa.Column("asked", sa.Text, nullable=False),
    sa.Column("request", sa.LargeBinary, nullable=False),
    sa.Column("expires_at", _NUMBER, nullable=False),
    sa.Column("assertion", sa.Text),
    sa.Column("answered_at", _NUMBER),
    sa.Column("code_digest", sa.LargeBinary, unique=True),
    sa.Column("taken_at", _NUMBER),
    sa.Column("token_digest", sa.LargeBinary, unique=True),
)
_used = sa.Table(
    "used_client_assertions_1",
    _metadata,
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("expires_at", _NUMBER, nullable=False),
)

_handle: sa.BindParameter[bytes] = sa.bindparam("handle")
_now: sa.BindParameter[int] = sa.bindparam("now")
_digest: sa.BindParameter[bytes] = sa.bindparam("digest")
_this = (_logins.c.handle_digest == _handle) & (_logins.c.browser_digest == sa.bindparam("browser"))
_live = _logins.c.expires_at > _now
_COUNT = sa.select(sa.func.count()).select_from(_logins).where(_live)
_ADD = _logins.insert()
_FIND = sa.select(_logins).where(_this, _live, _logins.c.code_digest.is_(None))
_ANSWER = (
    _logins.update()
    .where(_this, _live, _logins.c.assertion.is_(None))
    .values(assertion=sa.bindparam("said"), answered_at=_now)
)
_FINISH = (
    _logins.update()
    .where(_this, _live, _logins.c.assertion.is_not(None), _logins.c.code_digest.is_(None))
    .values(code_digest=_digest, expires_at=sa.bindparam("ends"))
)
_GIVE_UP = _logins.delete().where(_this, _logins.c.code_digest.is_(None))
_FIND_CODE = sa.select(_logins).where(_logins.c.code_digest == _digest).with_for_update()
_TAKE = _logins.update().where(_logins.c.handle_digest == _handle, _logins.c.taken_at.is_(None)).values(taken_at=_now)
_REVOKE = _logins.delete().where(_logins.c.handle_digest == _handle)
_GIVE_TOKEN = (
    _logins.update()
    .where(_logins.c.handle_digest == _handle, _logins.c.taken_at.is_not(None), _logins.c.token_digest.is_(None))
    .values(token_digest=_digest, expires_at=sa.bindparam("ends"))
)
_FIND_TOKEN = sa.select(_logins).where(_logins.c.token_digest == _digest, _live)
_USE = _used.insert()
_SWEEP = (_logins.delete().where(_logins.c.expires_at <= _now), _used.delete().where(_used.c.expires_at <= _now))


@dataclass(frozen=True)
class Login:
    """One login under way.

    Attributes:
        handle_digest: SHA-256 of what names it in the page's address.
        asked: parameters of the authorization request, as they came and were found good.
        request: what the assertion must be bound to.
        assertion: the token that the page brought, once it did.
        answered_at: when that was, seconds since 1970.
    """

    handle_digest: bytes
    asked: Mapping[str, str]
    request: LoginRequest
    assertion: str | None = field(default=None, repr=False)
    answered_at: int | None = None

    @classmethod
    def of_row(cls, row: Any) -> Self:  # noqa: ANN401 - a row's fields are the statement's
        """What is stored."""
        request = LoginRequest.from_bytes(row.request)
        return cls(row.handle_digest, json.loads(row.asked), request, row.assertion, row.answered_at)


class Logins:
    """Rows of logins, in SQLite or PostgreSQL. May be used from several threads and processes.

    Args:
        engine: from `open_logins`.
    """

    def __init__(self, engine: Engine) -> None:
        self._database = Database(engine, "the database of logins")

    def close(self) -> None:
        """Lets the connections go."""
        self._database.close()

    @contextmanager
    def _transaction(self, mode: Mode) -> Iterator[Transaction]:
        """A transaction.

        Raises:
            UnavailableError: the database is busy or out of reach.
        """
        try:
            with self._database.transaction(mode) as run:
                yield run
        except self._database.unusable as error:
            raise UnavailableError("logins cannot be looked up now; try again") from error

    def begin(self, login: Login, *, browser: str, now: int) -> None:
        """A site has asked. A crash forgets it, and the person begins again.

        Raises:
            UnavailableError: too many are under way in all.
        """
        with self._transaction(Mode.RELAXED) as run:
            if run.execute(_COUNT, {"now": now}).scalar() >= MOST_LOGINS:
                raise UnavailableError("too many logins are under way; try again later", retry_after_seconds=30)
            row = {
                "handle_digest": login.handle_digest,
                "browser_digest": digest_of(browser),
                "asked": json.dumps(dict(login.asked)),
                "request": login.request.to_bytes(),
                "expires_at": now + LOGIN_SECONDS,
            }
            run.execute(_ADD, row)

    def find(self, handle: str, *, browser: str, now: int) -> Login:
        """A login that has no code yet, to the browser that began it.

        Raises:
            RefusedError: there is none of that name, or not in this browser, or not any more.
        """
        named = {"handle": digest_of(handle), "browser": digest_of(browser), "now": now}
        with self._transaction(Mode.READ) as run:
            row = run.execute(_FIND, named).one_or_none()
        if row is None:
            raise RefusedError(_UNKNOWN)
        return Login.of_row(row)

    def answer(self, handle: str, assertion: str, *, browser: str, now: int) -> None:
        """The page brought an assertion, which the caller has verified. The first one counts.

        Raises:
            RefusedError: as for `find`, or there is another one already.
        """
        named = {"handle": digest_of(handle), "browser": digest_of(browser), "now": now}
        with self._transaction(Mode.RELAXED) as run:
            if run.execute(_ANSWER, named | {"said": assertion}).rowcount == 1:
                return
            row = run.execute(_FIND, named).one_or_none()
        if row is None or row.assertion != assertion:
            raise RefusedError(_UNKNOWN)

    def finish(self, handle: str, code: str, *, browser: str, now: int) -> None:
        """The browser goes back to the site with a code. From then on the handle is worth nothing.

        Raises:
            RefusedError: as for `find`, or nothing was answered.
        """
        named = {"handle": digest_of(handle), "browser": digest_of(browser), "now": now}
        with self._transaction(Mode.DURABLE) as run:
            done = run.execute(_FINISH, named | {"digest": digest_of(code), "ends": now + CODE_SECONDS}).rowcount
        if done != 1:
            raise RefusedError(_UNKNOWN)

    def give_up(self, handle: str, *, browser: str) -> None:
        """The person does not want to, so the login is forgotten."""
        with self._transaction(Mode.RELAXED) as run:
            run.execute(_GIVE_UP, {"handle": digest_of(handle), "browser": digest_of(browser)})

    def take(self, code: str, *, now: int) -> Login | None:
        """The login of a code, which is spent with that, whatever is wrong with the rest of the request.

        A code that comes again has leaked: what the first one gave is revoked. Before this returns the disk has it, so
        that a code is worth one try also across a power cut.
        """
        with self._transaction(Mode.DURABLE) as run:
            row = run.execute(_FIND_CODE, {"digest": digest_of(code)}).one_or_none()
            if row is None:
                return None
            named = {"handle": row.handle_digest}
            if run.execute(_TAKE, named | {"now": now}).rowcount != 1:
                run.execute(_REVOKE, named)
                return None
        return Login.of_row(row) if row.expires_at > now else None

    def give_token(self, login: Login, token: str, *, now: int) -> None:
        """An access token takes the place of the code.

        Raises:
            RefusedError: the code came again meanwhile.
        """
        named = {"handle": login.handle_digest, "digest": digest_of(token), "ends": now + TOKEN_SECONDS}
        with self._transaction(Mode.DURABLE) as run:
            if run.execute(_GIVE_TOKEN, named).rowcount != 1:
                raise RefusedError("this code was used again")

    def of_token(self, token: str, *, now: int) -> Login | None:
        """The login that an access token stands for."""
        with self._transaction(Mode.READ) as run:
            row = run.execute(_FIND_TOKEN, {"digest": digest_of(token), "now": now}).one_or_none()
        return None if row is None else Login.of_row(row)

    def use_once(self, name: str, *, expires_at: int) -> bool:
        """Whether nobody has shown that client assertion before."""
        try:
            with self._transaction(Mode.DURABLE) as run:
                run.execute(_USE, {"digest": digest_of(name), "expires_at": expires_at})
        except self._database.conflict:
            return False
        return True

    def sweep(self, now: int) -> None:
        """Forgets what has expired."""
        with self._transaction(Mode.RELAXED) as run:
            for statement in _SWEEP:
                run.execute(statement, {"now": now})


def open_logins(database: str | Path) -> Logins:
    """Opens the database of logins, or makes its tables.

    Args:
        database: path of an SQLite file, made when missing, or a URL: `postgresql://USER@HOST/NAME`.

    Raises:
        UsageError: out of reach.
    """
    url = database_url(database)
    engine = connect(url)
    try:
        with engine.begin() as connection:
            _metadata.create_all(connection)
    except sa.exc.DBAPIError as error:
        engine.dispose()
        reason = str(error.orig).strip().partition("\n")[0]
        raise UsageError(f"{name_of(url)} is not a usable database: {reason}") from error
    return Logins(engine)


def digest_of(secret: str) -> bytes:
    """SHA-256 of a handle, a browser's secret, a code or a token: 32 random bytes each, so none can be searched for."""
    return hashlib.sha256(secret.encode()).digest()
