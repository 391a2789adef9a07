"""Who takes part in one secure aggregation, how many may fail, and the digest that every message is bound to."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple, dataclass
from functools import cached_property
from itertools import chain, repeat
from typing import Final

from federation.errors import UsageError
from federation.identity import IDENTITY_BYTES
from federation.secagg.graph import MOST_MEMBERS, Graph, Shape, draw, shape

DIGEST_BYTES: Final = 32
MOST_NUMBERS: Final = 1 << 20
"""Length of the longest vector."""
MOST_KEY_BYTES: Final = 2048
_MOST_TEXT_BYTES = 256

Sign = Callable[[bytes], bytes]
"""Signs a message with a member's long-lived key: `federation.identity.IdentityKey.sign`."""
Verify = Callable[[bytes, bytes, bytes], None]
"""Checks (public key, message, signature), raises ProofError: `federation.identity.verify_identity`."""
Random = Callable[[int], bytes]
"""Gives so many random bytes: `os.urandom`, or something repeatable in a test."""


@dataclass(frozen=True)
class Session:
    """One secure sum. All members and the coordinator must build the same one; its digest is in every message.

    Members are numbered from 1, in the order of the roster.

    Attributes:
        run: names the run; 1 to 256 bytes of UTF-8. Never used twice with one roster.
        release: which sum of that run, for example ``moments``; 1 to 256 bytes of UTF-8.
        agreement: SHA-256 of what else the members agreed on, such as the privacy plan.
        roster: long-lived public key of every member, known from somewhere else than the coordinator.
        size: length of the vectors, 1 to 2^20.
        colluders: how many members may help a curious or lying coordinator.
        dropouts: how many members may leave without ending the round.

    Raises:
        UsageError: a value is out of range, or so many may fail that nobody is left to rely on.
    """

    run: str
    release: str
    agreement: bytes
    roster: tuple[bytes, ...]
    size: int
    colluders: int
    dropouts: int

    def __post_init__(self) -> None:
        n = len(self.roster)
        if not 2 <= n <= MOST_MEMBERS:  # noqa: PLR2004 - one member has nobody to hide among
            raise UsageError(f"secure aggregation is for 2 to {MOST_MEMBERS} organisations, got {n}")
        if len(set(self.roster)) != n or not all(1 <= len(key) <= MOST_KEY_BYTES for key in self.roster):
            raise UsageError(f"every organisation needs a key of its own, of 1 to {MOST_KEY_BYTES} bytes")
        if not all(1 <= len(text.encode()) <= _MOST_TEXT_BYTES for text in (self.run, self.release)):
            raise UsageError(f"a session's run and release need 1 to {_MOST_TEXT_BYTES} bytes each")
        if len(self.agreement) != DIGEST_BYTES or not 1 <= self.size <= MOST_NUMBERS:
            raise UsageError(f"the agreement is a SHA-256 digest, and vectors hold 1 to {MOST_NUMBERS} numbers")
        if not (0 <= self.colluders < n and 0 <= self.dropouts < n and n > self.colluders + 2 * self.dropouts):
            raise UsageError(
                f"{n} organisations cannot stand {self.colluders} colluders and {self.dropouts} drop-outs: "
                "organisations must be more than colluders plus twice the drop-outs"
            )

    @property
    def members(self) -> tuple[int, ...]:
        """Numbers of all members, from 1."""
        return tuple(range(1, len(self.roster) + 1))

    @property
    def fewest(self) -> int:
        """Fewest members whose sum may be opened: the noise shares are sized for it."""
        return len(self.roster) - self.dropouts

    @property
    def shape(self) -> Shape:
        """How many hold shares of each, how many open a secret, and whose signatures settle who survived."""
        return shape(len(self.roster), self.colluders, self.dropouts)

    def graph(self, choices: Mapping[int, bytes]) -> Graph:
        """Whose shares everybody holds.

        Args:
            choices: the 16 bytes that each member with keys drew.
        """
        keys = {
            member: digest(b"intaglio secure aggregation v2 holders", self.digest, b"%d" % member, choice)
            for member, choice in choices.items()
        }
        return Graph(keys, len(self.roster), self.shape.holders)

    def committee(self, context: bytes) -> tuple[int, ...]:
        """Members whose signatures settle who survived, drawn from the digest of all keys.

        Two quorums of them have an honest member in common, who signs one survivor set only.
        """
        key = digest(b"intaglio secure aggregation v2 committee", context)
        return tuple((draw(key, len(self.roster), self.shape.committee) + 1).tolist())

    @property
    def noise_sharers(self) -> int:
        """Honest members that surely remain: each adds this fraction of the noise variance."""
        return self.fewest - self.colluders

    def noise_share(self, std: float) -> float:
        """Standard deviation that each member adds, so that the honest survivors' noise alone reaches `std`."""
        return std / math.sqrt(self.noise_sharers)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of every field, and of the numbers that follow from them."""
        fields = [b"intaglio secure aggregation v2", self.run.encode(), self.release.encode(), self.agreement]
        numbers = (self.size, self.colluders, self.dropouts, *astuple(self.shape))
        fields += [number.to_bytes(4, "little") for number in numbers]
        return digest(*fields, *self.roster)


def roster_to_text(roster: Iterable[bytes], names: Iterable[str] = ()) -> str:
    """One public identity a line, in hex, and after it what the coordinator calls its owner."""
    return "".join(
        f"{key.hex()} {name}".rstrip() + "\n" for key, name in zip(roster, chain(names, repeat("")), strict=False)
    )


def roster_from_text(text: str) -> tuple[bytes, ...]:
    """The identities in what `roster_to_text` wrote. Only they are agreed on; names are for people.

    Raises:
        UsageError: a line is not a public identity (`federation.identity`) in hex and at most one name.
    """
    try:
        roster = tuple(bytes.fromhex(line.partition(" ")[0]) for line in text.splitlines())
    except ValueError as error:
        raise UsageError("a roster holds one public identity a line, in hex, and perhaps a name after it") from error
    if any(len(key) != IDENTITY_BYTES for key in roster):
        raise UsageError(
            f"a public identity in a roster has {IDENTITY_BYTES} bytes, Ed25519 and ML-DSA-44 together; organisations "
            "that joined with an Ed25519 key alone join anew"
        )
    return roster


def roster_names(text: str) -> tuple[str, ...]:
    """What the members are called, in their order: the roster's names, or "organisation" with a number."""
    return tuple(
        line.partition(" ")[2].strip() or f"organisation {number}"
        for number, line in enumerate(text.splitlines(), start=1)
    )


def digest(*fields: bytes) -> bytes:
    """SHA-256 of fields, each with its length in front, so that no two lists share an encoding."""
    return hashlib.sha256(b"".join(len(field).to_bytes(4, "little") + field for field in fields)).digest()
