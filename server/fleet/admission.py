"""Whose calls the gateway takes: members' nodes, by the signature in their headers, before a byte of the body is read.

Flower's SuperNode signs the time with its key. The SuperLink behind the gateway checks that once more, and which node
it is. Here it keeps strangers off the gateway's memory and disk, and names a clock that is wrong.
"""

from __future__ import annotations

import errno
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from time import monotonic

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from federation.errors import IntaglioError
from federation.membership.fleet import (
    NEWEST_SECONDS,
    NODE_KEY_HEADER,
    OLDEST_SECONDS,
    SIGNATURE_HEADER,
    TIME_HEADER,
    node_fingerprint,
)
from server.fleet.members import Member


@dataclass(frozen=True)
class Admitted:
    """A call of a member.

    Attributes:
        name: of the member.
        node: fingerprint of its node's key.
    """

    name: str
    node: str


@dataclass(frozen=True)
class TurnedBack:
    """A call that is not taken.

    Attributes:
        reason: one word for metrics: ``stranger`` or ``clock``.
        name: of the member; empty for a stranger.
        words: what the caller is told; nothing that a stranger does not know.
    """

    reason: str
    name: str
    words: str


_AGAIN_SECONDS = 60.0
_STRANGER = TurnedBack("stranger", "", "no member signed this call")


class Members:
    """The members of a coordinator's folder, read again whenever one comes or goes, and every minute.

    Args:
        folder: the coordinator's.
        clock: monotonic seconds.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = monotonic) -> None:
        self._folder, self._clock = folder / "members", clock
        self._read_at, self._looked_at = -1, 0.0
        self._names: dict[bytes, str] = {}

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._current())

    def look(self) -> None:
        """Takes in what the folder's own time does not tell: a file that could not be read, or came in the same tick.

        Call it often.
        """
        self._current(again=self._clock() - self._looked_at >= _AGAIN_SECONDS)

    def admit(self, headers: Mapping[str, str], now: float) -> Admitted | TurnedBack:
        """Whose call it is. Takes about a millisecond, for a member's key only.

        Args:
            headers: of the request, with names in lower case.
            now: seconds since 1970.
        """
        try:
            key = b64decode(headers[NODE_KEY_HEADER], validate=True)
            signature = b64decode(headers[SIGNATURE_HEADER], validate=True)
            time = headers[TIME_HEADER]
            name = self._current()[key]
            public = load_pem_public_key(key)
            if not isinstance(public, ec.EllipticCurvePublicKey):
                return _STRANGER
            public.verify(signature, time.encode("ascii"), ec.ECDSA(hashes.SHA256()))
            ahead = datetime.fromisoformat(time).timestamp() - now
        except (LookupError, ValueError, InvalidSignature):
            return _STRANGER
        if not -OLDEST_SECONDS < ahead < NEWEST_SECONDS:
            return TurnedBack("clock", name, clock_words(ahead))
        return Admitted(name, node_fingerprint(headers[NODE_KEY_HEADER]))

    def _current(self, *, again: bool = False) -> Mapping[bytes, str]:
        """Names by the node's key, in PEM as Flower sends it."""
        changed_at = self._folder.stat().st_mtime_ns  # a member is one file, made by renaming it into this folder
        if again or changed_at != self._read_at:
            self._names = dict(_keys(self._folder))
            self._read_at, self._looked_at = changed_at, self._clock()
        return self._names


def clock_words(ahead: float) -> str:
    """What to tell a node whose clock is `ahead` seconds ahead of the coordinator's; behind, when that is negative."""
    side = "ahead of" if ahead > 0 else "behind"
    return (
        f"this node's clock is {abs(ahead):.0f} s {side} the coordinator's; set the clocks of both, by NTP. "
        f"{NEWEST_SECONDS} s ahead and {OLDEST_SECONDS} s behind is the most"
    )


def _keys(folder: Path) -> list[tuple[bytes, str]]:
    found = []
    for path in folder.glob("*.json"):
        try:
            member = Member.from_bytes(path.read_bytes())
        except (OSError, IntaglioError) as error:
            if isinstance(error, OSError) and error.errno in {errno.EMFILE, errno.ENFILE}:
                raise  # nothing is wrong with the file: who is known stays so, and the next look tries again
            continue  # `federation members` says so; the others are served
        key = load_ssh_public_key(member.signed.request.node_key.encode())
        found.append((key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), member.name))
    return found
