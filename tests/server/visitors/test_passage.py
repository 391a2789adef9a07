"""A door in front of a server that accepts by itself: what passes, who is let in, and what is left. Real sockets."""

import asyncio
import contextlib
import socket
import stat
import struct
import tempfile
from pathlib import Path

import pytest

from federation.errors import UsageError
from server.visitors import door as door_module
from server.visitors.door import MEMBER_SECONDS, PER_ADDRESS, PER_MEMBER, PLACES_OF_A_MEMBER, STRANGER_SECONDS, Door
from server.visitors.passage import Passage, _Side

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

MUCH = 8 * 1024 * 1024  # more than the kernel and both ends hold


class Echo:
    """Says what it hears, and notes what each visitor is called."""

    def __init__(self):
        self.peers, self.writers, self.running, self.ended = [], [], 0, asyncio.Semaphore(0)

    async def __call__(self, reader, writer):
        self.peers.append("unix-abstract:" + writer.get_extra_info("peername").decode().strip("\0"))
        self.writers.append(writer)
        self.running += 1
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        self.running -= 1
        self.ended.release()


async def until(condition):
    async with asyncio.timeout(30):
        while not condition():  # noqa: ASYNC110 - it is the kernel that is waited for
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def queueing(number):
    """Visitors of a server that takes nobody yet, with room for one in its queue."""
    door = Door("127.0.0.1", 0)
    passage, loop = Passage(door), asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as server, contextlib.ExitStack() as held:
        server.setblocking(False)
        server.bind(str(passage.path))
        server.listen(0)
        await passage.open()
        visitors = [held.enter_context(socket.create_connection(door.getsockname())) for _ in range(number)]
        for said, visitor in enumerate(visitors):
            visitor.setblocking(False)
            await loop.sock_sendall(visitor, bytes([said]))
        await until(lambda: (door.visitors, len(passage._visitors)) == (number, 1))
        yield passage, door, server, visitors
        passage.close()
        await until(lambda: not door.visitors)
        assert (passage._coming, passage._visitors) == (set(), {})


async def test_whoever_comes_while_the_server_s_queue_is_full_waits_for_a_place_in_it():
    """They were shown out: a socket in a file system whose queue is full has no connection under way."""
    async with queueing(6) as (passage, _, server, _visitors):
        heard, loop = set(), asyncio.get_running_loop()
        for _ in range(6):
            inner, _ = await loop.sock_accept(server)
            with inner:
                heard.add((await loop.sock_recv(inner, 9))[0])
        assert heard == {0, 1, 2, 3, 4, 5}
        assert passage._coming == set()


async def test_whoever_waits_for_the_server_s_queue_is_shown_out_when_the_end_comes_and_after_ten_seconds(monkeypatch):
    async with queueing(3) as (passage, _, _server, _visitors):
        assert len(passage._coming) == 2  # and its end leaves none of them, nor a socket
    monkeypatch.setattr("server.visitors.passage._TRIES", 1)
    loop = asyncio.get_running_loop()
    async with queueing(1) as (passage, door, _, _visitors):
        with socket.create_connection(door.getsockname()) as late:
            late.setblocking(False)
            assert await loop.sock_recv(late, 1) == b""
        assert len(passage._visitors) == 1


@pytest.mark.parametrize("letters", [63, 64])
def test_a_folder_whose_name_is_too_long_for_a_socket_is_named_and_not_left(tmp_path, monkeypatch, letters):
    """gRPC said that it cannot bind, and the server ended as by a mistake of the program."""
    base = tempfile.mkdtemp(dir="/tmp")
    folder = Path(base) / ("x" * (107 - len(base) - len("//intaglio-12345678/server") + letters - 63))
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with Door("127.0.0.1", 0) as door:
        if letters == 63:
            passage = Passage(door)
            with socket.socket(socket.AF_UNIX) as bound:
                bound.bind(str(passage.path))
            passage.close()
        else:
            with pytest.raises(UsageError, match=r"/server is too long for the name of a socket; TMPDIR names a"):
                Passage(door)
    folder.rmdir()  # empty
    Path(base).rmdir()


def test_without_a_folder_for_its_socket_it_says_where_to_name_one(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "none"))
    said = r"^there is no folder for a socket: No such file or directory; TMPDIR names another one$"
    with Door("127.0.0.1", 0) as door, pytest.raises(UsageError, match=said):
        Passage(door)


@contextlib.asynccontextmanager
async def passing(**options):
    door = Door("0.0.0.0", 0, **options)  # noqa: S104 - all of loopback's addresses
    passage, echo = Passage(door), Echo()
    server = await asyncio.start_unix_server(echo, str(passage.path))
    await passage.open()
    try:
        yield passage, door, echo
    finally:
        await leave()
        passage.close()
        await until(lambda: not echo.running)
        server.close()


VISITORS = []


async def visit(door, address="127.0.0.1"):
    reader, writer = await asyncio.open_connection("127.0.0.1", door.getsockname()[1], local_addr=(address, 0))
    VISITORS.append(writer)
    return reader, writer


