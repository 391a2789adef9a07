"""What each answer of a witness leaves of it, and who counts: every outcome, without a network or a thread."""

from __future__ import annotations

import socket
import ssl
from types import SimpleNamespace

import h11
import pytest
import structlog

from federation.errors import PeerError, ProofError, UnavailableError, UsageError
from federation.transparency import KeyKind, LogPolicy, NoteSigner, SignedCheckpoint
from federation.transparency.notes import SignedNote
from federation.transparency.policy import NamedWitness
from server.log import asking
from server.log.asking import Witnesses
from tests.asked_witness import response
from tests.transparency_log import NOW, SIGNER, WITNESSES, MemoryLog

ONE, TWO, THREE = (witness.key for witness in WITNESSES)
STRANGER = NoteSigner("stranger.example/w", KeyKind.COSIGNATURE, b"\11" * 32)


class Panic(BaseException):
    """As a library in Rust raises one: no `Exception`."""


class Log:
    """Has so many entries now, or cannot say; gives the proof that it is asked for, in words."""

    def __init__(self, size):
        self.size, self.grown = size, []

    def checkpoint(self):
        if self.size is None:
            raise UnavailableError("the database is away")
        return MemoryLog().signed(self.size)

    def grow_from(self, old, to):
        self.grown.append((old, to.head.size))
        return MemoryLog().growth(old, to.head.size)


def witnesses(*, named=(ONE, TWO, THREE), nowhere=(), counted=(ONE, TWO, THREE), threshold=0, wait_seconds=0.0):
    """Asked at ports where nobody is; those that are `nowhere` have none."""
    addresses = [None if key in nowhere else f"http://127.0.0.1:{number}" for number, key in enumerate(named, 1)]
    policy = LogPolicy(SIGNER.key, tuple(map(NamedWitness, named, addresses)), counted, threshold)
    return Witnesses(policy, clock=lambda: NOW, wait_seconds=wait_seconds)


def line(signer, checkpoint, *, time=NOW):
    return checkpoint.note.text, time, signer.sign(checkpoint.note.text, time=time)


# ------------------------------------------------------------------------------------------------ what it leaves
def a_certificate_error():
    error = ssl.SSLCertVerificationError(1, "secret")
    error.verify_message = "certificate has expired"
    return error


ENDS = {
    "a line": (None, 5, "", False),
    "it is ahead, and another front end was there": (asking._AheadError("is ahead"), 6, "", True),
    "it is ahead of all that there is": (asking._AheadError("is ahead"), 5, "is ahead", True),
    "it is ahead, and our own database is away": (asking._AheadError("is ahead"), None, "the database is away", False),
    "it errs": (PeerError("answers with status 500"), 5, "answers with status 500", False),
    "it proves nothing": (ProofError("dates it otherwise"), 6, "dates it otherwise", False),
    "our own database is busy": (UnavailableError("it is busy"), 5, "it is busy", False),
    "its certificate": (
        a_certificate_error(),
        5,
        "shows a certificate that is not trusted here: certificate has expired",
        False,
    ),
    "another error of TLS": (ssl.SSLEOFError("secret"), 5, "cannot be reached: SSLEOFError", False),
    "nobody listens": (ConnectionRefusedError("secret"), 5, "cannot be reached: ConnectionRefusedError", False),
    "no HTTP": (h11.RemoteProtocolError("secret"), 5, "cannot be reached: RemoteProtocolError", False),
    "our own mistake in HTTP": (h11.LocalProtocolError("secret"), 5, "cannot be reached: LocalProtocolError", False),
    "no address": (ValueError("secret"), 5, "cannot be reached: ValueError", False),
    "a mistake in the program": (ZeroDivisionError("secret"), 5, "failed: ZeroDivisionError", False),
    "a panic of a library": (Panic("secret"), 5, "failed: Panic", False),
}


