"""Release bundles for tests: a maker, an auditor, and whom everybody trusts."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from running import a_release

from federation.bundle import Bundle, Papers
from federation.manifest import AuditSummary, ReleaseTrust, Role, Use, Verdict, WorstCell
from federation.purposes import DAY_SECONDS
from federation.release import ModelRelease

MAKER, AUDITOR, STRANGER = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3))
PAPERS = Papers(b'{"made up": "report"}', "# Data\n\nNobody's.\n", "# Model\n\nFor tests.\n")
WORST = WorstCell("women, darker skin", 0.0008, 0.0004, 0.002)


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


TRUST = ReleaseTrust(frozenset({public(MAKER)}), frozenset({public(AUDITOR)}))
TRUST_IN_TRIALS = replace(TRUST, accepts_trials=True)


def an_audit(verdict: Verdict = Verdict.PASS, worst: WorstCell = WORST, scores: bytes | None = None) -> AuditSummary:
    return AuditSummary(verdict, worst, scores)


def a_bundle(release: ModelRelease | None = None, **changes: Any) -> Bundle:
    """Nobody has signed it."""
    begins_at = changes.pop("begins_at", int(time.time()) - DAY_SECONDS)
    options = {
        "audit": an_audit(),
        "use": Use.GENERAL,
        "begins_at": begins_at,
        "ends_at": begins_at + 100 * DAY_SECONDS,
    } | changes
    return Bundle.build(release or a_release(), options.pop("papers", PAPERS), **options)


def signed(bundle: Bundle) -> Bundle:
    return bundle.signed_by(Role.MAKER, MAKER).signed_by(Role.AUDITOR, AUDITOR)
