"""What a device checks about the log: before it opens a reply, and before it believes that something was done."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from client.log.watching import LogMemory, LogTrust, check_inclusion
from federation.errors import PeerError, ProofError
from federation.onebit import Operation
from federation.transparency import AttemptEntry, AttemptOutcome, PersonalKind
from federation.wire.devices import DeviceChange
from federation.wire.logged import (
    LogReceipt,
    admission_facts,
    enrolment_facts,
    renewal_facts,
    request_digest,
    revocation_facts,
)

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from client.rights.conditions import Comparison
    from client.wallet.wallet import Wallet


def check_comparison(
    receipt: LogReceipt,
    *,
    facts: Mapping[str, str],
    requester: str,
    purpose: str,
    memory: LogMemory | None,
    trust: LogTrust,
    now: int,
) -> LogMemory:
    """Checks that one comparison stands in a log that only grew. A device does this before it decrypts.

    Args:
        receipt: foreign.
        facts: what the entry must commit to, the reply among it; see `federation.wire.logged.comparison_facts`.
        requester: who asked.
        purpose: what for.
        memory: the last checkpoint that the device believed, or None.
        trust: whom to believe.
        now: seconds since 1970.

    Returns:
        What to remember from now on.

    Raises:
        MalformedMessageError: what is in the log is no entry.
        ProofError: the entry is not in the log, or about something else; or the log was rolled back, or forked, or
            proves what nobody asked for.
    """
    entry = check_inclusion(receipt.logged, trust, now=now)
    receipt.opening.check(entry)
    if not isinstance(entry, AttemptEntry) or receipt.opening.reveal() != facts:
        raise ProofError(
            "the log's entry is about something else than this comparison and its reply; nothing was opened"
        )
    if (entry.requester, entry.purpose, entry.outcome) != (requester, purpose, AttemptOutcome.OPENED):
        raise ProofError("the log does not say who asked and what for; nothing was opened")
    return _grown(receipt, memory, trust, now=now)


@dataclass(frozen=True)
class Done:
    """Something that a device asked a server to do to a template, as the log's entry about it must say it.

    Attributes:
        kind: of the entry.
        facts: that its opening must have, and no others; see `federation.wire.logged`.
    """

    kind: PersonalKind
    facts: Mapping[str, str] = field(repr=False)


def expected_of(comparison: Comparison, wallet: Wallet, request: Message) -> tuple[Done, ...]:
    """What a match in a session puts in force.

    Args:
        comparison: the session.
        wallet: of the device that was compared.
        request: the message that brings the token.
    """
    change, key_id = comparison.change, wallet.key_id
    if change is None:
        return ()
    if isinstance(change, DeviceChange):
        if change.admits:
            return (Done(PersonalKind.ADMISSION, admission_facts(key_id=key_id, admits=change.admits)),)
        facts = revocation_facts(key_id=change.removes, request=request_digest(request))
        return (Done(PersonalKind.REVOCATION, facts),)
    if not change.has_template:
        return (Done(PersonalKind.RENEWAL, renewal_facts(key_id=key_id, receipt=change.receipt)),)
    facts = enrolment_facts(
        device_public_key=change.device_public_key,
        audience=wallet.require_enrolment().audience,
        template=hashlib.sha256(change.template).digest(),
        receipt=change.receipt,
    )
    enrolment = Done(PersonalKind.ENROLMENT, facts)
    if comparison.operation is Operation.ENROL:
        return (enrolment,)
    revoked = revocation_facts(key_id=key_id, request=request_digest(request))
    return Done(PersonalKind.REVOCATION, revoked), enrolment


def check_done(
    receipts: Sequence[LogReceipt], expected: Sequence[Done], *, memory: LogMemory | None, trust: LogTrust, now: int
) -> LogMemory | None:
    """Checks that what a device asked for was done. It believes no other word of it: whoever terminates TLS has those.

    Args:
        receipts: foreign.
        expected: what was asked for, in the order of the receipts.
        memory: the last checkpoint that the device believed, or None.
        trust: whom to believe.
        now: seconds since 1970.

    Returns:
        What to remember from now on.

    Raises:
        PeerError: there are fewer entries than things that were asked for, or more.
        MalformedMessageError, ProofError: as for `check_comparison`.
    """
    if len(receipts) != len(expected):
        raise PeerError(
            f"the answer shows {len(receipts)} entries of the log for {len(expected)} things that it says were done; "
            "whoever stands before the server may have answered in its place. Nothing is taken for done"
        )
    grown = memory
    for receipt, done in zip(receipts, expected, strict=True):
        receipt.opening.check(check_inclusion(receipt.logged, trust, now=now))
        if receipt.opening.kind is not done.kind or receipt.opening.reveal() != done.facts:
            raise ProofError(
                f"the log's entry is not about the {done.kind.value} that this device asked for; nothing is done"
            )
        grown = _grown(receipt, memory, trust, now=now)
    return grown


def check_revoked(
    receipt: LogReceipt, *, key_id: bytes, memory: LogMemory | None, trust: LogTrust, now: int
) -> LogMemory:
    """Checks that a template is revoked: by this request, an earlier one, or otherwise. A revocation is never undone.

    Raises:
        MalformedMessageError, ProofError: as for `check_done`.
    """
    receipt.opening.check(check_inclusion(receipt.logged, trust, now=now))
    if receipt.opening.kind is not PersonalKind.REVOCATION or receipt.opening.reveal().get("key_id") != key_id.hex():
        raise ProofError("the log's entry is not about the revocation of this template; it is not taken for revoked")
    return _grown(receipt, memory, trust, now=now)


def _grown(receipt: LogReceipt, memory: LogMemory | None, trust: LogTrust, *, now: int) -> LogMemory:
    """What to remember of a log that only grew."""
    if memory is None:
        if receipt.consistency:
            raise ProofError(
                "the log proves that it grew, to a device that remembers nothing of it; nothing is believed"
            )
        return LogMemory.begin(receipt.logged.checkpoint, trust, now=now)
    if receipt.logged.checkpoint.head.size < memory.checkpoint.head.size:
        raise ProofError("the log was rolled back: it has fewer entries than this device has seen; keep this wallet")
    return memory.advance(receipt.growth_from(memory.checkpoint.head.size), trust, now=now)
