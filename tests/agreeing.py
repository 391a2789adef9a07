"""People who consent, organisations that ask, signers of rules: all made up, and the same in every run."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.consent.life import Consent
from federation.consent.purposes import DAY_SECONDS, Category, Tier
from federation.consent.receipts import Binding, Party, Receipt, Terms
from federation.presentation.levels import PadLevel
from federation.rates import Audited, Basis, StatedRate
from federation.release.manifest import Standing
from federation.rules.entries import Deployment, Lifting, Moratorium, PolicyException, PolicyPack, PurposeRule
from federation.rules.kiosks import Kiosk
from federation.rules.policy import Attempts, Request, decide
from federation.rules.rulebook import Rulebook, RuleSigners, SignedRule
from federation.verdict import Verdict

NOW = 1_893_456_000  # 2030-01-01T00:00:00Z
DAY = DAY_SECONDS
PURPOSE, AUDIENCE = "door-access", "example.org"
OTHER_PURPOSE, OTHER_AUDIENCE = "account-sign-in", "other.example"
REASON = "because the test of it needs one"


def a_key(number: int) -> Ed25519PrivateKey:
    return Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32)


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def sha256(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()


DEVICE, STRANGER = a_key(1), a_key(2)
SIGNERS = (a_key(11), a_key(12), a_key(13))
RULE_SIGNERS = RuleSigners(frozenset(public(key) for key in SIGNERS), threshold=2)
BINDING = Binding(public(DEVICE), sha256("key"), sha256("template"), sha256("release"))
TERMS = Terms(
    controller=Party("Beispiel GmbH", "Ringstraße 1, 10115 Berlin", "mailto:privacy@example.org"),
    audience=AUDIENCE,
    purposes=(PURPOSE,),
    jurisdiction="DE",
    storage_location="DE",
    retention_days=0,
    alternative="Show your badge to the porter at the main entrance.",
    contest="mailto:contest@example.org",
    withdrawal="https://example.org/withdraw",
    notice="https://example.org/notice",
    notice_version="2029-12",
    language="en",
)
RECEIPT = Receipt(bytes(range(16)), TERMS, BINDING, NOW, NOW + 90 * DAY)
USE = {"binding": BINDING, "purpose": PURPOSE, "audience": AUDIENCE}


def a_receipt(key: Ed25519PrivateKey = DEVICE, **changes):
    """A signed receipt; changes go to the receipt, its terms or its binding by the name of the field."""
    terms = {name: changes.pop(name) for name in list(changes) if hasattr(TERMS, name)}
    binding = {name: changes.pop(name) for name in list(changes) if hasattr(BINDING, name)}
    binding.setdefault("device_public_key", public(key))
    return replace(RECEIPT, terms=replace(TERMS, **terms), binding=replace(BINDING, **binding), **changes).sign(key)


def a_consent(**changes) -> Consent:
    return Consent((a_receipt(**changes),))


def a_rule(**changes) -> PurposeRule:
    return replace(PurposeRule(PURPOSE, Category.PHYSICAL_ACCESS, Tier.MINIMAL, NOW - DAY, NOW + 1000 * DAY), **changes)


def a_pack(jurisdiction: str = "DE", *rules: PurposeRule, **changes) -> PolicyPack:
    return replace(PolicyPack(jurisdiction, 1, NOW - DAY, NOW + 1000 * DAY, rules or (a_rule(),)), **changes)


def a_deployment(**changes) -> Deployment:
    registered = Deployment(
        identifier="berlin-office",
        operator="Beispiel GmbH",
        contact="mailto:privacy@example.org",
        audience=AUDIENCE,
        purposes=(PURPOSE,),
        jurisdictions=("DE", "EU"),
        release_digests=(BINDING.release_digest,),
        begins_at=NOW - DAY,
        ends_at=NOW + 1000 * DAY,
    )
    return replace(registered, **changes)


def another_deployment() -> Deployment:
    """Of somebody else, for another purpose, with another release, in one of the places."""
    return a_deployment(
        identifier="munich-office",
        audience=OTHER_AUDIENCE,
        purposes=(OTHER_PURPOSE,),
        jurisdictions=("DE", "EU"),
        release_digests=(sha256("another release"),),
    )


def an_exception(**changes) -> PolicyException:
    rule = a_rule(begins_at=NOW - DAY, ends_at=NOW + 30 * DAY)
    return replace(PolicyException("fair-2030", "DE", AUDIENCE, rule, REASON), **changes)


def a_moratorium(**changes) -> Moratorium:
    return replace(Moratorium("pause-2030", NOW - DAY, (), (), (), REASON), **changes)


def a_kiosk(**changes) -> Kiosk:
    kiosk = Kiosk("hall-1", "berlin-office", sha256("a kiosk's certificate"), "entrance hall", NOW - DAY, NOW + DAY)
    return replace(kiosk, **changes)


def a_lifting(**changes) -> Lifting:
    return replace(Lifting("pause-2030", NOW, REASON), **changes)


def by(count: int, rule) -> SignedRule:
    """The rule with the signatures of so many signers."""
    signed = SignedRule(rule)
    for key in SIGNERS[:count]:
        signed = signed.signed_by(key)
    return signed


def a_rulebook(*rules, read_at: int = NOW) -> Rulebook:
    """A rulebook of these rules; without any, one that allows two purposes, each in one of two deployments."""
    both = (a_rule(purpose=OTHER_PURPOSE, category=Category.SIGN_IN, tier=Tier.LIMITED), a_rule())
    packs = (a_pack("DE", *both), a_pack("EU", *both))
    entries = rules or (*packs, a_deployment(), another_deployment())
    return Rulebook.read(RULE_SIGNERS, [by(2, rule).to_bytes() for rule in entries], read_at=read_at)


RATE = StatedRate(1e-3, 5e-4, 2e-3, Basis.CHECKED, 24)
PASSED = Audited(Verdict.PASS, 812, 1e-3, 0.05, is_trial=False)
TRIAL = Audited(Verdict.INSUFFICIENT, 16, 1e-3, 0.9, is_trial=True)
STANDING = Standing(stated_fmr=1e-3, audited=PASSED, begins_at=NOW - DAY, ends_at=NOW + 365 * DAY)


def ask(**changes):
    """What `decide` says to the usual request; changes go to the request or to the other arguments, by name."""
    request = Request("berlin-office", AUDIENCE, PURPOSE, BINDING)
    asked = {name: changes.pop(name) for name in list(changes) if hasattr(request, name)}
    stated = {name: changes.pop(name) for name in list(changes) if hasattr(STANDING, name)}
    arguments = {
        "consent": a_consent(),
        "attempts": Attempts(),
        "rules": a_rulebook(),
        "release": replace(STANDING, **stated),
        "pad": PadLevel.NONE,
        "now": NOW,
    }
    return decide(replace(request, **asked), **(arguments | changes))