@pytest.mark.parametrize("before", ["", "was silent"])
@pytest.mark.parametrize(("error", "size", "reason", "is_ahead"), ENDS.values(), ids=ENDS)
def test_an_answer_leaves_a_line_or_a_reason_and_never_half_of_either(
    monkeypatch, error, size, reason, is_ahead, before
):
    checkpoint, older, asked = MemoryLog().signed(5), MemoryLog().signed(3), witnesses()
    one, two, _ = asked._asked
    one.line, one.known, one.silent, one.is_ahead = line(WITNESSES[0], older, time=NOW - 9), 3, before, not is_ahead
    two.line, two.silent = line(WITNESSES[1], older), "is another one"
    got, log = line(WITNESSES[0], checkpoint), Log(size)

    def exchange(who, of, reading, wire):
        assert (who, of, reading, wire) == (one, checkpoint, log, "a wire")
        if error is not None:
            raise error
        return got

    monkeypatch.setattr(asked, "_exchange", exchange)
    with structlog.testing.capture_logs() as said:
        asked._ask_about(one, checkpoint, log, "a wire")
    kept = (got, 5) if error is None else (line(WITNESSES[0], older, time=NOW - 9), 3)
    assert (one.line, one.known, one.silent, one.is_ahead) == (*kept, reason, is_ahead)
    assert (two.line, two.known, two.silent, two.is_ahead) == (line(WITNESSES[1], older), 0, "is another one", False)
    assert asked.silent == ({ONE.name: reason} if reason else {}) | {TWO.name: "is another one"}
    told = [{"event": "witness silent", "log_level": "warning"}, {"event": "witness cosigns", "log_level": "info"}]
    changed = {"witness": ONE.name, "reason": reason} | told[0 if reason else 1]
    assert said == ([changed] if bool(reason) != bool(before) else [])


LINE = f"{WITNESSES[0].sign(MemoryLog().signed(5).note.text, time=NOW).to_line()}\n".encode()
CONTRADICTS = (PeerError, "^contradicts itself about the entries that it has seen$")
ANSWERS = {
    "where it stopped": (3, [(200, LINE)], [3], None),
    "it was thought to know more than there is": (7, [(200, LINE)], [5], None),
    "it lost some": (4, [(409, b"2\n"), (200, LINE)], [4, 2], None),
    "it knows all of it": (0, [(409, b"5\n"), (200, LINE)], [0, 5], None),
    "it moves meanwhile": (0, [(409, b"1\n"), (409, b"2\n"), (200, LINE)], [0, 1, 2], None),
    "it moves again and again": (0, [(409, b"1\n"), (409, b"2\n"), (409, b"3\n")], [0, 1, 2], CONTRADICTS),
    "it says the size that was named": (3, [(409, b"3\n")], [3], CONTRADICTS),
    "it says the size that was named at last": (3, [(409, b"1\n"), (409, b"1\n")], [3, 1], CONTRADICTS),
    "it is ahead": (
        3,
        [(409, b"6\n")],
        [3],
        (asking._AheadError, "^says that it has seen 6 entries, and was asked about 5$"),
    ),
    "it is ahead later": (3, [(409, b"1\n"), (409, b"9\n")], [3, 1], (asking._AheadError, "has seen 9 entries")),
    "it refuses": (3, [(422, b"no\n")], [3], (PeerError, "^answers with status 422$")),
    "it fails later": (3, [(409, b"1\n"), (503, b"no\n")], [3, 1], (PeerError, "^answers with status 503$")),
}


@pytest.mark.parametrize(("known", "answers", "olds", "error"), ANSWERS.values(), ids=ANSWERS)
def test_a_witness_is_asked_from_the_size_that_it_names_and_no_more_than_three_times(known, answers, olds, error):
    asked, log, posted, left = witnesses(), Log(8), [], list(answers)
    one = asked._asked[0]
    one.known = known

    class Wire:
        def post(self, data):
            posted.append(data)
            return left.pop(0)

    checkpoint = MemoryLog().signed(5)
    if error is None:
        assert asked._exchange(one, checkpoint, log, Wire()) == line(WITNESSES[0], checkpoint)
    else:
        with pytest.raises(error[0], match=error[1]):
            asked._exchange(one, checkpoint, log, Wire())
    assert log.grown == [(old, 5) for old in olds]
    assert posted == [MemoryLog().growth(old, 5).to_bytes() for old in olds]
    assert (left, one.known) == ([], known)


