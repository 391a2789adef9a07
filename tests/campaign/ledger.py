"""What honest people were told, and whether it is true at the end. Pure: shares no code with what it judges.

The people write down each thing that a server acknowledged. At the end stand the log's leaves and the database's rows,
and every promise is held against them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class Account:
    """What one person with one wallet was told, and what the server may know of at most.

    Attributes:
        key_id: hex.
        state: "enrolled", "revoked" or "erased", as it was acknowledged or as the log proved it later; "doubt" while
            nobody knows, and "nobody" when nothing came of an enrolment.
        sent: comparisons with the stored template whose probe left.
        learnt: of them, those whose reply came.
        matches: of them, matches that were acknowledged.
        tokens: of them, tokens that left, acknowledged or not.
        decisions: position in the log of each comparison that was believed, and the SHA-256 of its entry in hex.
        kept: of these positions, those whose opening the server keeps: all but enrolments.
    """

    key_id: str
    state: str = "doubt"
    sent: int = 0
    learnt: int = 0
    matches: int = 0
    tokens: int = 0
    decisions: dict[int, str] = field(default_factory=dict)
    kept: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Account:
        decisions = {int(position): entry for position, entry in fields["decisions"].items()}
        return cls(**{**fields, "decisions": decisions})


@dataclass(frozen=True)
class Row:
    """What the database has of one key id at the end.

    Attributes:
        has_template: whether a template is served.
        has_owner: whether anybody may ask about it.
        openings: positions in the log of which the opening is kept.
        attempts: that were counted; None without a template.
        successes: of them.
    """

    has_template: bool
    has_owner: bool
    openings: frozenset[int]
    attempts: int | None = None
    successes: int | None = None


def losses(
    accounts: Iterable[Account],
    rows: Mapping[str, Row],
    leaves: Sequence[bytes],
    heads: Iterable[tuple[int, str]],
) -> list[str]:
    """Every promise that was broken, one line each.

    Args:
        accounts: of everybody who is honest.
        rows: by key id.
        leaves: all entries of the log.
        heads: size and root in hex of every checkpoint that anybody believed.
    """
    found = list[str]()
    for account in accounts:
        found += _broken(account, rows[account.key_id], leaves)
    sizes = sorted(set(heads))
    roots = roots_at({size for size, _ in sizes if size <= len(leaves)}, leaves)
    for size, root in sizes:
        if size > len(leaves):
            found.append(f"a checkpoint of {size} entries was seen, and the log has {len(leaves)}")
        elif roots[size] != root:
            found.append(f"a checkpoint of {size} entries was seen that is no beginning of the log")
    return found


def _broken(account: Account, row: Row, leaves: Sequence[bytes]) -> list[str]:
    who, found = account.key_id[:8], list[str]()
    if account.state == "enrolled" and not row.has_template:
        found.append(f"{who} was enrolled, and is not")
    if account.state in ("revoked", "erased") and row.has_template:
        found.append(f"{who} was {account.state}, and is served")
    if account.state == "erased" and (row.has_owner or row.openings):
        found.append(f"{who} was erased, and is known")
    if account.state == "doubt":
        found.append(f"{who} never learnt what became of an enrolment")
    return [*found, *_broken_decisions(account, row, leaves), *_broken_counts(account, row)]


def _broken_decisions(account: Account, row: Row, leaves: Sequence[bytes]) -> list[str]:
    who, found = account.key_id[:8], list[str]()
    for position, entry in account.decisions.items():
        if position >= len(leaves) or hashlib.sha256(leaves[position]).hexdigest() != entry:
            found.append(f"{who} was compared, and entry {position} of the log does not say so")
    if account.state == "enrolled" and (gone := sorted(set(account.kept) - row.openings)):
        found.append(f"{who} was compared, and what stands behind entries {gone} is gone")
    return found


def _broken_counts(account: Account, row: Row) -> list[str]:
    who, found = account.key_id[:8], list[str]()
    if row.attempts is not None and row.successes is not None:
        if not account.learnt <= row.attempts <= account.sent:
            found.append(
                f"{who} sent {account.sent} probes, learnt of {account.learnt}, and {row.attempts} are counted"
            )
        if not account.matches <= row.successes <= account.tokens:
            found.append(
                f"{who} was accepted {account.matches} times, sent {account.tokens} tokens, and {row.successes} are"
                " counted"
            )
    return found


def roots_at(sizes: set[int], leaves: Sequence[bytes]) -> dict[int, str]:
    """Root of the first n leaves for each n. RFC 6962, section 2.1, by a stack of complete subtrees."""
    stack, roots = list[tuple[int, bytes]](), dict[int, str]()
    if 0 in sizes:
        roots[0] = hashlib.sha256().hexdigest()
    for count, leaf in enumerate(leaves, start=1):
        stack.append((1, hashlib.sha256(b"\0" + leaf).digest()))
        while len(stack) > 1 and stack[-1][0] == stack[-2][0]:
            (width, right), (_, left) = stack.pop(), stack.pop()
            stack.append((2 * width, hashlib.sha256(b"\1" + left + right).digest()))
        if count in sizes:
            root = stack[-1][1]
            for _, left in reversed(stack[:-1]):
                root = hashlib.sha256(b"\1" + left + root).digest()
            roots[count] = root.hex()
    return roots


def holds(leaf: bytes, position: int, size: int, proof: Sequence[bytes], root: str) -> bool:
    """Whether an inclusion proof leads from a leaf to a root. RFC 9162, section 2.1.3.2."""
    if not 0 <= position < size:
        return False
    at, last, digest = position, size - 1, hashlib.sha256(b"\0" + leaf).digest()
    for other in proof:
        if last == 0:
            return False
        if at % 2 or at == last:
            digest = hashlib.sha256(b"\1" + other + digest).digest()
            while at and not at % 2:
                at, last = at >> 1, last >> 1
        else:
            digest = hashlib.sha256(b"\1" + digest + other).digest()
        at, last = at >> 1, last >> 1
    return last == 0 and digest.hex() == root
