"""Releases for tests, and their bundles: a maker, an auditor, and whom everybody trusts."""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from federation.audit.cells import Bootstrap, Cell, Counts, Estimate, Limits
from federation.audit.cells import Rate as AuditedRate
from federation.audit.differentials import DIFFERENTIALS
from federation.audit.report import AuditReport
from federation.audit.wolf import WolfRates
from federation.consent.purposes import DAY_SECONDS
from federation.learning.group_rates import EvaluationReport, GroupRates, Rate, Support
from federation.privacy.epsilon_audit import AuditMethod, EpsilonAudit
from federation.promise import PrivacyStatement
from federation.rates import Basis
from federation.recognition.model import Adapter, ModelRelease
from federation.release.bundle import Bundle, Papers
from federation.release.manifest import ReleaseTrust, Role, Use
from federation.verdict import Verdict
from tests.agreeing import public

DIMENSION = 128
THRESHOLD = 300
NOW = dt.datetime(2030, 1, 1, 12, tzinfo=dt.UTC)
MAKER, AUDITOR, STRANGER, OTHER_MAKER, OTHER_AUDITOR = (
    Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2, 3, 5, 4)
)


TRUST = ReleaseTrust(
    frozenset({public(MAKER), public(OTHER_MAKER)}), frozenset({public(AUDITOR), public(OTHER_AUDITOR)})
)
TRUST_IN_TRIALS = replace(TRUST, accepts_trials=True)


def a_release(threshold: int = THRESHOLD) -> ModelRelease:
    return ModelRelease(
        model_name="made-up",
        model_digest="ab" * 32,
        adapter=Adapter.identity(DIMENSION),
        adaptation="none",
        reason="tests need no adaptation",
        condition="mask",
        threshold=threshold,
        fmr=1e-3,
        fmr_low=5e-4,
        fmr_high=2e-3,
        fmr_people=24,
        basis=Basis.CHECKED,
        privacy=PrivacyStatement.of_events(
            privacy_unit="person",
            neighboring_relation="add_or_remove_one",
            epsilon=1.0,
            delta=1e-5,
            events=(("threshold", 4.0),),
            people_train=24,
            organisations=3,
        ),
        created=NOW.isoformat(),
    )


def a_cell(name: str, errors: int, low: float, high: float, *, trials: int = 10_000) -> Cell:
    nothing = Estimate(None)
    fmr = AuditedRate(errors, trials, float(trials), low, high)
    fnmr = AuditedRate(1, 100, 100.0, 0.0, 0.05)
    return Cell((name,), 50, fmr, fnmr, None, nothing, nothing, ())


CELLS = (a_cell("men", 2, 0.0001, 0.0006), a_cell("women", 4, 0.0002, 0.0009))
VERDICTS = {
    Verdict.PASS: CELLS,
    Verdict.INSUFFICIENT: (CELLS[0], a_cell("women", 8, 0.0004, 0.002)),
    Verdict.FAIL: (CELLS[0], a_cell("women", 80, 0.006, 0.01)),
}


def wolves(errors: int = 0, high: float = 0.005, *, best: tuple[int, float, float] = (9, 0.001, 0.02)) -> WolfRates:
    """Of 600 people with five templates each; `best` is errors and bounds of the best image."""
    others, low, up = best
    mean = AuditedRate(errors, 3000, 600.0, min(errors / 3000, high) / 2, high)
    return WolfRates(mean, AuditedRate(others, 3000, 600.0, low, up), 600)


def a_report(release: ModelRelease | None = None, cells: tuple[Cell, ...] = CELLS, **changes: Any) -> AuditReport:
    release = release or a_release()
    options = {
        "subject": f"release {release.digest}",
        "input_sha256": "",
        "attributes": ("gender",),
        "distance": True,
        "threshold": float(release.threshold),
        "stated_fmr": None,
        "limits": Limits(release.fmr, 0.1),
        "bootstrap": Bootstrap(0, 0),
        "counts": Counts(20_000),
        "overall": a_cell("everybody", 6, 0.0001, 0.001),
        "cells": cells,
        "marginals": (),
        "differentials": dict.fromkeys(DIFFERENTIALS, Estimate(None)),
        "wolf": wolves(),
    }
    return AuditReport(**options | changes)


def an_attack(lower_bound: float, **changes: Any) -> EpsilonAudit:
    """On the promise of `a_release`."""
    facts = {"claimed": 1.0, "delta": 1e-5, "confidence": 0.95, "runs": 1000, "method": AuditMethod.GAUSSIAN}
    return EpsilonAudit(**facts | changes, lower_bound=lower_bound)


def an_evaluation(of: ModelRelease | None = None, **changes: Any) -> EvaluationReport:
    """What a federation measured of a release, privately."""
    of = of or a_release()
    rate, few = Rate(0.01, 0.0, 0.03), GroupRates("men", 9.0, Support.INSUFFICIENT)
    rates = (GroupRates("women", 300.0, Support.SUFFICIENT, rate, rate, None), few)
    facts = {"release": of.digest, "threshold": of.threshold, "epsilon": 2.0, "delta": 1e-6, "rates": rates}
    facts |= {"noise_multiplier": 2.0, "people": 309, "organisations": 4}
    return EvaluationReport(**facts | changes)


def a_bundle(release: ModelRelease | None = None, **changes: Any) -> Bundle:
    """Nobody has signed it."""
    release = release or a_release()
    begins_at = changes.pop("begins_at", int(time.time()) - DAY_SECONDS)
    report = changes.pop("report", None) or a_report(release)
    statement = changes.pop("data_statement", "# Data\n\nNobody's.\n")
    attack, evaluation = changes.pop("epsilon_audit", None), changes.pop("evaluation", None)
    papers = Papers(report, statement, "# Model\n\nFor tests.\n", attack, evaluation)
    options = {"use": Use.GENERAL, "begins_at": begins_at, "ends_at": begins_at + 100 * DAY_SECONDS} | changes
    return Bundle.build(release, papers, **options)


def signed(bundle: Bundle) -> Bundle:
    return bundle.signed_by(Role.MAKER, MAKER).signed_by(Role.AUDITOR, AUDITOR)
