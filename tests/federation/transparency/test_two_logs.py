"""Two logs, two trees of each and three witnesses: what one says proves nothing about the other."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import pytest

from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.transparency import (
    Checkpoint,
    Frontier,
    Growth,
    KeyKind,
    LoggedEntry,
    LogPolicy,
    NoteSignature,
    NoteSigner,
    SignedCheckpoint,
    TreeHead,
    VerifierKey,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    verify_consistency,
)
from federation.transparency.notes import SignedNote
from federation.transparency.policy import NamedWitness
from federation.transparency.tree import consistency_nodes, frontier_nodes, inclusion_nodes, verify_inclusion
from tests.transparency_log import NOW, WITNESSES, MemoryLog

FIRST, SECOND = (
    NoteSigner(name, KeyKind.NOTE, bytes([seed]) * 32)
    for name, seed in (("log.example/one", 21), ("log.example/two", 22))
)
NAMESAKE = NoteSigner("log.example/one", KeyKind.NOTE, bytes([23]) * 32)
HERE = MemoryLog([b"here %d" % n for n in range(11)], FIRST, NOW + 100)
THERE = MemoryLog([b"there %d" % n for n in range(11)], SECOND, NOW + 200)
ONE, TWO, THREE = WITNESSES


def encoded(data):
    return base64.b64encode(data).decode()


# ------------------------------------------------------------------ who signed what, and when


def test_each_log_has_signed_its_own_trees_at_its_own_time_whatever_witnesses_say():
    for log, other, size, time in ((HERE, THERE, 11, NOW + 100), (THERE, HERE, 7, NOW + 200)):
        signed = log.signed(size)
        note = signed.note
        for witness, late in ((ONE, 50), (TWO, 9_000)):
            note = note.with_signature(witness.sign(note.text, time=NOW + late))
        note = note.with_signature(other.signer.sign(note.text))
        note = note.with_signature(other.signer.as_cosigner().sign(note.text, time=NOW + 9_999))
        seen = SignedCheckpoint.from_bytes(SignedCheckpoint(note).to_bytes())
        assert seen.require_signed_by(log.signer.key) == time
        assert (seen.checkpoint.origin, seen.head) == (log.signer.key.name, Frontier().grow(log.leaves[:size])[0].head)
        asked = [log.signer.key, log.signer.as_cosigner().key, ONE.key, TWO.key, THREE.key, NAMESAKE.key]
        assert seen.note.verified(asked) == {
            log.signer.key: None,
            log.signer.as_cosigner().key: time,
            ONE.key: NOW + 50,
            TWO.key: NOW + 9_000,
        }
        assert seen.note.verified([THREE.key]) == {}
        with pytest.raises(ProofError, match=f"of another log than {other.signer.key.name}"):
            seen.require_signed_by(other.signer.key)


def test_a_log_of_the_same_name_with_another_key_has_signed_nothing_and_its_lines_stop_nobody():
    note = HERE.signed().note
    for line in (NAMESAKE.sign(note.text), NAMESAKE.as_cosigner().sign(note.text, time=NOW + 7)):
        note = note.with_signature(line)
    assert SignedCheckpoint(note).require_signed_by(FIRST.key) == NOW + 100
    assert SignedCheckpoint(note).require_signed_by(NAMESAKE.key) == NOW + 7
    own, dated = HERE.signed().note.signatures
    plain, stamped = note.signatures[2:]
    for halves in ((own, stamped), (plain, dated)):
        half = SignedCheckpoint(SignedNote(note.text, halves))
        for key in (FIRST.key, NAMESAKE.key):
            with pytest.raises(ProofError, match=r"lacks a signature of log\.example/one"):
                half.require_signed_by(key)


def test_lines_of_one_tree_are_none_under_another():
    small, large = HERE.signed(7).note, HERE.signed(11).note
    for place, words in ((0, "the signature of log.example/one"), (1, "the signature of log.example/one")):
        mixed = [*large.signatures]
        mixed[place] = small.signatures[place]
        with pytest.raises(ProofError, match=f"{words} does not verify"):
            SignedCheckpoint(SignedNote(large.text, tuple(mixed))).require_signed_by(FIRST.key)
    cosigned = large.with_signature(ONE.sign(small.text, time=NOW))
    assert SignedCheckpoint(cosigned).require_signed_by(FIRST.key) == NOW + 100
    with pytest.raises(ProofError, match=r"the signature of witness\.example/w2 does not verify"):
        cosigned.verified([ONE.key])
    changed = replace(
        ONE.sign(large.text, time=NOW), value=(NOW + 1).to_bytes(8, "big") + ONE.sign(large.text, time=NOW).value[8:]
    )
    with pytest.raises(ProofError, match=r"the signature of witness\.example/w2 does not verify"):
        large.with_signature(changed).verified([TWO.key, ONE.key])


def test_of_several_cosignatures_of_each_witness_the_latest_counts_in_any_order():
    text = HERE.signed().note.text
    lines = [(ONE, 5), (TWO, 8), (ONE, 3), (TWO, 9), (ONE, 4)]
    for order in (lines, lines[::-1]):
        note = SignedNote(text, tuple(witness.sign(text, time=time) for witness, time in order))
        assert note.verified([TWO.key, ONE.key]) == {ONE.key: 5, TWO.key: 9}
    assert SignedNote(text, (ONE.sign(text, time=0),)).verified([ONE.key]) == {ONE.key: 0}
    last = (1 << 63) - 1
    assert SignedNote(text, (ONE.sign(text, time=last),)).verified([ONE.key]) == {ONE.key: last}
    assert VerifierKey("log.example/one", KeyKind.NOTE, ONE.key.public_key).has_signed(note.signatures[0]) is False


def test_a_note_has_32_lines_and_65536_bytes_at_most():
    text = HERE.signed().note.text
    lines = tuple(NoteSignature(f"w{place}", bytes([place] * 4), b"x") for place in range(33))
    assert SignedNote.from_bytes(SignedNote(text, lines[:32]).to_bytes()).signatures == lines[:32]
    for wrong in (lines, ()):
        with pytest.raises(UsageError, match=f"a note has 1 to 32 signatures, not {len(wrong)}"):
            SignedNote(text, wrong)
    note = SignedNote(text, lines[:1])
    longest = replace(note, text=text + "x" * (65_536 - len(note.to_bytes()) - 1) + "\n")
    assert len(longest.to_bytes()) == 65_536
    assert SignedNote.from_bytes(longest.to_bytes()) == longest
    with pytest.raises(MalformedMessageError, match="a note has at most 65536 bytes"):
        SignedNote.from_bytes(replace(longest, text="x" + longest.text).to_bytes())
    for wrong in ("no newline", "a\rb\n", "a\x00\n", ""):
        with pytest.raises(UsageError, match="the text of a note ends in a newline"):
            SignedNote(wrong, lines[:1])


def test_a_checkpoint_is_signed_by_its_log_with_a_plain_key_alone():
    head = TreeHead(3, bytes(32))
    for signer in (SECOND, FIRST.as_cosigner(), ONE):
        with pytest.raises(UsageError, match="a log signs checkpoints of its own origin with a plain note key"):
            SignedCheckpoint.sign(Checkpoint("log.example/one", head), signer, time=NOW)
    signed = SignedCheckpoint.sign(Checkpoint("log.example/one", head, ("more", "and more")), FIRST, time=NOW + 3)
    text = f"log.example/one\n3\n{encoded(bytes(32))}\nmore\nand more\n"
    assert signed.note.text == text
    assert signed.to_bytes().decode() == f"{text}\n" + "".join(
        f"\u2014 log.example/one {encoded(signer.key.key_id + stamp + FIRST.private_key.sign(message))}\n"
        for signer, stamp, message in (
            (FIRST, b"", text.encode()),
            (FIRST.as_cosigner(), (NOW + 3).to_bytes(8, "big"), f"cosignature/v1\ntime {NOW + 3}\n{text}".encode()),
        )
    )


def test_a_key_is_written_with_the_id_of_its_name_kind_and_bytes():
    for signer, kind in ((FIRST, 1), (FIRST.as_cosigner(), 4), (ONE, 4)):
        key, public = signer.key, signer.private_key.public_key().public_bytes_raw()
        name = hashlib.sha256(f"{key.name}\n".encode() + bytes([kind]) + public).digest()[:4]
        assert key.key_id == name
        assert key.to_text() == f"{key.name}+{name.hex()}+{encoded(bytes([kind]) + public)}"
        assert VerifierKey.from_text(key.to_text()) == key
        secret = f"PRIVATE+KEY+{key.name}+{name.hex()}+{encoded(bytes([kind]) + signer.secret_bytes())}"
        assert signer.secret_text() == secret
        assert NoteSigner.from_text(secret).key == key
        with pytest.raises(MalformedMessageError, match="does not belong to this name and key"):
            NoteSigner.from_text(secret.replace(key.name, f"{key.name}x"))
    assert FIRST.as_cosigner().key == FIRST.key.as_cosigner() != FIRST.key
    assert FIRST.as_cosigner().key.name == "log.example/one"
    for seed in (b"", bytes(31), bytes(33)):
        with pytest.raises(UsageError, match="an Ed25519 private key has 32 bytes"):
            NoteSigner("log.example/one", KeyKind.NOTE, seed)


# ------------------------------------------------------------------ entries and their trees


def entry_of(log, index, size):
    proof = inclusion_proof(index, size, log.nodes)
    return LoggedEntry(log.leaves[index], index, proof, log.signed(size))


@pytest.mark.parametrize("size", [1, 2, 7, 8, 11])
def test_an_entry_is_in_its_tree_at_its_place_and_in_no_other(size):
    for log, other in ((HERE, THERE), (THERE, HERE)):
        for index in range(size):
            good = entry_of(log, index, size)
            good.check_inclusion()
            wrong = [replace(good, checkpoint=other.signed(size)), replace(good, entry=other.leaves[index])]
            wrong += [replace(good, index=place) for place in range(size) if place != index]
            wrong += [replace(good, checkpoint=log.signed(later)) for later in (size + 1, size + 5) if later <= 11]
            wrong += [replace(good, proof=good.proof[:-1])] if good.proof else []
            wrong += [replace(good, proof=(*good.proof, bytes(32)))]
            wrong += [
                replace(good, proof=(*good.proof[:at], bytes(32), *good.proof[at + 1 :]))
                for at in range(len(good.proof))
            ]
            wrong += [replace(good, proof=good.proof[::-1])] if len(good.proof) > 1 else []
            for one in wrong:
                with pytest.raises(ProofError, match=r"inclusion proof gives another root|hashes where \d+ are needed"):
                    one.check_inclusion()


def test_a_proof_is_of_a_place_in_the_tree_and_its_hashes_have_their_length():
    good = entry_of(HERE, 3, 11)
    head, leaf = good.checkpoint.head, leaf_hash(good.entry)
    for index in (-1, 11, 12):
        with pytest.raises(ProofError, match=f"entry {index} cannot be in a tree of 11"):
            verify_inclusion(leaf, index, head, good.proof)
    for hashes in ((*good.proof[:-1], bytes(31)), (bytes(33), *good.proof[1:])):
        with pytest.raises(ProofError, match="every hash of a proof has 32 bytes"):
            verify_inclusion(leaf, 3, head, hashes)
    with pytest.raises(ProofError, match="every hash of a proof has 32 bytes"):
        verify_inclusion(leaf[:-1], 3, head, good.proof)
    with pytest.raises(
        ProofError, match=f"the proof has {len(good.proof)} hashes where {len(good.proof) + 1} are needed"
    ):
        verify_inclusion(leaf, 3, head, good.proof[:-1])


@pytest.mark.parametrize(("old", "new"), [(1, 2), (3, 7), (4, 7), (6, 11), (8, 11), (7, 8)])
def test_a_tree_has_grown_out_of_its_own_older_one_and_out_of_no_other(old, new):
    heads = {(log.signer.key.name, size): log.signed(size).head for log in (HERE, THERE) for size in (old, new)}
    names = (FIRST.key.name, SECOND.key.name)
    for log, name, other in ((HERE, *names), (THERE, *names[::-1])):
        proof = consistency_proof(old, new, log.nodes)
        verify_consistency(heads[name, old], heads[name, new], proof)
        for before, after in ((other, name), (name, other), (other, other)):
            with pytest.raises(
                ProofError, match=f"the tree of {new} entries does not begin with the tree of {old}: the log"
            ):
                verify_consistency(heads[before, old], heads[after, new], proof)
        with pytest.raises(ProofError, match=f"a tree of {new} cannot be shown to have grown into one of {old}"):
            verify_consistency(heads[name, new], heads[name, old], proof)
        for at in range(len(proof)):
            changed = (*proof[:at], bytes(32), *proof[at + 1 :])
            with pytest.raises(ProofError, match="the log forked"):
                verify_consistency(heads[name, old], heads[name, new], changed)
            with pytest.raises(ProofError, match="every hash of a proof has 32 bytes"):
                verify_consistency(heads[name, old], heads[name, new], (*proof[:at], bytes(31), *proof[at + 1 :]))
        for other_length in (proof[:-1], (*proof, bytes(32))):
            with pytest.raises(ProofError, match=r"hashes where \d+ are needed"):
                verify_consistency(heads[name, old], heads[name, new], other_length)


def test_a_tree_has_grown_into_itself_without_a_proof_and_out_of_nothing_in_no_way():
    head, other, empty = HERE.signed(7).head, THERE.signed(7).head, Frontier().head
    verify_consistency(head, head, ())
    for before, after in ((head, other), (other, head)):
        with pytest.raises(ProofError, match="the log forked"):
            verify_consistency(before, after, ())
    for after in (head, empty):
        with pytest.raises(ProofError, match="a tree of 0 cannot be shown to have grown"):
            verify_consistency(empty, after, ())


def test_provers_read_all_nodes_at_once_and_say_how_many_are_missing():
    for make, wanted in (
        (lambda read: inclusion_proof(3, 11, read), inclusion_nodes(3, 11)),
        (lambda read: consistency_proof(6, 11, read), consistency_nodes(6, 11)),
        (lambda read: Frontier.read(11, read), frontier_nodes(11)),
    ):
        asked = []
        make(lambda nodes, asked=asked: (asked.append(list(nodes)), HERE.nodes(nodes))[1])
        assert asked == [wanted]
        assert len(wanted) > 2
        for missing in (1, 2):
            said = f"the stored tree lacks {missing} of {len(wanted)} nodes; restore it from a backup"
            with pytest.raises(ProofError, match=re.escape(said)):
                make(lambda nodes, missing=missing: HERE.nodes(nodes[missing:]))
    assert (inclusion_nodes(11, 11), inclusion_nodes(-1, 11), consistency_nodes(0, 11), consistency_nodes(12, 11)) == (
        [],
        [],
        [],
        [],
    )
    for index in (-1, 11):
        with pytest.raises(UsageError, match=f"there is no entry {index} in a tree of 11"):
            inclusion_proof(index, 11, HERE.nodes)
    for old, new in ((0, 11), (12, 11)):
        with pytest.raises(UsageError, match=f"not {old} and {new}"):
            consistency_proof(old, new, HERE.nodes)
    assert Frontier.read(0, HERE.nodes) == Frontier()


def test_a_frontier_grows_in_steps_as_at_once_and_every_node_is_completed_once():
    whole, nodes = Frontier().grow(HERE.leaves)
    for cut in range(12):
        first, before = Frontier().grow(HERE.leaves[:cut])
        second, after = first.grow(HERE.leaves[cut:])
        assert (second, before | after) == (whole, nodes)
        assert not before.keys() & after.keys()
        assert first == Frontier.read(cut, HERE.nodes)
    assert (whole.size, len(whole.hashes), len(nodes)) == (11, 3, 11 + 5 + 2 + 1)
    for size, hashes in ((-1, ()), (1, ()), (3, (bytes(32),)), (2, (bytes(32), bytes(32)))):
        with pytest.raises(UsageError, match="one hash for each 1 in its binary size"):
            Frontier(size, hashes)
    for short in ((bytes(31), bytes(32)), (bytes(32), bytes(33))):
        with pytest.raises(UsageError, match="every hash of a frontier has 32 bytes"):
            Frontier(3, short)


# ------------------------------------------------------------------ proofs as text


def test_a_proof_that_travels_is_these_lines():
    good, signed = entry_of(HERE, 3, 7), HERE.signed(7)
    lines = ["c2sp.org/tlog-proof@v1", f"extra {encoded(b'here 3')}", "index 3", *map(encoded, good.proof)]
    text = "".join(f"{line}\n" for line in [*lines, ""]).encode() + signed.to_bytes()
    assert good.to_bytes() == text
    assert LoggedEntry.from_bytes(text) == good
    growth = Growth(5, consistency_proof(5, 7, HERE.nodes), signed)
    asked = "".join(f"{line}\n" for line in ["old 5", *map(encoded, growth.proof), ""]).encode() + signed.to_bytes()
    assert growth.to_bytes() == asked
    assert Growth.from_bytes(asked) == growth


HEADER = "a proof begins with c2sp.org/tlog-proof@v1, the entry and its index"
DAMAGED = {
    "no entry": (1, [], "a line of the proof begins with 'extra'"),
    "no index": (2, [], "a line of the proof begins with 'index'"),
    "another header": (0, ["c2sp.org/tlog-proof@v2"], HEADER),
    "no header": (0, [], HEADER),
    "another name": (1, ["entry aGVyZSAz"], "a line of the proof begins with 'extra'"),
    "an entry of no bytes": (1, ["extra "], "an entry has 1 to 65535 bytes"),
    "an index in words": (2, ["index three"], "a number is written in digits"),
    "an index beyond the tree": (2, ["index 7"], "the checkpoint does not reach the entry"),
    "a hash cut short": (3, [encoded(bytes(31))], "a hash has 32 bytes"),
    "64 hashes": (3, [encoded(bytes(32))] * 62, "a proof has at most 63 hashes of 32 bytes"),
    "a letter that is not ASCII": (2, ["index \u00b3"], "a proof has ASCII lines"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_proof_with_one_line_changed_does_not_parse(name):
    place, instead, said = DAMAGED[name]
    header, _, note = entry_of(HERE, 3, 8).to_bytes().decode().partition("\n\n")
    lines = header.split("\n")
    assert len(lines) == 6
    if "64" in name:
        note = entry_of(HERE, 3, 8).checkpoint.to_bytes().decode()
    if name == "an index beyond the tree":
        note = HERE.signed(7).to_bytes().decode()
    lines[place : place + 1] = instead
    with pytest.raises(MalformedMessageError, match=re.escape(said)):
        LoggedEntry.from_bytes(f"{chr(10).join(lines)}\n\n{note}".encode())


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["5"], "a line of the proof begins with 'old'"),
        (["old 05"], "a number is written in digits"),
        (["old 8"], "the old size is beyond the checkpoint's"),
        (["old 5", encoded(bytes(31))], "a hash has 32 bytes"),
        (["old 5", *[encoded(bytes(32))] * 64], "a proof has at most 63 hashes"),
    ],
)
def test_a_wish_for_a_cosignature_with_one_line_changed_does_not_parse(lines, said):
    with pytest.raises(MalformedMessageError, match=re.escape(said)):
        Growth.from_bytes("".join(f"{line}\n" for line in [*lines, ""]).encode() + HERE.signed(7).to_bytes())
    for size in (0, 7):
        assert Growth(size, (), HERE.signed(7)).old_size == size


@pytest.mark.parametrize("kind", [LoggedEntry, Growth])
def test_a_proof_is_no_longer_than_the_longest_entry_and_note(kind):
    most = 64 * 1024 + 2 * 65_535
    with pytest.raises(MalformedMessageError, match=f"a proof has at most {most} bytes"):
        kind.from_bytes(b"x" * (most + 1))
    with pytest.raises(MalformedMessageError, match="a proof has ASCII lines"):
        kind.from_bytes(b"x" * most)


# ------------------------------------------------------------------ whom one believes

NAMES = {"one": ONE.key, "two": TWO.key, "three": THREE.key}
KEYS = {name: key.to_text() for name, key in NAMES.items()}
NAMED = [f"witness {name} {key} https://{name}.example" for name, key in KEYS.items()]


LOG_LINE = f"log {FIRST.key.to_text()}"


def policy(*lines, log=LOG_LINE):
    return LogPolicy.from_text("\n".join([log, *NAMED, *lines]))


@pytest.mark.parametrize(
    ("lines", "counted", "threshold"),
    [
        (("group some any two three", "quorum some"), "two three", 1),
        (("group some all two three", "quorum some"), "two three", 2),
        (("group some all one two three", "quorum some"), "one two three", 3),
        (("group some 1 three", "quorum some"), "three", 1),
        (("group some 002 one three", "quorum some"), "one three", 2),
        (("group some 2 one three", "group other any one two three", "quorum other"), "one two three", 1),
        (("group some 2 one three", "group other any two", "quorum some"), "one three", 2),
        (("group some 2 one three", "quorum two"), "two", 1),
        (("group some 2 one three", "quorum none"), "", 0),
        (("# quorum one", "", "   ", "quorum three"), "three", 1),
    ],
)
def test_a_quorum_is_of_those_that_it_names_and_of_as_many(lines, counted, threshold):
    read = policy(*lines)
    assert read.log_key == FIRST.key
    assert read.witnesses == tuple(NamedWitness(key, f"https://{name}.example") for name, key in NAMES.items())
    assert sorted(read.counted, key=repr) == sorted((NAMES[name] for name in counted.split()), key=repr)
    assert read.threshold == threshold
    again = LogPolicy.from_text(read.to_text())
    assert (again.log_key, again.witnesses, set(again.counted), again.threshold) == (
        read.log_key,
        read.witnesses,
        set(read.counted),
        threshold,
    )


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (("group some 0 one", "quorum some"), "line 5: a group needs one to all of its different members"),
        (("group some 1001 one", "quorum some"), "line 5: a group needs one to all"),
        (("group some -1 one", "quorum some"), "line 5: a group needs one to all"),
        (("group some most one", "quorum some"), "line 5: a group needs one to all"),
        (("group some any", "quorum some"), "line 5: a group needs one to all"),
        (("group some all", "quorum some"), "line 5: a group needs one to all"),
        (("group some all one one", "quorum some"), "line 5: a group needs one to all"),
        (("group some 3 one two", "quorum some"), "line 5: a group needs one to all"),
        (
            ("group some any one", "group other any some", "quorum other"),
            "line 6: a group has witnesses that stand above",
        ),
        (("group two any one", "quorum two"), "line 5 is none of log, witness, group and quorum, or comes twice"),
        (("group some any one", "group some any two", "quorum some"), "line 6 is none of"),
        (("group some any one", f"witness some {KEYS['one']}", "quorum some"), "line 6 is none of"),
        (("group none any one", "quorum none"), "line 5 is none of"),
        (("quorum some", "group some any one"), "line 5 is none of"),
        (("quorum one", "quorum one"), "line 6 is none of"),
        (("quorum one two",), "line 5 is none of"),
        (("quorum",), "line 5 is none of"),
        (("witness four", "quorum one"), "line 5 is none of"),
        (("witnesses four", "quorum one"), "line 5 is none of"),
        ((f"log {SECOND.key.to_text()}", "quorum one"), "a policy names one log and one quorum"),
        ((f"log {SECOND.key.to_text()} https://a https://b", "quorum one"), "line 5 is none of"),
        (("log nothing", "quorum one"), "line 5: a verifier key is written"),
        (("witness four nothing", "quorum one"), "line 5: a verifier key is written"),
        (
            (f"witness four {SECOND.key.to_text()}", "quorum one"),
            "line 5: log.example/two is a witness, and is known by",
        ),
        ((), "a policy names one log and one quorum, which may be none"),
    ],
)
def test_a_policy_that_says_something_else_is_none_and_the_line_is_named(lines, said):
    with pytest.raises(UsageError, match=f"^{re.escape(said)}"):
        policy(*lines)


def test_a_log_may_have_an_address_that_nobody_asks_and_a_group_stands_below_its_witnesses():
    assert policy("quorum none", log=f"log {FIRST.key.to_text()} https://log.example") == policy("quorum none")
    with pytest.raises(UsageError, match="line 2: a group has witnesses that stand above it"):
        LogPolicy.from_text("\n".join([f"log {FIRST.key.to_text()}", "group some any one", *NAMED, "quorum some"]))


def test_a_policy_is_of_different_keys_each_of_its_kind():
    named = tuple(NamedWitness(signer.key) for signer in (ONE, TWO))
    with pytest.raises(UsageError, match="a log is known by its plain note key"):
        LogPolicy(FIRST.as_cosigner().key, named)
    with pytest.raises(UsageError, match="and is known by its cosignature key"):
        NamedWitness(FIRST.key)
    with pytest.raises(UsageError, match="no two the same"):
        LogPolicy(FIRST.key, (*named, NamedWitness(FIRST.as_cosigner().key)))
    for threshold in (-1, 2):
        with pytest.raises(UsageError, match="the threshold is 0 to 1"):
            LogPolicy(FIRST.key, named, (TWO.key,), threshold)
    with pytest.raises(UsageError, match="only witnesses that are named count"):
        LogPolicy(FIRST.key, named, (TWO.key, THREE.key), 1)


@pytest.mark.parametrize(
    ("text", "address"),
    [("", None), (" https://w.example/a/", "https://w.example/a"), (" http://127.0.0.1:81//", "http://127.0.0.1:81")],
)
def test_a_witness_is_a_key_and_perhaps_an_address_without_its_last_slashes(text, address):
    assert NamedWitness.from_text(TWO.key.to_text() + text) == NamedWitness(TWO.key, address)
    with pytest.raises(UsageError, match="a witness has a key and perhaps an address"):
        NamedWitness.from_text(f"{TWO.key.to_text()} https://a.example https://b.example")
    with pytest.raises(UsageError, match="a verifier key is written"):
        NamedWitness.from_text("")
    assert NoteSignature.from_line(FIRST.sign("x\n").to_line()) == FIRST.sign("x\n")
