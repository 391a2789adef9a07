"""Reads a log from static files (C2SP tlog-tiles), in a folder or over HTTP. From its server: `client.log.reader`.

Nothing that is read is believed here: a monitor computes the tree from the entries, and proofs are verified. What is
bounded is how much of it there is, and over HTTP how long it takes.
"""

from __future__ import annotations

import http.client
import socket
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
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
    if not host or parts.query or parts.fragment or parts.username is not None:
        raise UsageError("the address of a log is such as https://log.example.org/intaglio")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection

    def read(path: str, most: int) -> bytes | None:
        connection = kind(host, port, timeout=_SECONDS)
        ending = threading.Timer(_SECONDS, _end, (connection,))  # a byte now and then keeps no timeout of a socket busy
        ending.daemon = True
        ending.start()
        try:
            connection.request("GET", f"{parts.path}/{path}", headers={"accept-encoding": "gzip, identity"})
            answer = connection.getresponse()
            if answer.status in {404, 410}:
                return None
            if answer.status != 200:  # noqa: PLR2004 - HTTP's OK
                raise PeerError(f"{address}/{path} is answered with status {answer.status}")
            if answer.getheader("content-encoding") != "gzip":
                return _short(answer.read(most + 1), path, most)
            return _unzipped(_short(answer.read(most + _ZIPPED + 1), path, most + _ZIPPED), path, most)
        except (OSError, http.client.HTTPException) as error:
            raise UnavailableError(f"{address}/{path} cannot be read now: {type(error).__name__}") from error
        finally:
            ending.cancel()
            connection.close()

    return read


def _end(connection: http.client.HTTPConnection) -> None:
    with suppress(OSError, AttributeError):
        connection.sock.shutdown(socket.SHUT_RDWR)


def _short(data: bytes, path: str, most: int) -> bytes:
    if len(data) > most:
        raise PeerError(f"{path} is longer than {most} bytes, and so nothing of a log")
    return data


def _unzipped(data: bytes, path: str, most: int) -> bytes:
    try:
        return _short(zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(data, most + 1), path, most)
    except zlib.error as error:
        raise PeerError(f"{path} is said to be gzip, and is not") from error
