"""The manifest of a release bundle: what was audited, for how long it holds, and whose two signatures make it count.

Pure: a manifest can be read, logged and judged without the model. `federation.release.bundle` ties it to the files.

Theory of operation
-------------------
The maker of a release signs it, and so does an auditor whose key is another one. Each signs under a tag of its own
role, so neither signature can be shown as the other. `ReleaseTrust` is what a server or a device believes: which keys
are makers', which are auditors', and whether a release that is marked as a trial will do.

============  ===========================  ==========================================
verdict       use: general                 use: trial
============  ===========================  ==========================================
PASS          served                       served where trials are accepted
INSUFFICIENT  not served                   served where trials are accepted
FAIL          not served                   not served
============  ===========================  ==========================================

The audit also tries fixed strings without a face (`federation.audit.wolf`). For general use the bounds of the domain's
mean keep ten times the stated false match rate. A trial of too few people to tell is served, and says so first; one
whose lower bound is above that is not served at all.

Every manifest may be built, signed and published, also one that says FAIL.

Rates are written as text, such as "0.001": the canonical form has no fractions (`federation.statements`).
"""

from __future__ import annotations

import enum
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final, Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.audit.presentation import PadRates, json_of_pad, pad_of_json
from federation.audit.wolf import (
    WolfRates,
    json_of_wolves,
    require_tame,
    text_of_wolves,
    wolves_of_json,
)
from federation.consent.purposes import DAY_SECONDS
from federation.errors import IntaglioError, ProofError, RefusedError, UsageError
from federation.groups import HeldFor
from federation.promise import FALSE_ACCUSATIONS, AttackRates, text_of_attacks
from federation.rates import Audited, Basis, StatedRate
from federation.statements import (
    DIGEST_BYTES,
    PUBLIC_KEY_BYTES,
    SIGNATURE_BYTES,
    JsonValue,
    canonical_bytes,
    parse,
    require_length,
    require_name,
    require_period,
    require_signed,
    require_text,
    sign,
    text_of_time,
    time_of_text,
)
from federation.verdict import Verdict

FORMAT: Final = "intaglio-release-bundle-5"
_NOBODY: Final = "nobody was asked"
_NOBODY_LOOKED: Final = "nobody looked"
LONGEST_VALIDITY_SECONDS: Final = 365 * DAY_SECONDS
"""An audit is repeated at least once a year."""


class Use(enum.Enum):
    """What a release is meant for."""

    GENERAL = "general"
    TRIAL = "trial"
    """To be tried out, by people who know that no audit has passed it."""


class Role(enum.Enum):
    """Who signs. The value is the tag of the signature."""

    MAKER = "intaglio-release-maker/1"
    AUDITOR = "intaglio-release-auditor/1"


@dataclass(frozen=True)
class WorstCell:
    """The cell of the audit with the largest false match rate.

    Attributes:
        name: its groups, for people to read.
        fmr: measured, 0 to 1.
        low: lower bound of its interval.
        high: upper bound.
    """

    name: str
    fmr: float
    low: float
    high: float

    def __post_init__(self) -> None:
        require_text("the name of a cell", self.name)
        if any(type(rate) is not float for rate in (self.fmr, self.low, self.high)):
            raise UsageError("rates of a cell are floats")
        if not 0 <= self.low <= self.fmr <= self.high <= 1:  # false for NaN too
            raise UsageError("a cell's rate lies inside its interval, and both between 0 and 1")

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {"fmr": repr(self.fmr), "high": repr(self.high), "low": repr(self.low), "name": self.name}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(value["name"], float(value["fmr"]), float(value["low"]), float(value["high"]))


