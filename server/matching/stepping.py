"""Steps of sessions: each is taken once, worked on to its end, and answered again when its answer was lost.

Work on a step goes on when its caller is gone, so that the answer is there for the second call, and a refusal is logged
although nobody waits for it.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.message import Message

from federation.errors import IntaglioError, MalformedMessageError, RefusedError, UnavailableError
from federation.transparency import AttemptOutcome
from federation.wire.logged import request_digest
from server.log.refusals import Refusal
from server.matching.journal import Journal
from server.storage.disk import Disk
from server.storage.limits import TooSoonError
from server.storage.sessions import Repeated, Session, Step
from server.storage.storage import Storage

NO_SESSION = "no session waits for this message: it is unknown, used or expired; start again"
_POLL_SECONDS = 0.02
_PATIENCE_SECONDS = 3.0
"""How long a repeated call waits for the answer to the first one."""

_Answer = TypeVar("_Answer", bound=Message)
_Request = TypeVar("_Request", bound=Message)
_Value = TypeVar("_Value")


@dataclass
class Progress:
    """How far the work on a step has come.

    Attributes:
        refusal: what a refusal from here on means, for the log.
    """

    refusal: AttemptOutcome = AttemptOutcome.INVALID


class Steps:
    """Works on steps.

    Args:
        storage: of the sessions.
        disk: calls it.
        journal: logs what was refused.
        registered: gives requester and purpose as the log may name them.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        storage: Storage,
        disk: Disk,
        journal: Journal,
        registered: Callable[[str, str], tuple[str, str]],
        *,
        clock: Callable[[], float],
    ) -> None:
        self._storage = storage
        self._on_disk = disk
        self._journal = journal
        self._registered = registered
        self._clock = clock
        self._running: set[asyncio.Task[Any]] = set()

    async def read(self, parse: Callable[[_Request], _Value], request: _Request) -> _Value:
        """A message as a value; what is none is logged."""
        try:
            return parse(request)
        except MalformedMessageError:
            await self._journal.refusals.note(Refusal(AttemptOutcome.INVALID))
            raise

    async def once(
        self,
        step: Step,
        request: Message,
        session_id: bytes,
        kind: type[_Answer],
        work: Callable[[Session, Progress], Awaitable[_Answer]],
    ) -> _Answer:
        """Works on a step of a session, or repeats its answer.

        Args:
            step: that the session must wait for.
            request: the same bytes get the same answer.
            session_id: of the session.
            kind: of the answer.
            work: what is to be done; its refusals are logged.

        Raises:
            RefusedError: no session waits for this.
            UnavailableError: the first of these calls has not ended.
        """
        digest = request_digest(request)
        loop = asyncio.get_running_loop()
        patience = loop.time() + _PATIENCE_SECONDS
        while True:
            taken = await self._on_disk.step(self._take, session_id, step, digest, lasts=False)
            match taken:
                case None:
                    await self._journal.refusals.note(Refusal(AttemptOutcome.REPLAYED))
                    raise RefusedError(NO_SESSION)
                case Session():
                    break
                case Repeated(answer=bytes(answer)):
                    return kind.FromString(answer)
                case Repeated():
                    if loop.time() > patience:
                        raise UnavailableError("the first of these calls has not ended; try again later")
                    await asyncio.sleep(_POLL_SECONDS)
        task = loop.create_task(self._work_on(taken, work))
        self._running.add(task)
        task.add_done_callback(self._forget)
        return await asyncio.shield(task)

    async def _work_on(self, session: Session, work: Callable[[Session, Progress], Awaitable[_Answer]]) -> _Answer:
        progress = Progress()
        try:
            return await work(session, progress)
        except UnavailableError as error:  # the same call may succeed later, and goes on with what was counted
            await self._leave(self._storage.release_session, session)
            if isinstance(error, TooSoonError):
                await self._refused(session, progress)
            raise
        except IntaglioError:
            await self._leave(self._storage.end_session, session)
            await self._refused(session, progress)
            raise
        except Exception:
            await self._leave(self._storage.end_session, session)
            raise

    async def finish(self) -> None:
        """Waits for the steps that are being worked on, also those whose callers are gone."""
        await asyncio.gather(*self._running, return_exceptions=True)

    async def _refused(self, session: Session, progress: Progress) -> None:
        key_id = session.request.key_id
        try:
            owner = await self._on_disk(self._storage.owner, key_id)
        except UnavailableError:
            owner = None  # what is refused is refused, whatever becomes of the database meanwhile
        names = self._registered(session.request.audience, session.request.purpose)
        refusal = Refusal(progress.refusal, *names, key_id, has_owner=owner is not None)
        await self._journal.refusals.note(refusal, session.peer)

    async def _leave(self, how: Callable[[bytes], None], session: Session) -> None:
        with contextlib.suppress(UnavailableError):  # it expires anyway, and the first error says more
            await self._on_disk(how, session.session_id)

    def _forget(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled():
            task.exception()  # seen; the caller logs it, unless it is gone

    def _take(self, session_id: bytes, step: Step, digest: bytes) -> Session | Repeated | None:
        return self._storage.take_session(session_id, step, request_digest=digest, now=int(self._clock()))
