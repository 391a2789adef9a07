"""The Merkle tree against published vectors, a naive implementation and RFC 9162's way of verifying."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.errors import ProofError, UsageError
from federation.transparency import (
    Frontier,
    TreeHead,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
)
from federation.transparency.tree import EMPTY_ROOT, verify_inclusion

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/transparency/rfc6962.json").read_text())
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]
ROOTS = [bytes.fromhex(root) for root in VECTORS["roots"]]
ALL_SIZES = 64


class Tree:
    """A whole tree in memory; counts the nodes that are read."""

    def __init__(self, entries):
        self.frontier, self.nodes = Frontier().grow(entries)
        self.nodes_read = 0

    def read(self, wanted):
        self.nodes_read += len(wanted)
        return {node: self.nodes[node] for node in wanted if node in self.nodes}


def naive_root(entries):
    """RFC 6962 section 2.1, word for word."""
    if not entries:
        return hashlib.sha256(b"").digest()
    if len(entries) == 1:
        return hashlib.sha256(b"\0" + entries[0]).digest()
    k = naive_split(len(entries))
    return hashlib.sha256(b"\1" + naive_root(entries[:k]) + naive_root(entries[k:])).digest()


def naive_split(n):
    k = 1
    while 2 * k < n:
        k *= 2
    return k


def naive_inclusion(m, entries):
    """RFC 6962 section 2.1.1, word for word."""
    if len(entries) == 1:
        return ()
    k = naive_split(len(entries))
    if m < k:
        return (*naive_inclusion(m, entries[:k]), naive_root(entries[k:]))
    return (*naive_inclusion(m - k, entries[k:]), naive_root(entries[:k]))


def naive_consistency(m, entries, *, known=True):
    """RFC 6962 section 2.1.2, word for word."""
    if m == len(entries):
        return () if known else (naive_root(entries),)
    k = naive_split(len(entries))
    if m <= k:
        return (*naive_consistency(m, entries[:k], known=known), naive_root(entries[k:]))
    return (*naive_consistency(m - k, entries[k:], known=False), naive_root(entries[:k]))


def pair(left, right):
    return hashlib.sha256(b"\1" + left + right).digest()


def rfc9162_inclusion(leaf, index, size, root, proof):
    """RFC 9162 section 2.1.3.2, step by step."""
    fn, sn, r = index, size - 1, leaf
    if index >= size:
        return False
    for p in proof:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = pair(p, r)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = pair(r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def rfc9162_consistency(first, second, first_root, second_root, proof):
    """RFC 9162 section 2.1.4.2, step by step, for 0 < first < second."""
    path = list(proof)
    if not path:
        return False
    if first & (first - 1) == 0:
        path.insert(0, first_root)
    fn, sn = first - 1, second - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            fr, sr = pair(c, fr), pair(c, sr)
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = pair(sr, c)
        fn, sn = fn >> 1, sn >> 1
    return fr == first_root and sr == second_root and sn == 0


def accepts(check, *arguments):
    try:
        check(*arguments)
    except ProofError:
        return False
    return True


# ------------------------------------------------------------------ published vectors


@pytest.mark.parametrize("size", range(9))
def test_the_published_tree_heads_come_out(size):
    assert Frontier().grow(LEAVES[:size])[0].head == TreeHead(size, ROOTS[size])


@pytest.mark.parametrize("vector", VECTORS["inclusion"], ids=lambda v: f"{v['index']}-of-{v['size']}")
def test_the_published_inclusion_proofs_come_out_and_verify(vector):
    index, size, proof = vector["index"], vector["size"], tuple(map(bytes.fromhex, vector["proof"]))
    assert inclusion_proof(index, size, Tree(LEAVES[:size]).read) == proof
    verify_inclusion(leaf_hash(LEAVES[index]), index, TreeHead(size, ROOTS[size]), proof)


@pytest.mark.parametrize("vector", VECTORS["consistency"], ids=lambda v: f"{v['old']}-to-{v['new']}")
def test_the_published_consistency_proofs_come_out_and_verify(vector):
    old, new, proof = vector["old"], vector["new"], tuple(map(bytes.fromhex, vector["proof"]))
    assert consistency_proof(old, new, Tree(LEAVES[:new]).read) == proof
    verify_consistency(TreeHead(old, ROOTS[old]), TreeHead(new, ROOTS[new]), proof)


# ------------------------------------------------------------------ exhaustive and random


def test_every_proof_up_to_64_entries_equals_the_naive_one_and_verifies():
    entries = [bytes([n]) * (n % 5) for n in range(ALL_SIZES)]
    heads = [TreeHead(n, naive_root(entries[:n])) for n in range(ALL_SIZES + 1)]
    tree = Tree(entries)
    for size in range(1, ALL_SIZES + 1):
        assert Frontier.read(size, tree.read).head == heads[size]
        for index in range(size):
            proof = inclusion_proof(index, size, tree.read)
            assert proof == naive_inclusion(index, entries[:size])
            verify_inclusion(leaf_hash(entries[index]), index, heads[size], proof)
        for old in range(1, size + 1):
            proof = consistency_proof(old, size, tree.read)
            assert proof == naive_consistency(old, entries[:size])
            verify_consistency(heads[old], heads[size], proof)


@given(size=st.integers(65, 700), data=st.data())
@settings(max_examples=40)
def test_larger_trees_agree_with_the_naive_one(size, data):
    entries = [n.to_bytes(4, "big") for n in range(size)]
    tree, head = Tree(entries), TreeHead(size, naive_root(entries))
    assert tree.frontier.head == head
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    proof = inclusion_proof(index, size, tree.read)
    assert proof == naive_inclusion(index, entries)
    verify_inclusion(leaf_hash(entries[index]), index, head, proof)
    proof = consistency_proof(old, size, tree.read)
    assert proof == naive_consistency(old, entries)
    verify_consistency(TreeHead(old, naive_root(entries[:old])), head, proof)


@given(st.lists(st.lists(st.binary(max_size=4), max_size=9), max_size=9))
def test_growing_in_batches_gives_the_tree_and_the_nodes_of_growing_at_once(batches):
    frontier, nodes = Frontier(), {}
    for batch in batches:
        frontier, completed = frontier.grow(batch)
        assert not nodes.keys() & completed.keys(), "a node was written twice"
        nodes |= completed
    assert (frontier, nodes) == Frontier().grow([entry for batch in batches for entry in batch])


@given(st.integers(0, 20), st.integers(1, 20), st.integers(0, 20), st.lists(st.integers(0, 40), max_size=6), st.data())
@settings(max_examples=400)
def test_verification_decides_as_the_shifts_of_rfc_9162_do(index, size, old, picks, data):
    entries = [bytes([n]) for n in range(20)]
    tree = Tree(entries)
    hashes = [*tree.nodes.values()]
    proof = tuple(hashes[pick % len(hashes)] for pick in picks)
    head, leaf = Frontier.read(size, tree.read).head, leaf_hash(entries[index % 20])
    if index < size and data.draw(st.booleans()):
        proof = inclusion_proof(index, size, tree.read)
    ours = accepts(verify_inclusion, leaf, index, head, proof)
    assert ours == rfc9162_inclusion(leaf, index, size, head.root, proof)
    if 0 < old < size:
        if data.draw(st.booleans()):
            proof = consistency_proof(old, size, tree.read)
        before = Frontier.read(old, tree.read).head
        ours = accepts(verify_consistency, before, head, proof)
        assert ours == rfc9162_consistency(old, size, before.root, head.root, proof)


@pytest.mark.parametrize("power", [8, 14])
def test_a_proof_reads_two_nodes_a_level_at_most(power):
    tree = Tree([n.to_bytes(4, "big") for n in range(2**power - 1)])
    for target in (0, 1, 2 ** (power - 1), 2**power - 2):
        tree.nodes_read = 0
        inclusion_proof(target, 2**power - 1, tree.read)
        consistency_proof(target + 1, 2**power - 1, tree.read)
        assert 0 < tree.nodes_read <= 2 * 2 * power


# ------------------------------------------------------------------ negative vectors, named by the damage

_INDEX, _OLD, _SIZE = 4, 6, 7
_TREE = Tree(LEAVES[:_SIZE])
_INCLUSION = inclusion_proof(_INDEX, _SIZE, _TREE.read)
_CONSISTENCY = consistency_proof(_OLD, _SIZE, _TREE.read)
_LEAF, _HEAD, _OLD_HEAD = leaf_hash(LEAVES[_INDEX]), TreeHead(_SIZE, ROOTS[_SIZE]), TreeHead(_OLD, ROOTS[_OLD])


def damaged(proof):
    """Every way in which a list of hashes goes wrong."""
    first = proof[0]
    return {
        "one-bit-flipped": (bytes([first[0] ^ 1]) + first[1:], *proof[1:]),
        "last-bit-flipped": (*proof[:-1], proof[-1][:-1] + bytes([proof[-1][-1] ^ 1])),
        "first-missing": proof[1:],
        "last-missing": proof[:-1],
        "first-repeated": (first, *proof),
        "last-repeated": (*proof, proof[-1]),
        "reversed": proof[::-1],
        "root-appended": (*proof, ROOTS[_SIZE]),
        "empty": (),
        "empty-hash-appended": (*proof, b""),
        "hash-cut-short": (first[:-1], *proof[1:]),
        "hash-too-long": (first + b"\0", *proof[1:]),
        "hashes-joined": (b"".join(proof[:2]), *proof[2:]),
        "sixty-four-hashes": (first,) * 64,
    }


@pytest.mark.parametrize("damage", damaged(_INCLUSION))
def test_a_damaged_inclusion_proof_is_refused(damage):
    verify_inclusion(_LEAF, _INDEX, _HEAD, _INCLUSION)
    with pytest.raises(
        ProofError, match=r"gives another root|hashes where 4 are needed|every hash of a proof has 32 bytes"
    ):
        verify_inclusion(_LEAF, _INDEX, _HEAD, damaged(_INCLUSION)[damage])


@pytest.mark.parametrize("damage", damaged(_CONSISTENCY))
def test_a_damaged_consistency_proof_is_refused(damage):
    verify_consistency(_OLD_HEAD, _HEAD, _CONSISTENCY)
    with pytest.raises(
        ProofError, match=r"the log forked|hashes where 3 are needed|every hash of a proof has 32 bytes"
    ):
        verify_consistency(_OLD_HEAD, _HEAD, damaged(_CONSISTENCY)[damage])


@pytest.mark.parametrize(
    ("leaf", "index", "head", "words"),
    [
        pytest.param(leaf_hash(LEAVES[5]), _INDEX, _HEAD, "entry 4 is not in this tree of 7: the", id="another-leaf"),
        pytest.param(
            LEAVES[_INDEX], _INDEX, _HEAD, "every hash of a proof has 32 bytes", id="the-entry-instead-of-its-hash"
        ),
        pytest.param(_LEAF, 5, _HEAD, "entry 5 is not in this tree of 7: the", id="next-index"),
        pytest.param(_LEAF, 3, _HEAD, "entry 3 is not in this tree of 7: the", id="previous-index"),
        pytest.param(_LEAF, -1, _HEAD, "entry -1 cannot be in a tree of 7", id="negative-index"),
        pytest.param(_LEAF, _SIZE, _HEAD, "entry 7 cannot be in a tree of 7", id="index-beyond-the-tree"),
        pytest.param(
            _LEAF, _INDEX, TreeHead(9, ROOTS[7]), "the proof has 4 hashes where 5 are needed", id="another-size"
        ),
        pytest.param(
            _LEAF, _INDEX, TreeHead(14, ROOTS[7]), "the proof has 4 hashes where 5 are needed", id="size-doubled"
        ),
        pytest.param(
            _LEAF, _INDEX, TreeHead(_SIZE, ROOTS[6]), "entry 4 is not in this tree of 7: the", id="another-root"
        ),
        pytest.param(_LEAF, 0, TreeHead(0, EMPTY_ROOT), "entry 0 cannot be in a tree of 0", id="empty-tree"),
    ],
)
def test_an_inclusion_proof_for_something_else_is_refused(leaf, index, head, words):
    with pytest.raises(ProofError, match=re.escape(words)):
        verify_inclusion(leaf, index, head, _INCLUSION)


@pytest.mark.parametrize(
    ("old", "new", "proof", "words"),
    [
        pytest.param(
            TreeHead(5, ROOTS[5]), _HEAD, _CONSISTENCY, "the proof has 3 hashes where 4 are needed", id="older-tree"
        ),
        pytest.param(
            TreeHead(6, ROOTS[5]),
            _HEAD,
            _CONSISTENCY,
            "the tree of 7 entries does not begin with",
            id="another-old-root",
        ),
        pytest.param(
            _OLD_HEAD,
            TreeHead(9, ROOTS[7]),
            _CONSISTENCY,
            "the proof has 3 hashes where 4 are needed",
            id="another-new-size",
        ),
        pytest.param(
            _OLD_HEAD,
            TreeHead(7, ROOTS[8]),
            _CONSISTENCY,
            "the tree of 7 entries does not begin with",
            id="another-new-root",
        ),
        pytest.param(_HEAD, _OLD_HEAD, _CONSISTENCY, "a tree of 7 cannot be shown to have grown", id="backwards"),
        pytest.param(
            TreeHead(0, EMPTY_ROOT), _HEAD, (), "a tree of 0 cannot be shown to have grown", id="from-the-empty-tree"
        ),
        pytest.param(
            TreeHead(0, EMPTY_ROOT),
            TreeHead(0, EMPTY_ROOT),
            (),
            "a tree of 0 cannot be shown to have grown",
            id="between-empty-trees",
        ),
        pytest.param(
            _HEAD, _HEAD, (ROOTS[1],), "the proof has 2 hashes where 1 are needed", id="same-tree-with-a-proof"
        ),
        pytest.param(
            _HEAD,
            TreeHead(7, ROOTS[8]),
            (),
            "the tree of 7 entries does not begin with",
            id="same-size-and-another-root",
        ),
        pytest.param(
            TreeHead(4, ROOTS[4]),
            _HEAD,
            (),
            "the proof has 1 hashes where 2 are needed",
            id="power-of-two-without-a-proof",
        ),
    ],
)
def test_a_consistency_proof_for_something_else_is_refused(old, new, proof, words):
    with pytest.raises(ProofError, match=re.escape(words)):
        verify_consistency(old, new, proof)


@pytest.mark.parametrize("size", range(1, len(ROOTS)))
def test_no_honest_inclusion_proof_serves_for_another_place(size):
    """Of every entry of every tree, for every index in it and around it."""
    tree, head = Tree(LEAVES[:size]), TreeHead(size, ROOTS[size])
    for index in range(size):
        proof = inclusion_proof(index, size, tree.read)
        verify_inclusion(leaf_hash(LEAVES[index]), index, head, proof)
        for other in {*range(-2, size + 3), 2 * size, -size, 2**62} - {index}:
            with pytest.raises(ProofError, match=r"cannot be in a tree|another root|hashes where"):
                verify_inclusion(leaf_hash(LEAVES[index]), other, head, proof)


def test_no_honest_consistency_proof_serves_for_other_trees():
    """Of every pair of trees, for every other pair: only a tree and itself need no proof."""
    heads = [TreeHead(size, root) for size, root in enumerate(ROOTS)]
    trees = [Tree(LEAVES[:size]) for size in range(len(ROOTS))]
    pairs = [(old, new) for new in range(1, len(ROOTS)) for old in range(1, new + 1)]
    for old, new in pairs:
        proof = consistency_proof(old, new, trees[new].read)
        verify_consistency(heads[old], heads[new], proof)
        for before, after in ((a, b) for a in range(len(heads)) for b in range(len(heads)) if (a, b) != (old, new)):
            if before == after > 0 and not proof:
                continue
            with pytest.raises(ProofError, match=r"cannot be shown|the log forked|hashes where"):
                verify_consistency(heads[before], heads[after], proof)


def test_no_proof_is_made_for_what_does_not_exist():
    for index, size in [(0, 0), (3, 3), (-1, 3)]:
        with pytest.raises(UsageError, match="there is no entry"):
            inclusion_proof(index, size, _TREE.read)
    for old, new in [(0, 3), (4, 3), (-1, 3)]:
        with pytest.raises(UsageError, match="a consistency proof needs 0 < old size <= new"):
            consistency_proof(old, new, _TREE.read)


def test_a_store_that_lost_a_node_makes_no_proof():
    kept = dict(_TREE.nodes)
    del kept[0, _INDEX]
    with pytest.raises(ProofError, match="lacks 1 of"):
        inclusion_proof(_INDEX + 1, _SIZE, lambda wanted: {n: kept[n] for n in wanted if n in kept})


@pytest.mark.parametrize(("size", "root"), [(-1, ROOTS[1]), (1 << 63, ROOTS[1]), (1, b"short"), (0, ROOTS[1])])
def test_an_impossible_tree_head_cannot_be_built(size, root):
    with pytest.raises(UsageError, match=r"0 to 2\^63 - 1 entries|a root has 32 bytes, not 5|the hash of nothing"):
        TreeHead(size, root)


@pytest.mark.parametrize(("size", "hashes"), [(1, ()), (2, (ROOTS[1],) * 2), (1, (b"short",)), (-1, (ROOTS[1],))])
def test_an_impossible_frontier_cannot_be_built(size, hashes):
    with pytest.raises(UsageError, match="frontier has"):
        Frontier(size, hashes)
