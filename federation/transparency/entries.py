"""What the log says, and what it keeps to itself. Pure.

Theory of operation
-------------------
The log is public and can never forget, so no entry says who. Whatever is about a person stands behind a salted
commitment, ``SHA-256(tag || kind || salt || facts)`` with 32 fresh random bytes of salt: it cannot be guessed from the
facts, and it opens to nothing else. Salt and facts, the *opening*, are kept apart from the log; the person gets a copy.
Erasure destroys the operator's copy: what is left in the log is a number that nobody can connect with anyone.

In clear stand the kind and the time in seconds, and for attempts who asked, for what purpose, and how the request ended
if it was refused: usage per requester and purpose can be counted by everybody from the entries alone. Policies,
deployments and moratoria are about no person and stand in clear.

A tombstone says that somebody was erased, not who: its opening, which names the positions, is for that person alone.

An entry is canonical JSON: ASCII, keys sorted, no spaces. Any bytes give an entry or `MalformedMessageError`, and what
parses re-serialises identically.
"""

from __future__ import annotations

import enum
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from federation.errors import MalformedMessageError, ProofError, UsageError
from federation.secrecy import Secret
from federation.transparency.notes import foreign_input, from_base64, to_base64
from federation.transparency.proofs import MAX_ENTRY_BYTES

SALT_BYTES = 32
COMMITMENT_BYTES = 32
MAX_CONTENT_BYTES = 32 * 1024
UNKNOWN = "unknown"
"""Requester and purpose of a refused request that named none, or none that the public rules register."""
_VERSION = 1
_TAG = b"intaglio-log-commitment/1\0"
_MAX_TIME = (1 << 63) - 1
_NAME = re.compile(r"[a-z0-9](?:[a-z0-9._/-]{0,62}[a-z0-9])?")


class PersonalKind(enum.StrEnum):
    """What happened to somebody."""

    ENROLMENT = "enrolment"
    ATTEMPT = "attempt"
    REVOCATION = "revocation"
    RENEWAL = "renewal"
    ADMISSION = "admission"
    """Another device of the same person may enrol."""
    ERASURE = "erasure"
    """A tombstone: the openings of somebody's entries were destroyed."""


class PublicKind(enum.StrEnum):
    """What the operator declares to everybody."""

    POLICY = "policy"
    DEPLOYMENT = "deployment"
    MORATORIUM = "moratorium"
    RELEASE = "release"
    """A release manifest with the signatures of maker and auditor (`federation.release.manifest`)."""
    SOFTWARE = "software"
    """Which program runs, as the operator says: the signed provenance of its files, a DSSE envelope."""


class AttemptOutcome(enum.StrEnum):
    """What became of a request to verify. Whether the face matched is not in the log."""

    OPENED = "opened"
    """A session began."""
    NOT_COVERED = "not-covered"
    """Not enrolled, or no receipt covers requester and purpose: deliberately one word for both."""
    LIMITED = "limited"
    """Too many attempts."""
    REPLAYED = "replayed"
    """A nonce or session was used before."""
    PROHIBITED = "prohibited"
    """A red-line purpose, an unregistered deployment, or a moratorium."""
    INVALID = "invalid"
    """Malformed, or a signature that does not verify."""


@dataclass(frozen=True)
class PersonalEntry:
    """Something happened to somebody.

    Attributes:
        kind: what; attempts are `AttemptEntry`.
        time: seconds since 1970.
        commitment: to the facts, 32 bytes.
    """

    kind: Literal[
        PersonalKind.ENROLMENT,
        PersonalKind.REVOCATION,
        PersonalKind.RENEWAL,
        PersonalKind.ADMISSION,
        PersonalKind.ERASURE,
    ]
    time: int
    commitment: bytes

    def __post_init__(self) -> None:
        if self.kind not in set(PersonalKind) - {PersonalKind.ATTEMPT}:
            raise UsageError("an attempt says who asked and for what; build an AttemptEntry")
        _require_time(self.time)
        _require_commitment(self.commitment)

    def to_bytes(self) -> bytes:
        """The leaf."""
        return canonical(_fields(self.kind, self.time, commitment=self.commitment.hex()))


