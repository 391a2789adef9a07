"""How a log is read, without a network: every byte that is asked for, how long, and what is let go of at the end."""

from __future__ import annotations

import gzip
import http.client
import io
import socket
import threading
import zlib
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.log import tiles
from client.log.policy import log_policy, read_log_policy
from client.log.reader import RemoteLog
from client.log.tiles import TileLog, tiles_at
from client.log.watching import LogTrust
from federation.errors import MalformedMessageError, PeerError, ProofError, UnavailableError, UsageError
from federation.transparency.tiles import bundle_to_bytes
from federation.wire.v1 import verification_pb2 as pb
from tests.transparency_log import SIGNER, WITNESSES, MemoryLog

MOST = 40


# ---------------------------------------------------------------------- files
class Files:
    """Of a log, by path; keeps which were asked for."""

    def __init__(self, **files):
        self.files, self.asked = files, []

    def __call__(self, path, most):
        self.asked.append((path, most))
        return self.files.get(path)


def test_each_file_of_a_log_is_asked_for_once_and_within_its_bound():
    log = MemoryLog(leaves=[b"%d" % number for number in range(300)])
    read = Files(checkpoint=log.signed().to_bytes())
    read.files["tile/entries/000"] = bundle_to_bytes(log.leaves[:256])
    read.files["tile/entries/001"] = bundle_to_bytes([*log.leaves[256:], b"of a later one"])
    reader = TileLog(read)
    assert reader.entries(0, 5) == []
    assert read.asked == []
    assert reader.checkpoint() == log.signed().to_bytes()
    assert read.asked.pop() == ("checkpoint", 65_536)
    bundle = 256 * 65_537
    for (start, stop), found, asked in [
        ((3, 5), log.leaves[3:5], ["000"]),
        ((250, 300), log.leaves[250:256], ["000"]),
        ((256, 1000), log.leaves[256:], ["001.p/44", "001"]),
        ((299, 300), log.leaves[299:], ["001.p/44", "001"]),
        ((300, 301), [], []),
    ]:
        assert reader.entries(start, stop) == found
        assert read.asked == [(f"tile/entries/{name}", bundle) for name in asked]
        read.asked.clear()
    del read.files["tile/entries/000"], read.files["tile/entries/001"]
    assert (reader.entries(3, 5), reader.entries(256, 300)) == ([], [])
    assert [path for path, _ in read.asked] == [f"tile/entries/{name}" for name in ("000", "001.p/44", "001")]
    read.asked.clear()
    with pytest.raises(ProofError, match=r"holds back tile/0/\S+, which it must have"):
        reader.consistency_proof(10, 300)
    assert {most for _, most in read.asked} == {256 * 32}


def test_a_checkpoint_that_is_none_changes_nothing(tmp_path):
    read = Files(checkpoint=b"nonsense")
    with pytest.raises(MalformedMessageError, match=r"note|checkpoint"):
        TileLog(read).checkpoint()
    with pytest.raises(UsageError, match="there is no checkpoint"):
        TileLog(tiles_at(str(tmp_path))).checkpoint()


class Bounded(io.BytesIO):
    """Fails whoever reads it whole."""

    def read(self, size):
        assert size == MOST + 1
        return super().read(size)


def test_of_a_file_no_more_is_read_than_shows_that_it_is_too_long(monkeypatch):
    file = Bounded(bytes(1000))
    monkeypatch.setattr(Path, "open", lambda path, mode: file if (str(path), mode) == ("log/a", "rb") else None)
    with pytest.raises(PeerError, match=f"^a is longer than {MOST} bytes"):
        tiles_at("log")("a", MOST)
    assert file.closed


def test_a_file_is_read_up_to_its_bound(tmp_path):
    (tmp_path / "sub").mkdir()
    read = tiles_at(f"{tmp_path}/sub")
    for length in (0, MOST - 1, MOST):
        (tmp_path / "sub" / "a").write_bytes(bytes(length))
        assert read("a", MOST) == bytes(length)
    (tmp_path / "sub" / "a").write_bytes(bytes(MOST + 1))
    with pytest.raises(PeerError, match=f"^a is longer than {MOST} bytes"):
        read("a", MOST)
    assert (read("b", MOST), read("a/b", MOST)) == (None, None)


# ---------------------------------------------------------------------- HTTP
class Answer:
    """As of `http.client`: `length` is what of the declared length was not read."""

    def __init__(self, status=200, body=b"", coding=None, declared=None):
        self.status, self.length, self._body, self._coding = status, declared, body, coding

    def getheader(self, name):
        assert name == "content-encoding"
        return self._coding

    def read(self, most):
        data = self._body[:most]
        if self.length is not None:
            self.length -= len(data)
        return data


