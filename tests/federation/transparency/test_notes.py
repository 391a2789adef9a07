"""Notes, checkpoints, cosignatures, proofs: published examples, forgeries, and any bytes at all."""

from __future__ import annotations

import json
import pickle
import re
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.transparency import (
    Checkpoint,
    Frontier,
    Growth,
    KeyKind,
    LoggedEntry,
    NoteSignature,
    NoteSigner,
    SignedCheckpoint,
    TreeHead,
    VerifierKey,
    inclusion_proof,
)
from federation.transparency.notes import SignedNote

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/transparency/notes.json").read_text())
ORIGIN = "log.example/faces"
SIGNER = NoteSigner(ORIGIN, KeyKind.NOTE, b"\1" * 32)
WITNESS = NoteSigner("witness.example/w1", KeyKind.COSIGNATURE, b"\2" * 32)
ENTRIES = [b"first", b"second", b"third"]
NODES = Frontier().grow(ENTRIES)[1]
HEAD = Frontier().grow(ENTRIES)[0].head
NOW = 1_900_000_000


def a_checkpoint(head=HEAD, signer=SIGNER, time=NOW):
    return SignedCheckpoint.sign(Checkpoint(signer.key.name, head), signer, time=time)


def a_logged_entry():
    proof = inclusion_proof(1, 3, lambda wanted: {node: NODES[node] for node in wanted})
    return LoggedEntry(b"second", 1, proof, a_checkpoint())


# ------------------------------------------------------------------ published examples


def test_the_published_key_signs_the_published_note():
    note, key = SignedNote.from_bytes(VECTORS["note"].encode()), VerifierKey.from_text(VECTORS["verifier_key"])
    assert note.verified([key]) == {key: None}
    signer = NoteSigner.from_text(VECTORS["signing_key"])
    assert signer.key == key
    assert (signer.sign(note.text),) == note.signatures
    assert (key.to_text(), signer.secret_text()) == (VECTORS["verifier_key"], VECTORS["signing_key"])


def test_the_published_checkpoint_is_read_and_written():
    data = VECTORS["checkpoint"].encode()
    signed = SignedCheckpoint.from_bytes(data)
    assert signed.checkpoint.origin == "example.com/behind-the-sofa"
    assert signed.head.size == 20852163
    cosignature = signed.note.signatures[1]
    assert cosignature.name == "witness.example.com/w1"
    assert int.from_bytes(cosignature.value[:8], "big") == VECTORS["cosignature_time"]
    assert signed.to_bytes() == data


def test_the_published_witness_request_is_read_and_written():
    growth = Growth.from_bytes(VECTORS["growth"].encode())
    assert (growth.old_size, len(growth.proof), growth.checkpoint.head.size) == (20852014, 4, 20852163)
    assert growth.to_bytes() == VECTORS["growth"].encode()


def test_a_cosignature_is_over_header_time_and_text():
    text = a_checkpoint().note.text
    signature = WITNESS.sign(text, time=NOW)
    message = f"cosignature/v1\ntime {NOW}\n{text}".encode()
    assert signature.value == NOW.to_bytes(8, "big") + WITNESS.private_key.sign(message)
    assert WITNESS.key.verify(text, signature) == NOW


# ------------------------------------------------------------------ signatures


def test_a_log_signs_plainly_and_with_the_time():
    signed = a_checkpoint()
    assert signed.require_signed_by(SIGNER.key) == NOW
    assert [s.name for s in signed.note.signatures] == [ORIGIN, ORIGIN]
    assert len({s.key_id for s in signed.note.signatures}) == 2


def test_one_flipped_bit_anywhere_breaks_a_checkpoint():
    data = a_checkpoint().to_bytes()
    words = (
        r"^the checkpoint (is of another log than|lacks a signature of) |^the signature of \S+ does not verify$"
        r"|^a field is not base64|^a signature line |^a note has a text, |^the text of a note ends in a newline"
    )
    for position in range(len(data)):
        broken = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        with pytest.raises((MalformedMessageError, ProofError), match=words):
            SignedCheckpoint.from_bytes(broken).require_signed_by(SIGNER.key)


def test_another_key_of_the_same_name_is_not_the_log():
    impostor = NoteSigner(ORIGIN, KeyKind.NOTE, b"\3" * 32)
    with pytest.raises(ProofError, match="lacks a signature"):
        a_checkpoint(signer=impostor).require_signed_by(SIGNER.key)


def test_another_log_is_not_the_log():
    other = NoteSigner("other.example", KeyKind.NOTE, b"\1" * 32)
    with pytest.raises(ProofError, match="another log"):
        a_checkpoint(signer=other).require_signed_by(SIGNER.key)


