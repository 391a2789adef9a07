"""A log in memory that can lie, and entries to put into one."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from client.log.watching import LogTrust
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    Checkpoint,
    Frontier,
    Growth,
    KeyKind,
    LoggedEntry,
    NoteSigner,
    Opening,
    PersonalEntry,
    PersonalKind,
    SignedCheckpoint,
    consistency_proof,
    inclusion_proof,
)
from server.log.storage import Addition

NOW = 1_900_000_000
ORIGIN = "log.example/faces"
SIGNER = NoteSigner(ORIGIN, KeyKind.NOTE, b"\1" * 32)
WITNESSES = [NoteSigner(f"witness.example/w{n}", KeyKind.COSIGNATURE, bytes([n]) * 32) for n in (2, 3, 4)]
TRUST = LogTrust(SIGNER.key)


def an_opening(number, kind=PersonalKind.ATTEMPT):
    return Opening(kind, {"session": number}, hashlib.sha256(b"salt %d" % number).digest())


def an_attempt(number, *, requester="example.org", purpose="door-access", outcome=AttemptOutcome.OPENED):
    return AttemptEntry(NOW + number, requester, purpose, outcome, an_opening(number).commitment)


def an_addition(number, subject=None):
    return Addition(an_attempt(number), an_opening(number) if subject else None, subject)


def some_entries(count):
    """Attempts of two requesters for two purposes, and every fifth an enrolment."""
    return [
        PersonalEntry(PersonalKind.ENROLMENT, NOW + n, an_opening(n, PersonalKind.ENROLMENT).commitment)
        if n % 5 == 0
        else an_attempt(n, requester=f"requester-{n % 2}", purpose=f"purpose-{n % 3 % 2}")
        for n in range(count)
    ]


@dataclass
class MemoryLog:
    """The honest one; a lie is an assignment."""

    leaves: list[bytes] = field(default_factory=lambda: [entry.to_bytes() for entry in some_entries(10)])
    signer: NoteSigner = field(default_factory=lambda: SIGNER)
    time: int = NOW
    shown: bytes | None = None

    def nodes(self, wanted):
        nodes = Frontier().grow(self.leaves)[1]
        return {node: nodes[node] for node in wanted}

    def signed(self, size=None):
        head = Frontier().grow(self.leaves[:size])[0].head
        return SignedCheckpoint.sign(Checkpoint(self.signer.key.name, head), self.signer, time=self.time)

    def checkpoint(self):
        return self.shown or self.signed().to_bytes()

    def entries(self, start, stop):
        return self.leaves[start:stop]

    def consistency_proof(self, old_size, new_size):
        return consistency_proof(old_size, new_size, self.nodes)

    def growth(self, old_size, new_size=None):
        signed = self.signed(new_size)
        proof = self.consistency_proof(old_size, signed.head.size) if old_size else ()
        return Growth(old_size, proof, signed)

    def logged(self, index):
        return LoggedEntry(
            self.leaves[index], index, inclusion_proof(index, len(self.leaves), self.nodes), self.signed()
        )


def cosigned(checkpoint, witnesses, *, time=NOW):
    note = checkpoint.note
    for witness in witnesses:
        note = note.with_signature(witness.sign(note.text, time=time))
    return SignedCheckpoint(note)
