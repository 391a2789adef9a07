"""The rulebook: all public rules that somebody has read and verified.

Theory of operation
-------------------
Rules (`federation.rules.entries`) change only by entries that everybody can read in the log. Each is a statement in
canonical form with the signatures of rule signers. Stopping is easy, allowing is hard:

==========  =============================  =========================================================
entry       signatures                     what it does
==========  =============================  =========================================================
pack        the threshold                  says which purposes a jurisdiction allows, and when
deployment  the threshold                  registers who verifies whom, for what, with which release
client      the threshold                  registers a site that a deployment may log people in at
kiosk       the threshold                  names a device of the operator's, for at most 90 days
exception   the threshold, at least two    allows one purpose of one audience for at most 90 days
moratorium  one                            stops enrolment and verification in its scope
lifting     the threshold, at least two    ends a moratorium
==========  =============================  =========================================================

Server and device build their rulebooks from the same entries by the same code, so both come to the same answer
(`federation.rules.policy.decide`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Self, assert_never

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.errors import ProofError, RefusedError, UsageError
from federation.presentation.levels import PadLevel
from federation.rules.clients import Client
from federation.rules.entries import (
    Deployment,
    Lifting,
    Moratorium,
    PolicyException,
    PolicyPack,
    PurposeRule,
    Rule,
    rule_from_json,
)
from federation.rules.kiosks import Kiosk
from federation.statements import (
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    JsonValue,
    canonical_bytes,
    parse,
    require_length,
    require_signed,
    sign,
)

_TAG = "intaglio-rule/1"


@dataclass(frozen=True)
class SignedRule:
    """One entry with the signatures of rule signers, which `Rulebook.admit` verifies.

    Attributes:
        rule: what was signed.
        signatures: public key (32 bytes) and Ed25519 signature (64 bytes) of each signer, in order of key.
    """

    rule: Rule
    signatures: tuple[tuple[bytes, bytes], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        keys = [key for key, _ in self.signatures]
        if keys != sorted(set(keys)):
            raise UsageError("signatures stand in order of their keys, each key once")
        for key, signature in self.signatures:
            require_length("a signer's key", key, PUBLIC_KEY_BYTES)
            require_length("a signature", signature, SIGNATURE_BYTES)

    def signed_by(self, key: Ed25519PrivateKey) -> SignedRule:
        """The same entry with one signature more; signing again changes nothing."""
        signature = sign(_TAG, canonical_bytes(self.rule.to_json()), key)
        signatures = {**dict(self.signatures), key.public_key().public_bytes_raw(): signature}
        return replace(self, signatures=tuple(sorted(signatures.items())))

    def require_signers(self, keys: frozenset[bytes], count: int) -> None:
        """Returns when at least `count` of `keys` have signed, and nobody else.

        Raises:
            ProofError: a signature is wrong, of somebody else, or missing.
        """
        body = canonical_bytes(self.rule.to_json())
        for key, signature in self.signatures:
            if key not in keys:
                raise ProofError(f"{self.rule.name} is signed with a key that is no rule signer's")
            require_signed(_TAG, body, public_key=key, signature=signature)
        if len(self.signatures) < count:
            raise ProofError(f"{self.rule.name} needs {count} different signatures and has {len(self.signatures)}")

    def to_bytes(self) -> bytes:
        """The canonical form: the content of a public log entry."""
        signatures: dict[str, JsonValue] = {key.hex(): signature.hex() for key, signature in self.signatures}
        return canonical_bytes({"rule": self.rule.to_json(), "signatures": signatures})

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedRule:
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes; also every entry that names a red-line purpose.
        """
        return parse(data, cls._from_json, what="a rule")

    @classmethod
    def _from_json(cls, value: dict[str, Any]) -> Self:
        signatures = sorted((bytes.fromhex(k), bytes.fromhex(s)) for k, s in value["signatures"].items())
        return cls(rule_from_json(value["rule"]), tuple(signatures))


