"""Work on threads, told to an event loop whatever its end.

A future takes no `StopIteration`: who awaits it would wait for ever. And what a library raises in a panic is no
`Exception`: it would end the task that awaits it, and with it everything that the task was to do afterwards. So would
the `CancelledError` of a thread that waited for another one, which asyncio takes for its own.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from functools import partial
from typing import Any, ParamSpec, TypeVar

from federation.errors import UnavailableError

_P = ParamSpec("_P")
_T = TypeVar("_T")
_ASIDE_SECONDS = 10.0
"""A token signs within one, and never if it is silent."""
_OPERATOR_SECONDS = 30.0
"""A device waits for no operator; see `server.faults`."""


def error_of(raised: BaseException) -> Exception:
    """What was raised on a thread, as a future takes it and as whoever goes on afterwards catches it."""
    if isinstance(raised, Exception) and not isinstance(raised, StopIteration | CancelledError):
        return raised
    error = RuntimeError(f"a call on a thread ended with {type(raised).__name__}")
    error.__cause__ = raised
    return error


def on_thread(call: Callable[..., _T], *arguments: object) -> _T:
    """Runs on a thread: the result of `call`.

    Raises:
        Exception: what `call` raised; see `error_of`.
    """
    try:
        return call(*arguments)
    except BaseException as raised:
        if (error := error_of(raised)) is raised:
            raise
        raise error from raised


async def to_thread(call: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
    """The result of `call`, which runs on a thread.

    Raises:
        Exception: what `call` raised; see `error_of`.
    """
    return await asyncio.to_thread(on_thread, partial(call, *arguments, **named))  # noqa: TID251 - here alone


class Aside:
    """Calls of what may be silent for ever, such as a token: one at a time, and nobody waits for ever.

    Each has a thread of its own, which no other work waits for, as it would for those of `to_thread`; nor does the end
    of the process.

    Args:
        what: does not answer, such as "the token".
        seconds: for one call, and as many before it for the wait for those of others.
    """

    def __init__(self, what: str, *, seconds: float = _ASIDE_SECONDS) -> None:
        self._what, self._seconds = what, seconds
        self._turn = asyncio.Lock()  # handed on in the order of coming, as soon as a call ends: nobody else is woken

    async def __call__(self, call: Callable[_P, _T], *arguments: _P.args, **named: _P.kwargs) -> _T:
        """The result of `call`.

        Raises:
            UnavailableError: there was none in time.
            Exception: what `call` raised; see `error_of`.
        """
        try:
            async with asyncio.timeout(self._seconds) as patience:
                await self._turn.acquire()
                try:
                    # Anew: else, when more come than it answers, each call would begin too late for whoever asked.
                    patience.reschedule(asyncio.get_running_loop().time() + self._seconds)
                    told = _on_a_thread_of_its_own(partial(call, *arguments, **named))
                except BaseException:  # there is no thread for it
                    self._turn.release()
                    raise
                told.add_done_callback(self._ended)
                return await asyncio.shield(told)
        except TimeoutError as error:
            if not patience.expired():
                raise
            raise UnavailableError(
                f"{self._what} does not answer; try again later", retry_after_seconds=_OPERATOR_SECONDS
            ) from error

    def _ended(self, told: asyncio.Future[Any]) -> None:
        self._turn.release()
        if not told.cancelled():
            told.exception()  # is looked at, though whoever asked may have left: else asyncio writes of it


def _on_a_thread_of_its_own(call: Callable[[], _T]) -> asyncio.Future[_T]:
    told = Future[_T]()

    def run() -> None:
        try:
            told.set_result(on_thread(call))
        except Exception as error:  # noqa: BLE001 - whatever it is, who waits is told
            told.set_exception(error)

    threading.Thread(target=run, name="aside", daemon=True).start()
    return asyncio.wrap_future(told)