@dataclass(frozen=True)
class AttemptEntry:
    """Somebody was to be verified; or a number of requests were refused for one reason.

    Attributes:
        time: seconds since 1970.
        requester: who asked; 1 to 64 of ``a-z 0-9 . _ / -``.
        purpose: what for; likewise.
        outcome: what became of the request.
        commitment: to the facts, 32 bytes.
        count: of requests, 1 to 2^63 - 1. A comparison has an entry of its own.
    """

    time: int
    requester: str
    purpose: str
    outcome: AttemptOutcome
    commitment: bytes
    count: int = 1

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.requester) or not _NAME.fullmatch(self.purpose):
            raise UsageError("requester and purpose are 1 to 64 of a-z 0-9 . _ / - with a letter or digit at both ends")
        if isinstance(self.count, bool) or not isinstance(self.count, int) or not 1 <= self.count <= _MAX_TIME:
            raise UsageError("an entry is about a whole number of requests, one at least")
        if self.count > 1 and self.outcome is AttemptOutcome.OPENED:
            raise UsageError("each comparison has an entry of its own")
        _require_time(self.time)
        _require_commitment(self.commitment)

    @property
    def kind(self) -> Literal[PersonalKind.ATTEMPT]:
        """Always an attempt."""
        return PersonalKind.ATTEMPT

    def to_bytes(self) -> bytes:
        """The leaf."""
        return canonical(
            _fields(
                self.kind,
                self.time,
                commitment=self.commitment.hex(),
                outcome=self.outcome.value,
                purpose=self.purpose,
                requester=self.requester,
                **({"count": self.count} if self.count > 1 else {}),
            )
        )


@dataclass(frozen=True)
class PublicEntry:
    """The operator declared something.

    Attributes:
        kind: what.
        time: seconds since 1970.
        content: the signed document itself, 1 to 32768 bytes.
    """

    kind: PublicKind
    time: int
    content: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not 0 < len(self.content) <= MAX_CONTENT_BYTES:
            raise UsageError(f"a public entry has 1 to {MAX_CONTENT_BYTES} bytes of content, not {len(self.content)}")
        _require_time(self.time)

    def to_bytes(self) -> bytes:
        """The leaf."""
        return canonical(_fields(self.kind, self.time, content=to_base64(self.content)))


LogEntry = PersonalEntry | AttemptEntry | PublicEntry


def entry_from_bytes(data: bytes) -> LogEntry:
    """Reads a leaf.

    Raises:
        MalformedMessageError: not an entry.
    """
    fields = _object(data, "an entry", limit=MAX_ENTRY_BYTES)
    try:
        with foreign_input():
            entry = _entry(fields)
            same = entry.to_bytes() == data
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MalformedMessageError("an entry lacks a field, or a field has the wrong kind of value") from error
    if not same:  # another version, more fields, another order or spelling
        raise MalformedMessageError("an entry is not in its one canonical form")
    return entry


