"""Receipts of the log that a device must not believe, for both languages: each is right but for what its name says.

The device (`tests/client/rights/test_receipts.py`) and the page (`web/tests/log.test.ts`) refuse each of them, and
believe those that are whole. Whoever wants two of three witnesses believes `WITNESSED`, and none of `UNWITNESSED`.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

from federation.statements import canonical_bytes
from federation.transparency import (
    Checkpoint,
    Frontier,
    KeyKind,
    LoggedEntry,
    NoteSigner,
    SignedCheckpoint,
    consistency_proof,
    inclusion_proof,
)
from federation.transparency.notes import SignedNote
from federation.wire.logged import comparison_facts

NOW = 1_900_000_000
KEY_ID, TRANSCRIPT, REPLY = bytes(range(32)), b"a transcript", b"a reply"
REQUESTER, PURPOSE = "example.org", "door-access"
SIGNER, IMPOSTOR, ANOTHER = (
    NoteSigner(name, KeyKind.NOTE, secret)
    for name, secret in (
        ("example.org/log", bytes(range(32))),
        ("example.org/log", bytes(32)),
        ("example.org/other", bytes(range(32))),
    )
)
WITNESSES = tuple(
    NoteSigner(f"witness.example.org/{name}", KeyKind.COSIGNATURE, bytes([number] * 32))
    for number, name in enumerate(("one", "two", "three", "uncounted"), start=1)
)
"""The first three count, and two of them are wanted."""
FACTS = comparison_facts(key_id=KEY_ID, transcript=TRANSCRIPT, reply=REPLY)
FIRST = [b"an entry that the device saw"]


def receipt(  # the parts of one receipt, each of which may be another
    *,
    facts=FACTS,
    kind="attempt",
    said=(),
    written=None,
    before=(*FIRST, b"one more"),
    after=(b"and one", b"and another"),
    signer=SIGNER,
    time=NOW,
    old=1,
    opening=None,
    change=lambda text: text,
    grown=lambda proof: proof,
    cosigned=(),
):
    """A comparison in a log that the device saw with one entry. Everything fits together, whatever is changed."""
    salt = bytes([7] * 32)
    commitment = hashlib.sha256(b"intaglio-log-commitment/1\0" + kind.encode() + b"\0" + salt + canonical_bytes(facts))
    stated = {"commitment": commitment.hexdigest(), "kind": kind, "time": NOW - 5, "version": 1}
    if kind == "attempt":
        stated |= {"outcome": "opened", "purpose": PURPOSE, "requester": REQUESTER}
    entry = (written or canonical_bytes)(stated | dict(said))
    frontier, nodes = Frontier().grow([*before, entry, *after])

    def read(wanted):
        return {node: nodes[node] for node in wanted}

    checkpoint = SignedCheckpoint.sign(Checkpoint(signer.key.name, frontier.head), signer, time=time)
    for sign in cosigned:
        checkpoint = SignedCheckpoint(sign(checkpoint.note))
    logged = LoggedEntry(entry, len(before), inclusion_proof(len(before), frontier.size, read), checkpoint)
    shown = opening or canonical_bytes({"facts": facts, "kind": kind, "salt": salt.hex()})
    consistency = consistency_proof(old, frontier.size, read) if old else ()
    return {
        "logged": change(logged.to_bytes().decode()),
        "opening": shown.decode(),
        "consistency": [one.hex() for one in grown(consistency)],
    }


def memory():
    """The checkpoint that the device remembers."""
    head = Frontier().grow(FIRST)[0].head
    return SignedCheckpoint.sign(Checkpoint(SIGNER.key.name, head), SIGNER, time=NOW - 60)


def _line(text, number, change):
    lines = text.split("\n")
    lines[number] = change(lines[number])
    return "\n".join(lines)


def _index(text, change):
    at = next(number for number, line in enumerate(text.split("\n")) if line.startswith("index "))
    return _line(text, at, change)


def _proof(text, change):
    lines = text.split("\n")
    begin = next(number for number, line in enumerate(lines) if line.startswith("index ")) + 1
    end = lines.index("", begin)
    return "\n".join([*lines[:begin], *change(lines[begin:end]), *lines[end:]])


def _opening(**changes):
    return canonical_bytes({"facts": FACTS, "kind": "attempt", "salt": bytes([7] * 32).hex()} | changes)


def _signature(text):
    return text[:-8] + ("A" if text[-8] != "A" else "B") + text[-7:]


WHOLE = {"in the middle": receipt(), "at the end": receipt(after=())}
DAMAGED = {
    "about another reply": receipt(facts=FACTS | {"reply": hashlib.sha256(b"another").hexdigest()}),
    "about another transcript": receipt(facts=FACTS | {"transcript": hashlib.sha256(b"another").hexdigest()}),
    "about another key": receipt(facts=FACTS | {"key_id": bytes(32).hex()}),
    "with a fact more": receipt(facts=FACTS | {"score": "1"}),
    "with a fact less": receipt(facts={name: FACTS[name] for name in ("key_id", "reply")}),
    "without facts": receipt(facts={}),
    "of another kind": receipt(kind="renewal"),
    "that was refused": receipt(said={"outcome": "not-covered"}),
    "of another requester": receipt(said={"requester": "example.com"}),
    "for another purpose": receipt(said={"purpose": "sign-in"}),
    "of another version": receipt(said={"version": 2}),
    "of a time that is no number": receipt(said={"time": "now"}),
    "with a space in its entry": receipt(written=lambda stated: json.dumps(stated, sort_keys=True).encode()),
    "with a key twice": receipt(written=lambda stated: b'{"kind":"attempt",' + canonical_bytes(stated)[1:]),
    "with an entry that is no JSON": receipt(written=lambda _: b"an entry"),
    "with another salt": receipt(opening=_opening(salt=bytes(32).hex())),
    "with a short salt": receipt(opening=_opening(salt="07")),
    "with an opening of another kind": receipt(opening=_opening(kind="renewal")),
    "with an opening of other facts": receipt(opening=_opening(facts=FACTS | {"reply": "00" * 32})),
    "with an opening that is not canonical": receipt(opening=json.dumps(json.loads(_opening())).encode()),
    "without an opening": receipt(opening=b"{}"),
    "without anything": receipt(change=lambda _: ""),
    "without a signature": receipt(change=lambda text: text[: text.rindex("\u2014")]),
    "with a signature of other bytes": receipt(change=_signature),
    "signed by an impostor": receipt(signer=IMPOSTOR),
    "of another log": receipt(signer=ANOTHER),
    "signed too long ago": receipt(time=NOW - 3_700),
    "signed in the future": receipt(time=NOW + 3_700),
    "at another place": receipt(change=lambda text: _index(text, lambda _: "index 1")),
    "beyond the tree": receipt(change=lambda text: _index(text, lambda _: "index 5")),
    "at a place that is no number": receipt(change=lambda text: _index(text, lambda _: "index 02")),
    "with a hash less": receipt(change=lambda text: _proof(text, lambda hashes: hashes[1:])),
    "with a hash more": receipt(change=lambda text: _proof(text, lambda hashes: [*hashes, hashes[0]])),
    "with its hashes turned round": receipt(change=lambda text: _proof(text, lambda hashes: hashes[::-1])),
    "with its last newline gone": receipt(change=lambda text: text[:-1]),
    "without proof of growth": receipt(grown=lambda _: ()),
    "with a proof of growth of a hash more": receipt(grown=lambda proof: (*proof, proof[0])),
    "with a proof of growth turned round": receipt(grown=lambda proof: proof[::-1]),
    "with the growth of another tree": receipt(old=2),
    "of a log that forked": receipt(before=(b"another first entry", b"one more")),
}  # fmt: skip


def _by(number, *, time=NOW, text=None):
    """Adds what a witness signs of a note."""

    def sign(note):
        return SignedNote(note.text, (*note.signatures, WITNESSES[number].sign(text or note.text, time=time)))

    return sign


def _with_wrong_name(note):
    """The signature of a witness who counts, under the name of another one who counts."""
    own = WITNESSES[1].sign(note.text, time=NOW)
    return SignedNote(note.text, (*note.signatures, replace(own, name=WITNESSES[0].key.name)))


def _of_the_log(note):
    """The log's own cosignature once more: it is no witness of itself."""
    return SignedNote(note.text, (*note.signatures, SIGNER.as_cosigner().sign(note.text, time=NOW + 1)))


