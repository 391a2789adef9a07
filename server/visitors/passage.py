"""A door in front of a server that accepts by itself, as gRPC's does: it sees nobody whom the door did not let in.

The server listens on a socket of the file system that only this user reaches. Bytes pass on as they are, so TLS is
between the visitor and the server. Which visitor a call is of is told by the name of the passage's own end, which the
server sees in the place of an address.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, cast

from federation.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from server.visitors.door import Door

_ENDS_NAME = "intaglio-passage-"
_AGAIN_SECONDS, _TRIES = 0.1, 100
_LONGEST_PATH = 107
"""Bytes of a socket's path on Linux (unix(7)), and a zero."""


class Passage:
    """From a door to a socket in the file system. It takes nobody in before `open`.

    Args:
        door: bound; it is closed with this.

    Raises:
        UsageError: there is no folder for its socket.
    """

    def __init__(self, door: Door) -> None:
        self._door = door
        try:
            self._folder = TemporaryDirectory(prefix="intaglio-")  # mode 0700
        except OSError as error:
            raise UsageError(f"there is no folder for a socket: {error.strerror}; TMPDIR names another one") from error
        if len(os.fsencode(self.path)) > _LONGEST_PATH:
            self._folder.cleanup()
            raise UsageError(f"{self.path} is too long for the name of a socket; TMPDIR names a shorter folder")
        self._visitors = dict[str, _Side]()
        self._coming = set[asyncio.Task[None]]()
        self._listening: asyncio.Server | None = None
        self._tending: asyncio.Task[None] | None = None

    def close(self) -> None:
        """Turns everybody out."""
        self.shut()
        for coming in self._coming:
            coming.cancel()
        for visitor in list(self._visitors.values()):
            visitor.abort()
        self._door.close()
        self._folder.cleanup()

    @property
    def path(self) -> Path:
        """Where the server listens."""
        return Path(self._folder.name) / "server"

    async def open(self) -> None:
        """Lets visitors in. The server listens."""
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(lambda: _Side(self._connect), sock=self._door)
        self._tending = loop.create_task(self._door.tend())

    def shut(self) -> None:
        """Lets nobody in any more; who is in may go on."""
        if self._listening is not None:
            self._listening.close()
        if self._tending is not None:
            self._tending.cancel()

    def called(self, peer: str, name: str) -> None:
        """A call came, of whoever has shown a certificate.

        Args:
            peer: as the server names its address.
            name: of the certificate.
        """
        visitor = self._visitors.get(peer.partition(":")[2])
        if visitor is not None:
            self._door.is_member(*visitor.ends, name)

    async def _connect(self, visitor: _Side) -> None:
        name = _ENDS_NAME + secrets.token_hex(16)
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        coming = cast("asyncio.Task[None]", asyncio.current_task())
        self._coming.add(coming)
        try:
            own.setblocking(False)
            own.bind("\0" + name)
            await self._let_in(own)
            _, inner = await asyncio.get_running_loop().create_unix_connection(_Side, sock=own)
        except BaseException as error:
            own.close()
            visitor.abort()
            if isinstance(error, OSError):  # the server is gone, or takes nobody, or there are no more files
                return
            raise
        finally:
            self._coming.discard(coming)
        self._visitors[name] = visitor
        visitor.ended = lambda: self._visitors.pop(name, None)
        visitor.join(inner)

    async def _let_in(self, own: socket.socket) -> None:
        """Waits for room in the server's queue. asyncio's own call takes a full one for a connection under way.

        Raises:
            OSError: the server is gone, or there was no room all the time.
        """
        for _ in range(_TRIES):
            with contextlib.suppress(BlockingIOError):
                return own.connect(str(self.path))
            await asyncio.sleep(_AGAIN_SECONDS)
        return own.connect(str(self.path))


class _Side(asyncio.Protocol):
    """One of the two connections of a visit. What comes here leaves on the other side, as fast as that takes it.

    Args:
        came: is told when this is a visitor's side; nothing is read of it before `join`.
    """

    def __init__(self, came: Callable[[_Side], Awaitable[None]] | None = None) -> None:
        self._came = came
        self.other: _Side | None = None
        self._early = bytearray()
        self._connecting: asyncio.Future[None] | None = None
        self.ended: Callable[[], object] = lambda: None

    @property
    def ends(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """Host and port of the visitor, and those that it called."""
        return self.transport.get_extra_info("peername"), self.transport.get_extra_info("sockname")

    def join(self, inner: _Side) -> None:
        """What comes passes to `inner` and back, with what has come before."""
        self.other, inner.other = inner, self
        if self.transport.is_closing():  # gone meanwhile
            inner.abort()
            return
        for side in (self, inner):
            side.transport.resume_reading()
        for side in (self, inner):  # at last, because whoever takes no more pauses the other again
            side.pass_on()

    def pass_on(self) -> None:
        """What came here before the other side was there leaves on it."""
        self.data_received(bytes(self._early))
        self._early.clear()

    def abort(self) -> None:
        """Ends both sides."""
        self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """As asyncio calls it."""
        self.transport = cast("asyncio.Transport", transport)
        if self._came is not None:
            self.transport.pause_reading()
            self._connecting = asyncio.ensure_future(self._came(self))

    def data_received(self, data: bytes) -> None:
        """As asyncio calls it; also when reading was paused in `connection_made`, as that of Python 3.11.2 does."""
        if self.other is not None:
            self.other.transport.write(data)
            return
        self._early += data
        self.transport.resume_reading()  # else it takes what it does for paused already
        self.transport.pause_reading()

    def pause_writing(self) -> None:
        """As asyncio calls it: this side takes no more now."""
        if self.other is not None:
            self.other.transport.pause_reading()

    def resume_writing(self) -> None:
        """As asyncio calls it."""
        if self.other is not None:
            self.other.transport.resume_reading()

    def connection_lost(self, _error: Exception | None) -> None:
        """As asyncio calls it. What was on its way to the other side still gets there."""
        self.ended()
        if self.other is not None:
            self.other.transport.close()
