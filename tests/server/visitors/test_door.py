"""The door alone, visit by visit: who is let in, counted, shown out and forgotten. Loopback sockets, no event loop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from types import SimpleNamespace

import pytest

from federation.errors import UsageError
from server.visitors import door as module
from server.visitors.door import MEMBER_SECONDS, PER_MEMBER, PLACES_OF_A_MEMBER, STRANGER_SECONDS, Door, opened_door

pytestmark = [pytest.mark.integration, pytest.mark.enable_socket]

ONE, TWO, THREE = "127.6.0.1", "127.6.0.2", "127.7.0.3"


class Street:
    """A door with a clock of its own, and those who come to it."""

    def __init__(self, **options):
        self.now = 100.0
        self.door = Door("0.0.0.0", 0, clock=lambda: self.now, **options)  # noqa: S104 - all of loopback's addresses
        self.port = self.door.getsockname()[1]
        self.held = contextlib.ExitStack()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.held.close()
        self.door.close()

    def comes(self, address):
        """The caller's side, the side that the door gave, and the ends of the connection as a server sees them."""
        caller = socket.create_connection(("127.0.0.1", self.port), source_address=(address, 0), timeout=30)
        self.held.enter_context(caller)
        inside, who = self.door.accept()
        self.held.callback(inside.close)
        return SimpleNamespace(caller=caller, inside=inside, who=who, at=inside.getsockname())

    def is_turned_away(self, address, why):
        caller = socket.create_connection(("127.0.0.1", self.port), source_address=(address, 0), timeout=30)
        self.held.enter_context(caller)
        with pytest.raises(ConnectionAbortedError, match=f"^{why}$"):
            self.door.accept()
        return caller.recv(1) == b""

    def called(self, visit, name):
        self.door.is_member(visit.who, visit.at, name)

    @property
    def ends(self):
        return [visit.ends_at for visit in self.door._visits.values()]


def is_shown_out(visit):
    visit.caller.setblocking(False)
    try:
        return visit.caller.recv(1) == b""
    except BlockingIOError:
        return False


def test_an_address_that_has_its_connections_gets_no_other_until_one_of_them_ends():
    with Street(per_address=2, in_all=9) as street:
        first, second = street.comes(ONE), street.comes(ONE)
        assert first.who == first.caller.getsockname()
        assert street.is_turned_away(ONE, "address")
        assert (street.door.visitors, street.door.turned_away) == (2, {"address": 1})
        other = street.comes(TWO)
        first.inside.close()
        assert (street.door.visitors, first.inside.fileno(), first.caller.recv(1)) == (2, -1, b"")
        street.comes(ONE)
        assert street.is_turned_away(ONE, "address")
        assert [is_shown_out(visit) for visit in (second, other)] == [False, False]
        assert (street.door.visitors, street.door.turned_away) == (3, {"address": 2})


def test_a_network_of_several_addresses_has_twice_as_many_and_another_is_not_counted(monkeypatch):
    monkeypatch.setattr(module, "networks_of", lambda host: (host, host.split(".")[1]))
    with Street(per_address=2, in_all=9) as street:
        for number in (1, 1, 2, 3):
            street.comes(f"127.6.0.{number}")
        assert street.is_turned_away("127.6.0.9", "address")
        street.comes(THREE)
        assert (street.door.visitors, street.door.turned_away) == (5, {"address": 1})


def test_whoever_has_been_a_stranger_for_longest_makes_room_and_who_called_does_not():
    with Street(in_all=3) as street:
        member, oldest, youngest = street.comes(ONE), street.comes(TWO), street.comes(THREE)
        street.called(member, "a member")
        new = street.comes(ONE)
        assert [is_shown_out(visit) for visit in (member, oldest, youngest, new)] == [False, True, False, False]
        assert (street.door.visitors, street.door.turned_away) == (3, {"full": 1})
        oldest.inside.close()  # as the loop does, later
        assert street.door.visitors == 3
        for visit in (youngest, new):
            street.called(visit, "a member")
        assert street.is_turned_away(TWO, "full")
        assert (street.door.visitors, street.door.turned_away) == (3, {"full": 2})


def test_who_is_refused_for_the_address_shows_nobody_out():
    with Street(per_address=1, in_all=1) as street:
        first = street.comes(ONE)
        assert street.is_turned_away(ONE, "address")
        assert (is_shown_out(first), street.door.turned_away) == (False, {"address": 1})


def test_a_stranger_has_a_moment_and_a_member_minutes_from_each_call_on():
    with Street() as street:
        first, second = street.comes(ONE), street.comes(TWO)
        assert street.ends == [100 + STRANGER_SECONDS] * 2
        street.now = 103.0
        street.called(first, "a member")
        street.now = 105.0
        for who, at in ((None, first.at), (first.who, None), (first.who, second.who), (second.at, first.at)):
            street.door.is_member(who, at, "a member")
        assert street.ends == [103 + MEMBER_SECONDS, 100 + STRANGER_SECONDS]
        street.called(first, "a member")
        assert street.ends == [105 + MEMBER_SECONDS, 100 + STRANGER_SECONDS]
        third = street.comes(THREE)
        assert street.ends[2] == 105 + STRANGER_SECONDS
        street.now = 100 + STRANGER_SECONDS - 0.1
        street.door.show_out_the_late()
        assert not any(map(is_shown_out, (first, second, third)))
        street.now = 100 + STRANGER_SECONDS
        street.door.show_out_the_late()
        assert [is_shown_out(visit) for visit in (first, second, third)] == [False, True, False]
        assert (street.door.visitors, street.door.turned_away) == (3, {"late": 1})
        second.inside.close()
        street.now = 105 + MEMBER_SECONDS
        street.door.show_out_the_late()
        assert [is_shown_out(visit) for visit in (first, third)] == [True, True]
        assert street.door.turned_away == {"late": 3}


