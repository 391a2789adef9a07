"""What a matching server writes into the transparency log, and what it hands out as proof of it.

Every ciphertext that a device opens is behind an entry that was logged first, so a comparison that is not in the log
yields nothing to anybody. Requests that are refused are logged or counted there too (`server.log.refusals`). An entry
says nothing about who it concerns: that stands in the opening, kept apart under the key id until its owner has it
erased.

Whatever is done to a template is logged *before* it is done (`server.matching.deeds`); the other way round, something
would have happened unseen.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from federation.errors import IntaglioError, UnavailableError, UsageError
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Opening,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    SignedCheckpoint,
)
from federation.transparency.entries import SALT_BYTES
from federation.wire.logged import LogReceipt, comparison_facts
from server.log.refusals import Refusal, Refusals
from server.log.sequencer import Sequencer
from server.log.storage import Addition
from server.log.transparency_log import TransparencyLog
from server.threads import to_thread

if TYPE_CHECKING:
    from federation.wire.convert import SessionRequest


@dataclass
class Asking:
    """What is known so far of somebody who asks as an owner.

    Attributes:
        key_id: the one that the call names, once it turned out to have an owner, who then sees who else asked with it.
        refusal: what a refusal from here on means, for the log.
    """

    key_id: bytes | None = None
    refusal: AttemptOutcome = AttemptOutcome.INVALID


class Journal:
    """Writes entries and gives receipts. Use it as an asynchronous context.

    Args:
        log: the operator's log.
        clock: seconds since 1970.
        batch_seconds: from the beginning of one batch of the log to that of the next, at least.
    """

    def __init__(self, log: TransparencyLog, *, clock: Callable[[], float], batch_seconds: float = 0.0) -> None:
        self.log = log
        self._batch_seconds = batch_seconds
        self._clock = clock
        self._sequencer: Sequencer | None = None
        self.refusals = Refusals(self._add, clock=clock)

    async def __aenter__(self) -> Self:
        self._sequencer = await Sequencer(self.log, batch_seconds=self._batch_seconds).__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Writes what waits, then ends."""
        if self._sequencer is not None:
            self._sequencer.hurry()
            try:
                with suppress(IntaglioError):  # what the log does not take now is lost, as when the server is killed
                    await self.refusals.write(everything=True)
            finally:
                await self._sequencer.__aexit__()

    async def compared(
        self, request: SessionRequest, transcript: bytes, reply: bytes, *, log_size: int, enrolled: bool
    ) -> LogReceipt:
        """Logs that a comparison is made, before its reply leaves.

        Args:
            request: who is compared, for whom and what for.
            transcript: what the session is bound to.
            reply: what is about to be sent.
            log_size: entries in the last checkpoint that the device saw.
            enrolled: whether there is an owner who can have the opening erased; else only the device gets it.

        Returns:
            What the device wants to see before it opens the reply. When the device saw more entries than there are, the
            proof is empty, and the device will say why it refuses.
        """
        facts = comparison_facts(key_id=request.key_id, transcript=transcript, reply=reply)
        opening = Opening(PersonalKind.ATTEMPT, facts, secrets.token_bytes(SALT_BYTES))
        names = request.audience, request.purpose
        entry = AttemptEntry(self._now(), *names, AttemptOutcome.OPENED, opening.commitment)
        addition = Addition(entry, opening, request.key_id) if enrolled else Addition(entry)
        return await self._writer.add_and_read(
            [addition], lambda at, under: self._receipt(at.start, opening, log_size, under)
        )

    @asynccontextmanager
    async def asked_by_an_owner(self, peer: bytes) -> AsyncIterator[Asking]:
        """Logs when what happens within is refused. `peer` is SHA-256 of the certificate that asks."""
        asking = Asking()
        try:
            yield asking
        except UnavailableError:
            raise
        except IntaglioError:
            named = asking.key_id
            await self.refusals.note(Refusal(asking.refusal, key_id=named, has_owner=named is not None), peer)
            raise

    async def about_to(self, *openings: tuple[bytes, Opening], log_size: int) -> tuple[LogReceipt, ...]:
        """Logs what is about to be done to templates, all or none.

        Args:
            openings: what stands behind each entry, with the key id that it is kept under.
            log_size: entries in the last checkpoint that the device saw.

        Returns:
            What the device wants to see before it believes that it was done, in the same order.
        """
        made = [opening for _, opening in openings]
        return await self._writer.add_and_read(
            [self._deed(key_id, opening) for key_id, opening in openings],
            lambda at, under: tuple(self._receipt(*each, log_size, under) for each in zip(at, made, strict=True)),
        )

    async def revocation(self, key_id: bytes, *, log_size: int) -> LogReceipt | None:
        """The receipt of the first revocation of a key, for whoever asks again. None when no opening of one is kept."""
        return await to_thread(self._revocation, key_id, log_size)

    async def declare(self, declared: Iterable[PublicEntry]) -> int:
        """Logs public entries that are not in the log yet, by their content.

        Returns:
            How many were missing.
        """
        wanted = {entry.content: entry for entry in declared}
        missing = await to_thread(
            lambda: [Addition(entry) for content, entry in wanted.items() if self.log.position_of(content) is None]
        )
        for addition in missing:
            await self._writer.add(addition)
        return len(missing)

    async def erase(self, key_id: bytes) -> LogReceipt | None:
        """Destroys everything that connects the log with a key. None when there was nothing."""
        return await to_thread(self._erase, key_id)

    def openings(self, key_id: bytes) -> dict[int, Opening]:
        """What is kept of a key, by position."""
        return self.log.openings(key_id)

    async def _add(self, *additions: Addition) -> range:
        return await self._writer.add(*additions)

    @property
    def _writer(self) -> Sequencer:
        if self._sequencer is None:
            raise UsageError("the journal is not open")
        return self._sequencer

    def _receipt(self, position: int, opening: Opening, log_size: int, under: SignedCheckpoint) -> LogReceipt:
        logged, grown = self.log.prove_growth(position, log_size, under)
        return LogReceipt(logged, opening, grown)

    def _revocation(self, key_id: bytes, log_size: int) -> LogReceipt | None:
        for position, opening in self.log.openings(key_id).items():  # in order
            if opening.kind is PersonalKind.REVOCATION:
                return self._receipt(position, opening, log_size, self.log.witnessed())
        return None

    def _erase(self, key_id: bytes) -> LogReceipt | None:
        tombstone = self.log.erase(key_id)
        if tombstone is None:
            return None
        return self._receipt(tombstone.position, tombstone.opening, 0, self.log.witnessed())

    def _deed(self, key_id: bytes, opening: Opening) -> Addition:
        if opening.kind is PersonalKind.ATTEMPT:
            raise UsageError("an attempt is logged as a comparison, or as a request that was refused")
        return Addition(PersonalEntry(opening.kind, self._now(), opening.commitment), opening, key_id)

    def _now(self) -> int:
        return int(self._clock())
