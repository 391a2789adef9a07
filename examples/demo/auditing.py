"""The release as a bundle: audited on the held-out people, and signed with keys that were made for it.

A demo plays all parties, so its two signatures prove nothing about anybody. They show the way: no server starts and no
device answers without a bundle. Both keys stay beside the demo's, so that whoever plays on can sign what follows. The
audit is a real one, of exactly this release at its threshold, by face codes as they are compared under encryption. So
few people, who say nothing about themselves, cannot pass any audit: the verdict is INSUFFICIENT at best, and the bundle
is marked as a trial.
"""

from __future__ import annotations

from itertools import product

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.audit.scoring import Labels
from examples.demo.verifying import Person
from federation.audit.audit import audit_scores
from federation.audit.cells import Cell, Limits
from federation.audit.comparisons import Comparisons
from federation.audit.report import AuditReport
from federation.consent.purposes import DAY_SECONDS
from federation.experiments.canaries import audit_epsilon
from federation.experiments.wolves import Owner, try_fixed_strings
from federation.onebit import CodeSeed, binary_code, hamming_distance
from federation.privacy.epsilon_audit import EpsilonAudit
from federation.privacy.plan import SCALES, PrivacyPlan
from federation.recognition.mobilefacenet import TUNABLE, MobileFaceNetRecogniser
from federation.recognition.model import ModelRelease
from federation.recognition.recogniser import Recogniser
from federation.release.bundle import Bundle, Papers
from federation.release.manifest import ReleaseTrust, Role, Use

_DAYS = 30
_RUNS = 1000
"""On each side: seconds, and a bound within ten percent of the claim when the noise is right."""
_LARGEST_FNMR = 0.9
"""Reported and hardly judged: the release states no rate of false non-matches, and the probes are masked."""
_DATA = """# Data statement

Trained and audited on pictures of one data set, split by people. Nothing here shows what they agreed to. The pictures
have no labels of sex, age or skin, so nothing is known about differences between groups.
"""
_CARD = """# Model card

Made by a demo on one machine. It shows how releases are made, audited and served; it is not for use. Nobody of the
audit took part in training, and they are far too few to say anything about groups of people.
"""


def audit(people: list[Person], owners: list[Owner], release: ModelRelease) -> AuditReport:
    """Audits a release on people whom training never saw.

    Every first reference is compared with every probe under one code seed: strangers who hold a wallet and show their
    own face. What a thief gets who shows none is measured with fixed strings, each chosen on half of the people.

    Args:
        people: held out.
        owners: the same people, as `federation.experiments.wolves` wants them.
        release: what is audited.
    """
    scores, same, first, second = zip(*_compared(people, release), strict=True)
    return audit_scores(
        Comparisons.of(scores, same, {"group": ["everybody"] * len(scores)}, people=(first, second)),
        limits=Limits(release.fmr, _LARGEST_FNMR),
        strings=try_fixed_strings(owners, threshold=release.threshold, bits=release.code_length),
        threshold=float(release.threshold),
        distance=True,
        subject=f"release {release.digest}",
    )


def by_group(people: list[Person], release: ModelRelease, labels: Labels) -> tuple[Cell, ...]:
    """What the same audit finds of each group, by one attribute at a time.

    So few people make groups that nothing can be judged of: that is what the intervals show.

    Args:
        people: held out.
        release: what is audited.
        labels: what they say of themselves, by attribute.
    """
    scores, same, first, second = zip(*_compared(people, release), strict=True)
    found: list[Cell] = []
    for attribute, said in labels.items():
        sides = [said.get(name, "") for name in first], [said.get(name, "") for name in second]
        if any(sides[0]):
            comparisons = Comparisons.of(scores, same, {attribute: sides}, people=(first, second))
            limits = Limits(release.fmr, _LARGEST_FNMR)
            threshold = float(release.threshold)
            found += audit_scores(comparisons, limits=limits, threshold=threshold, distance=True, replicates=0).cells
    return tuple(found)


def _compared(people: list[Person], release: ModelRelease) -> list[tuple[float, bool, str, str]]:
    """Distance, whether of one person, and of whom, of everybody's first reference and every probe."""
    seed, bits = CodeSeed.generate(), release.code_length
    references = {person.name: binary_code(person.references[0], seed, bits) for person in people}
    probes = [(person.name, binary_code(probe, seed, bits)) for person in people for probe in person.probes]
    return [
        (float(hamming_distance(code, probe)), name == other, name, other)
        for (name, code), (other, probe) in product(references.items(), probes)
    ]


def attacked(release: ModelRelease, recogniser: Recogniser) -> EpsilonAudit | None:
    """What an attack on the releases of this very plan measures, beside what it claims; None for another plan."""
    privacy = release.privacy
    if not privacy.events:
        return None
    tuned = recogniser if isinstance(recogniser, MobileFaceNetRecogniser) else None
    steps = sum(name.startswith(SCALES) for name, _ in privacy.events)
    plan = PrivacyPlan.for_epsilon(
        privacy.epsilon,
        delta=privacy.delta,
        people=privacy.people_train,
        organisations=privacy.organisations,
        dimension=release.adapter.dimension,
        directions=release.adapter.size,
        centre_clip=recogniser.profile.clips.centre_thousandths / 1000,
        colluders=privacy.colluders,
        tuned=TUNABLE if steps else 0,
        steps=steps,
    )
    if plan.events != privacy.events:
        return None
    return audit_epsilon(plan, runs=_RUNS, recogniser=tuned)


def trial_bundle(
    report: AuditReport,
    release: ModelRelease,
    *,
    measured: EpsilonAudit | None,
    now: int,
    maker: Ed25519PrivateKey | None = None,
    auditor: Ed25519PrivateKey | None = None,
) -> tuple[Bundle, ReleaseTrust]:
    """The signed bundle, and the trust of whoever plays along.

    Args:
        report: of `audit`.
        release: what it is about.
        measured: of `attacked`.
        now: seconds since 1970.
        maker: who signs; None: a key that is thrown away.
        auditor: the same.
    """
    maker, auditor = maker or Ed25519PrivateKey.generate(), auditor or Ed25519PrivateKey.generate()
    papers = Papers(report, _DATA, _CARD, measured)
    bundle = Bundle.build(release, papers, use=Use.TRIAL, begins_at=now, ends_at=now + _DAYS * DAY_SECONDS)
    makers, auditors = (frozenset({key.public_key().public_bytes_raw()}) for key in (maker, auditor))
    signed = bundle.signed_by(Role.MAKER, maker).signed_by(Role.AUDITOR, auditor)
    return signed, ReleaseTrust(makers, auditors, accepts_trials=True)