def test_a_member_with_too_many_connections_loses_the_oldest_of_its_own(monkeypatch):
    monkeypatch.setattr(module, "PER_MEMBER", 2)
    with Street() as street:
        visits = [street.comes(address) for address in (ONE, TWO, THREE, ONE, TWO)]
        street.called(visits[0], "another member")
        for visit in visits[1:4]:
            street.called(visit, "a member")
        assert [is_shown_out(visit) for visit in visits] == [False, True, False, False, False]
        assert (street.door.visitors, street.door.turned_away) == (4, {"member": 1})
        street.called(visits[2], "a member")  # again, which makes it no other
        street.called(visits[4], "another member")
        street.called(visits[4], "a member")
        assert [is_shown_out(visit) for visit in visits] == [False, True, True, False, False]
        assert (street.door.visitors, street.door.turned_away) == (3, {"member": 2})


def test_a_connection_is_forgotten_once_and_another_that_came_in_its_place_is_not():
    with Street() as street:
        visit, other = street.comes(ONE), street.comes(TWO)
        (ends, kept), (others, _) = street.door._visits.items()
        street.door._visits[ends] = module._Visit(other.inside, kept.networks, 0.0)
        visit.inside.close()
        assert list(street.door._visits) == [ends, others]
        other.inside.close()
        other.inside.close()
        assert list(street.door._visits) == [ends]


def test_a_connection_is_closed_before_it_is_said_to_be():
    with Street() as street:
        visit, told = street.comes(ONE), []
        visit.inside.closed = lambda: told.append(visit.inside.fileno())
        for _ in range(2):
            visit.inside.close()
        assert told == [-1]


def test_members_that_are_expected_have_four_places_each_beside_those_of_strangers():
    with Street(in_all=1) as street:
        for members, room in ((2, 1 + 2 * PLACES_OF_A_MEMBER), (0, 1), (3, 1 + 3 * PLACES_OF_A_MEMBER)):
            street.door.expect(members)
            assert street.door._in_all == room


def test_when_nobody_waits_nobody_is_counted():
    with Street() as street:
        street.door.setblocking(False)
        with pytest.raises(BlockingIOError, match="temporarily unavailable"):
            street.door.accept()
        assert (street.door.visitors, street.door.turned_away) == (0, {})


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_door_is_opened_on_ipv6_with_and_without_brackets(host):
    with Door(host, 0) as door:
        assert (door.family, door.getsockname()[0]) == (socket.AF_INET6, "::1")
        assert door.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)


@pytest.mark.parametrize("step", ["bind", "listen"])
def test_a_door_that_cannot_be_opened_is_closed_and_says_where(monkeypatch, step):
    told = []

    def noted(name):
        def call(_, argument):
            told.append((name, argument))
            if name == step:
                raise OSError(errno.EADDRINUSE, "in use")

        return call

    for name in ("bind", "listen"):
        monkeypatch.setattr(Door, name, noted(name), raising=False)
    monkeypatch.setattr(Door, "close", lambda door: told.append("closed") or socket.socket.close(door), raising=False)
    said = r"^cannot listen on 127\.0\.0\.1:7443: something else listens there$"
    with pytest.raises(UsageError, match=said) as caught:
        Door("127.0.0.1", 7443)
    assert caught.value.__cause__.errno == errno.EADDRINUSE
    assert told == [("bind", ("127.0.0.1", 7443)), *[("listen", 512)] * (step == "listen"), "closed"]


def test_whoever_opens_a_door_takes_all_files_first_and_closes_it_behind(monkeypatch):
    told = []
    monkeypatch.setattr(module, "take_all_files", lambda: told.append("files"))
    real = module.Door

    def made(host, port, *, in_all):
        told.append((host, port, in_all))
        return real(host, port, in_all=in_all)

    monkeypatch.setattr(module, "Door", made)
    with contextlib.suppress(ZeroDivisionError), opened_door("127.0.0.1", 0, in_all=7) as door:
        assert told == ["files", ("127.0.0.1", 0, 7)]
        assert door.fileno() >= 0
        raise ZeroDivisionError
    assert door.fileno() == -1


async def test_the_late_are_shown_out_every_second_until_the_door_is_no_longer_tended(monkeypatch):
    told = []

    async def sleep(seconds):
        told.append(seconds)
        if len(told) == 5:
            raise asyncio.CancelledError

    monkeypatch.setattr(module, "asyncio", SimpleNamespace(sleep=sleep))
    door = SimpleNamespace(show_out_the_late=lambda: told.append("shown out"))
    with pytest.raises(asyncio.CancelledError):
        await Door.tend(door)
    assert told == [1.0, "shown out", 1.0, "shown out", 1.0]


def test_the_bounds_leave_room_for_what_they_are_for():
    assert 2 * 16 == PER_MEMBER < module.PER_ADDRESS < module.IN_ALL
    assert STRANGER_SECONDS < MEMBER_SECONDS
