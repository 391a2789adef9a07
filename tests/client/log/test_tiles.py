"""A monitor reads a log from static files, in a folder or over HTTP, and whoever serves them can only stop it."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import socket
import threading
import tracemalloc
import zlib
from functools import partial

import pytest

import client.log.tiles
from client.log.tiles import TileLog, tiles_at
from client.log.watching import Monitor
from federation.errors import PeerError, ProofError, UnavailableError, UsageError
from federation.transparency import Frontier, PublicEntry, PublicKind, verify_consistency
from federation.transparency.tiles import ENTRIES, bundle_to_bytes, tiles_of
from tests.asked_witness import swallowing
from tests.transparency_log import NOW, TRUST, MemoryLog

LEAVES = [PublicEntry(PublicKind.POLICY, NOW, b"%d" % n).to_bytes() for n in range(700)]


def write(folder, size):
    """As any C2SP log would."""
    nodes = Frontier().grow(LEAVES[:size])[1]
    for tile in tiles_of(size):
        path = folder / tile.path
        path.parent.mkdir(parents=True, exist_ok=True)
        start = tile.number * 256
        if tile.level == ENTRIES:
            path.write_bytes(bundle_to_bytes(LEAVES[start : start + tile.width]))
        else:
            path.write_bytes(b"".join(nodes[node] for node in tile.nodes))
    (folder / "checkpoint").write_bytes(MemoryLog(leaves=LEAVES[:size]).signed().to_bytes())


@contextlib.contextmanager
def served(handler):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


class Zipping(Quiet):
    """Whatever the client accepts, as C2SP allows."""

    def do_GET(self):
        path = self.translate_path(self.path)
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - as the handler has it
                data = gzip.compress(file.read())
        except OSError:
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("content-encoding", "GZip")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture(
    params=[
        "folder",
        pytest.param("http", marks=pytest.mark.integration),
        pytest.param("gzip", marks=pytest.mark.integration),
    ]
)
def place(request, tmp_path):
    """The folder to write into, and where it is read from."""
    folder = tmp_path / "public"
    folder.mkdir()
    if request.param == "folder":
        yield folder, str(folder)
        return
    handler = Quiet if request.param == "http" else Zipping
    with served(partial(handler, directory=str(tmp_path))) as address:
        yield folder, f"{address}/public/"


def test_a_monitor_follows_a_log_of_files(place):
    folder, where = place
    log, monitor = TileLog(tiles_at(where)), Monitor()
    for size in (0, 1, 255, 256, 257, 700):
        write(folder, size)
        monitor = monitor.follow(log, TRUST, now=NOW)
        assert monitor.frontier == Frontier().grow(LEAVES[:size])[0]
    assert (list(log.entries(699, 800)), list(log.entries(768, 800))) == ([LEAVES[699]], [])
    for old in (1, 255, 256, 600, 700):
        head = Frontier().grow(LEAVES[:old])[0].head
        verify_consistency(head, monitor.frontier.head, log.consistency_proof(old, 700))
        monitor.check_seen(MemoryLog(leaves=LEAVES[:old]).signed(), log, TRUST)


def test_a_narrow_file_that_went_is_read_from_the_full_one(place):
    folder, where = place
    write(folder, 257)
    log = TileLog(tiles_at(where))
    checkpoint = log.checkpoint()
    for tile in list(tiles_of(257)):
        if not tile.is_full:
            (folder / tile.path).unlink()
    write(folder, 700)
    (folder / "checkpoint").write_bytes(checkpoint)
    for tile in tiles_of(257):
        if not tile.is_full and tile.level != 1:
            assert not (folder / tile.path).exists()
    assert list(log.entries(256, 700)) == [LEAVES[256]]
    head = Frontier().grow(LEAVES[:100])[0].head
    (folder / "tile/1/000.p").mkdir(exist_ok=True)
    (folder / "tile/1/000.p/1").write_bytes((folder / "tile/1/000.p/2").read_bytes()[:32])
    verify_consistency(head, Frontier().grow(LEAVES[:257])[0].head, log.consistency_proof(100, 257))


def test_what_is_held_back_or_changed_stops_the_monitor(place):
    folder, where = place
    write(folder, 600)
    path = folder / "tile/entries/001"
    data = path.read_bytes()
    path.write_bytes(data[:-1] + b"X")
    with pytest.raises(ProofError, match=r"no entry|forked"):
        Monitor().follow(TileLog(tiles_at(where)), TRUST, now=NOW)
    path.unlink()
    with pytest.raises(ProofError, match="holds back entry 256"):
        Monitor().follow(TileLog(tiles_at(where)), TRUST, now=NOW)
    (folder / "tile/0/001").unlink()
    log = TileLog(tiles_at(where))
    log.checkpoint()
    with pytest.raises(ProofError, match="holds back tile/0/001"):
        log.consistency_proof(300, 600)


def test_a_place_without_a_log_is_said(place):
    _, where = place
    with pytest.raises(UsageError, match="there is no checkpoint"):
        TileLog(tiles_at(where)).checkpoint()


@pytest.mark.parametrize("name", ["checkpoint", "tile/entries/001", "tile/0/001"])
def test_a_file_that_the_disk_does_not_give_is_not_one_that_the_log_holds_back(tmp_path, name):
    """Whoever runs the log would be accused of what a disk did."""
    write(tmp_path, 600)
    log = TileLog(tiles_at(str(tmp_path)))
    log.checkpoint()
    (tmp_path / name).unlink()
    (tmp_path / name).mkdir()
    read = {
        "checkpoint": log.checkpoint,
        "tile/entries/001": lambda: log.entries(256, 300),
        "tile/0/001": lambda: log.consistency_proof(300, 600),
    }[name]
    with pytest.raises(UsageError, match=f"cannot read {tmp_path / name}: Is a directory"):
        read()


def test_a_file_that_is_too_long_is_not_held(place):
    folder, where = place
    (folder / "checkpoint").write_bytes(bytes(70_000))
    with pytest.raises(PeerError, match="longer than 65536 bytes"):
        TileLog(tiles_at(where)).checkpoint()


@pytest.mark.parametrize(
    "address",
    [
        *("http://", "https://h:0x/", "http://me:pw@h/", "http://h/?q=1", "http://h/#x"),
        *("http://h/\u00e9", "http://h\u00e9/", "http://h/a b", "http://h/\0", "http://h/\x7f"),
    ],
)
def test_what_is_no_address_of_a_log_is_refused(address):
    with pytest.raises(UsageError, match="address"):
        tiles_at(address)


@pytest.mark.integration
def test_a_name_that_can_be_none_is_out_of_reach():
    with pytest.raises(UnavailableError, match="UnicodeError"):
        TileLog(tiles_at("http://a..b/")).checkpoint()


# ---------------------------------------------------------------------- hostile servers
class Hostile(http.server.BaseHTTPRequestHandler):
    behaviour = staticmethod(lambda _: None)

    def do_GET(self):
        with contextlib.suppress(OSError):
            self.behaviour(self)

    def log_message(self, *_):
        pass


def headers(handler, status, **named):
    handler.send_response(status)
    for name, value in named.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()


def endless(handler):
    headers(handler, 200)
    for _ in range(10_000):
        handler.wfile.write(bytes(4096))


def endless_headers(handler):
    handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
    for _ in range(1000):
        handler.wfile.write(b"x: " + b"y" * 9999 + b"\r\n")


BOMB = gzip.compress(bytes(20_000_000))
BOUNDED = 4_000_000
"""Bytes that a monitor and a server that lies to it hold together, at most."""


def bomb(handler):
    headers(handler, 200, content_encoding="gzip", content_length=str(len(BOMB)))
    handler.wfile.write(BOMB)


def no_gzip(handler):
    headers(handler, 200, content_encoding="gzip", content_length="3")
    handler.wfile.write(b"abc")


LIES = {
    "endless": (endless, PeerError, "longer than"),
    "a gzip bomb": (bomb, PeerError, "longer than"),
    "no gzip": (no_gzip, PeerError, "is said to be gzip"),
    "an error": (lambda handler: headers(handler, 500), PeerError, "status 500"),
    "somewhere else": (lambda handler: headers(handler, 302, location="/etc/passwd"), PeerError, "status 302"),
    "no HTTP": (lambda handler: handler.wfile.write(b"hello\n"), UnavailableError, "cannot be read now"),
    "nothing": (lambda _: None, UnavailableError, "cannot be read now"),
    "endless headers": (
        endless_headers,
        UnavailableError,
        "cannot be read now",
    ),
}


@pytest.mark.integration
@pytest.mark.parametrize("lie", LIES)
def test_a_server_of_files_that_lies_is_refused_in_bounded_space(lie):
    behaviour, kind, said = LIES[lie]
    handler = type("Lying", (Hostile,), {"behaviour": staticmethod(behaviour)})
    tracemalloc.start()
    try:
        with served(handler) as address, pytest.raises(kind, match=said):
            TileLog(tiles_at(address)).checkpoint()
        assert tracemalloc.get_traced_memory()[1] < BOUNDED
    finally:
        tracemalloc.stop()


@pytest.mark.integration
def test_a_byte_now_and_then_does_not_keep_a_monitor_waiting(monkeypatch):
    monkeypatch.setattr(client.log.tiles, "_SECONDS", 0.3)
    done = threading.Event()

    def drip(handler):
        headers(handler, 200, content_length="1000")
        while not done.wait(0.02):
            handler.wfile.write(b"x")

    handler = type("Dripping", (Hostile,), {"behaviour": staticmethod(drip)})
    with served(handler) as address:
        try:
            with pytest.raises(UnavailableError, match="cannot be read now"):
                TileLog(tiles_at(address)).checkpoint()
        finally:
            done.set()


def named(monkeypatch, *addresses, late=lambda: None):
    """What the name log.example stands for."""
    original = socket.getaddrinfo

    def getaddrinfo(host, port, *arguments, **options):
        if host != "log.example":
            return original(host, port, *arguments, **options)
        late()
        return [(socket.AF_INET, socket.SOCK_STREAM, 0, "", address) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)


@pytest.mark.integration
def test_a_name_that_is_found_late_gives_a_server_that_drips_no_more_time(monkeypatch):
    monkeypatch.setattr(client.log.tiles, "_SECONDS", 0.3)
    done = threading.Event()

    def drip(handler):
        headers(handler, 200, content_length="1000")
        while not done.wait(0.02):
            handler.wfile.write(b"x")

    with served(type("Dripping", (Hostile,), {"behaviour": staticmethod(drip)})) as address:
        port = int(address.rpartition(":")[2])
        named(monkeypatch, ("127.0.0.1", port), late=lambda: done.wait(0.4))
        try:
            with pytest.raises(UnavailableError, match="TimeoutError"):
                TileLog(tiles_at(f"http://log.example:{port}")).checkpoint()
        finally:
            done.set()


@pytest.mark.integration
def test_addresses_that_swallow_what_they_are_sent_take_the_time_of_one(monkeypatch):
    monkeypatch.setattr(client.log.tiles, "_SECONDS", 0.3)
    with swallowing() as address:
        named(monkeypatch, *[address] * 9)
        tried, original = [], socket.socket.connect
        monkeypatch.setattr(socket.socket, "connect", lambda *a: (tried.append(a[1]), original(*a))[1])
        with pytest.raises(UnavailableError, match="TimeoutError"):
            TileLog(tiles_at(f"http://log.example:{address[1]}")).checkpoint()
    assert tried == [address]


@pytest.mark.integration
def test_an_address_where_nobody_listens_is_followed_by_the_next(monkeypatch, tmp_path):
    write(tmp_path, 3)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        nobody = closed.getsockname()
    with served(partial(Quiet, directory=str(tmp_path))) as address:
        port = int(address.rpartition(":")[2])
        named(monkeypatch, nobody, ("127.0.0.1", port))
        assert Monitor().follow(TileLog(tiles_at(f"http://log.example:{port}")), TRUST, now=NOW).frontier.size == 3


@pytest.mark.integration
@pytest.mark.parametrize("coding", ["identity", "gzip", "gzip without a length", "no end"])
def test_a_connection_that_is_cut_is_not_taken_for_a_log_that_holds_something_back(tmp_path, coding, monkeypatch):
    monkeypatch.setattr(client.log.tiles, "_SECONDS", 1.0 if coding == "no end" else 30.0)
    write(tmp_path, 3)
    done = threading.Event()
    whole = [bundle_to_bytes(LEAVES[:2]), bundle_to_bytes(LEAVES[2:3])]  # cut where an entry ends

    def cut(handler):
        if handler.path == "/checkpoint":
            headers(handler, 200)
            handler.wfile.write((tmp_path / "checkpoint").read_bytes())
            return
        if coding == "no end":  # it is the reader that ends it
            headers(handler, 200)
            handler.wfile.write(whole[0])
            done.wait(60)
            return
        if coding == "gzip without a length":
            packing = zlib.compressobj(wbits=31)
            headers(handler, 200, content_encoding="gzip")
            handler.wfile.write(packing.compress(whole[0]) + packing.flush(zlib.Z_SYNC_FLUSH))
            return
        data = [gzip.compress(part) if coding == "gzip" else part for part in whole]
        headers(handler, 200, content_encoding=coding, content_length=str(sum(map(len, data))))
        handler.wfile.write(data[0])

    handler = type("Cutting", (Hostile,), {"behaviour": staticmethod(cut)})
    with served(handler) as address, contextlib.ExitStack() as closing:
        closing.callback(done.set)
        with pytest.raises(UnavailableError, match=r"IncompleteRead|TimeoutError"):
            Monitor().follow(TileLog(tiles_at(address)), TRUST, now=NOW)
