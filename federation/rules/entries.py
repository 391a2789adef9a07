"""The public rules as values: packs, exceptions, moratoria, liftings and deployments.

`clients` has those of sites, `kiosks` those of the operator's devices.

None of them can name a red-line purpose (`federation.consent.purposes`): such a value cannot be built, so such an entry
does not parse. `federation.rules.rulebook` says who signs them and what follows from all of them together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Self

from federation.consent.purposes import DAY_SECONDS, Category, Tier, require_purpose, require_tier
from federation.errors import UsageError
from federation.presentation.levels import PadLevel
from federation.rules.clients import Client
from federation.rules.kiosks import Kiosk
from federation.statements import (
    DIGEST_BYTES,
    PUBLIC_KEY_BYTES,
    JsonValue,
    require_address,
    require_jurisdictions,
    require_length,
    require_name,
    require_names,
    require_period,
    require_text,
    require_time,
    text_of_time,
    time_of_text,
)

LONGEST_EXCEPTION_SECONDS: Final = 90 * DAY_SECONDS
_LEAST_REASON = 20
_EU = "EU"
_EU_MEMBERS: Final = frozenset({
    "AT", "BE", "BG", "CY", "CZ", "DE", "DK", "EE", "ES", "FI", "FR", "GR", "HR", "HU",
    "IE", "IT", "LT", "LU", "LV", "MT", "NL", "PL", "PT", "RO", "SE", "SI", "SK",
})  # fmt: skip


@dataclass(frozen=True)
class PurposeRule:
    """One purpose that is allowed for a time.

    Attributes:
        purpose: its name.
        category: what kind of purpose it is.
        tier: its risk; at least the lowest one of its category.
        begins_at: first second at which it is allowed.
        ends_at: first second at which it is not allowed any more.
        pad: what must at least stand between a presentation attack and a comparison with an enrolled template.
    """

    purpose: str
    category: Category
    tier: Tier
    begins_at: int
    ends_at: int
    pad: PadLevel = PadLevel.NONE

    def __post_init__(self) -> None:
        require_purpose(self.purpose)
        require_tier(self.category, self.tier)
        require_period("a rule", self.begins_at, self.ends_at)

    def is_in_force(self, now: int) -> bool:
        """Whether it allows its purpose at `now`."""
        return self.begins_at <= now < self.ends_at

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        pad: dict[str, JsonValue] = {} if self.pad is PadLevel.NONE else {"pad": self.pad.value}
        return pad | {
            "begins_at": text_of_time(self.begins_at),
            "category": self.category.value,
            "ends_at": text_of_time(self.ends_at),
            "purpose": self.purpose,
            "tier": self.tier.value,
        }

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(
            value["purpose"],
            Category(value["category"]),
            Tier(value["tier"]),
            time_of_text(value["begins_at"]),
            time_of_text(value["ends_at"]),
            PadLevel(value.get("pad", PadLevel.NONE.value)),
        )


@dataclass(frozen=True)
class PolicyPack:
    """What one jurisdiction allows. What a pack does not name is not allowed.

    Attributes:
        jurisdiction: ISO 3166 code, or EU.
        version: the highest one that has come into force counts, also after it has run out.
        begins_at: first second at which it counts.
        ends_at: first second at which it allows nothing any more.
        rules: in order of purpose, each purpose once. None at all is a ban.
    """

    jurisdiction: str
    version: int
    begins_at: int
    ends_at: int
    rules: tuple[PurposeRule, ...]

    def __post_init__(self) -> None:
        require_jurisdictions((self.jurisdiction,))
        if type(self.version) is not int or self.version < 1:
            raise UsageError("the version of a pack is 1, 2, 3 ...")
        require_period("a pack", self.begins_at, self.ends_at)
        require_names("the purposes of a pack", tuple(rule.purpose for rule in self.rules))

    @property
    def name(self) -> str:
        """Identifies the entry in a rulebook."""
        return f"pack {self.jurisdiction} {self.version}"

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {
            "begins_at": text_of_time(self.begins_at),
            "ends_at": text_of_time(self.ends_at),
            "jurisdiction": self.jurisdiction,
            "kind": "policy-pack",
            "rules": [rule.to_json() for rule in self.rules],
            "version": self.version,
        }


@dataclass(frozen=True)
class PolicyException:
    """Allows one purpose of one audience where a pack does not. It lifts no moratorium, no tier and no receipt.

    Attributes:
        identifier: a name of its own.
        jurisdiction: where.
        audience: for whom; exactly one.
        rule: what, and from when until when: at most 90 days.
        reason: for everybody to read.
    """

    identifier: str
    jurisdiction: str
    audience: str
    rule: PurposeRule
    reason: str

    def __post_init__(self) -> None:
        require_name("an exception's identifier", self.identifier)
        require_name("an exception's audience", self.audience)
        require_text("the reason of an exception", self.reason, least=_LEAST_REASON)
        require_jurisdictions((self.jurisdiction,))
        if self.rule.ends_at - self.rule.begins_at > LONGEST_EXCEPTION_SECONDS:
            raise UsageError(f"an exception lasts at most {LONGEST_EXCEPTION_SECONDS // DAY_SECONDS} days")

    @property
    def name(self) -> str:
        """Identifies the entry in a rulebook."""
        return f"exception {self.identifier}"

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {
            "audience": self.audience,
            "identifier": self.identifier,
            "jurisdiction": self.jurisdiction,
            "kind": "exception",
            "reason": self.reason,
            "rule": self.rule.to_json(),
        }


@dataclass(frozen=True)
class Moratorium:
    """Stops enrolment and verification in its scope, from a time until another entry lifts it.

    Attributes:
        identifier: a name of its own.
        begins_at: first second at which it stops.
        jurisdictions: where; none means everywhere.
        audiences: whose; none means everybody's.
        categories: which, as their values in order; none means all.
        reason: for everybody to read.
    """

    identifier: str
    begins_at: int
    jurisdictions: tuple[str, ...]
    audiences: tuple[str, ...]
    categories: tuple[str, ...]
    reason: str

    def __post_init__(self) -> None:
        require_name("a moratorium's identifier", self.identifier)
        require_time("the beginning of a moratorium", self.begins_at)
        require_jurisdictions(self.jurisdictions)
        require_names("audiences", self.audiences)
        require_names("categories", self.categories)
        if not {category.value for category in Category}.issuperset(self.categories):
            raise UsageError("a moratorium names categories that do not exist")
        require_text("the reason of a moratorium", self.reason, least=_LEAST_REASON)

    @property
    def name(self) -> str:
        """Identifies the entry in a rulebook."""
        return f"moratorium {self.identifier}"

    def stops(self, deployment: Deployment, audience: str, categories: frozenset[Category]) -> bool:
        """Whether purposes of `categories`, for one audience of `deployment`, are in its scope."""
        return (
            (not self.jurisdictions or not set(self.jurisdictions).isdisjoint(deployment.jurisdictions))
            and (not self.audiences or not {audience, deployment.audience}.isdisjoint(self.audiences))
            and (not self.categories or not {c.value for c in categories}.isdisjoint(self.categories))
        )

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {
            "audiences": list(self.audiences),
            "begins_at": text_of_time(self.begins_at),
            "categories": list(self.categories),
            "identifier": self.identifier,
            "jurisdictions": list(self.jurisdictions),
            "kind": "moratorium",
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Lifting:
    """Ends a moratorium.

    Attributes:
        moratorium: its identifier.
        lifted_at: first second at which it does not stop any more.
        reason: for everybody to read.
    """

    moratorium: str
    lifted_at: int
    reason: str

    def __post_init__(self) -> None:
        require_name("a moratorium's identifier", self.moratorium)
        require_time("the end of a moratorium", self.lifted_at)
        require_text("the reason of a lifting", self.reason, least=_LEAST_REASON)

    @property
    def name(self) -> str:
        """Identifies the entry in a rulebook."""
        return f"lifting {self.moratorium}"

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {
            "kind": "lifting",
            "lifted_at": text_of_time(self.lifted_at),
            "moratorium": self.moratorium,
            "reason": self.reason,
        }


@dataclass(frozen=True)
class Issuer:
    """Who signs the assertions of a deployment.

    Attributes:
        address: https address that stands in them.
        public_key: Ed25519, 32 bytes.
    """

    address: str
    public_key: bytes

    def __post_init__(self) -> None:
        require_address("the issuer", self.address)
        require_length("the issuer's public key", self.public_key, PUBLIC_KEY_BYTES)

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        return {"address": self.address, "public_key": self.public_key.hex()}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Reads what `to_json` wrote; the caller compares the bytes."""
        return cls(value["address"], bytes.fromhex(value["public_key"]))