WITNESSED = {
    "by two": receipt(cosigned=(_by(0), _by(2))),
    "by all": receipt(cosigned=(_by(2), _by(1), _by(0))),
    "by two and a stranger": receipt(cosigned=(_by(3), _by(1), _by(0))),
    "by two, one of whom did long ago too": receipt(cosigned=(_by(0, time=NOW - 9000), _by(0), _by(1))),
    "by two, and by a third long ago": receipt(cosigned=(_by(0), _by(1), _by(2, time=NOW - 9000))),
}
UNWITNESSED = {
    "by nobody": receipt(),
    "by one": receipt(cosigned=(_by(1),)),
    "by one twice": receipt(cosigned=(_by(1), _by(1, time=NOW - 1))),
    "by one and a stranger": receipt(cosigned=(_by(1), _by(3))),
    "by one and the log": receipt(cosigned=(_by(1), _of_the_log)),
    "by one, under two names": receipt(cosigned=(_by(1), _with_wrong_name)),
    "by two, one of them long ago": receipt(cosigned=(_by(0), _by(1, time=NOW - 3_700))),
    "by two, one of them in the future": receipt(cosigned=(_by(0), _by(1, time=NOW + 3_700))),
    "by two, one of them another tree": receipt(cosigned=(_by(0), _by(1, text="example.org/log\n1\nAAAA\n"))),
    "by two, and a third signed something else": receipt(cosigned=(_by(0), _by(1), _by(2, text="something else\n"))),
}