@pytest.mark.parametrize("left", [0, 1])
def test_a_checkpoint_with_one_of_the_logs_two_signatures_is_refused(left):
    note = a_checkpoint().note
    with pytest.raises(ProofError, match="lacks a signature"):
        SignedCheckpoint(SignedNote(note.text, (note.signatures[left],))).require_signed_by(SIGNER.key)


def test_a_forged_line_of_a_known_key_breaks_the_note_and_one_of_an_unknown_key_does_not():
    note = a_checkpoint().note
    forged = NoteSignature(WITNESS.key.name, WITNESS.key.key_id, bytes(72))
    with_forgery = SignedNote(note.text, (*note.signatures, forged))
    assert SIGNER.key in with_forgery.verified([SIGNER.key])
    with pytest.raises(ProofError, match="does not verify"):
        with_forgery.verified([SIGNER.key, WITNESS.key])


def test_a_signature_of_one_kind_is_no_signature_of_the_other():
    text = a_checkpoint().note.text
    plain = NoteSigner(WITNESS.key.name, KeyKind.NOTE, WITNESS.secret_bytes()).sign(text)
    disguised = NoteSignature(WITNESS.key.name, WITNESS.key.key_id, NOW.to_bytes(8, "big") + plain.value)
    with pytest.raises(ProofError, match=r"the signature of witness\.example/w1 does not"):
        WITNESS.key.verify(text, disguised)


def test_a_log_cannot_be_called_like_the_header_of_a_cosignature():
    with pytest.raises(UsageError, match="must not be called"):
        Checkpoint("cosignature/v1", HEAD)


def test_of_two_cosignatures_the_later_time_counts_and_a_new_one_replaces_the_old():
    note = a_checkpoint().note
    old, new = WITNESS.sign(note.text, time=5), WITNESS.sign(note.text, time=9)
    assert SignedNote(note.text, (new, old)).verified([WITNESS.key]) == {WITNESS.key: 9}
    assert note.with_signature(old).with_signature(new).signatures == (*note.signatures, new)


def test_a_signature_is_of_a_key_by_its_name_and_its_id_and_takes_the_place_of_no_other():
    """The log has two keys of one name, and anybody may have made one with another's id."""
    note, of_log = a_checkpoint().note, SIGNER.as_cosigner()
    own, dated = note.signatures
    later = of_log.sign(note.text, time=NOW + 1)
    assert note.with_signature(later).signatures == (own, later)
    namesake = replace(WITNESS.sign(note.text, time=5), name=SIGNER.key.name)
    twin = replace(WITNESS.sign(note.text, time=5), key_id=own.key_id)
    for other in (namesake, twin):
        assert note.with_signature(other).signatures == (own, dated, other)
        assert SignedNote(note.text, (other, own)).verified([SIGNER.key]) == {SIGNER.key: None}
        assert not any(key.has_signed(other) for key in (SIGNER.key, of_log.key, WITNESS.key))


def test_a_cosignature_from_beyond_the_end_of_time_is_refused():
    text, time = a_checkpoint().note.text, (1 << 63)
    value = WITNESS.private_key.sign(f"cosignature/v1\ntime {time}\n{text}".encode())
    signature = NoteSignature(WITNESS.key.name, WITNESS.key.key_id, time.to_bytes(8, "big") + value)
    with pytest.raises(ProofError, match="impossible time"):
        WITNESS.key.verify(text, signature)


def test_signers_state_a_time_exactly_when_they_cosign():
    for signer, time in [(SIGNER, NOW), (WITNESS, None), (WITNESS, -1), (WITNESS, 1 << 63)]:
        with pytest.raises(UsageError, match=r"a cosigner states a time from 0 to 2\^63 - 1,"):
            signer.sign("text\n", time=time)
    with pytest.raises(UsageError, match="its own origin"):
        SignedCheckpoint.sign(Checkpoint("other.example", HEAD), SIGNER, time=NOW)


def test_a_signing_key_shows_nothing_of_itself():
    assert SIGNER.secret_bytes().hex() not in repr(SIGNER)
    assert SIGNER.secret_text() not in repr(vars(SIGNER))
    with pytest.raises(TypeError, match="NoteSigner refuses pickling and copying"):
        pickle.dumps(SIGNER)


# ------------------------------------------------------------------ damaged texts

