"""Calls on threads whose errors an event loop does not take as they are: whoever waits for one is told."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading

import pytest

from server.threads import error_of, to_thread


class Panic(BaseException):
    """As a library in Rust raises one: no `Exception`."""


class Empty(StopIteration):
    """One more that no coroutine may raise."""


ODD = [
    StopIteration("a"),
    Empty("b"),
    Panic("c"),
    GeneratorExit("d"),
    SystemExit(3),
    asyncio.CancelledError("e"),
    concurrent.futures.CancelledError("f"),
]


@pytest.mark.parametrize("error", ODD)
async def test_whoever_waits_is_told_of_an_error_of_any_kind_and_of_what_is_behind_it(error):
    def fail(*_, **__):
        raise error

    with pytest.raises(RuntimeError, match=rf"^a call on a thread ended with {type(error).__name__}$") as told:
        await asyncio.wait_for(to_thread(fail, 1, two=2), 20)
    assert told.value.__cause__ is error
    assert not asyncio.current_task().cancelling()


@pytest.mark.parametrize("error", [ValueError("a"), StopAsyncIteration("b"), OSError("c")])
async def test_every_other_error_is_told_as_it_is(error):
    def fail():
        raise error

    with pytest.raises(type(error), match=rf"^{error}$") as told:
        await to_thread(fail)
    assert told.value is error
    assert error_of(error) is error


async def test_a_call_has_its_arguments_and_runs_on_a_thread_of_its_own():
    def called(*arguments, **named):
        return arguments, named, threading.current_thread() is threading.main_thread()

    assert await to_thread(called, 1, 2, three=3) == ((1, 2), {"three": 3}, False)