@dataclass(frozen=True)
class Deployment:
    """Registers, before the first verification, who verifies whom, where and for what.

    Attributes:
        identifier: a name of its own. A change is a new deployment.
        operator: legal name of who runs it.
        contact: where to reach them.
        audience: who relies on the decisions.
        purposes: what for, in order.
        jurisdictions: every one that applies, in order: a subdivision stands with its country, a member state with EU.
        release_digests: SHA-256 of each model release that may be served, in order.
        begins_at: first second at which it may run.
        ends_at: first second at which it may not run any more.
        issuer: who signs its assertions, so that every device checks what it is given; None when it issues none.
    """

    identifier: str
    operator: str
    contact: str
    audience: str
    purposes: tuple[str, ...]
    jurisdictions: tuple[str, ...]
    release_digests: tuple[bytes, ...]
    begins_at: int
    ends_at: int
    issuer: Issuer | None = None

    def __post_init__(self) -> None:
        require_name("a deployment's identifier", self.identifier)
        require_text("the operator's name", self.operator, most=200)
        require_address("the operator's contact", self.contact)
        require_name("a deployment's audience", self.audience)
        require_names("the purposes of a deployment", self.purposes)
        for purpose in self.purposes:
            require_purpose(purpose)
        require_jurisdictions(self.jurisdictions)
        _require_closed_upwards(self.jurisdictions)
        for digest in self.release_digests:
            require_length("a release digest", digest, DIGEST_BYTES)
        if list(self.release_digests) != sorted(set(self.release_digests)):
            raise UsageError("release digests stand in order, each once")
        require_period("a deployment", self.begins_at, self.ends_at)

    @property
    def name(self) -> str:
        """Identifies the entry in a rulebook."""
        return f"deployment {self.identifier}"

    def follows(self, former: Deployment) -> bool:
        """Whether a device may go from `former` to this one with the consent of the same person to the same controller.

        It is of the same operator, for the same audience, under the law of no fewer places, and begins later: nobody
        goes back to a key of assertions that was replaced. Whether it serves a purpose and a release is for
        `federation.rules.policy.decide` to say.
        """
        of_the_same = (self.operator, self.audience) == (former.operator, former.audience)
        is_later = former.begins_at < self.begins_at
        return of_the_same and is_later and set(former.jurisdictions) <= set(self.jurisdictions)

    def to_json(self) -> dict[str, JsonValue]:
        """The JSON object."""
        issuer: dict[str, JsonValue] = {} if self.issuer is None else {"issuer": self.issuer.to_json()}
        return issuer | {
            "audience": self.audience,
            "begins_at": text_of_time(self.begins_at),
            "contact": self.contact,
            "ends_at": text_of_time(self.ends_at),
            "identifier": self.identifier,
            "jurisdictions": list(self.jurisdictions),
            "kind": "deployment",
            "operator": self.operator,
            "purposes": list(self.purposes),
            "releases": [digest.hex() for digest in self.release_digests],
        }


