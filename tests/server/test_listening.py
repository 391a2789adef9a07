"""What everything that answers HTTP shares, without a socket: how much is held, who has a place, what is said."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from federation.errors import UsageError
from server import exposition, listening
from server.exposition import PLACES, PLACES_OF_ONE
from server.listening import SECURITY_HEADERS, SecurityHeaders, bound_socket, read_body, routed

# ------------------------------------------------------------------------------------------------- a body, an answer


def body_of(*chunks, leaves=False):
    """A request whose body comes in these parts; who leaves does so before the last."""
    messages = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    messages.append({"type": "http.disconnect"} if leaves else {"type": "http.request", "body": b""})
    left = iter(messages)

    async def receive():
        return next(left)

    return Request({"type": "http", "method": "POST", "headers": []}, receive), left


@pytest.mark.parametrize(
    ("chunks", "read", "left"),
    [
        ((), b"", 0),
        ((b"123", b"45"), b"12345", 0),
        ((b"123", b"456"), None, 1),  # the end is not waited for
        ((b"123456", b"7", b"8"), None, 3),
    ],
)
def test_a_body_is_held_to_its_most_bytes_and_not_read_beyond_them(chunks, read, left):
    request, messages = body_of(*chunks)
    assert asyncio.run(read_body(request, 5)) == read
    assert len(list(messages)) == left


def test_the_body_of_whoever_leaves_is_none():
    assert asyncio.run(read_body(body_of(b"12", leaves=True)[0], 5)) is None


def answered(app, path):
    """All that an application sends to a GET."""
    sent = []

    async def send(message):
        sent.append(message)

    async def receive():
        return {"type": "http.request", "body": b""}

    scope = {"type": "http", "method": "GET", "path": path, "raw_path": path.encode(), "query_string": b""}
    scope |= {"headers": [(b"host", b"a stranger's")], "root_path": "", "scheme": "https", "server": ("here", 1)}
    asyncio.run(app(scope, receive, send))
    (start, *rest) = sent
    headers = {name.decode(): value.decode() for name, value in start["headers"]}
    return start["status"], headers, b"".join(one["body"] for one in rest)


def test_headers_stand_on_every_answer_in_the_place_of_the_application_s_own_and_beside_all_others():
    own = {"referrer-policy": "origin", "x-own": "stays"}
    app = routed([Route("/one/", lambda _: PlainTextResponse("one", 203, headers=own))])
    status, headers, body = answered(SecurityHeaders(app), "/one/")
    assert (status, headers.pop("x-own"), body) == (203, "stays", b"one")
    assert headers == {"content-length": "3", "content-type": "text/plain; charset=utf-8", **SECURITY_HEADERS}
    status, headers, _ = answered(SecurityHeaders(app, {"x-other": "this"}), "/two")
    assert (status, headers["x-other"], "referrer-policy" in headers) == (404, "this", False)


@pytest.mark.parametrize("path", ["/one", "/one//", "/two/"])
def test_nobody_is_sent_to_an_address_that_a_stranger_names(path):
    app = routed([Route("/one/", lambda _: PlainTextResponse("one")), Route("/two", lambda _: PlainTextResponse("2"))])
    status, headers, _ = answered(app, path)
    assert (status, "location" in headers) == (404, False)


@pytest.mark.parametrize(
    ("host", "bare", "family"),
    [
        ("127.0.0.1", "127.0.0.1", socket.AF_INET),
        ("localhost", "localhost", socket.AF_INET),
        ("::1", "::1", socket.AF_INET6),
        ("[::1]", "::1", socket.AF_INET6),
    ],
)
def test_a_socket_listens_where_it_was_told_and_is_closed_afterwards(monkeypatch, host, bare, family):
    asked, closed = [], []

    class Listening:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            closed.append(True)

    def create_server(address, **options):
        asked.append((address, options))
        return Listening()

    monkeypatch.setattr(listening.socket, "create_server", create_server)
    with ExitStack() as around:
        around.enter_context(pytest.raises(KeyError, match="within"))
        held = around.enter_context(bound_socket(host, 7001))
        assert (isinstance(held, Listening), closed) == (True, [])
        raise KeyError("within")
    assert (asked, closed) == ([((bare, 7001), {"family": family})], [True])


def test_a_socket_that_cannot_listen_says_where(monkeypatch):
    def refuse(*_, **__):
        raise OSError(98, "Address already in use")

    monkeypatch.setattr(listening.socket, "create_server", refuse)
    with pytest.raises(UsageError, match=r"cannot listen on 127\.0\.0\.1:7001"), bound_socket("127.0.0.1", 7001):
        pass


# ---------------------------------------------------------------------------------------------- places of strangers


class Hall:
    """A listener without a socket: who is let in, who is shown out, and who is ended."""

    def __init__(self, monkeypatch):
        self.events = []
        self.listener = object.__new__(exposition._Listener)
        self.listener._lock = threading.Lock()
        self.listener._begun = {}
        base, threads = exposition.WSGIServer, exposition.ThreadingMixIn
        monkeypatch.setattr(base, "shutdown_request", lambda _, who: self.events.append(("out", who.name)))
        monkeypatch.setattr(threads, "process_request", lambda _, who, __: self.events.append(("in", who.name)))
        monkeypatch.setattr(threads, "process_request_thread", lambda _, who, __: self.answer(who))
        self.clock = 100.0
        monkeypatch.setattr(exposition, "time", SimpleNamespace(monotonic=lambda: self.clock))

    def answer(self, who):
        self.events.append(("answered", who.name))
        if who.name == "broken":
            raise KeyError("broken")

    def comes(self, name, address="192.0.2.1"):
        who = Stranger(name, self.events)
        self.listener.process_request(who, (address, 1))
        return who

    def leaves(self, who):
        self.listener.process_request_thread(who, ("192.0.2.1", 1))

    def told(self):
        told, self.events[:] = list(self.events), []
        return told


class Stranger:
    def __init__(self, name, events):
        self.name, self._events = name, events

    def shutdown(self, how):
        self._events.append(("ended", self.name, how))
        if self.name == "gone":
            raise OSError(107, "not connected")


@pytest.fixture
def hall(monkeypatch):
    return Hall(monkeypatch)


def test_places_are_counted_by_address_and_together_and_each_is_given_back_once(hall):
    assert (PLACES, PLACES_OF_ONE) == (16, 8)
    mine = [hall.comes(f"mine {number}") for number in range(8)]
    hall.comes("mine 8")
    assert hall.told() == [*(("in", one.name) for one in mine), ("out", "mine 8")]
    theirs = [hall.comes(f"theirs {number}", "192.0.2.2") for number in range(7)]
    other = hall.comes("other", "192.0.2.3")
    assert hall.told() == [("in", one.name) for one in (*theirs, other)]
    hall.comes("theirs 7", "192.0.2.2")  # there are 16
    assert hall.told() == [("out", "theirs 7")]
    hall.leaves(mine[3])
    hall.comes("theirs 8", "192.0.2.2")
    hall.comes("mine 9")
    assert hall.told() == [("answered", "mine 3"), ("in", "theirs 8"), ("out", "mine 9")]


def test_a_place_is_given_back_by_whoever_fails(hall):
    broken = hall.comes("broken")
    with pytest.raises(KeyError, match="broken"):
        hall.leaves(broken)
    assert hall.told() == [("in", "broken"), ("answered", "broken")]
    assert hall.listener._begun == {}


def test_who_began_more_than_five_seconds_ago_is_ended_and_nobody_else(hall):
    for name in ("first", "gone", "second"):
        hall.comes(name)
    hall.clock += 3
    hall.comes("later")
    hall.clock += 2
    hall.told()
    hall.listener.service_actions()
    assert hall.told() == []
    hall.clock += 0.01
    hall.listener.service_actions()
    assert hall.told() == [("ended", name, socket.SHUT_RDWR) for name in ("first", "gone", "second")]
    assert len(hall.listener._begun) == 4  # its own thread gives each place back


def test_what_a_stranger_sends_writes_no_line(hall, capfd):
    hall.listener.handle_error("request", ("192.0.2.1", 1))
    exposition._Quiet.log_message(SimpleNamespace(client_address=("192.0.2.1", 1)), "%s", "a line")
    assert capfd.readouterr() == ("", "")


def test_a_listener_ends_its_loop_then_its_socket_and_waits_for_its_thread(monkeypatch):
    events, made = [], []

    class Server:
        def serve_forever(self):
            events.append("serves")
            stopped.wait(10)

        def shutdown(self):
            events.append("stops")
            stopped.set()

        def server_close(self):
            events.append("closes")

    stopped = threading.Event()
    monkeypatch.setattr(exposition, "make_server", lambda *asked, **named: made.append((asked, named)) or Server())
    for host, bare, kind in (
        ("192.0.2.1", "192.0.2.1", exposition._Listener),
        ("[::1]", "::1", exposition._Listener6),
    ):
        stopped.clear()
        threads = set(threading.enumerate())
        hide = exposition.show(exposition.CollectorRegistry(), host, 9101)
        (thread,) = set(threading.enumerate()) - threads
        assert thread.daemon
        hide()
        assert not thread.is_alive()
        (asked, named), events[:] = made.pop(), [one for one in events if one != "serves"]
        assert (asked[0], asked[1], asked[3], named) == (bare, 9101, kind, {"handler_class": exposition._Quiet})
        assert events == ["stops", "closes"]
        events.clear()
    assert exposition._Listener6.address_family == socket.AF_INET6
    assert exposition._Listener.request_queue_size == 16