# ------------------------------------------------------------------------------------------------------ who counts
@pytest.mark.parametrize(
    ("signed", "threshold", "is_met"),
    [((), 0, True), ((ONE,), 1, False), ((TWO,), 1, True), ((ONE, TWO), 2, False), ((TWO, THREE), 2, True)],
)
def test_enough_are_as_many_of_those_that_count_as_the_policy_wants(signed, threshold, is_met):
    """The first is asked too, and nobody waits for it."""
    asked, checkpoint = witnesses(counted=(TWO, THREE), threshold=threshold), MemoryLog().signed(5)
    for one, signer in zip(asked._asked, WITNESSES, strict=True):
        one.line = line(signer, checkpoint) if signer.key in signed else line(signer, MemoryLog().signed(4))
    assert asked._is_met(checkpoint.note.text) is is_met
    for one in asked._asked:
        one.line = one.line[0], NOW - 61, one.line[2]
    assert asked._is_met(checkpoint.note.text) is (threshold == 0)


def test_those_that_count_and_are_asked_are_as_many_as_the_policy_waits_for():
    """The first is asked and does not count, the second counts and is not asked."""
    assert witnesses(nowhere=(TWO,), counted=(TWO, THREE), threshold=1).names == [ONE.name, THREE.name]
    with pytest.raises(UsageError, match=r"^the log's policy waits for 2 witnesses, and fewer have an address"):
        witnesses(nowhere=(TWO,), counted=(TWO, THREE), threshold=2)


def test_a_note_keeps_one_line_of_the_log_in_each_form_and_of_every_named_witness():
    text = MemoryLog().signed(5).note.text
    own, theirs = MemoryLog().signed(5).note.signatures, [one.sign(text, time=NOW) for one in WITNESSES]
    later, strange = WITNESSES[1].sign(text, time=NOW + 7), STRANGER.sign(text, time=NOW)
    note = SignedNote(text, (strange, theirs[2], theirs[1], *own, theirs[0], later))
    kept = witnesses(named=(ONE, TWO), nowhere=(ONE,), counted=(TWO,)).without_strangers(note)
    assert (kept.text, kept.signatures) == (text, (*own, theirs[0], later))


def test_a_checkpoint_gets_the_lines_that_are_over_its_own_text_beside_those_that_it_has():
    asked, checkpoint = witnesses(), MemoryLog().signed(5)
    asked._asked[0].line = line(WITNESSES[0], checkpoint, time=NOW - 90)
    asked._asked[1].line = line(WITNESSES[1], MemoryLog().signed(4))
    given = SignedCheckpoint(
        SignedNote(
            checkpoint.note.text,
            (*checkpoint.note.signatures, line(WITNESSES[2], checkpoint)[2], line(STRANGER, checkpoint)[2]),
        )
    )
    lines = (*checkpoint.note.signatures, line(WITNESSES[2], checkpoint)[2], asked._asked[0].line[2])
    assert asked._with_lines(given).note.signatures == lines


def test_whoever_comes_while_another_round_goes_on_gets_what_there_is_and_asks_nobody():
    asked, checkpoint = witnesses(threshold=3), MemoryLog().signed(5)
    asked._asked[0].line = line(WITNESSES[0], checkpoint)
    with asked._round:
        found = asked.cosign(checkpoint, Log(9))
    assert found.note.verified([ONE, TWO, THREE]) == {ONE: NOW}
    assert all(one.thread is None and one.waiting is None for one in asked._asked)
    assert asked._round.acquire(blocking=False)


ROUNDS = {
    "nobody is ahead": ([(5, False)], [5], 5),
    "one is ahead of nothing newer": ([(5, True)], [5], 5),
    "another front end went on once": ([(5, True), (7, False)], [7], 7),
    "another front end goes on": ([(5, True), (7, True), (9, True)], [7, 9, 9], 9),
}