Rule = PolicyPack | PolicyException | Moratorium | Lifting | Deployment | Client | Kiosk


def rule_from_json(value: dict[str, Any]) -> Rule:  # noqa: PLR0911 - one for each kind
    """Reads what `to_json` of any rule wrote; the caller compares the bytes. Raises what a wrong object provokes."""
    match value["kind"]:
        case "policy-pack":
            return PolicyPack(
                value["jurisdiction"],
                value["version"],
                time_of_text(value["begins_at"]),
                time_of_text(value["ends_at"]),
                tuple(PurposeRule.from_json(rule) for rule in value["rules"]),
            )
        case "exception":
            return PolicyException(
                value["identifier"],
                value["jurisdiction"],
                value["audience"],
                PurposeRule.from_json(value["rule"]),
                value["reason"],
            )
        case "moratorium":
            return Moratorium(
                value["identifier"],
                time_of_text(value["begins_at"]),
                tuple(value["jurisdictions"]),
                tuple(value["audiences"]),
                tuple(value["categories"]),
                value["reason"],
            )
        case "lifting":
            return Lifting(value["moratorium"], time_of_text(value["lifted_at"]), value["reason"])
        case "deployment":
            return Deployment(
                value["identifier"],
                value["operator"],
                value["contact"],
                value["audience"],
                tuple(value["purposes"]),
                tuple(value["jurisdictions"]),
                tuple(bytes.fromhex(digest) for digest in value["releases"]),
                time_of_text(value["begins_at"]),
                time_of_text(value["ends_at"]),
                Issuer.from_json(value["issuer"]) if "issuer" in value else None,
            )
        case "client":
            return Client.from_json(value)
        case "kiosk":
            return Kiosk.from_json(value)
        case kind:
            raise UsageError(f"there is no kind of rule called {str(kind)[:20]!r}")


def jurisdictions_around(place: str) -> tuple[str, ...]:
    """`place` and every wider jurisdiction, in order: a subdivision's country, a member state's EU.

    >>> jurisdictions_around("DE")
    ('DE', 'EU')
    """
    country = place[:2]
    return tuple(sorted({place, country} | ({_EU} if country in _EU_MEMBERS else set())))


def _require_closed_upwards(places: tuple[str, ...]) -> None:
    """A local deployment stands under the wider law too, so it cannot leave out the jurisdiction with the ban."""
    wider = {around for place in places for around in jurisdictions_around(place)}
    if not places or not wider.issubset(places):
        raise UsageError(
            "a deployment names all its jurisdictions: a subdivision with its country, a member state with EU"
        )