@dataclass(frozen=True)
class RuleSigners:
    """Whose signatures make a rule.

    Attributes:
        public_keys: Ed25519, 32 bytes each.
        threshold: how many of them a pack, a deployment or a client needs.
    """

    public_keys: frozenset[bytes]
    threshold: int

    def __post_init__(self) -> None:
        for key in self.public_keys:
            require_length("a signer's key", key, PUBLIC_KEY_BYTES)
        if type(self.threshold) is not int or not 1 <= self.threshold <= len(self.public_keys):
            raise UsageError("the threshold is between one and the number of rule signers")

    def to_bytes(self) -> bytes:
        """The canonical form: the first line of a rules file."""
        return canonical_bytes(
            {"public_keys": [key.hex() for key in sorted(self.public_keys)], "threshold": self.threshold}
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> RuleSigners:
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes.
        """

        def build(value: dict[str, Any]) -> RuleSigners:
            return cls(frozenset(bytes.fromhex(key) for key in value["public_keys"]), value["threshold"])

        return parse(data, build, what="the list of rule signers")

    def signatures_needed(self, rule: Rule) -> int:
        """How many signatures `rule` needs. Stopping is easy, allowing is hard."""
        match rule:
            case Moratorium():
                return 1
            case PolicyException() | Lifting():
                return max(2, self.threshold)
            case PolicyPack() | Deployment() | Client() | Kiosk():
                return self.threshold
            case _:
                assert_never(rule)


@dataclass(frozen=True)
class Rulebook:
    """All rules that were read and verified. Immutable: `admit` gives another one.

    Attributes:
        signers: whose signatures count.
        read_at: when the log was last read to its end, seconds since 1970.
        rules: every admitted entry by its name. Fill it with `admit`, which verifies.
    """

    signers: RuleSigners
    read_at: int
    rules: Mapping[str, Rule] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def read(cls, signers: RuleSigners, entries: Iterable[bytes], *, read_at: int) -> Self:
        """The rulebook of signed entries in the order of the log.

        Raises:
            MalformedMessageError, ProofError, RefusedError: an entry is none that a rulebook may hold.
        """
        book = cls(signers, read_at)
        for entry in entries:
            book = book.admit(SignedRule.from_bytes(entry))
        return book

    @classmethod
    def from_file(cls, data: bytes, *, read_at: int) -> Self:
        """The rulebook of a rules file: the signers in the first line, then one entry a line, in the order of the log.

        Whoever hands the file over says whose signatures count, as whoever hands over an authority's certificate does.

        Raises:
            MalformedMessageError, ProofError, RefusedError: it holds something else.
        """
        signers, _, entries = data.partition(b"\n")
        return cls.read(RuleSigners.from_bytes(signers), entries.splitlines(), read_at=read_at)

    def admit(self, signed: SignedRule) -> Self:
        """The rulebook with one entry more; admitting the same one again changes nothing.

        Raises:
            ProofError: signatures are wrong or missing.
            RefusedError: another entry has its name already, or it lifts a moratorium that is not there.
        """
        rule = signed.rule
        signed.require_signers(self.signers.public_keys, self.signers.signatures_needed(rule))
        standing = self.rules.get(rule.name)
        if standing == rule:
            return self
        if standing is not None:
            raise RefusedError(f"there is another {rule.name} already; rules are replaced by new ones, never edited")
        if isinstance(rule, Lifting):
            stopped = self.rules.get(f"moratorium {rule.moratorium}")
            if not isinstance(stopped, Moratorium) or rule.lifted_at <= stopped.begins_at:
                raise RefusedError(f"{rule.name} does not follow on a moratorium of that name")
        return replace(self, rules=MappingProxyType({**self.rules, rule.name: rule}))

    def read_again(self, read_at: int) -> Self:
        """The same rules, found to be all of them at a later time."""
        return replace(self, read_at=max(self.read_at, read_at))

    def deployment(self, identifier: str) -> Deployment | None:
        """The deployment of that name, in force or not."""
        found = self.rules.get(f"deployment {identifier}")
        return found if isinstance(found, Deployment) else None

    def followers(self, identifier: str) -> tuple[Deployment, ...]:
        """Every deployment to which a device of that one may go (`Deployment.follows`), in force or not."""
        former = self.deployment(identifier)
        return tuple(
            rule for rule in self.rules.values() if former and isinstance(rule, Deployment) and rule.follows(former)
        )

    def client(self, deployment: str, identifier: str, now: int) -> Client | None:
        """The client that counts at `now`: the highest version that has begun, also when it has ended since."""
        begun = (rule for rule in self.clients(deployment, identifier) if rule.begins_at <= now)
        return max(begun, key=lambda client: client.version, default=None)

    def clients(self, deployment: str, identifier: str) -> tuple[Client, ...]:
        """Every version of a client, whenever it counts."""
        return tuple(
            rule
            for rule in self.rules.values()
            if isinstance(rule, Client) and (rule.deployment, rule.identifier) == (deployment, identifier)
        )

    def pad_level(self, deployment: str, *, checked: bool, certificate: bytes, now: int) -> PadLevel:
        """What stands between a presentation attack and a comparison. Server and device ask it alike.

        Args:
            deployment: identifier of the deployment that compares.
            checked: whether the device says that it looked for an attack and found none.
            certificate: SHA-256 of the client certificate that the device shows, 32 bytes.
            now: seconds since 1970.
        """
        if not checked:
            return PadLevel.NONE
        is_kiosk = any(
            isinstance(rule, Kiosk)
            and (rule.deployment, rule.certificate) == (deployment, certificate)
            and rule.begins_at <= now < rule.ends_at
            for rule in self.rules.values()
        )
        return PadLevel.SUPERVISED if is_kiosk else PadLevel.ON_DEVICE

    def names_kiosk(self, certificate: bytes) -> bool:
        """Whether a device with this certificate, by its SHA-256, is or was a kiosk: another one would be none."""
        return any(isinstance(rule, Kiosk) and rule.certificate == certificate for rule in self.rules.values())

    def pack(self, jurisdiction: str, now: int) -> PolicyPack | None:
        """The pack that counts at `now`: the highest version that has begun, also when it has ended since."""
        begun = (
            rule
            for rule in self.rules.values()
            if isinstance(rule, PolicyPack) and rule.jurisdiction == jurisdiction and rule.begins_at <= now
        )
        return max(begun, key=lambda pack: pack.version, default=None)

    def rule_in_force(self, jurisdiction: str, audience: str, purpose: str, now: int) -> PurposeRule | None:
        """What allows the purpose there at `now`: the pack, or else the exception that lasts longest."""
        pack = self.pack(jurisdiction, now)
        if pack is not None and now < pack.ends_at:
            for rule in pack.rules:
                if rule.purpose == purpose and rule.is_in_force(now):
                    return rule
        exceptions = self.exceptions(jurisdiction, audience, purpose, now)
        return max((exception.rule for exception in exceptions), key=lambda rule: rule.ends_at, default=None)

    def exceptions(self, jurisdiction: str, audience: str, purpose: str, now: int) -> tuple[PolicyException, ...]:
        """The exceptions in force at `now` for exactly that use."""
        return tuple(
            rule
            for rule in self.rules.values()
            if isinstance(rule, PolicyException)
            and (rule.jurisdiction, rule.audience, rule.rule.purpose) == (jurisdiction, audience, purpose)
            and rule.rule.is_in_force(now)
        )

    def changes_of_pack(self, jurisdiction: str, now: int) -> tuple[int, ...]:
        """When, after `now`, another pack of the jurisdiction comes into force."""
        return tuple(
            rule.begins_at
            for rule in self.rules.values()
            if isinstance(rule, PolicyPack) and rule.jurisdiction == jurisdiction and rule.begins_at > now
        )

    def moratoria(self, now: int) -> tuple[Moratorium, ...]:
        """The moratoria that are in force at `now` or will begin later, without those that are lifted by `now`."""
        return tuple(
            rule for rule in self.rules.values() if isinstance(rule, Moratorium) and not self._is_lifted(rule, now)
        )

    def _is_lifted(self, moratorium: Moratorium, now: int) -> bool:
        lifting = self.rules.get(f"lifting {moratorium.identifier}")
        return isinstance(lifting, Lifting) and lifting.lifted_at <= now
