"""Which log and which witnesses one believes, as a text file that people can read and compare. Pure.

::

    log example.org/intaglio+4c4568f0+AX...
    witness one witness.example.org/one+56a1bb51+BC... https://witness.example.org
    witness two witness.example.net/two+0ad1c3f2+BE...
    group both 2 one two
    quorum both

One log, any number of witnesses, and a quorum: ``none``, a witness, or a group of witnesses with how many of them must
have signed (a number, ``any`` or ``all``). Empty lines and lines that begin with # do not count. What does not show is
refused, in comments too: of control characters and other spaces some readers make lines, and some do not.

The log's own server reads the same file: it asks those witnesses that have an address, and knows how many cosignatures
its devices wait for.

Source: https://c2sp.org/tlog-policy. Groups of groups are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from federation.errors import MalformedMessageError, UsageError
from federation.transparency.notes import KeyKind, VerifierKey

MAX_WITNESSES = 16
"""As many cosignatures as C2SP asks every reader to accept."""


@dataclass(frozen=True)
class NamedWitness:
    """A witness that a policy names.

    Attributes:
        key: cosignature key.
        address: where the log asks it, ``http://`` or ``https://`` without a slash at the end; None where nobody does.
    """

    key: VerifierKey
    address: str | None = None

    def __post_init__(self) -> None:
        if self.key.kind is not KeyKind.COSIGNATURE:
            raise UsageError(f"{self.key.name} is a witness, and is known by its cosignature key")
        if self.address is not None and not _is_address(self.address):
            raise UsageError("a witness has an address such as https://witness.example.org, with no ? and no #")

    @classmethod
    def from_text(cls, text: str) -> NamedWitness:
        """Reads a verifier key and, after a space, perhaps an address.

        Raises:
            UsageError: not that.
        """
        key, *address = text.split() or [""]
        if len(address) > 1:
            raise UsageError("a witness has a key and perhaps an address")
        try:
            return cls(VerifierKey.from_text(key), address[0].rstrip("/") if address else None)
        except MalformedMessageError as error:
            raise UsageError(str(error)) from error


@dataclass(frozen=True)
class LogPolicy:
    """Whom one believes about a log.

    Attributes:
        log_key: the log's plain note key; its name is the origin.
        witnesses: that are named, each key once.
        counted: those of them that count.
        threshold: how many of the counted must have signed.
    """

    log_key: VerifierKey
    witnesses: tuple[NamedWitness, ...] = ()
    counted: tuple[VerifierKey, ...] = ()
    threshold: int = 0

    def __post_init__(self) -> None:
        if self.log_key.kind is not KeyKind.NOTE:
            raise UsageError("a log is known by its plain note key")
        keys = [self.log_key.public_key, *(witness.key.public_key for witness in self.witnesses)]
        if len(set(keys)) != len(keys):
            raise UsageError("log and witnesses have one key each, and no two the same")
        if len(self.witnesses) > MAX_WITNESSES:
            raise UsageError(f"a policy names at most {MAX_WITNESSES} witnesses")
        if not set(self.counted) <= {witness.key for witness in self.witnesses}:
            raise UsageError("only witnesses that are named count")
        if not 0 <= self.threshold <= len(set(self.counted)):
            raise UsageError(f"the threshold is 0 to {len(set(self.counted))}, the number of witnesses that count")

    @classmethod
    def from_text(cls, text: str) -> LogPolicy:
        """The policy that `text` says.

        Raises:
            UsageError: it says none; the error names the line.
        """
        logs: list[VerifierKey] = []
        witnesses: dict[str, NamedWitness] = {}
        groups: dict[str, tuple[int, tuple[str, ...]]] = {"none": (0, ())}
        quorum: str | None = None
        for number, words in _lines(text):
            match words:
                case ["log", key, *address] if len(address) <= 1:
                    logs.append(_key(key, number))
                case ["witness", name, *told] if told and _is_new(name, witnesses, groups):
                    witnesses[name] = _witness(" ".join(told), number)
                case ["group", name, count, *members] if _is_new(name, witnesses, groups):
                    groups[name] = (_count(count, members, number), tuple(members))
                    if not set(members) <= set(witnesses):
                        raise UsageError(f"line {number}: a group has witnesses that stand above it")
                case ["quorum", name] if quorum is None and (name in groups or name in witnesses):
                    quorum = name
                case _:
                    raise UsageError(f"line {number} is none of log, witness, group and quorum, or comes twice")
        if len(logs) != 1 or quorum is None:
            raise UsageError("a policy names one log and one quorum, which may be none")
        threshold, counted = groups.get(quorum, (1, (quorum,)))
        keys = tuple(witnesses[name].key for name in sorted(counted))
        return cls(logs[0], tuple(witnesses.values()), keys, threshold)

    def to_text(self) -> str:
        """A policy that says so."""
        lines = [f"log {self.log_key.to_text()}"]
        names = {witness.key: f"w{number}" for number, witness in enumerate(self.witnesses, start=1)}
        lines += [
            f"witness {names[one.key]} {one.key.to_text()} {one.address or ''}".rstrip() for one in self.witnesses
        ]
        if self.threshold:
            lines.append(f"group counted {self.threshold} {' '.join(names[key] for key in self.counted)}")
        lines.append("quorum counted" if self.threshold else "quorum none")
        return "".join(f"{line}\n" for line in lines)


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """The lines that count, as words, with their numbers."""
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.replace("\t", " ").isprintable():
            raise UsageError(f"line {number} holds something that is not seen, or a space that is none")
        words = line.split()
        if words and not words[0].startswith("#"):
            yield number, words


def _is_new(name: str, witnesses: dict[str, NamedWitness], groups: dict[str, tuple[int, tuple[str, ...]]]) -> bool:
    return name not in witnesses and name not in groups


def _key(text: str, number: int) -> VerifierKey:
    try:
        return VerifierKey.from_text(text)
    except MalformedMessageError as error:
        raise UsageError(f"line {number}: {error}") from error


def _witness(text: str, number: int) -> NamedWitness:
    try:
        return NamedWitness.from_text(text)
    except UsageError as error:
        raise UsageError(f"line {number}: {error}") from error


def _count(text: str, members: list[str], number: int) -> int:
    words = {"any": 1, "all": len(members)}
    count = words.get(text) or (int(text) if re.fullmatch("[0-9]{1,3}", text) else 0)
    if not 0 < count <= len(set(members)) == len(members):
        raise UsageError(f"line {number}: a group needs one to all of its different members")
    return count


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    plain = text.isascii() and text.isprintable() and not set(" ?#") & set(text)
    named = bool(parts.hostname) and parts.username is None and port != 0
    return plain and named and parts.scheme in {"http", "https"} and not text.endswith("/")