class Connection:
    """Gives one answer, and keeps what happens to it."""

    def __init__(self, answer=None):
        self.answer, self.told = answer or Answer(), []

    def request(self, *given, **named):
        self.told.append((*given, named))

    def getresponse(self):
        self.told.append("answered")
        return self.answer


def packed(data, length=None):
    """By gzip, in so many bytes: the name of the file before it is as long as needed."""
    body = gzip.compress(data, mtime=0)
    if length is None:
        return body
    name = b"n" * (length - len(body) - 1) + b"\0"
    return body[:3] + b"\x08" + body[4:10] + name + body[10:]


ANSWERS = {
    "as long as allowed": (Answer(body=bytes(MOST), declared=MOST), bytes(MOST)),
    "without a length": (Answer(body=b"abc"), b"abc"),
    "a coding that is none": (Answer(body=b"abc", coding="identity"), b"abc"),
    "packed": (Answer(body=packed(bytes(MOST)), coding="GZip"), bytes(MOST)),
    "packed into as much as allowed": (Answer(body=packed(b"abc", MOST + 16_384), coding="gzip"), b"abc"),
    "none": (Answer(404, b"abc"), None),
    "gone": (Answer(410, b"abc"), None),
}
STATUSES = (201, 301, 403, 500)
REFUSED = {
    "too long": (Answer(body=bytes(MOST + 1)), PeerError, f"^/x is longer than {MOST} bytes"),
    "unpacked too long": (Answer(body=packed(bytes(MOST + 1)), coding="gzip"), PeerError, f"longer than {MOST} "),
    "packed too long": (
        Answer(body=packed(b"abc", MOST + 16_385), coding="gzip"),
        PeerError,
        f"longer than {MOST + 16_384} bytes",
    ),
    "not packed": (Answer(body=b"abc", coding="gzip"), PeerError, "/x is said to be gzip, and is not"),
    "cut": (Answer(body=b"abc", declared=4), http.client.IncompleteRead, "1 more expected"),
    "cut within what is packed": (
        Answer(body=packed(b"abc")[:-1], coding="gzip"),
        http.client.IncompleteRead,
        "3 bytes",
    ),
    **{
        str(status): (Answer(status), PeerError, f"/x is answered with status {status}")
        for status in (201, 301, 403, 500)
    },
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_is_read_as_it_is_meant(name):
    answer, found = ANSWERS[name]
    connection = Connection(answer)
    assert tiles._asked(connection, "/x", MOST) == found
    assert connection.told == [("GET", "/x", {"headers": {"accept-encoding": "gzip, identity"}}), "answered"]


@pytest.mark.parametrize("name", REFUSED)
def test_an_answer_that_is_too_long_cut_or_something_else_is_none(name):
    answer, kind, said = REFUSED[name]
    with pytest.raises(kind, match=said):
        tiles._asked(Connection(answer), "/x", MOST)


def test_of_what_is_packed_no_more_is_unpacked_than_is_allowed(monkeypatch):
    unpacked, original = [], zlib.decompressobj

    def counting(bits):
        whole = original(bits)

        def decompress(data, most=0):
            unpacked.append(whole.decompress(data, most))
            return unpacked[-1]

        return SimpleNamespace(decompress=decompress)

    monkeypatch.setattr(zlib, "decompressobj", counting)
    with pytest.raises(PeerError, match=f"longer than {MOST} "):
        tiles._asked(Connection(Answer(body=packed(bytes(100_000)), coding="gzip")), "/x", MOST)
    assert [len(data) for data in unpacked] == [MOST + 1]


class Clock:
    """Seconds; `step` pass before each look but the first."""

    def __init__(self, patch, step=0.0):
        self.now, self.step = 100.0, step
        patch.setattr(tiles.time, "monotonic", self)

    def __call__(self):
        now = self.now
        self.now += self.step
        return now


@pytest.fixture
def told(monkeypatch):
    """What is done with a connection, in order."""
    told = []

    class Timer:
        def __init__(self, seconds, act):
            self.act = act
            told.append(("timer", seconds))

        def start(self):
            told.append(("started", self.daemon))

        def cancel(self):
            told.append("cancelled")

    monkeypatch.setattr(threading, "Timer", Timer)
    return told


PLACES = {
    "https://log.example:9/a/b/": ("HTTPSConnection", "log.example", 9, "/a/b/tile/0/001"),
    "https://log.example": ("HTTPSConnection", "log.example", 443, "/tile/0/001"),
    "http://log.example//": ("HTTPConnection", "log.example", 80, "/tile/0/001"),
    "http://[::1]:8/a": ("HTTPConnection", "::1", 8, "/a/tile/0/001"),
}


@pytest.mark.parametrize(
    ("place", "failed", "raised", "said"),
    [
        *[(place, None, None, None) for place in PLACES],
        ("http://[::1]:8/a", PeerError("made up"), PeerError, "^made up$"),
        *[
            (
                "http://[::1]:8/a",
                error,
                UnavailableError,
                rf"^http://\[::1\]:8/a/tile/0/001 cannot be read now: {type(error).__name__}$",
            )
            for error in (OSError("secret words"), UnicodeError("secret words"), http.client.BadStatusLine("words"))
        ],
    ],
    ids=[*PLACES, "refused", "no network", "no name", "no HTTP"],
)
def test_each_file_has_a_connection_of_its_own_which_ends_in_time_and_is_closed(
    place, failed, raised, said, monkeypatch, told
):
    kind, host, port, path = PLACES[place]
    Clock(monkeypatch)
    wire = SimpleNamespace(close=lambda: told.append("socket closed"))

    def opened(*given, **named):
        told.append(("opened", *given, named))
        return wire

    def asked(connection, path, most):
        told.append(("asked", type(connection).__name__, connection.sock is wire, path, most))
        if failed is not None:
            raise failed
        return b"data"

    monkeypatch.setattr(tiles, "_opened", opened)
    monkeypatch.setattr(tiles, "_asked", asked)
    read = tiles_at(place)
    assert told == []
    for _ in range(2):
        if raised is None:
            assert read("tile/0/001", MOST) == b"data"
        else:
            with pytest.raises(raised, match=said):
                read("tile/0/001", MOST)
        secure = {"is_secure": kind == "HTTPSConnection"}
        assert told == [
            ("opened", host, port, 130.0, secure),
            *[("timer", 30.0), ("started", True), ("asked", kind, True, path, MOST)],
            *["cancelled", "socket closed"],
        ]
        told.clear()


def test_a_connection_that_cannot_be_opened_is_said(monkeypatch):
    def opened(*_, **__):
        raise ConnectionRefusedError("secret words")

    monkeypatch.setattr(tiles, "_opened", opened)
    with pytest.raises(UnavailableError, match=r"^http://h/checkpoint cannot be read now: ConnectionRefusedError$"):
        tiles_at("http://h")("checkpoint", MOST)


def test_a_connection_ends_when_its_time_does_and_what_ended_it_is_said(monkeypatch, told):
    clock, ended = Clock(monkeypatch), []

    def shutdown(*given):
        ended.append(given)
        raise OSError("it is closed already")

    monkeypatch.setattr(socket.socket, "shutdown", shutdown)
    wire = object()
    with tiles._ended_at(107.0, wire):
        (timer,) = [one for one in told if one[0] == "timer"]
        assert timer == ("timer", 7.0)
        assert told[-1] == ("started", True)
    assert told[-1] == "cancelled"
    with pytest.raises(KeyError, match="made up"), tiles._ended_at(107.0, wire):
        raise KeyError("made up")
    assert told[-1] == "cancelled"
    with pytest.raises(TimeoutError), tiles._ended_at(107.0, wire):
        clock.now = 107.0
    assert told[-1] == "cancelled"
    made = []
    monkeypatch.setattr(
        threading,
        "Timer",
        lambda _, act: made.append(act) or SimpleNamespace(start=lambda: None, cancel=lambda: None),
    )
    clock.now = 100.0
    with tiles._ended_at(107.0, wire):
        made[0]()
    assert ended == [(wire, socket.SHUT_RDWR)]


@pytest.mark.parametrize(("now", "left"), [(100.0, 7.0), (106.5, 0.5), (107.0, None), (108.0, None)])
def test_no_time_is_left_when_the_end_has_come(monkeypatch, now, left):
    Clock(monkeypatch).now = now
    if left is not None:
        assert tiles._left(107.0) == left
        return
    with pytest.raises(TimeoutError):
        tiles._left(107.0)


class Wires:
    """Sockets that fail or do not, one for each address."""

    def __init__(self, patch, told, *fates):
        self.told, self.fates = told, list(fates)
        patch.setattr(socket, "getaddrinfo", self.addresses)
        patch.setattr(socket, "socket", self.made)
        patch.setattr(tiles.ssl, "create_default_context", lambda: SimpleNamespace(wrap_socket=self.wrapped))

    def addresses(self, host, port, **named):
        self.told.append((host, port, named))
        return [("family", "kind", number, "name", f"address {number}") for number in range(len(self.fates))]

    def made(self, family, kind, number):
        def tell(what):
            return lambda *given: self.told.append((number, what, *given))

        def connect(to):
            self.told.append((number, "connect", to))
            if self.fates[number] == "refused":
                raise ConnectionRefusedError(number)

        assert (family, kind) == ("family", "kind")
        return SimpleNamespace(settimeout=tell("timeout"), connect=connect, close=tell("close"), number=number)

    def wrapped(self, made, *, server_hostname):
        self.told.append((made.number, "TLS", server_hostname))
        if self.fates[made.number] == "no TLS":
            raise tiles.ssl.SSLError(made.number, "made up")
        return "in TLS", made.number


def tried(number, *more, left=(7.0, 6.0)):
    """What happens to one address."""
    steps = [(number, "timeout", left[0]), (number, "connect", f"address {number}")]
    return [*steps, *([(number, "timeout", left[1])] if more[:1] != ("refused",) else ()), *more[1:]]


def test_addresses_are_tried_one_after_the_other_within_one_time_and_what_failed_is_closed(monkeypatch):
    told, asked = [], ("log.example", 9, {"type": socket.SOCK_STREAM})
    Clock(monkeypatch, step=1.0)
    Wires(monkeypatch, told, "refused", "no TLS", "fine", "fine")
    assert tiles._opened("log.example", 9, 107.0, is_secure=True) == ("in TLS", 2)
    assert told == [
        asked,
        *tried(0, "refused", (0, "close")),
        *tried(1, "open", (1, "TLS", "log.example"), (1, "close"), left=(6.0, 5.0)),
        *tried(2, "open", (2, "TLS", "log.example"), left=(4.0, 3.0)),
    ]
    told.clear()
    Clock(monkeypatch, step=1.0)
    assert tiles._opened("log.example", 9, 107.0, is_secure=False).number == 1
    assert told == [asked, *tried(0, "refused", (0, "close")), *tried(1, "open", left=(6.0, 5.0))]


@pytest.mark.parametrize(
    ("fates", "ends", "said"),
    [
        ((), 107.0, "a name without an address"),
        (("refused", "refused"), 107.0, "^1$"),
        (("refused", "fine"), 100.5, "^$"),
    ],
    ids=["none", "nobody listens", "too late"],
)
def test_where_no_address_answers_in_time_the_last_error_is_raised_and_none_stays_open(monkeypatch, fates, ends, said):
    told = []
    Clock(monkeypatch, step=1.0)
    Wires(monkeypatch, told, *fates)
    with pytest.raises(OSError, match=said):
        tiles._opened("log.example", 9, ends, is_secure=False)
    assert [number for number, *what in told[1:] if what == ["close"]] == list(range(len(fates)))


# ---------------------------------------------------------------------- from its server
def test_a_log_is_read_from_its_server_with_the_sizes_in_their_places():
    told, log = [], MemoryLog()
    stub = SimpleNamespace(**{name: name for name in ("GetCheckpoint", "GetEntries", "GetConsistency", "GetInclusion")})
    answers = {
        "GetCheckpoint": pb.GetCheckpointResponse(checkpoint=log.signed().to_bytes()),
        "GetEntries": pb.GetEntriesResponse(entries=[b"a", b"b"]),
        "GetConsistency": pb.GetConsistencyResponse(proof=[bytes(32), bytes([1]) * 32]),
        "GetInclusion": pb.GetInclusionResponse(logged=log.logged(4).to_bytes()),
    }

    def call(method, request):
        told.append((method, *request.ListFields()))
        return answers[method]

    remote = RemoteLog(SimpleNamespace(call=call, log=stub))
    found = (remote.checkpoint(), remote.entries(3, 9), remote.consistency_proof(3, 9), remote.prove(4))
    assert found == (log.signed().to_bytes(), (b"a", b"b"), (bytes(32), bytes([1]) * 32), log.logged(4))
    told = [(method, *((field.name, value) for field, value in fields)) for method, *fields in told]
    assert told == [
        ("GetCheckpoint",),
        ("GetEntries", ("start", 3), ("stop", 9)),
        ("GetConsistency", ("old_size", 3), ("new_size", 9)),
        ("GetInclusion", ("position", 4)),
    ]


# ---------------------------------------------------------------------- whom to believe
def test_a_policy_says_which_of_its_witnesses_count_and_how_many(tmp_path):
    lines = [f"log {SIGNER.key.to_text()}", *(f"witness w{n} {one.key.to_text()}" for n, one in enumerate(WITNESSES))]
    text = "\n".join([*lines, "group two 2 w0 w2", "quorum two", ""])
    trust = LogTrust(SIGNER.key, (WITNESSES[0].key, WITNESSES[2].key), threshold=2)
    assert log_policy(text) == trust
    (tmp_path / "policy").write_text(text)
    assert read_log_policy(tmp_path / "policy") == trust
    assert (trust.max_age_seconds, trust.max_ahead_seconds) == (3600, 60)
    (tmp_path / "policy").write_bytes(text.replace("quorum two", "quorum \xff").encode("latin-1"))
    with pytest.raises(UsageError, match=rf"^{tmp_path}/policy is no policy for a log: line 6"):
        read_log_policy(tmp_path / "policy")
    with pytest.raises(UsageError, match="cannot read"):
        read_log_policy(tmp_path / "nothing")
