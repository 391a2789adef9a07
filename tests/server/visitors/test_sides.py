"""A passage without sockets: what its two sides do to each other, and in which order it opens, shuts and closes."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest

from server.visitors import passage as module
from server.visitors.passage import Passage, _Side
from tests.server.matching.calls import Calls


class Way:
    """A transport that notes what is asked of it."""

    def __init__(self, calls, name, *, closing=False):
        self.calls, self.name, self.closing = calls, name, closing

    def __getattr__(self, what):
        return lambda *of: self.calls.note(self.name, what, *of)

    def is_closing(self):
        return self.closing

    def get_extra_info(self, what):
        return {"peername": ("192.0.2.7", 5), "sockname": ("192.0.2.1", 7443)}[what]


def two(calls, *, closing=False):
    visitor, inner = _Side(), _Side()
    visitor.connection_made(Way(calls, "visitor", closing=closing))
    inner.connection_made(Way(calls, "inner"))
    return visitor, inner


def test_what_came_early_on_either_side_passes_once_and_after_both_are_read_again():
    calls = Calls()
    visitor, inner = two(calls)
    visitor.data_received(b"one")
    visitor.data_received(b"two")
    inner.data_received(b"three")
    held = [("visitor", "resume_reading"), ("visitor", "pause_reading")]
    assert calls == [*held * 2, ("inner", "resume_reading"), ("inner", "pause_reading")]
    del calls[:]
    visitor.join(inner)
    assert calls == [
        ("visitor", "resume_reading"),
        ("inner", "resume_reading"),
        ("inner", "write", b"onetwo"),
        ("visitor", "write", b"three"),
    ]
    assert (visitor._early, inner._early) == (b"", b"")
    del calls[:]
    visitor.data_received(b"four")
    inner.data_received(b"five")
    assert calls == [("inner", "write", b"four"), ("visitor", "write", b"five")]


def test_who_takes_no_more_has_the_other_side_wait_and_go_on():
    calls = Calls()
    visitor, inner = two(calls)
    for side in (visitor, inner):
        side.pause_writing()
        side.resume_writing()
    assert calls == []
    visitor.join(inner)
    for side, other in ((visitor, "inner"), (inner, "visitor")):
        del calls[:]
        side.pause_writing()
        side.resume_writing()
        assert calls == [(other, "pause_reading"), (other, "resume_reading")]


def test_a_visitor_that_went_meanwhile_takes_the_inner_side_along_at_once():
    calls = Calls()
    visitor, inner = two(calls, closing=True)
    visitor.join(inner)
    assert calls == [("inner", "abort")]


def test_what_is_on_its_way_to_the_other_side_still_gets_there_and_nobody_s_end_is_told_once():
    calls = Calls()
    visitor, inner = two(calls)
    visitor.ended = calls.of("ended")
    visitor.connection_lost(None)
    assert calls == [("ended",)]
    visitor.join(inner)
    del calls[:]
    inner.connection_lost(OSError("torn"))
    assert calls == [("visitor", "close")]
    visitor.connection_lost(None)
    assert calls == [("visitor", "close"), ("ended",), ("inner", "close")]


def test_both_ends_of_a_visit_are_those_of_the_visitor_s_own_connection():
    visitor, _ = two(Calls())
    assert visitor.ends == (("192.0.2.7", 5), ("192.0.2.1", 7443))


async def test_a_visitor_is_not_read_before_there_is_somebody_to_whom_it_speaks():
    calls, came = Calls(), asyncio.Event()

    async def comes(side):
        calls.note("came", side is visitor)
        came.set()

    visitor = _Side(comes)
    visitor.connection_made(Way(calls, "visitor"))
    assert calls == [("visitor", "pause_reading")]
    await came.wait()
    assert calls[1:] == [("came", True)]


# ---------------------------------------------------------------------- the passage
class Scene:
    """A passage, with a door and a loop that note what is asked of them."""

    def __init__(self, monkeypatch, folder):
        self.calls = calls = Calls()
        self.door = SimpleNamespace(close=calls.of("door closed"), is_member=calls.of("member"), tend=self.tend)
        kept = SimpleNamespace(name=str(folder), cleanup=calls.of("folder gone"))
        monkeypatch.setattr(module, "TemporaryDirectory", lambda prefix: calls.note("folder", prefix) or kept)
        self.passage, self.tended, self.ended = Passage(self.door), asyncio.Event(), asyncio.Event()

    async def tend(self):
        self.calls.note("tended")
        self.tended.set()
        try:
            await asyncio.Event().wait()
        finally:
            self.calls.note("tended no more")
            self.ended.set()


@pytest.fixture
def scene(monkeypatch, tmp_path):
    return Scene(monkeypatch, tmp_path)


class Loop:
    """As much of an event loop as a passage asks for."""

    def __init__(self, scene, *, failing=""):
        self.scene, self.failing, self.real = scene, failing, asyncio.get_running_loop()

    def __getattr__(self, name):
        return getattr(self.real, name)

    async def create_server(self, protocol, *, sock):
        self.scene.calls.note("listens", sock is self.scene.door)
        self.protocol = protocol
        return SimpleNamespace(close=self.scene.calls.of("listens no more"))

    async def let_in(self, own):
        self.own = own
        self.scene.calls.note("connected", own.getsockname()[:17], own.gettimeout())
        if self.failing == "connect":
            raise ConnectionRefusedError(111, "refused")

    async def create_unix_connection(self, protocol, *, sock):
        self.scene.calls.note("inner", sock is self.own)
        if self.failing == "inner":
            raise OSError(24, "too many open files")
        self.inner = protocol()
        self.inner.connection_made(Way(self.scene.calls, "inner"))
        return None, self.inner


async def come(scene, monkeypatch, **options):
    """A visitor, and the loop that it came over."""
    loop = Loop(scene, **options)
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: loop)
    monkeypatch.setattr(scene.passage, "_let_in", loop.let_in)
    visitor = _Side()
    visitor.connection_made(Way(scene.calls, "visitor"))
    await scene.passage._connect(visitor)
    return visitor, loop


async def test_it_opens_and_is_tended_until_it_is_shut_and_closed_in_this_order(scene, monkeypatch):
    assert (scene.calls, scene.passage.path) == ([("folder", "intaglio-")], Path(scene.passage._folder.name) / "server")
    loop = Loop(scene)
    monkeypatch.setattr(module.asyncio, "get_running_loop", lambda: loop)
    await scene.passage.open()
    await scene.tended.wait()
    assert scene.calls[1:] == [("listens", True), ("tended",)]
    assert isinstance(loop.protocol(), _Side)
    assert loop.protocol()._came == scene.passage._connect
    del scene.calls[:]
    scene.passage.shut()
    await scene.ended.wait()
    assert scene.calls == [("listens no more",), ("tended no more",)]
    del scene.calls[:]
    for name in ("one", "two"):
        scene.passage._visitors[name] = SimpleNamespace(abort=scene.calls.of(f"{name} out"))
    scene.passage.close()
    assert scene.calls == [("listens no more",), ("one out",), ("two out",), ("door closed",), ("folder gone",)]


def test_a_passage_that_was_never_opened_is_closed_all_the_same(monkeypatch, tmp_path):
    scene = Scene(monkeypatch, tmp_path)
    scene.passage.close()
    assert scene.calls[1:] == [("door closed",), ("folder gone",)]


async def test_a_visit_has_a_name_of_its_own_that_the_server_sees_and_that_is_forgotten_at_its_end(scene, monkeypatch):
    visitor, loop = await come(scene, monkeypatch)
    (name,) = scene.passage._visitors
    assert name.startswith("intaglio-passage-")
    assert len(name) == len("intaglio-passage-") + 32
    assert loop.own.getsockname() == b"\0" + name.encode()
    assert scene.calls[1:3] == [
        ("connected", b"\0intaglio-passage", 0.0),
        ("inner", True),
    ]
    assert (visitor.other, loop.inner.other) == (loop.inner, visitor)
    other, another = await come(scene, monkeypatch)
    assert len(scene.passage._visitors) == 2
    del scene.calls[:]
    for peer in (f"unix-abstract:{name}", "unix-abstract:somebody", name, ""):
        scene.passage.called(peer, "a certificate")
    assert scene.calls == [("member", ("192.0.2.7", 5), ("192.0.2.1", 7443), "a certificate")]
    visitor.connection_lost(None)
    assert list(scene.passage._visitors.values()) == [other]
    for one in (loop, another):
        one.own.close()


@pytest.mark.parametrize("failing", ["connect", "inner"])
async def test_who_cannot_be_taken_to_the_server_is_turned_out_and_nothing_of_the_way_is_left(
    scene, monkeypatch, failing
):
    visitor, loop = await come(scene, monkeypatch, failing=failing)
    assert (scene.calls[-1], loop.own.fileno()) == (("visitor", "abort"), -1)
    assert (scene.passage._visitors, visitor.other) == ({}, None)
    visitor.connection_lost(None)


async def test_there_is_room_sooner_or_later_or_the_visitor_is_turned_out(scene, monkeypatch):
    slept, outcomes = [], [BlockingIOError(11, "full")] * 3 + [None]

    def connect(path):
        scene.calls.note("connect", path)
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome

    async def sleep(seconds):
        slept.append(seconds)

    monkeypatch.setattr(module.asyncio, "sleep", sleep)
    await scene.passage._let_in(SimpleNamespace(connect=connect))
    assert scene.calls[1:] == [("connect", str(scene.passage.path))] * 4
    assert (slept, outcomes) == ([0.1] * 3, [])
    outcomes.extend([BlockingIOError(11, "full")] * 101)
    with pytest.raises(BlockingIOError, match="full"):
        await scene.passage._let_in(SimpleNamespace(connect=connect))
    assert (len(slept), outcomes) == (103, [])
    outcomes.append(FileNotFoundError(2, "gone"))
    with pytest.raises(FileNotFoundError, match="gone"):
        await scene.passage._let_in(SimpleNamespace(connect=connect))


async def test_a_name_that_is_taken_turns_its_visitor_out(scene, monkeypatch):
    monkeypatch.setattr(module.secrets, "token_hex", lambda _: f"{id(scene):032x}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as taken:
        taken.bind(f"\0intaglio-passage-{id(scene):032x}")
        await come(scene, monkeypatch)
    assert scene.calls[1:] == [("visitor", "abort")]
    assert scene.passage._visitors == {}