@pytest.mark.parametrize(("asked_about", "newest", "given"), ROUNDS.values(), ids=ROUNDS)
def test_a_round_goes_on_with_a_newer_checkpoint_as_long_as_there_is_one_and_frees_its_place(
    monkeypatch, asked_about, newest, given
):
    asked, sizes, told = witnesses(threshold=3, wait_seconds=100.0), list(newest), []
    log = Log(0)
    log.checkpoint = lambda: MemoryLog().signed(sizes.pop(0))

    def ask_all(checkpoint, of, ends):
        told.append((checkpoint.head.size, ends))
        assert (of, asked._round.locked()) == (log, True)
        return checkpoint, asked_about[len(told) - 1][1]

    monkeypatch.setattr(asked, "_ask_all", ask_all)
    assert asked.cosign(MemoryLog().signed(5), log).head.size == given
    assert [size for size, _ in told] == [size for size, _ in asked_about]
    assert len({ends for _, ends in told}) == 1, "all of it is one round, with one deadline"
    assert not asked._round.locked()

    def fails(*_):
        raise UnavailableError("it is busy")

    monkeypatch.setattr(asked, "_ask_all", fails)
    with pytest.raises(UnavailableError, match="it is busy"):
        asked.cosign(MemoryLog().signed(5), log)
    assert not asked._round.locked()


def test_a_round_without_time_left_gives_what_it_has_though_there_is_something_newer(monkeypatch):
    asked, told = witnesses(threshold=3, wait_seconds=7.5), []
    now = iter([10.0, 17.5])
    monkeypatch.setattr(asking.time, "monotonic", lambda: next(now))

    def ask_all(checkpoint, _, ends):
        told.append((checkpoint.head.size, ends))
        return checkpoint, True

    monkeypatch.setattr(asked, "_ask_all", ask_all)
    assert asked.cosign(MemoryLog().signed(5), Log(9)).head.size == 5
    assert (told, asked._round.locked()) == ([(5, 17.5)], False)


def test_a_witness_has_one_thread_and_one_connection_until_the_log_is_closed(monkeypatch):
    wires, about = [], []

    class Wire:
        def __init__(self, address, seconds):
            self.given, self.is_closed = (address, seconds), False
            wires.append(self)

        def close(self):
            self.is_closed = True

    policy = LogPolicy(SIGNER.key, (NamedWitness(ONE, "http://127.0.0.1:1/a"),), (ONE,), 1)
    asked, log = Witnesses(policy, clock=lambda: NOW, wait_seconds=30.0, exchange_seconds=7.5), Log(9)
    (one,) = asked._asked

    def ask_about(who, checkpoint, reading, wire):
        with asked._changed:
            about.append((who, reading, wire, checkpoint.head.size, who.asking.head.size, who.waiting))
            who.line = line(WITNESSES[0], checkpoint)

    monkeypatch.setattr(asking, "_Wire", Wire)
    monkeypatch.setattr(asked, "_ask_about", ask_about)
    for size in (5, 6):
        assert asked.cosign(MemoryLog().signed(size), log).note.verified([ONE]) == {ONE: NOW}
    ((wire,), thread) = wires, one.thread
    assert (thread.name, thread.daemon, wire.given, wire.is_closed) == (
        "witness",
        True,
        ("http://127.0.0.1:1/a", 7.5),
        False,
    )
    assert asked.cosign(MemoryLog().signed(6), log).note.verified([ONE]) == {ONE: NOW}, "its line is of this minute"
    asked.close()
    assert (thread.is_alive(), wire.is_closed) == (False, True)
    asked.cosign(MemoryLog().signed(7), log)
    assert about == [(one, log, wire, size, size, None) for size in (5, 6)]
    assert (one.waiting, one.asking, len(wires)) == (None, None, 1)