async def leave():
    for writer in VISITORS:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    VISITORS.clear()


async def is_served(door, address):
    reader, writer = await visit(door, address)
    writer.write(b"hello")
    answer = await reader.read(5)
    writer.close()
    return answer == b"hello"


async def test_bytes_pass_as_fast_as_the_other_side_takes_them_and_in_order():
    sent = bytes(range(256)) * (MUCH // 256)
    async with passing() as (_, door, _echo):
        reader, writer = await visit(door)
        writing = asyncio.ensure_future(writer.drain())
        writer.write(sent)
        assert await reader.readexactly(MUCH) == sent
        await writing
        writer.close()


async def test_nothing_is_read_of_who_sends_more_than_the_server_takes():
    """Else a visitor's bytes would lie in memory, as many as he likes."""
    async with passing() as (passage, door, echo):
        reader, writer = await visit(door)
        await until(lambda: len(echo.writers) == 1 and len(passage._visitors) == 1)
        (side,) = passage._visitors.values()
        await until(side.transport.is_reading)
        echo.writers[0].transport.pause_reading()
        writer.write(bytes(MUCH))
        await until(lambda: not side.transport.is_reading())
        assert side.other.transport.get_write_buffer_size() < MUCH / 16
        echo.writers[0].transport.resume_reading()
        assert await reader.readexactly(MUCH) == bytes(MUCH)
        assert side.transport.is_reading()


async def test_what_comes_before_the_server_has_a_visitor_is_kept_and_is_not_much(monkeypatch):
    """As on Python 3.11.2, whose asyncio begins to read although it was paused when the connection was made.

    There the beginning of TLS was lost, and the visitor waited in vain.
    """

    def begins(transport, descriptor, callback):
        transport._loop._add_reader(descriptor, callback)

    monkeypatch.setattr("asyncio.selector_events._SelectorTransport._add_reader", begins)
    connect, go, sides = Passage._connect, asyncio.Event(), []

    async def late(passage, side):
        sides.append(side)
        await go.wait()
        await connect(passage, side)

    monkeypatch.setattr(Passage, "_connect", late)
    sent = bytes(range(256)) * (MUCH // 256)
    async with passing() as (_, door, _echo):
        reader, writer = await visit(door)
        writer.write(sent)
        await until(lambda: sides and sides[0]._early)
        for _ in range(20):
            await asyncio.sleep(0)  # the loop looks at its sockets
        assert len(sides[0]._early) <= 256 * 1024
        go.set()
        assert await reader.readexactly(MUCH) == sent
        assert not sides[0]._early


class Way:
    """A transport of one side, as asyncio's: full after the first write, if it is a narrow one."""

    def __init__(self, side, *, is_narrow=False):
        self.side, self.is_narrow, self.reads, self.written = side, is_narrow, True, b""
        side.connection_made(self)

    def write(self, data):
        self.written += data
        if data and self.is_narrow:
            self.side.pause_writing()

    def pause_reading(self):
        self.reads = False

    def resume_reading(self):
        self.reads = True

    def is_closing(self):
        return False


@pytest.mark.parametrize("early", ["visitor", "server"])
@pytest.mark.parametrize("is_narrow", [False, True])
def test_who_was_early_is_read_further_unless_the_other_side_takes_no_more(early, is_narrow):
    """Else what a visitor sends on lies in memory, or a server that speaks first is never heard again."""
    visitor, inner = _Side(), _Side()
    ways = {"visitor": Way(visitor, is_narrow=is_narrow), "server": Way(inner, is_narrow=is_narrow)}
    first, other = ways[early], ways["server" if early == "visitor" else "visitor"]
    first.side.data_received(b"early")
    assert not first.reads
    visitor.join(inner)
    assert (other.written, first.reads, other.reads) == (b"early", not is_narrow, True)


async def test_connections_of_one_address_leave_room_for_another():
    """A certificate that opened as many as there are files closed the service, its log and its health check."""
    async with passing() as (_, door, echo):
        held = [await visit(door, "127.0.0.5") for _ in range(PER_ADDRESS + 6)]
        await until(lambda: door.turned_away["address"] == 6 and len(echo.peers) == PER_ADDRESS)
        assert await is_served(door, "127.0.0.2")
        for _, writer in held:
            writer.close()
        await until(lambda: door.visitors == 0)


async def test_a_wider_network_has_twice_what_one_address_has_and_leaves_room(monkeypatch):
    """Loopback has one network of IPv6; so here the second byte of an address is the customer."""
    monkeypatch.setattr(door_module, "networks_of", lambda host: (host, host.split(".")[1]))
    async with passing(per_address=2) as (_, door, _echo):
        for number in range(1, 7):
            await visit(door, f"127.5.0.{number}")
        await until(lambda: door.turned_away["address"] == 2)
        assert door.visitors == 2 * 2
        assert await is_served(door, "127.6.0.1")


async def test_when_all_places_are_taken_whoever_never_called_goes_first():
    async with passing(in_all=3) as (passage, door, echo):
        called = await visit(door, "127.0.0.1")
        await until(lambda: len(echo.peers) == 1)
        passage.called(echo.peers[0], "a certificate")
        silent = await visit(door, "127.0.0.2")
        for last in (3, 4):
            await visit(door, f"127.0.0.{last}")
        async with asyncio.timeout(30):
            assert await silent[0].read() == b""
        called[1].write(b"still there")
        assert await called[0].read(11) == b"still there"


def test_who_comes_from_the_port_of_one_who_was_shown_out_is_counted_when_that_one_is_closed():
    """Else whoever comes back from the same port takes no place, and is never late."""
    with Door("127.0.0.1", 0, in_all=1) as door, socket.socket() as first:
        at = door.getsockname()
        first.bind(("127.0.0.77", 0))  # an address of which no other test takes the port meanwhile
        first.connect(at)
        place = first.getsockname()
        shown_out, _ = door.accept()
        with socket.create_connection(at), door.accept()[0]:
            first.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            first.close()  # with a reset, which leaves the port free
            with socket.create_connection(at, source_address=place), door.accept()[0]:
                shown_out.close()
                assert door.visitors == 1
            assert door.visitors == 0


def test_members_that_are_expected_make_room_once_however_often_it_is_said():
    """It is said every second."""
    with Door("127.0.0.1", 0, in_all=1) as door, contextlib.ExitStack() as held:
        for members in (3, 1, 1, 1):
            door.expect(members)
        at = door.getsockname()
        for number in range(1 + PLACES_OF_A_MEMBER):
            visitor = held.enter_context(socket.create_connection(at))
            held.enter_context(door.accept()[0])
            door.is_member(visitor.getsockname(), at, f"member {number}")
        held.enter_context(socket.create_connection(at))
        with pytest.raises(ConnectionAbortedError, match="full"):
            door.accept()
        assert (door.visitors, door.turned_away) == (1 + PLACES_OF_A_MEMBER, {"full": 1})


async def test_a_certificate_has_so_many_connections_from_all_of_its_addresses():
    async with passing() as (passage, door, echo):
        held = []
        for number in range(PER_MEMBER + 1):
            held.append(await visit(door, f"127.0.0.{1 + number}"))
            await until(lambda: len(echo.peers) == len(held))
            passage.called(echo.peers[-1], "a certificate")
        async with asyncio.timeout(30):
            assert await held[0][0].read() == b""
        await until(lambda: door.visitors == PER_MEMBER)
        assert door.turned_away == {"member": 1}


async def test_who_never_calls_is_shown_out_in_time_and_who_called_may_stay():
    now = [0.0]
    async with passing(clock=lambda: now[0]) as (passage, door, echo):
        called = await visit(door)
        await until(lambda: len(echo.peers) == 1)
        silent = await visit(door)
        await until(lambda: len(echo.peers) == 2)
        passage.called(echo.peers[0], "a certificate")
        passage.called("unix-abstract:somebody else", "a certificate")
        now[0] = STRANGER_SECONDS
        async with asyncio.timeout(30):
            assert await silent[0].read() == b""
        called[1].write(b"still there")
        assert await called[0].read(11) == b"still there"
        passage.called(echo.peers[0], "a certificate")
        now[0] += MEMBER_SECONDS - 1
        door.show_out_the_late()
        assert door.visitors == 1
        now[0] += 1
        async with asyncio.timeout(30):
            assert await called[0].read() == b""


@pytest.mark.parametrize("who", ["visitor", "server"])
async def test_when_one_side_ends_the_other_does_too_and_nothing_is_kept(who):
    async with passing() as (passage, door, echo):
        reader, writer = await visit(door)
        await until(lambda: len(echo.writers) == 1)
        if who == "visitor":
            writer.close()
            await asyncio.wait_for(echo.ended.acquire(), 30)
        else:
            echo.writers[0].close()
            assert await asyncio.wait_for(reader.read(), 30) == b""
        await until(lambda: door.visitors == 0 and not passage._visitors)


async def test_who_comes_when_the_server_is_gone_is_turned_out_at_once():
    door = Door("127.0.0.1", 0, clock=lambda: 0.0)  # nobody is ever late
    passage = Passage(door)
    await passage.open()
    reader, _ = await visit(door)
    with contextlib.suppress(ConnectionResetError):
        assert await asyncio.wait_for(reader.read(), 30) == b""
    await leave()
    passage.close()


async def test_a_door_that_is_shut_lets_nobody_in_and_who_is_in_goes_on():
    async with passing() as (passage, door, echo):
        reader, writer = await visit(door)
        await until(lambda: len(echo.peers) == 1)
        port = door.getsockname()[1]
        passage.shut()
        with pytest.raises(ConnectionRefusedError, match="Connect call failed"):
            await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello")
        assert await reader.read(5) == b"hello"


async def test_nobody_else_reaches_the_server_beside_the_door():
    async with passing() as (passage, _, _echo):
        folder = passage.path.parent
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert stat.S_ISSOCK(passage.path.stat().st_mode)
    assert not folder.exists()
