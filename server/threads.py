"""Work on threads, told to an event loop whatever its end.

A future takes no `StopIteration`: who awaits it would wait for ever. And what a library raises in a panic is no
`Exception`: it would end the task that awaits it, and with it everything that the task was to do afterwards. So would
the `CancelledError` of a thread that waited for another one, which asyncio takes for its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import CancelledError
from functools import partial
from typing import ParamSpec, TypeVar

_P = ParamSpec("_P")
_T = TypeVar("_T")


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
