"""Writes the signed example rules beside this file: `python -m examples.policies`.

A pack for the EU and one for Germany, whose permission for doors ends in the middle of 2027; a deployment; an exception
for one week and one audience; a moratorium. Replace keys, names and dates by your own.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.consent.purposes import Category, Tier
from federation.rules.entries import Deployment, Moratorium, PolicyException, PolicyPack, PurposeRule, Rule
from federation.rules.rulebook import SignedRule

HERE = Path(__file__).parent
SIGNERS = tuple(
    Ed25519PrivateKey.from_private_bytes(hashlib.sha256(f"intaglio example rule signer {name}".encode()).digest())
    for name in ("operator", "works council", "regulator")
)
EXAMPLE_RELEASE = hashlib.sha256(b"an example model release").digest()


def _time(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp())


BEGIN, MIDDLE, END = _time("2026-01-01"), _time("2027-07-01"), _time("2029-01-01")


def rules() -> dict[str, Rule]:
    """The example rules by file name."""
    door = PurposeRule("door-access", Category.PHYSICAL_ACCESS, Tier.MINIMAL, BEGIN, END)
    until_middle = PurposeRule("door-access", Category.PHYSICAL_ACCESS, Tier.MINIMAL, BEGIN, MIDDLE)
    sign_in = PurposeRule("account-sign-in", Category.SIGN_IN, Tier.LIMITED, BEGIN, END)
    fair = PurposeRule("door-access", Category.PHYSICAL_ACCESS, Tier.LIMITED, _time("2027-09-01"), _time("2027-09-08"))
    return {
        "pack-eu.json": PolicyPack("EU", 1, BEGIN, END, (sign_in, door)),
        "pack-de.json": PolicyPack("DE", 1, BEGIN, END, (until_middle,)),
        "deployment.json": Deployment(
            identifier="berlin-office",
            operator="Example Office Ltd",
            contact="mailto:privacy@example.org",
            audience="example.org",
            purposes=("door-access",),
            jurisdictions=("DE", "EU"),
            release_digests=(EXAMPLE_RELEASE,),
            begins_at=BEGIN,
            ends_at=END,
        ),
        "exception.json": PolicyException(
            "open-week-2027", "DE", "example.org", fair, "The open week of 2027, as the works council agreed."
        ),
        "moratorium.json": Moratorium(
            "review-2026", _time("2026-11-01"), ("DE",), (), (), "Until the review of error rates is published."
        ),
    }


if __name__ == "__main__":
    for name, rule in rules().items():
        signed = SignedRule(rule)
        for key in SIGNERS[: 1 if isinstance(rule, Moratorium) else 2]:
            signed = signed.signed_by(key)
        (HERE / name).write_bytes(signed.to_bytes())
