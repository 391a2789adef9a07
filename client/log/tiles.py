"""Reads a log from static files (C2SP tlog-tiles), in a folder or over HTTP. From its server: `client.log.reader`.

Nothing that is read is believed here: a monitor computes the tree from the entries, and proofs are verified. What is
bounded is how much of it there is, and over HTTP how long it takes.
"""

from __future__ import annotations

import http.client
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urlsplit

from federation.errors import PeerError, ProofError, UnavailableError, UsageError
from federation.transparency import SignedCheckpoint, consistency_proof
from federation.transparency.notes import MAX_NOTE_BYTES
from federation.transparency.tiles import (
    CHECKPOINT_FILE,
    ENTRIES,
    MAX_BUNDLE_BYTES,
    MAX_TILE_BYTES,
    TILE_WIDTH,
    Tile,
    bundle_from_bytes,
    nodes_from_tiles,
    tile_at,
)

TilesAt = Callable[[str, int], bytes | None]
"""Reads a file of so many bytes at most by its path below the log; None when there is none."""

_SECONDS = 30.0
_ZIPPED = 16 * 1024
"""Hashes do not get shorter by compression: headers, and five bytes for each block of 16 kB."""


def tiles_at(place: str) -> TilesAt:
    """What reads the files of a log, from the name of a folder or an address that begins with http:// or https://."""
    return _at_address(place.rstrip("/")) if place.startswith(("http://", "https://")) else _in_folder(Path(place))


class TileLog:
    """A `client.log.watching.LogReader` of files.

    Args:
        read: see `tiles_at`.
    """

    def __init__(self, read: TilesAt) -> None:
        self._read = read
        self._size = 0  # of the checkpoint that was read last: what is not full is named by it

    def checkpoint(self) -> bytes:
        """See `client.log.watching.LogReader`."""
        data = self._read(CHECKPOINT_FILE, MAX_NOTE_BYTES)
        if data is None:
            raise UsageError("there is no checkpoint: that is no log, or an address without its path")
        self._size = SignedCheckpoint.from_bytes(data).head.size
        return data

    def entries(self, start: int, stop: int) -> Sequence[bytes]:
        """See `client.log.watching.LogReader`. Reads one bundle."""
        number, offset = divmod(start, TILE_WIDTH)
        if start >= self._size:
            return []
        bundle = tile_at(ENTRIES, number, self._size)
        data = self._file(bundle, MAX_BUNDLE_BYTES)
        return [] if data is None else bundle_from_bytes(data)[: bundle.width][offset : offset + stop - start]

    def consistency_proof(self, old_size: int, new_size: int) -> Sequence[bytes]:
        """See `client.log.watching.LogReader`. Reads a few tiles."""

        def fetch(tile: Tile) -> bytes:
            if (data := self._file(tile, MAX_TILE_BYTES)) is None:
                raise ProofError(f"the log holds back {tile.path}, which it must have")
            return data

        return consistency_proof(old_size, new_size, nodes_from_tiles(new_size, fetch))

    def _file(self, tile: Tile, most: int) -> bytes | None:
        """A tile, or the full one where the log grew meanwhile."""
        data = self._read(tile.path, most)
        return data if data is not None or tile.is_full else self._read(tile.full_path, most)


def _in_folder(folder: Path) -> TilesAt:
    def read(path: str, most: int) -> bytes | None:
        try:
            with (folder / path).open("rb") as file:
                data = file.read(most + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise UsageError(f"cannot read {folder / path}: {error.strerror}") from error
        return _short(data, path, most)

    return read


def _at_address(address: str) -> TilesAt:
    parts = urlsplit(address)
    try:
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise UsageError(f"{address} is no address") from error
    if (
        not host
        or not (address.isascii() and address.isprintable())
        or " " in address
        or parts.query
        or parts.fragment
        or parts.username is not None
    ):
        raise UsageError("the address of a log is such as https://log.example.org/intaglio")
    is_secure = parts.scheme == "https"
    kind = http.client.HTTPSConnection if is_secure else http.client.HTTPConnection

    def read(path: str, most: int) -> bytes | None:
        ends, connection = time.monotonic() + _SECONDS, kind(host, port)
        try:
            connection.sock = _opened(connection.host, connection.port, ends, is_secure=is_secure)
            with _ended_at(ends, connection.sock):
                return _asked(connection, f"{parts.path}/{path}", most)
        except (OSError, UnicodeError, http.client.HTTPException) as error:  # a name that is none is a UnicodeError
            raise UnavailableError(f"{address}/{path} cannot be read now: {type(error).__name__}") from error
        finally:
            connection.close()

    return read


def _asked(connection: http.client.HTTPConnection, path: str, most: int) -> bytes | None:
    connection.request("GET", path, headers={"accept-encoding": "gzip, identity"})
    answer = connection.getresponse()
    if answer.status in {404, 410}:
        return None
    if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
        raise PeerError(f"{path} is answered with status {answer.status}")
    is_zipped = (answer.getheader("content-encoding") or "").lower() == "gzip"
    longest = most + _ZIPPED if is_zipped else most
    data = _short(answer.read(longest + 1), path, longest)
    if answer.length:  # `read` keeps silent about what is missing, and a part would pass for a log that holds back
        raise http.client.IncompleteRead(b"", answer.length)
    return _unzipped(data, path, most) if is_zipped else data


def _opened(host: str, port: int, ends: float, *, is_secure: bool) -> socket.socket:
    """A connection to one of the host's addresses. What the resolver takes for the name is the machine's to bound."""
    error = OSError("a name without an address")
    for family, kind, protocol, _, to in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        made = socket.socket(family, kind, protocol)
        try:
            made.settimeout(_left(ends))
            made.connect(to)
            made.settimeout(_left(ends))
            return ssl.create_default_context().wrap_socket(made, server_hostname=host) if is_secure else made
        except OSError as failed:
            made.close()
            error = failed
    raise error


@contextmanager
def _ended_at(ends: float, connection: socket.socket) -> Iterator[None]:
    """Ends a connection when the time is over: a byte now and then keeps every timeout of a socket from coming."""

    def end() -> None:
        with suppress(OSError):
            socket.socket.shutdown(connection, socket.SHUT_RDWR)  # not that of TLS, which would go on in the clear

    ending = threading.Timer(_left(ends), end)
    ending.daemon = True
    ending.start()
    try:
        yield
        _left(ends)
    finally:
        ending.cancel()


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


def _short(data: bytes, path: str, most: int) -> bytes:
    if len(data) > most:
        raise PeerError(f"{path} is longer than {most} bytes, and so nothing of a log")
    return data


def _unzipped(data: bytes, path: str, most: int) -> bytes:
    unzipping = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        unzipped = _short(unzipping.decompress(data, most + 1), path, most)
    except zlib.error as error:
        raise PeerError(f"{path} is said to be gzip, and is not") from error
    if not unzipping.eof:
        raise http.client.IncompleteRead(unzipped)
    return unzipped
