"""Requests that are refused, in a log that never forgets: each is counted, and nobody fills it.

Theory of operation
-------------------
Who asks too often must not write as much as he likes into a log that is kept for ever. But an owner shall see who else
named the owner's key, and nobody shall see in the log, or by how long an answer takes, whether a key has an owner. So
whether a refusal gets an entry of its own depends on the certificate that asked, and on nothing else: a few a minute
do, with an opening if the key that was named has an owner. All others are counted, and so are messages that are none:
a minute's refusals of one kind are one entry, which says how many there were.

What is counted and not yet written lies in memory: a server that is killed loses the counts of a minute at most. A log
that is busy loses none, and does not change what a device is told. Where the database took some and its answer was lost
on the way, they are counted once more: rather too many than too few.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final

from federation.errors import UnavailableError
from federation.transparency import AttemptEntry, AttemptOutcome, Opening, PersonalKind
from federation.transparency.entries import SALT_BYTES, UNKNOWN
from server.log.publishing import LoggedError
from server.log.sequencer import MAX_BATCH
from server.log.storage import Addition
from server.visitors.peers import PeerRate, PeerRates

OWN_ENTRIES: Final = PeerRate(calls_per_second=5 / 60, burst=5)
"""Refusals of one certificate that get entries of their own."""
_COUNTED_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Refusal:
    """A request that is refused.

    Attributes:
        outcome: why, in a word.
        requester: who asked, as far as the rules register that name.
        purpose: what for, likewise.
        key_id: that was named, 32 bytes, or None.
        has_owner: whether that key has one, who then sees this. Openings that nobody could have erased are not kept.
    """

    outcome: AttemptOutcome
    requester: str = UNKNOWN
    purpose: str = UNKNOWN
    key_id: bytes | None = None
    has_owner: bool = False

    @property
    def kind(self) -> Refusal:
        """What it has in common with those that it is counted with."""
        return Refusal(self.outcome, self.requester, self.purpose)


class Refusals:
    """Logs refusals.

    Args:
        add: to the log; returns when it is there.
        clock: seconds since 1970.
        monotonic: seconds of any beginning.
    """

    def __init__(
        self,
        add: Callable[..., Awaitable[object]],
        *,
        clock: Callable[[], float],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._add = add
        self._clock = clock
        self._monotonic = monotonic
        self._rates = PeerRates(OWN_ENTRIES, clock=monotonic)
        self._counts = Counter[Refusal]()
        self._written_at = dict[Refusal, float]()

    async def note(self, refusal: Refusal, peer: bytes | None = None) -> None:
        """Logs a refusal, or counts it.

        Args:
            refusal: it.
            peer: SHA-256 of the certificate that asked; None where the message itself was none.
        """
        if peer is None or self._rates.wait_of(peer):
            self._counts[refusal.kind] += 1
            return
        adding = asyncio.ensure_future(self._add(self._entry(refusal, 1)))
        adding.add_done_callback(partial(self._added, Counter({refusal.kind: 1}), None))
        with suppress(UnavailableError):  # then it is counted: what was refused does not depend on the log
            await asyncio.shield(adding)

    async def write(self, *, everything: bool = False) -> None:
        """Writes what was counted, once a minute for each kind. To be called every few seconds.

        Args:
            everything: also what was written less than a minute ago, because the server ends.

        Raises:
            UnavailableError: the log cannot be used now; what was counted stays counted.
            ProofError: the log is damaged.
        """
        now = self._monotonic()
        due = [
            kind
            for kind in self._counts
            if everything or now - self._written_at.get(kind, -_COUNTED_SECONDS) >= _COUNTED_SECONDS
        ]
        for start in range(0, len(due), MAX_BATCH):  # sites and purposes may be many, and a batch holds no more
            await self._write(due[start : start + MAX_BATCH], now)

    async def _write(self, kinds: list[Refusal], now: float) -> None:
        due = Counter({kind: self._counts[kind] for kind in kinds})
        entries = [self._entry(kind, count) for kind, count in due.items()]
        self._counts -= due
        writing = asyncio.ensure_future(self._add(*entries))
        writing.add_done_callback(partial(self._added, due, now))
        await asyncio.shield(writing)  # what was handed to the log is written, though the server ends its chores

    def _added(self, due: Counter[Refusal], now: float | None, adding: asyncio.Future[object]) -> None:
        """What was handed to the log stands there, or is counted on, whoever is still there to hear of it."""
        error = None if adding.cancelled() else adding.exception()
        if adding.cancelled() or not (error is None or isinstance(error, LoggedError)):
            self._counts += due
        elif now is not None:
            self._written_at.update(dict.fromkeys(due, now))

    def _entry(self, refusal: Refusal, count: int) -> Addition:
        facts = {"key_id": refusal.key_id.hex()} if refusal.key_id else {}
        opening = Opening(PersonalKind.ATTEMPT, facts, secrets.token_bytes(SALT_BYTES))
        entry = AttemptEntry(
            int(self._clock()), refusal.requester, refusal.purpose, refusal.outcome, opening.commitment, count
        )
        return Addition(entry, opening, refusal.key_id) if refusal.has_owner else Addition(entry)
