"""Calls on threads whose errors an event loop does not take as they are: whoever waits for one is told."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import threading

import pytest

from federation.errors import UnavailableError
from server import threads
from server.threads import Aside, error_of, to_thread


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


# ---------------------------------------------------------------------- what may be silent for ever
class Silent:
    """Says nothing until it is told to."""

    def __init__(self):
        self.began, self.may_speak, self.threads = [], threading.Event(), []
        self.is_asked = threading.Event()

    def __call__(self, word, *, loud=False):
        self.began.append(word)
        self.is_asked.set()
        self.threads.append(threading.current_thread())
        assert self.may_speak.wait(30)
        return word.upper() if loud else word


@pytest.fixture
def silent():
    silent = Silent()
    yield silent
    silent.may_speak.set()
    for thread in silent.threads:
        thread.join(30)


another = silent


async def test_whoever_asks_something_silent_is_told_so_in_time_and_nothing_gathers_behind_it(silent):
    aside, other = Aside("the one", seconds=0.02), Aside("the other", seconds=30.0)
    for word in ("a", "b", "c"):
        with pytest.raises(UnavailableError, match=r"^the one does not answer; try again later$") as told:
            await aside(silent, word)
        assert told.value.retry_after_seconds == 30.0
    assert silent.began == ["a"]
    assert [thread.daemon for thread in silent.threads] == [True], "the end of the process would wait for it"
    assert await other(str.upper, "d") == "D"
    silent.may_speak.set()
    aside._seconds = 30.0
    assert await aside(silent, "e", loud=True) == "E"
    assert silent.began == ["a", "e"]


async def test_those_who_ask_at_once_are_answered_one_after_the_other_and_who_left_is_not_asked_for(silent):
    aside = Aside("the one", seconds=30.0)
    asking = [asyncio.create_task(aside(silent, word)) for word in ("a", "b", "c")]
    assert await asyncio.to_thread(silent.is_asked.wait, 30)
    asking[1].cancel()
    await asyncio.wait({asking[1]})
    assert silent.began == ["a"]
    silent.may_speak.set()
    await asyncio.wait(asking)
    assert (asking[0].result(), asking[1].cancelled(), asking[2].result()) == ("a", True, "c")
    assert silent.began == ["a", "c"]


async def test_of_all_who_wait_one_is_asked_for_at_a_time_in_the_order_in_which_they_came(monkeypatch):
    """Those who wait for one call all hear of its end at once; a token takes one all the same."""
    asked = []

    def ask(call):
        asked.append((call(), asyncio.get_running_loop().create_future()))
        return asked[-1][1]

    monkeypatch.setattr(threads, "_on_a_thread_of_its_own", ask)
    aside = Aside("the one", seconds=30.0)
    asking = [asyncio.create_task(aside(str.upper, word)) for word in "abcd"]
    for number, word in enumerate("ABCD", 1):
        for _ in range(9):  # more than anybody needs who may go on
            await asyncio.sleep(0)
        assert [one for one, _ in asked] == list("ABCD")[:number]
        asked[-1][1].set_result(f"answer to {word}")
    assert await asyncio.gather(*asking) == [f"answer to {word}" for word in "ABCD"]


async def test_however_many_wait_one_end_wakes_one_of_them_and_they_are_answered_in_their_order(monkeypatch):
    loop, aside, began = asyncio.get_running_loop(), Aside("the one", seconds=30.0), []
    steps, call_soon = [], loop.call_soon
    monkeypatch.setattr(loop, "call_soon", lambda *what, **how: steps.append(what) or call_soon(*what, **how))
    asking = [asyncio.create_task(aside(began.append, number)) for number in range(200)]
    await asyncio.wait(asking)
    assert began == list(range(200))
    assert len(steps) < 20 * 200, "each that ends wakes all who wait"


async def test_whoever_waited_long_for_a_turn_has_all_the_time_of_a_call_then(silent, another, monkeypatch):
    """Else, while more came than a token answers, each call was made and none of them heard."""
    loop, aside, later = asyncio.get_running_loop(), Aside("the one", seconds=3000.0), [0.0]
    time = loop.time
    monkeypatch.setattr(loop, "time", lambda: time() + later[0])
    first = asyncio.create_task(aside(silent, "a"))
    assert await asyncio.to_thread(silent.is_asked.wait, 30)
    later[0] = 1000.0
    second = asyncio.create_task(aside(another, "b"))
    await asyncio.sleep(0)
    later[0] = 2900.0
    silent.may_speak.set()
    assert await first == "a"
    assert await asyncio.to_thread(another.is_asked.wait, 30)
    later[0] = 5000.0
    await asyncio.to_thread(int)  # some steps of the loop
    assert not second.done()
    another.may_speak.set()
    assert await second == "b"


async def test_an_error_that_comes_when_whoever_asked_has_left_is_nobody_s(silent):
    told = []
    asyncio.get_running_loop().set_exception_handler(lambda _, what: told.append(what["message"]))
    aside = Aside("the one", seconds=0.02)

    def fail():
        silent("a")
        raise ValueError("b")

    with pytest.raises(UnavailableError, match=r"^the one does not answer; try again later$"):
        await aside(fail)
    silent.may_speak.set()
    aside._seconds = 30.0
    assert await aside(str.upper, "c") == "C"
    gc.collect()
    assert told == []


@pytest.mark.parametrize("error", [*ODD, ValueError("g"), TimeoutError("h")])
async def test_an_error_of_something_that_may_be_silent_is_told_as_one_of_any_thread(error):
    def fail():
        raise error

    aside = Aside("the one", seconds=30.0)
    expected = error_of(error)
    with pytest.raises(type(expected), match=f"^{expected}$") as told:
        await aside(fail)
    assert repr(error) in {repr(told.value), repr(told.value.__cause__)}
    assert await aside(str.upper, "after") == "AFTER"


async def test_without_room_for_a_thread_who_asks_is_told_and_the_next_one_answered(monkeypatch):
    aside, start = Aside("the one", seconds=30.0), threading.Thread.start

    def none(_):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    with pytest.raises(RuntimeError, match="can't start new thread"):
        await aside(str.upper, "before")
    monkeypatch.setattr(threading.Thread, "start", start)
    assert await aside(str.upper, "after") == "AFTER"
