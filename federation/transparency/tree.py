"""The Merkle tree of RFC 6962: tree heads, inclusion proofs, consistency proofs. Pure.

Theory of operation
-------------------
The hash over a range of leaves is ``H(0x01 || left || right)``, where the left part takes the largest power of two that
is smaller than the range, and ``H(0x00 || entry)`` for one leaf; H is SHA-256. Hence:

* A *node* ``(level, index)`` stands for the 2^level leaves from ``index * 2^level`` on. Once those leaves exist, its
  hash never changes, so nodes are stored once and never written again: two per leaf at most.
* A tree of any size is a row of such nodes, the largest first: one for each 1 in the binary size. That row is the
  `Frontier`. It is all that is needed to append, and it folds from the right into the root.
* A proof holds the siblings of a path from the root, each folded from its row of nodes in the same way: O(log n) nodes.
  Prover and verifier walk the same path, so a proof of the wrong length is refused before anything is hashed.

Sizes stay below 2^63: every size fits a database integer, and no proof has more than 63 hashes.

Source: RFC 6962 sections 2.1 to 2.1.2. RFC 9162 sections 2.1.3.2 and 2.1.4.2 verify with shifts instead of a path; the
tests compare the two.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from federation.errors import ProofError, UsageError

HASH_BYTES = 32
MAX_TREE_SIZE = (1 << 63) - 1
MAX_PROOF_HASHES = 63
EMPTY_ROOT = hashlib.sha256(b"").digest()

Node = tuple[int, int]
"""Level and index, see above."""
NodeReader = Callable[[Sequence[Node]], Mapping[Node, bytes]]
"""Looks up the hashes of complete nodes, all of one proof at once."""


def leaf_hash(entry: bytes) -> bytes:
    """Hash of one entry, 32 bytes.

    >>> leaf_hash(b"").hex()[:16]
    '6e340b9cffb37a98'
    """
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of two neighbouring parts, 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True)
class TreeHead:
    """A tree, named by its size and root.

    A root does not determine the size: trees of 7 and of 8 entries share the shape of some proofs. So a proof means
    nothing unless size and root were signed together.

    Attributes:
        size: number of entries, 0 to 2^63 - 1.
        root: RFC 6962 hash over all of them, 32 bytes.
    """

    size: int
    root: bytes

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_TREE_SIZE:
            raise UsageError("a tree has 0 to 2^63 - 1 entries")
        if len(self.root) != HASH_BYTES:
            raise UsageError(f"a root has {HASH_BYTES} bytes, not {len(self.root)}")
        if self.size == 0 and self.root != EMPTY_ROOT:
            raise UsageError("the root of an empty tree is the hash of nothing")


@dataclass(frozen=True)
class Frontier:
    """What must be known of a tree to append to it.

    Attributes:
        size: number of entries.
        hashes: one for each 1 in the binary `size`, of the complete parts from left to right.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= MAX_TREE_SIZE or len(self.hashes) != self.size.bit_count():
            raise UsageError("a frontier has one hash for each 1 in its binary size")
        if any(len(digest) != HASH_BYTES for digest in self.hashes):
            raise UsageError(f"every hash of a frontier has {HASH_BYTES} bytes")

    @classmethod
    def read(cls, size: int, read: NodeReader) -> Frontier:
        """The frontier of a stored tree.

        Raises:
            ProofError: the store lacks a node of a tree of that size.
        """
        return cls(size, tuple(_require_nodes(frontier_nodes(size), read)))

    @property
    def head(self) -> TreeHead:
        """Size and root."""
        return TreeHead(self.size, _fold(self.hashes) if self.hashes else EMPTY_ROOT)

    def grow(self, entries: Iterable[bytes]) -> tuple[Frontier, dict[Node, bytes]]:
        """Appends entries.

        Returns:
            The new frontier, and every node that became complete.
        """
        size, row, completed = self.size, list(self.hashes), dict[Node, bytes]()
        for entry in entries:
            digest, level, index = leaf_hash(entry), 0, size
            completed[level, index] = digest
            while index & 1:  # a right-hand neighbour completes the node above
                digest, level, index = node_hash(row.pop(), digest), level + 1, index >> 1
                completed[level, index] = digest
            row.append(digest)
            size += 1
        return Frontier(size, tuple(row)), completed


def frontier_nodes(size: int) -> list[Node]:
    """What `Frontier.read` reads."""
    return _cover(0, size)


def inclusion_nodes(index: int, size: int) -> list[Node]:
    """What `inclusion_proof` reads; nothing when there is no such entry."""
    if not 0 <= index < size:
        return []
    return _nodes(_path_to_leaf(index, size)[1])


def consistency_nodes(old_size: int, new_size: int) -> list[Node]:
    """What `consistency_proof` reads; nothing when there is nothing to prove."""
    if not 0 < old_size <= new_size:
        return []
    seed, siblings = _path_to_edge(old_size, new_size)
    return _nodes(siblings if seed.low == 0 else [seed, *siblings])


def inclusion_proof(index: int, size: int, read: NodeReader) -> tuple[bytes, ...]:
    """Proves that entry `index` is in the tree of `size` entries (RFC 6962 section 2.1.1).

    Raises:
        UsageError: there is no such entry.
        ProofError: the store lacks a node.
    """
    if not 0 <= index < size:
        raise UsageError(f"there is no entry {index} in a tree of {size}")
    _, siblings = _path_to_leaf(index, size)
    return _read_ranges(siblings, read)