GOOD = a_checkpoint().to_bytes().decode()
ROOT_LINE = GOOD.split("\n")[2]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("", "a note has a text, a blank line and", id="empty"),
        pytest.param(GOOD[:-1], "a note has a text, a blank line and", id="last-newline-missing"),
        pytest.param(GOOD + "\n", "a note has a text, a blank line and", id="blank-line-at-the-end"),
        pytest.param(GOOD.replace("\n\n", "\n"), "a note has a text, a blank line and", id="no-blank-line"),
        pytest.param(GOOD.split("\n\n")[0] + "\n\n", "a note has a text, a blank line and", id="no-signature"),
        pytest.param(GOOD.replace("\n", "\r\n"), "a note has a text, a blank line and", id="carriage-returns"),
        pytest.param(GOOD.replace("\u2014", "-"), "a signature line begins with an em dash", id="hyphen-for-dash"),
        pytest.param(GOOD.replace("\u2014 ", "\u2014  "), "a signature line has a dash, a name and a", id="two-spaces"),
        pytest.param(GOOD.replace("\n3\n", "\n03\n"), "a number is written in digits without", id="leading-zero"),
        pytest.param(GOOD.replace("\n3\n", "\n+3\n"), "a number is written in digits without", id="plus-sign"),
        pytest.param(GOOD.replace("\n3\n", "\n-3\n"), "a number is written in digits without", id="negative-size"),
        pytest.param(GOOD.replace("\n3\n", "\n\u0663\n"), "a number is written in digits without", id="arabic-digit"),
        pytest.param(
            GOOD.replace("\n3\n", "\n9223372036854775808\n"),
            "a number is written in digits without",
            id="size-2-to-the-63",
        ),
        pytest.param(
            GOOD.replace("\n3\n", "\n" + "9" * 5000 + "\n"), "a number is written in digits without", id="endless-size"
        ),
        pytest.param(
            GOOD.replace("\n3\n", "\n0\n"), "the root of an empty tree is the hash of", id="empty-tree-with-a-root"
        ),
        pytest.param(GOOD.replace(ROOT_LINE, ROOT_LINE[:-4]), "a hash has 32 bytes", id="root-cut-short"),
        pytest.param(
            GOOD.replace(ROOT_LINE, ROOT_LINE.rstrip("=")), "a field is not base64", id="root-without-padding"
        ),
        pytest.param(GOOD.replace(ROOT_LINE, " " + ROOT_LINE), "a field is not base64", id="space-before-the-root"),
        pytest.param(GOOD.replace(ROOT_LINE + "\n", ""), "every line of a checkpoint ends in a newline", id="no-root"),
        pytest.param("\n" + GOOD, "a number is written in digits without", id="empty-origin"),
        pytest.param(
            GOOD.replace("\n3\n", "\t\n3\n"), "the text of a note ends in a newline and", id="tab-in-the-origin"
        ),
        pytest.param(
            GOOD.replace(f"\u2014 {ORIGIN}", f"\u2014 {ORIGIN}+x"),
            "a key name is not empty and holds no space,",
            id="plus-in-the-key-name",
        ),
        pytest.param(
            GOOD.replace(f"\u2014 {ORIGIN}", "\u2014 log\u00a0x"),
            "a key name is not empty and holds no space,",
            id="unicode-space-in-the-key-name",
        ),
        pytest.param(
            GOOD + "\u2014 x AAAAAA==\n", "a signature has a key id of 4 bytes and is", id="signature-of-no-bytes"
        ),
        pytest.param(GOOD + "\u2014 x AAA=\n", "a signature has a key id of 4 bytes and is", id="key-id-cut-short"),
        pytest.param(
            GOOD + "\u2014 x AAAAAAB=\n", "a field is not base64 in its one canonical", id="base64-with-spare-bits"
        ),
        pytest.param(
            GOOD + "\u2014 x AAAAAAA=\n" * 40, "a note has 1 to 32 signatures, not 42", id="too-many-signatures"
        ),
        pytest.param("x" * 70_000 + GOOD, "a note has at most 65536 bytes", id="too-long"),
    ],
)
def test_a_damaged_checkpoint_does_not_parse(text, words):
    SignedCheckpoint.from_bytes(GOOD.encode())
    with pytest.raises(MalformedMessageError, match=re.escape(words)):
        SignedCheckpoint.from_bytes(text.encode())


@pytest.mark.parametrize("data", [b"\xff\n\n\xe2\x80\x94 x AAAAAAA=\n", b"\xed\xa0\x80\n\n\xe2\x80\x94 x AAAAAAA=\n"])
def test_what_is_not_utf8_does_not_parse(data):
    with pytest.raises(MalformedMessageError, match="UTF-8"):
        SignedNote.from_bytes(data)