@dataclass(frozen=True)
class AuditSummary:
    """What the audit report comes to.

    Attributes:
        verdict: of all cells.
        worst_cell: by false match rate.
        wolf: how often fixed strings without a face were accepted; None where nobody tried any.
        people: whom it compared; 0 where that is not known.
        fmr_limit: largest false match rate that it allowed a group.
        fnmr_limit: largest false non-match rate.
        pad: how often presentation attacks passed; None where nobody made any.
    """

    verdict: Verdict
    worst_cell: WorstCell
    wolf: WolfRates | None
    people: int
    fmr_limit: float
    fnmr_limit: float
    pad: PadRates | None

    def __post_init__(self) -> None:
        self.audited(is_trial=False)  # checks

    def audited(self, *, is_trial: bool) -> Audited:
        """What is shown and asserted of it."""
        return Audited(self.verdict, self.people, self.fmr_limit, self.fnmr_limit, is_trial)

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {
            "limits": {"fmr": repr(self.fmr_limit), "fnmr": repr(self.fnmr_limit)},
            "pad": json_of_pad(self.pad),
            "people": self.people,
            "verdict": self.verdict.value,
            "wolf": json_of_wolves(self.wolf),
            "worst_cell": self.worst_cell.to_json(),
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        limits = value["limits"]
        return cls(
            Verdict(value["verdict"]),
            WorstCell.from_json(value["worst_cell"]),
            wolves_of_json(value["wolf"]),
            value["people"],
            float(limits["fmr"]),
            float(limits["fnmr"]),
            pad_of_json(value["pad"]),
        )


@dataclass(frozen=True)
class Claims:
    """What the release itself states, repeated for whoever reads the log without the model.

    Attributes:
        digest: SHA-256 of the model release; what transcripts and receipts are bound to.
        recogniser: SHA-256 of the recogniser profile that embeddings are made under.
        threshold: largest accepted Hamming distance, bits.
        fmr: false match rate that the threshold was set for.
        fmr_low: the true one is said to lie between this ...
        fmr_high: ... and this.
        fmr_people: of how many people that was learnt.
        basis: what that rests on.
        parameters: name of the homomorphic parameters and the protocol.
        privacy_unit: whose contribution is protected.
        epsilon: claimed, of all releases of training composed.
        delta: claimed.
        epsilon_lower_bound: what an attack on the training measured, beside the claim; None where nobody measured.
        attacks: what an attacker achieves at most who has everything that the bundle shows of people, the training and,
            where it is in the bundle, the private evaluation; None where nobody was asked.
        held_for: for which groups of people the rate holds; None where nobody looked.
    """

    digest: bytes
    recogniser: bytes
    threshold: int
    fmr: float
    fmr_low: float
    fmr_high: float
    fmr_people: int
    basis: Basis
    parameters: str
    privacy_unit: str
    epsilon: float
    delta: float
    epsilon_lower_bound: float | None
    attacks: AttackRates | None
    held_for: HeldFor | None

    def __post_init__(self) -> None:
        require_length("the digest of a release", self.digest, DIGEST_BYTES)
        require_length("the digest of a recogniser profile", self.recogniser, DIGEST_BYTES)
        require_name("the parameters", self.parameters)
        require_text("the privacy unit", self.privacy_unit)
        if type(self.threshold) is not int or self.threshold < 0:
            raise UsageError("a threshold is a whole number of bits")
        measured = 0.0 if self.epsilon_lower_bound is None else self.epsilon_lower_bound
        numbers = (self.rate.fmr, self.epsilon, self.delta, measured)  # the rate checks itself
        if any(type(number) is not float for number in numbers):
            raise UsageError("epsilon and delta are floats")
        if not (0 <= self.delta < 1 and 0 <= self.epsilon < float("inf")):
            raise UsageError("delta lies between 0 and 1, and epsilon is finite")
        if self.epsilon and not isinstance(self.attacks, AttackRates):
            raise UsageError("an epsilon is claimed with what it lets an attacker do")
        if self.attacks is not None and self.attacks.false_accusations != FALSE_ACCUSATIONS:
            raise UsageError(f"what is claimed is about attackers who accuse {FALSE_ACCUSATIONS:g} of the innocents")
        if (self.epsilon == 0) != (self.delta == 0):
            raise UsageError("epsilon and delta are both 0, where nothing was asked of people, or both above it")
        if not 0 <= measured <= self.epsilon:
            raise UsageError("an attack measured more than the claimed epsilon, so the claim is wrong; find out why")

    @property
    def rate(self) -> StatedRate:
        """The stated rate with its interval and what it rests on."""
        return StatedRate(self.fmr, self.fmr_low, self.fmr_high, self.basis, self.fmr_people)

    @property
    def attacks_text(self) -> str:
        """What an attacker achieves at most, for people to read."""
        return text_of_attacks(self.attacks)

    @property
    def promise_text(self) -> str:
        """Epsilon, for people to read."""
        if not self.epsilon:
            return "0: nobody was asked"
        return f"{self.epsilon:g} for a {self.privacy_unit} at delta {self.delta:g}"

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        value: dict[str, JsonValue] = {
            "attacks": _NOBODY if self.attacks is None else {n: repr(x) for n, x in self.attacks.to_json().items()},
            "basis": self.basis.value,
            "delta": repr(self.delta),
            "digest": self.digest.hex(),
            "epsilon": repr(self.epsilon),
            "fmr": repr(self.fmr),
            "fmr_high": repr(self.fmr_high),
            "fmr_low": repr(self.fmr_low),
            "fmr_people": self.fmr_people,
            "held_for": _NOBODY_LOOKED if self.held_for is None else self.held_for.to_json(),
            "parameters": self.parameters,
            "privacy_unit": self.privacy_unit,
            "recogniser": self.recogniser.hex(),
            "threshold": self.threshold,
        }
        if self.epsilon_lower_bound is not None:
            value["epsilon_lower_bound"] = repr(self.epsilon_lower_bound)
        return value

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        measured, attacks, held = value.get("epsilon_lower_bound"), value["attacks"], value["held_for"]
        rates = None if attacks == _NOBODY else {name: float(share) for name, share in attacks.items()}
        return cls(
            digest=bytes.fromhex(value["digest"]),
            recogniser=bytes.fromhex(value["recogniser"]),
            threshold=value["threshold"],
            fmr=float(value["fmr"]),
            fmr_low=float(value["fmr_low"]),
            fmr_high=float(value["fmr_high"]),
            fmr_people=value["fmr_people"],
            basis=Basis(value["basis"]),
            parameters=value["parameters"],
            privacy_unit=value["privacy_unit"],
            epsilon=float(value["epsilon"]),
            delta=float(value["delta"]),
            epsilon_lower_bound=None if measured is None else float(measured),
            attacks=None if rates is None else AttackRates.from_json(rates),
            held_for=None if held == _NOBODY_LOOKED else HeldFor.from_json(held),
        )


@dataclass(frozen=True)
class Standing:
    """What counts of a release when somebody asks whether it may be used now (`federation.rules.policy`).

    Attributes:
        stated_fmr: false match rate that it states.
        audited: what its audit says, and whether it is a trial.
        begins_at: first second at which it may be served.
        ends_at: first second at which it may not any more.
    """

    stated_fmr: float
    audited: Audited
    begins_at: int
    ends_at: int


@dataclass(frozen=True)
class Manifest:
    """What both parties sign.

    Attributes:
        claims: what the release states.
        audit: what was found about it.
        use: what it is meant for.
        files: name and SHA-256 of each file of the bundle, in order of name.
        begins_at: first second at which it may be served.
        ends_at: first second at which it may not any more: until then it is audited again.
    """

    claims: Claims
    audit: AuditSummary
    use: Use
    files: tuple[tuple[str, bytes], ...]
    begins_at: int
    ends_at: int

    def __post_init__(self) -> None:
        names = [name for name, _ in self.files]
        if not names or names != sorted(set(names)):
            raise UsageError("the files of a bundle stand in order of name, each once")
        for name, digest in self.files:
            require_name("a file of a bundle", name)
            require_length("the digest of a file", digest, DIGEST_BYTES)
        require_period("a release", self.begins_at, self.ends_at)
        if self.ends_at - self.begins_at > LONGEST_VALIDITY_SECONDS:
            raise UsageError(f"a release is audited again within {LONGEST_VALIDITY_SECONDS // DAY_SECONDS} days")

    @property
    def digest(self) -> str:
        """SHA-256, in hex: the address of the bundle. Signatures do not change it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def warning(self) -> str | None:
        """What whoever shows, serves or uses it says first; None where its audit passed and every group was measured.

        Of a trial or of a release that did not pass, that; and the groups of which nothing is known.
        """
        held, said = self.claims.held_for, []
        if not self.audited.is_passed:
            wolves = text_of_wolves(self.audit.wolf)
            said.append(f"{self.audited.text}; a stolen wallet without a face is accepted at: {wolves}")
        if held is not None and held.insufficient:
            said.append(held.text)
        return "; ".join(said) or None

    @property
    def audited(self) -> Audited:
        """What is shown and asserted of its audit."""
        return self.audit.audited(is_trial=self.use is Use.TRIAL)

    @property
    def standing(self) -> Standing:
        """What policy asks for."""
        return Standing(self.claims.fmr, self.audited, self.begins_at, self.ends_at)

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {
            "audit": self.audit.to_json(),
            "begins_at": text_of_time(self.begins_at),
            "claims": self.claims.to_json(),
            "ends_at": text_of_time(self.ends_at),
            "files": {name: digest.hex() for name, digest in self.files},
            "format": FORMAT,
            "use": self.use.value,
        }

    def to_bytes(self) -> bytes:
        """The canonical form: what is signed."""
        return canonical_bytes(self.to_json())

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(
            Claims.from_json(value["claims"]),
            AuditSummary.from_json(value["audit"]),
            Use(value["use"]),
            tuple(sorted((name, bytes.fromhex(digest)) for name, digest in value["files"].items())),
            time_of_text(value["begins_at"]),
            time_of_text(value["ends_at"]),
        )


@dataclass(frozen=True)
class SignedManifest:
    """A manifest with the signatures of maker and auditor, which `require_trusted` verifies.

    Attributes:
        manifest: what was signed.
        signatures: for each role that signed, its public key (32 bytes) and Ed25519 signature (64 bytes).
    """

    manifest: Manifest
    signatures: Mapping[Role, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signatures", MappingProxyType(dict(self.signatures)))
        for key, signature in self.signatures.values():
            require_length("a signer's key", key, PUBLIC_KEY_BYTES)
            require_length("a signature", signature, SIGNATURE_BYTES)
        if len({key for key, _ in self.signatures.values()}) < len(self.signatures):
            raise UsageError("maker and auditor sign with different keys: nobody audits themselves")

    def signed_by(self, role: Role, key: Ed25519PrivateKey) -> SignedManifest:
        """The same manifest with one signature more, or another one of that role.

        Raises:
            UsageError: the other role has signed with this key.
        """
        signature = sign(role.value, self.manifest.to_bytes(), key)
        return replace(self, signatures={**self.signatures, role: (key.public_key().public_bytes_raw(), signature)})

    def require_trusted(self, trust: ReleaseTrust) -> None:
        """Returns when a trusted maker and a trusted auditor have signed.

        Raises:
            ProofError: a signature is missing, wrong, or of a key that is not trusted in that role.
        """
        for role, keys in ((Role.MAKER, trust.makers), (Role.AUDITOR, trust.auditors)):
            name = role.name.lower()
            if role not in self.signatures:
                raise ProofError(f"the release is not signed by its {name}")
            key, signature = self.signatures[role]
            if key not in keys:
                raise ProofError(f"the release is signed by {key.hex()[:16]}, which is no trusted {name}'s key")
            require_signed(role.value, self.manifest.to_bytes(), public_key=key, signature=signature)

    def require_servable(self, trust: ReleaseTrust, *, now: int) -> None:
        """Returns when a release with this manifest may be served at `now`. Runs at server and device.

        Raises:
            ProofError: as `require_trusted`.
            RefusedError: it is not valid yet or any more, or its audit does not allow it.
        """
        self.require_trusted(trust)
        manifest = self.manifest
        if now < manifest.begins_at:
            raise RefusedError(f"the release is not valid before {text_of_time(manifest.begins_at)}")
        if now >= manifest.ends_at:
            raise RefusedError(
                f"the release ran out at {text_of_time(manifest.ends_at)}; it must be audited again. Its"
                " maker has the bundle that was, which takes this one's place: no template changes"
            )
        verdict = manifest.audit.verdict
        if verdict is Verdict.FAIL or (manifest.use is Use.GENERAL and verdict is not Verdict.PASS):
            raise RefusedError(f"the audit of the release says {verdict.value}, so it is not served")
        require_tame(manifest.audit.wolf, manifest.claims.fmr, general=manifest.use is Use.GENERAL)
        if manifest.use is Use.TRIAL and not trust.accepts_trials:
            raise RefusedError("the release is marked as a trial, and trials are not accepted here")

    def to_bytes(self) -> bytes:
        """The canonical form: a file of the bundle, and the content of a public log entry."""
        signatures: dict[str, JsonValue] = {
            role.name.lower(): {"key": key.hex(), "signature": signature.hex()}
            for role, (key, signature) in self.signatures.items()
        }
        return canonical_bytes({"manifest": self.manifest.to_json(), "signatures": signatures})

    @classmethod
    def from_bytes(cls, data: bytes) -> SignedManifest:
        """Reads what `to_bytes` wrote, and nothing else.

        Raises:
            MalformedMessageError: any other bytes; also one key for both roles.
        """

        def build(value: dict[str, Any]) -> SignedManifest:
            signatures = {
                Role[name.upper()]: (bytes.fromhex(signed["key"]), bytes.fromhex(signed["signature"]))
                for name, signed in value["signatures"].items()
            }
            return cls(Manifest.from_json(value["manifest"]), signatures)

        return parse(data, build, what="a release manifest")


@dataclass(frozen=True)
class ReleaseTrust:
    """What one server or device believes of releases.

    Attributes:
        makers: Ed25519 public keys, 32 bytes each.
        auditors: likewise; no key is both.
        accepts_trials: whether a release that is marked as a trial will do.
    """

    makers: frozenset[bytes]
    auditors: frozenset[bytes]
    accepts_trials: bool = False

    def __post_init__(self) -> None:
        for key in self.makers | self.auditors:
            require_length("a trusted key", key, PUBLIC_KEY_BYTES)
        if not self.makers or not self.auditors:
            raise UsageError("trust needs at least one maker and one auditor")
        if self.makers & self.auditors:
            raise UsageError("a key is trusted as maker and as auditor: nobody audits themselves")

    def to_bytes(self) -> bytes:
        """JSON, for `from_file`."""
        value = {
            "accepts_trials": self.accepts_trials,
            "auditors": [key.hex() for key in sorted(self.auditors)],
            "makers": [key.hex() for key in sorted(self.makers)],
        }
        return json.dumps(value, sort_keys=True, indent=2).encode() + b"\n"

    @classmethod
    def from_file(cls, data: bytes) -> Self:
        """Trust from a file that people write: JSON with the fields of this class, keys in hex.

        Raises:
            UsageError: it holds something else; the error says what.
        """
        try:
            value = json.loads(data)
            if set(value) != {"accepts_trials", "auditors", "makers"} or type(value["accepts_trials"]) is not bool:
                raise UsageError("it needs accepts_trials (true or false), auditors and makers, and nothing else")
            makers, auditors = (frozenset(map(bytes.fromhex, value[role])) for role in ("makers", "auditors"))
            return cls(makers, auditors, value["accepts_trials"])
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise UsageError(
                "this is no trust in releases: it is no JSON, such as trust.json beside a bundle"
            ) from error
        except (ValueError, TypeError, LookupError, RecursionError, IntaglioError) as error:
            raise UsageError(f"this is no trust in releases: {error}") from error
