"""A socket that strangers come to: so many visitors from one address, so many in all, and none who dawdles.

The gateway of a federation and the bridge of the person's page listen on one. A member is, for the gateway, who has
shown a member's key; for the bridge, an address from which a whole call came.

The bounds hold from the moment on that a connection is there: before TLS, before a header, before a body. Who has not
shown a member's key in time is shown out, and when all places are taken the one who has waited longest for that.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import resource
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from federation.addresses import bare_host, cannot_listen

PER_ADDRESS: Final = 64
PER_MEMBER: Final = 32
"""Twice the calls that a member may make at once. Addresses are cheap: whoever has an IPv6 network has thousands."""
WIDER: Final = 2
"""So many times as much as one visitor may have fits a network of several (`networks_of`). That is below the bound for
all, so it cannot be much."""
IN_ALL: Final = 256
PLACES_OF_A_MEMBER: Final = 4
"""What `IN_ALL` grows by with every member. Its node keeps two connections, and two more are there for a moment."""
STRANGER_SECONDS: Final = 15.0
"""From the connection to the end of the headers with a member's key, handshake and all."""
MEMBER_SECONDS: Final = 240.0
"""From the headers of one call to those of the next: more than a body, an answer and the idle time after it take."""

_BACKLOG: Final = 512
_TENDING_SECONDS = 1.0


@dataclass
class _Visit:
    """One connection.

    Attributes:
        socket: of it.
        networks: what it counts for; see `networks_of`.
        ends_at: when it is shown out.
        member: whose key it has shown; nobody's at first.
    """

    socket: socket.socket
    networks: tuple[str, ...]
    ends_at: float
    member: str = ""


_Ends = tuple[str, int, str, int]
"""What a connection is known by: the host and port of both sides. One side's alone may have several connections."""


class _Connection(socket.socket):
    """A socket that says when it is closed."""

    closed: Callable[[], None] | None = None

    def close(self) -> None:
        """Closes it, and says so once."""
        told, self.closed = self.closed, None
        super().close()
        if told is not None:
            told()


class Door(socket.socket):
    """A listening socket with bounds. asyncio's own event loop accepts from it; one that bypasses Python does not.

    Args:
        host: interface.
        port: 0 takes any free one.
        per_address: most connections at once from one address; `WIDER` times as many from a wider network.
        in_all: most connections at once, before any member is expected.
        clock: seconds, of any beginning.

    Attributes:
        turned_away: how many connections were refused, by why.

    Raises:
        UsageError: the port is taken, or the interface is none of this machine's.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        per_address: int = PER_ADDRESS,
        in_all: int = IN_ALL,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__(family, socket.SOCK_STREAM)
        self._per_address, self._in_all, self._strangers, self._clock = per_address, in_all, in_all, clock
        self._visits: dict[_Ends, _Visit] = {}
        self.turned_away = Counter[str]()
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.bind((bare_host(host), port))
            self.listen(_BACKLOG)
        except OSError as error:
            self.close()
            raise cannot_listen(host, port, error) from error

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that there is room for.

        Raises:
            ConnectionAbortedError: there was none for this one; it is closed, and the loop comes back for the next.
            BlockingIOError: nobody waits.
        """
        accepted, address = super().accept()
        connection = _Connection(accepted.family, accepted.type, accepted.proto, fileno=accepted.detach())
        who, networks = _ends(address, connection.getsockname()), networks_of(str(address[0]))
        for wider, network in enumerate(networks):
            if sum(network in visit.networks for visit in self._visits.values()) >= self._per_address * WIDER**wider:
                self._refuse(connection, "address")
        if len(self._visits) >= self._in_all and not self._show_out_a_stranger():
            self._refuse(connection, "full")
        self._visits[who] = _Visit(connection, networks, self._clock() + STRANGER_SECONDS)
        connection.closed = lambda: self._forget(who, connection)
        return connection, address

    def is_member(self, who: tuple[str, int] | None, at: tuple[str, int] | None, name: str) -> None:
        """A call with a member's key came over this connection: it has time for its body, and for the next call.

        A member with more than `PER_MEMBER` connections loses the oldest.

        Args:
            who: host and port of the caller.
            at: host and port that it called.
            name: of the member.
        """
        if who is None or at is None or (visit := self._visits.get(_ends(who, at))) is None:
            return
        visit.ends_at = self._clock() + MEMBER_SECONDS
        if visit.member == name:
            return
        visit.member = name
        own = [ends for ends, visit in self._visits.items() if visit.member == name]
        for oldest in own[:-PER_MEMBER]:
            self.turned_away["member"] += 1
            _end(self._visits.pop(oldest).socket)

    def expect(self, members: int) -> None:
        """Makes room for so many members beside the strangers: each node keeps a connection or two."""
        self._in_all = self._strangers + PLACES_OF_A_MEMBER * members

    def show_out_the_late(self) -> None:
        """Ends every connection whose time is over. Called every second; `tend` does."""
        for visit in [visit for visit in self._visits.values() if visit.ends_at <= self._clock()]:
            self.turned_away["late"] += 1
            _end(visit.socket)

    async def tend(self) -> None:
        """Shows out the late, until it is cancelled."""
        while True:
            await asyncio.sleep(_TENDING_SECONDS)
            self.show_out_the_late()

    @property
    def visitors(self) -> int:
        """How many connections there are."""
        return len(self._visits)

    def _forget(self, who: _Ends, connection: socket.socket) -> None:
        if who in self._visits and self._visits[who].socket is connection:  # not one that came after it
            del self._visits[who]

    def _show_out_a_stranger(self) -> bool:
        """Ends the connection that has been without a member's key for longest; whether there was one."""
        who = next((who for who, visit in self._visits.items() if not visit.member), None)
        if who is None:
            return False
        self.turned_away["full"] += 1
        _end(self._visits.pop(who).socket)
        return True

    def _refuse(self, connection: socket.socket, reason: str) -> None:
        self.turned_away[reason] += 1
        connection.close()
        raise ConnectionAbortedError(reason)


def take_all_files() -> None:
    """From now on this process may have as many files as it ever may: every connection is one, silent ones too."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


@contextmanager
def opened_door(host: str, port: int, *, in_all: int = IN_ALL) -> Iterator[Door]:
    """The socket that somebody listens on. This process may have as many files from then on as it ever may.

    Raises:
        UsageError: the port is taken, or the interface is none of this machine's.
    """
    take_all_files()  # each member of a thousand has connections
    with Door(host, port, in_all=in_all) as door:
        yield door


def _ends(who: tuple[Any, ...], at: tuple[Any, ...]) -> _Ends:
    return str(who[0]), int(who[1]), str(at[0]), int(at[1])


def networks_of(host: str) -> tuple[str, ...]:
    """What an address counts for, the narrowest first.

    An IPv4 address counts for itself. One of IPv6 counts for 64 bits, which is one link, and for 48, which is what one
    customer gets at most (RFC 6177): whoever has these has 65,536 of those. `WIDER` times as much fits the second.
    """
    address = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return tuple(str(ipaddress.ip_network((address, bits), strict=False)) for bits in (64, 48))
    return (str(getattr(address, "ipv4_mapped", None) or address),)


def _end(connection: socket.socket) -> None:
    """The event loop, which owns the socket, sees an end and closes it."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