def test_sixteen_signatures_and_extension_lines_are_read():
    note = SignedNote(
        "origin\n0\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\nmore\n\u00e9\n", (SIGNER.sign("x\n"),) * 16
    )
    signed = SignedCheckpoint.from_bytes(note.to_bytes())
    assert signed.checkpoint.extensions == ("more", "\u00e9")
    assert signed.to_bytes() == note.to_bytes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "key is written"),
        ("name", "key is written"),
        ("name+c74f20a3", "key is written"),
        (VECTORS["verifier_key"].replace("c74f20a3", "c74f20a4"), "key does not belong to this name and key"),
        (VECTORS["verifier_key"].replace("c74f20a3", "C74F20A3"), "key does not belong to this name and key"),
        (
            VECTORS["verifier_key"].replace("PeterNeumann", "Peter Neumann"),
            "a key name is not empty and holds no space",
        ),
        (VECTORS["verifier_key"].replace("+ARpc", "+Axpc"), "a key begins with its kind"),
        (VECTORS["verifier_key"][:-4], "key has 32 bytes"),
        (VECTORS["verifier_key"] + "\n", "a field is not base64"),
    ],
)
def test_a_damaged_key_does_not_parse(text, words):
    with pytest.raises(MalformedMessageError, match=words):
        VerifierKey.from_text(text)
    with pytest.raises(MalformedMessageError, match=words) as caught:
        NoteSigner.from_text("PRIVATE+KEY+" + text)
    assert "ARpc" not in str(caught.value)


# ------------------------------------------------------------------ any bytes

_PIECES = st.sampled_from(
    [
        *(
            *GOOD.split("\n"),
            *VECTORS["growth"].split("\n"),
            "c2sp.org/tlog-proof@v1",
            "old 1",
            "extra QQ==",
            "index 0",
        ),
        *("", "\n", "\n\n", "\u2014 ", "0", "+", " ", "\x00", "\u2028", "AAAA"),
    ]
)
_NEARLY = st.lists(_PIECES, max_size=14).map(lambda pieces: "\n".join(pieces).encode())


@pytest.mark.parametrize("kind", [SignedNote, SignedCheckpoint, LoggedEntry, Growth], ids=lambda kind: kind.__name__)
@given(data=st.binary(max_size=200) | _NEARLY)
def test_any_bytes_give_a_value_that_writes_them_again_or_a_malformed_message(kind, data):
    try:
        value = kind.from_bytes(data)
    except MalformedMessageError:
        return
    assert value.to_bytes() == data


@given(position=st.integers(0, 10_000), replacement=st.binary(max_size=3), length=st.integers(0, 3))
@pytest.mark.parametrize(
    "value", [a_checkpoint(), a_logged_entry(), Growth(0, (), a_checkpoint())], ids=lambda v: type(v).__name__
)
def test_edited_bytes_give_a_value_that_writes_them_again_or_a_malformed_message(value, position, replacement, length):
    data = value.to_bytes()
    at = position % len(data)
    edited = data[:at] + replacement + data[at + length :]
    try:
        again = type(value).from_bytes(edited)
    except MalformedMessageError:
        return
    assert again.to_bytes() == edited


@given(st.text(max_size=40))
def test_any_text_gives_a_key_that_writes_it_again_or_a_malformed_message(text):
    try:
        key = VerifierKey.from_text(text)
    except MalformedMessageError:
        return
    assert key.to_text() == text


# ------------------------------------------------------------------ proofs that travel


def test_a_logged_entry_comes_back_and_holds_its_proof():
    logged = LoggedEntry.from_bytes(a_logged_entry().to_bytes())
    assert logged == a_logged_entry()
    logged.check_inclusion()
    with pytest.raises(ProofError, match="entry 1 is not in this tree of 3: the"):
        replace(logged, entry=b"another").check_inclusion()
    with pytest.raises(ProofError, match="entry 0 is not in this tree of 3: the"):
        replace(logged, index=0).check_inclusion()


@pytest.mark.parametrize(
    "change", [{"entry": b""}, {"entry": bytes(65_536)}, {"index": 3}, {"index": -1}, {"proof": (b"short",)}]
)
def test_an_impossible_logged_entry_cannot_be_built(change):
    with pytest.raises(
        UsageError, match=r"an entry has 1 to 65535 bytes|does not reach the entry|at most 63 hashes of 32 bytes"
    ):
        replace(a_logged_entry(), **change)


@pytest.mark.parametrize("change", [{"old_size": 4}, {"old_size": -1}, {"proof": (bytes(31),)}])
def test_an_impossible_growth_cannot_be_built(change):
    with pytest.raises(UsageError, match=r"a log does not grow backwards|at most 63 hashes of 32 bytes"):
        replace(Growth(0, (), a_checkpoint()), **change)


def test_a_checkpoint_of_the_empty_tree_signs_and_verifies():
    signed = a_checkpoint(TreeHead(0, Frontier().head.root))
    assert SignedCheckpoint.from_bytes(signed.to_bytes()).require_signed_by(SIGNER.key) == NOW