# ------------------------------------------------------------------------------------------------------- the wire
def test_a_thread_for_which_there_is_no_room_is_begun_with_the_next_batch_and_closing_waits_for_none(monkeypatch):
    policy = LogPolicy(SIGNER.key, (NamedWitness(ONE, "http://127.0.0.1:1/a"),), (ONE,), 1)
    asked = Witnesses(policy, clock=lambda: NOW, wait_seconds=0.0, exchange_seconds=7.5)
    (one,), begun = asked._asked, []

    class Thread:
        def __init__(self, **named):
            begun.append(named["name"])

        def start(self):
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(asking, "threading", SimpleNamespace(Thread=Thread))
    for size in (5, 6):
        with pytest.raises(RuntimeError, match="can't start new thread"):
            asked.cosign(MemoryLog().signed(size), Log(9))
        assert (one.thread, asked._round.locked()) == (None, False)
    assert begun == ["witness", "witness"]
    asked.close()


def test_a_connection_that_failed_on_the_way_is_closed_and_its_addresses_each_tried_once(monkeypatch):
    made = []

    class Socket(socket.socket):
        def __init__(self, *given):
            super().__init__(*given)
            made.append(self)

        def connect(self, to):
            self.reached = to, self.gettimeout()
            if to != "third":
                raise ConnectionRefusedError(to)

    found = [(socket.AF_INET, socket.SOCK_STREAM, 0, "", to) for to in ("first", "second", "third", "fourth")]
    asked_for = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *given, **named: asked_for.append((given, named)) or found)
    monkeypatch.setattr(socket, "socket", Socket)
    monkeypatch.setattr(asking.time, "monotonic", lambda: 10.0)
    connection = asking._connected("w.example", 81, 17.5)
    assert asked_for == [(("w.example", 81), {"type": socket.SOCK_STREAM})]
    assert [one.reached for one in made] == [(to, 7.5) for to in ("first", "second", "third")]
    assert [one.fileno() == -1 for one in made] == [True, True, False]
    assert connection is made[2]
    connection.close()
    del found[2:]
    with pytest.raises(ConnectionRefusedError, match="second"):
        asking._connected("w.example", 81, 17.5)
    assert [one.fileno() for one in made[3:]] == [-1, -1]
    found.clear()
    with pytest.raises(OSError, match="a name without an address"):
        asking._connected("w.example", 81, 17.5)
    found.append((socket.AF_INET, socket.SOCK_STREAM, 0, "", "third"))
    with pytest.raises(TimeoutError, match="the witness takes too long"):
        asking._connected("w.example", 81, 10.0)
    assert made[-1].fileno() == -1


def test_a_handshake_that_fails_leaves_no_connection_open(monkeypatch):
    ours, theirs = socket.socketpair()

    class Refuses:
        def wrap_socket(self, made, *, server_hostname):
            assert (made, server_hostname) == (ours, "w.example")
            assert made.gettimeout() == 7.5
            raise ssl.SSLEOFError("it went away")

    monkeypatch.setattr(asking, "_connected", lambda *_: ours)
    monkeypatch.setattr(socket.socket, "setsockopt", lambda *_: None, raising=False)
    monkeypatch.setattr(asking.ssl, "create_default_context", Refuses)
    monkeypatch.setattr(asking.time, "monotonic", lambda: 10.0)
    wire = asking._Wire("https://w.example", 7.5)
    with pytest.raises(ssl.SSLEOFError, match="it went away"):
        wire.post(b"a question")
    assert (ours.fileno(), wire._socket) == (-1, None)
    theirs.close()


def test_after_an_answer_that_is_too_long_the_next_question_goes_over_another_connection(monkeypatch):
    pairs = [socket.socketpair() for _ in range(2)]
    waiting = iter(pairs)
    monkeypatch.setattr(asking, "_connected", lambda *_: next(waiting)[0])
    monkeypatch.setattr(socket.socket, "setsockopt", lambda *_: None, raising=False)
    wire = asking._Wire("http://w.example", 30.0)
    (ours, theirs), (_, others) = pairs
    theirs.sendall(response(200, bytes(asking._MOST_BYTES)))
    with pytest.raises(PeerError, match=r"^answers with more than 32768 bytes$"):
        wire.post(b"a question")
    assert ours.fileno() == -1
    others.sendall(response(200, b"yes"))
    assert wire.post(b"another") == (200, b"yes")
    wire.close()
    for end in (theirs, others):
        end.close()