class Opening(Secret):
    """Salt and facts behind a commitment. Personal data: kept apart from the log, destroyed by erasure.

    Args:
        kind: of the entry.
        facts: what happened to whom; see `canonical`. At most 32 kB.
        salt: 32 bytes, random and used once.
    """

    def __init__(self, kind: PersonalKind, facts: Mapping[str, Any], salt: bytes) -> None:
        if len(salt) != SALT_BYTES:
            raise UsageError(f"a salt has {SALT_BYTES} bytes")
        self.kind = kind
        self._content = canonical(facts)
        self._salt = salt
        if len(self._content) > MAX_CONTENT_BYTES:
            raise UsageError(f"the facts take at most {MAX_CONTENT_BYTES} bytes")

    @classmethod
    def from_secret_bytes(cls, data: bytes) -> Opening:
        """Reads what `secret_bytes` wrote.

        Raises:
            MalformedMessageError: not that. Nothing of it is quoted.
        """
        fields = _object(data, "an opening", limit=2 * MAX_CONTENT_BYTES)
        try:
            with foreign_input():
                opening = cls(PersonalKind(fields["kind"]), fields["facts"], bytes.fromhex(fields["salt"]))
                same = opening.secret_bytes() == data
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError):
            # `from None`: the cause may quote the facts.
            raise MalformedMessageError("an opening lacks a field, or a field has the wrong kind of value") from None
        if not same:
            raise MalformedMessageError("an opening is not in its one canonical form")
        return opening

    def secret_bytes(self) -> bytes:
        """Canonical JSON with kind, salt and facts; personal data."""
        return canonical({"kind": self.kind.value, "salt": self._salt.hex(), "facts": self.reveal()})

    def reveal(self) -> dict[str, Any]:
        """The facts; personal data."""
        facts: dict[str, Any] = json.loads(self._content)
        return facts

    @property
    def commitment(self) -> bytes:
        """32 bytes: hides the facts, and nothing else opens it."""
        kind = self.kind.value.encode() + b"\0"  # ends at its zero byte, and the salt has one length: no two readings
        return hashlib.sha256(_TAG + kind + self._salt + self._content).digest()

    def check(self, entry: LogEntry) -> None:
        """Checks that this is what stands behind an entry.

        Raises:
            ProofError: it is not.
        """
        if isinstance(entry, PublicEntry) or entry.kind is not self.kind or entry.commitment != self.commitment:
            raise ProofError("the opening does not belong to this entry")


def canonical(facts: Mapping[str, Any]) -> bytes:
    """Canonical JSON: ASCII, keys sorted, no spaces, no fractions.

    Raises:
        UsageError: no object, or a value in it that JSON writes in more than one way, or cannot write.
    """
    if not isinstance(facts, Mapping):
        raise UsageError("facts are an object: a name for each")
    _require_plain(facts)
    return json.dumps(facts, sort_keys=True, separators=(",", ":")).encode("ascii")


def _require_plain(value: object) -> None:
    match value:
        case None | bool() | str():
            return
        case int() if abs(value) <= _MAX_TIME:
            return
        case list() | tuple():
            for item in value:
                _require_plain(item)
        case Mapping() if all(isinstance(key, str) for key in value):
            for item in value.values():
                _require_plain(item)
        case _:
            raise UsageError("facts are texts, whole numbers below 2^63, true, false, null, lists and objects")


def _fields(kind: PersonalKind | PublicKind, time: int, **others: str | int) -> dict[str, str | int]:
    return {"kind": kind.value, "time": time, "version": _VERSION, **others}


def _entry(fields: dict[str, Any]) -> LogEntry:
    kind, time = fields["kind"], fields["time"]
    if kind in set(PublicKind):
        return PublicEntry(PublicKind(kind), time, from_base64(fields["content"]))
    commitment = bytes.fromhex(fields["commitment"])
    match PersonalKind(kind):
        case PersonalKind.ATTEMPT:
            outcome = AttemptOutcome(fields["outcome"])
            count = fields.get("count", 1)
            return AttemptEntry(time, fields["requester"], fields["purpose"], outcome, commitment, count)
        case other:
            return PersonalEntry(other, time, commitment)


def _object(data: bytes, name: str, *, limit: int) -> dict[str, Any]:
    if len(data) > limit:
        raise MalformedMessageError(f"{name} has at most {limit} bytes")
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        # `from None`: the cause quotes the input.
        raise MalformedMessageError(f"{name} is not JSON") from None
    if not isinstance(value, dict):
        raise MalformedMessageError(f"{name} is a JSON object")
    return value


def _require_time(time: int) -> None:
    if isinstance(time, bool) or not isinstance(time, int) or not 0 <= time <= _MAX_TIME:
        raise UsageError("a time is a whole number of seconds since 1970")


def _require_commitment(commitment: bytes) -> None:
    if len(commitment) != COMMITMENT_BYTES:
        raise UsageError(f"a commitment has {COMMITMENT_BYTES} bytes")