def consistency_proof(old_size: int, new_size: int, read: NodeReader) -> tuple[bytes, ...]:
    """Proves that the first `old_size` entries of the tree of `new_size` are an older tree (RFC 6962 section 2.1.2).

    Raises:
        UsageError: not 0 < old size <= new size.
        ProofError: the store lacks a node.
    """
    if not 0 < old_size <= new_size:
        raise UsageError(f"a consistency proof needs 0 < old size <= new size, not {old_size} and {new_size}")
    seed, siblings = _path_to_edge(old_size, new_size)
    # A seed from 0 on is the whole old tree, and the verifier knows its root.
    return _read_ranges(siblings if seed.low == 0 else [seed, *siblings], read)


def verify_inclusion(leaf: bytes, index: int, head: TreeHead, proof: Sequence[bytes]) -> None:
    """Checks that the entry with hash `leaf` is number `index` of a tree.

    Args:
        leaf: `leaf_hash` of the entry, 32 bytes.
        index: position, from 0.
        head: the tree.
        proof: hashes from the leaf's sibling up to the root's child, 32 bytes each.

    Raises:
        ProofError: it does not prove that.
    """
    if not 0 <= index < head.size:
        raise ProofError(f"entry {index} cannot be in a tree of {head.size}")
    _, siblings = _path_to_leaf(index, head.size)
    _require_hashes([leaf, *proof], 1 + len(siblings))
    computed = leaf
    for sibling, digest in zip(siblings, proof, strict=True):
        computed = node_hash(digest, computed) if sibling.is_left else node_hash(computed, digest)
    if computed != head.root:
        raise ProofError(f"entry {index} is not in this tree of {head.size}: the inclusion proof gives another root")


def verify_consistency(old: TreeHead, new: TreeHead, proof: Sequence[bytes]) -> None:
    """Checks that `new` begins with all entries of `old`, in order.

    From an empty tree there is nothing to prove, and a proof that proves nothing is refused: who remembers no entry
    takes the first tree on trust, and does so on purpose.

    Raises:
        ProofError: it does not prove that.
    """
    if not 0 < old.size <= new.size:
        raise ProofError(f"a tree of {old.size} cannot be shown to have grown into one of {new.size}")
    seed, siblings = _path_to_edge(old.size, new.size)
    path = [old.root, *proof] if seed.low == 0 else list(proof)
    _require_hashes(path, 1 + len(siblings))
    old_root = new_root = path[0]
    for sibling, digest in zip(siblings, path[1:], strict=True):
        if sibling.is_left:  # what stands left of the old edge is part of both trees
            old_root, new_root = node_hash(digest, old_root), node_hash(digest, new_root)
        else:
            new_root = node_hash(new_root, digest)
    if old_root != old.root or new_root != new.root:
        raise ProofError(f"the tree of {new.size} entries does not begin with the tree of {old.size}: the log forked")


@dataclass(frozen=True)
class _Part:
    """The leaves from `low` up to `high`, and whether they are the left half of the part above."""

    low: int
    high: int
    is_left: bool = True


def _path_to_leaf(index: int, size: int) -> tuple[_Part, list[_Part]]:
    """The leaf, and its siblings on the way up."""
    return _path(size, index, lambda part: part.high - part.low == 1)


def _path_to_edge(old_size: int, new_size: int) -> tuple[_Part, list[_Part]]:
    """The largest part of the new tree that ends where the old one does, and its siblings on the way up."""
    return _path(new_size, old_size - 1, lambda part: part.high == old_size)


def _path(size: int, leaf: int, is_end: Callable[[_Part], bool]) -> tuple[_Part, list[_Part]]:
    part, siblings = _Part(0, size), list[_Part]()
    while not is_end(part):
        middle = part.low + (1 << (part.high - part.low - 1).bit_length() - 1)
        left, right = _Part(part.low, middle), _Part(middle, part.high, is_left=False)
        part, sibling = (left, right) if leaf < middle else (right, left)
        siblings.append(sibling)
    return part, siblings[::-1]


def _cover(low: int, high: int) -> list[Node]:
    """The complete nodes of a range that begins at a multiple of a power of two as large as itself."""
    nodes = list[Node]()
    while low < high:
        level = (high - low).bit_length() - 1
        nodes.append((level, low >> level))
        low += 1 << level
    return nodes


def _nodes(parts: Sequence[_Part]) -> list[Node]:
    return [node for part in parts for node in _cover(part.low, part.high)]


def _fold(row: Sequence[bytes]) -> bytes:
    folded = row[-1]
    for digest in reversed(row[:-1]):
        folded = node_hash(digest, folded)
    return folded


def _read_ranges(parts: Sequence[_Part], read: NodeReader) -> tuple[bytes, ...]:
    covers = [_cover(part.low, part.high) for part in parts]
    hashes = iter(_require_nodes([node for cover in covers for node in cover], read))
    return tuple(_fold([next(hashes) for _ in cover]) for cover in covers)


def _require_nodes(nodes: Sequence[Node], read: NodeReader) -> list[bytes]:
    found = read(nodes) if nodes else {}
    missing = [node for node in nodes if node not in found]
    if missing:
        raise ProofError(f"the stored tree lacks {len(missing)} of {len(nodes)} nodes; restore it from a backup")
    return [found[node] for node in nodes]


def _require_hashes(hashes: Sequence[bytes], count: int) -> None:
    if len(hashes) != count:
        raise ProofError(f"the proof has {len(hashes)} hashes where {count} are needed")
    if any(len(digest) != HASH_BYTES for digest in hashes):
        raise ProofError(f"every hash of a proof has {HASH_BYTES} bytes")
