"""What a device checks about the log before it opens the reply of a comparison."""

from __future__ import annotations

from collections.abc import Mapping

from client.log import LogMemory, LogTrust, check_inclusion
from federation.errors import ProofError
from federation.transparency import AttemptEntry, AttemptOutcome
from federation.wire.logged import LogReceipt


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
    if memory is None:
        if receipt.consistency:
            raise ProofError(
                "the log proves that it grew, to a device that remembers nothing of it; nothing was opened"
            )
        return LogMemory.begin(receipt.logged.checkpoint, trust, now=now)
    if receipt.logged.checkpoint.head.size < memory.checkpoint.head.size:
        raise ProofError("the log was rolled back: it has fewer entries than this device has seen; keep this wallet")
    return memory.advance(receipt.growth_from(memory.checkpoint.head.size), trust, now=now)
