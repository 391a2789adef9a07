"""Reads a whole log, and compares with it whatever a database keeps beside it.

A server that starts looks at the nodes of its last trees and at the entries that it relies on, and no further: reading
everything takes longer the older a log is. This does the rest, whenever the operator likes, also beside a server that
runs. Monitors recompute the tree from outside.
"""

from __future__ import annotations

import hashlib

from federation.errors import ProofError
from federation.transparency import Frontier, PublicEntry, TreeHead, entry_from_bytes
from server.log.storage import KeptOpening, LogStorage

_PAGE = 1024


def require_whole(storage: LogStorage, head: TreeHead) -> None:
    """Returns when entries, nodes, openings and the index of public entries are those of a tree.

    Args:
        storage: of the log.
        head: that was signed.

    Raises:
        ProofError: an entry is missing, or they do not give the root; or a node, an opening or the index is of another
            log. The error says what and where.
        MalformedMessageError: an entry is none of this version.
    """
    frontier = Frontier()
    while (start := frontier.size) < head.size:
        leaves = storage.entries(start, min(start + _PAGE, head.size))
        if not leaves:
            raise ProofError(f"entry {start} is missing from the database")
        frontier, completed = frontier.grow(leaves)
        if storage.nodes(list(completed)) != completed:
            raise ProofError(f"the stored tree is not that of entries {start} to {frontier.size - 1}")
        _require_beside(storage, start, leaves)
    if frontier.head != head:
        raise ProofError(f"the {head.size} stored entries do not give the signed root")
    _require_nothing_else(storage)


def _require_beside(storage: LogStorage, start: int, leaves: list[bytes]) -> None:
    entries = dict(enumerate(map(entry_from_bytes, leaves), start))
    stop = start + len(leaves)
    public = {at: entry.content for at, entry in entries.items() if isinstance(entry, PublicEntry)}
    if storage.public_between(start, stop) != {at: hashlib.sha256(one).digest() for at, one in public.items()}:
        raise ProofError(f"the index of public entries is wrong between entries {start} and {stop - 1}")
    for kept in storage.openings_between(start, stop):
        try:
            kept.opening.check(entries[kept.position])
        except ProofError as error:
            raise ProofError(f"the opening that is kept of entry {kept.position} is of another one") from error
        if _names_another(kept):
            raise ProofError(f"the opening that is kept of entry {kept.position} stands under another owner's name")


def _require_nothing_else(storage: LogStorage) -> None:
    """Returns when nothing lies where the next entries will come: the log could not be written to any more.

    What is counted was looked at row by row before, so as many rows as there should be are all of them.
    """
    found = storage.counts()
    for what, count, expected in (
        ("entries", found.entries, found.size),
        ("nodes", found.nodes, 2 * found.size - found.size.bit_count()),  # those of all whole subtrees
    ):
        if count != expected:
            raise ProofError(f"the database of a log of {found.size} entries has {count} {what} and not {expected}")
    if found.beyond:
        raise ProofError(f"{found.beyond} openings or indexed entries are of entries that the log does not have")


def _names_another(kept: KeptOpening) -> bool:
    """Whether an opening says whose it is, and is kept under another name: its owner neither sees nor erases it."""
    facts = kept.opening.reveal()
    named = facts.get("key_id")
    if "device_public_key" in facts:
        named = hashlib.sha256(bytes.fromhex(facts["device_public_key"])).hexdigest()  # as the storage names keys
    return named is not None and named != kept.subject.hex()
