"""One good example of every value that is signed, crosses a wire or is kept: tables of tests go over all of them."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

from client.log.watching import LogTrust
from client.wallet.wallet import Enrolment, EnrolmentState
from federation.audit.attacks import AttackLevel
from federation.audit.cells import Rate as AuditedRate
from federation.audit.presentation import PadRates, SpeciesRates
from federation.consent.assertion import Assertion, LogPosition
from federation.consent.login import LoginRequest
from federation.consent.purposes import Tier
from federation.consent.receipts import Withdrawal
from federation.experiments.frontier import FrontierSettings
from federation.groups import Alike, GroupBound, HeldFor, ThresholdFor
from federation.identity import IDENTITY_BYTES
from federation.learning.evaluation_plan import EvaluationPlan, Group
from federation.learning.releasing import ReleaseTerms
from federation.membership.joining import LocalPolicy
from federation.onebit import Operation
from federation.onebit.transcript import Transcript
from federation.presentation.levels import PadLevel
from federation.privacy.ledger import LedgerEntry
from federation.privacy.plan import PrivacyPlan
from federation.promise import AttackRates
from federation.recognition.templates import ARCFACE
from federation.rules.clients import Client, SigningAlgorithm
from federation.rules.entries import Issuer
from federation.rules.policy import Request
from federation.sealing import ScryptCost
from federation.secagg import Session
from federation.transparency import (
    AttemptEntry,
    AttemptOutcome,
    PersonalEntry,
    PersonalKind,
    PublicEntry,
    PublicKind,
)
from federation.transparency.policy import LogPolicy, NamedWitness
from federation.transparency.tiles import Tile
from federation.wire.convert import Change, ProbeSubmission, SessionGrant, SessionRequest, TokenSubmission
from federation.wire.devices import Admission, DeviceChange
from federation.wire.owner import OwnerOperation, OwnerProof
from federation.wire.person import FILES, PersonFile
from federation.wire.ticket import Ticket
from tests import profiles
from tests.agreeing import (
    AUDIENCE,
    BINDING,
    DAY,
    NOW,
    PASSED,
    PURPOSE,
    RATE,
    RECEIPT,
    RULE_SIGNERS,
    TERMS,
    a_deployment,
    a_kiosk,
    a_lifting,
    a_moratorium,
    a_pack,
    a_receipt,
    a_rule,
    an_exception,
)
from tests.bundles import a_bundle, a_release, a_report, an_attack, an_evaluation, signed, wolves
from tests.transparency_log import SIGNER, WITNESSES, MemoryLog

BUNDLE = signed(a_bundle(a_release(), begins_at=NOW))
PROFILE = profiles.profile_of(profiles.prior_of())
LOG = MemoryLog()
_HEX = "ab" * 32
_MEN, _WOMEN = GroupBound("men", 53, 8, 2756, 0.0099), GroupBound("women", 49, 3, 2352, 0.009)
_ALIKE = Alike("sex", 1.62, 1.31, 1.97)
_RATE = AuditedRate(1, 10, 10.0, 0.01, 0.4)
_SPECIES = SpeciesRates("print", AttackLevel.A, 10, _RATE, _RATE)
_PRIOR = PROFILE.conditions[0].prior
_KEYS = tuple(witness.key for witness in WITNESSES)
_REPORT = a_report()
_EVALUATION = an_evaluation()
_PLAN = PrivacyPlan.for_epsilon(8.0, delta=1e-5, people=24, organisations=4, dimension=192, directions=58)
_QUESTIONS = EvaluationPlan.for_epsilon(
    8.0,
    delta=1e-6,
    groups=(Group("even", 3000, 3000), Group("odd", 3000, 3000)),
    people=6000,
    organisations=4,
    threshold=300,
    code_length=1024,
    release=_HEX,
)
_ASSERTION = Assertion(
    issuer="https://verify.example.org",
    audience=AUDIENCE,
    subject="cd" * 32,
    purpose=PURPOSE,
    nonce=bytes(32),
    issued_at=NOW,
    expires_at=NOW + 300,
    release_digest=bytes(32),
    rate=RATE,
    audited=PASSED,
    pad=PadLevel.ON_DEVICE,
    log=LogPosition("example.org/log", 41, 42, bytes(32)),
    contest="mailto:contest@example.org",
)
_TRANSCRIPT = Transcript(
    parameters="intaglio-onebit-1024/2",
    operation=Operation.VERIFY,
    session_id=bytes(16),
    nonce=bytes(32),
    purpose=PURPOSE,
    audience=AUDIENCE,
    audience_nonce=bytes(32),
    key_id=bytes(32),
    template_digest=bytes(32),
    release_digest=bytes(32),
    change_digest=bytes(32),
    log_size=7,
    probe_digest=bytes(32),
)
_ONEBIT = Path(__file__).parent / "vectors/onebit/1024"
_TEMPLATE, _PROBE = ((_ONEBIT / f"{name}.bin").read_bytes() for name in ("template", "probe"))
_CLIENT = Client(
    deployment="berlin-office",
    identifier="shop.example",
    version=1,
    operator="Example Shop Ltd",
    purposes=(PURPOSE,),
    redirect_uris=("https://shop.example/back",),
    algorithm=SigningAlgorithm.ES256,
    begins_at=NOW - DAY,
    ends_at=NOW + DAY,
    key=bytes(range(64)),
)

GOOD = {
    # Rules, consent and what is said of a comparison.
    "a binding": BINDING,
    "a party": TERMS.controller,
    "terms": TERMS,
    "a receipt": RECEIPT,
    "a signed receipt": a_receipt(),
    "a withdrawal": Withdrawal(bytes(range(16)), bytes(32), NOW),
    "a rule of a purpose": a_rule(tier=Tier.HIGH),
    "a pack": a_pack(),
    "a deployment": a_deployment(),
    "an exception": an_exception(),
    "a moratorium": a_moratorium(),
    "a lifting": a_lifting(),
    "a kiosk": a_kiosk(),
    "a client": _CLIENT,
    "an issuer": Issuer("https://verify.example.org", bytes(range(32))),
    "signers": RULE_SIGNERS,
    "a request of policy": Request("berlin-office", AUDIENCE, PURPOSE, BINDING),
    "an assertion": _ASSERTION,
    "a position in the log": _ASSERTION.log,
    "a login": LoginRequest(
        provider="https://login.example.org",
        client="shop.example",
        purpose=PURPOSE,
        redirect_uri="https://shop.example/back",
        nonce="n-1",
        code_challenge="c" * 43,
        salt=bytes(range(32)),
    ),
    # Releases, their papers and profiles.
    "a manifest": BUNDLE.manifest,
    "claims": BUNDLE.manifest.claims,
    "a summary": BUNDLE.manifest.audit,
    "the worst cell": BUNDLE.manifest.audit.worst_cell,
    "a release": a_release(),
    "a stated rate": RATE,
    "what an audit says": PASSED,
    "a promise": a_release().privacy,
    "rates of attacks": AttackRates.of_mu(1.0),
    "a bound of a group": _WOMEN,
    "those who are alike": _ALIKE,
    "whom a rate is held for": HeldFor(ThresholdFor.WORST_GROUP, 0.01, 115, (_MEN, _WOMEN), (_ALIKE,), _HEX),
    "an audit report": _REPORT,
    "an audited rate": _RATE,
    "a cell": _REPORT.cells[0],
    "limits": _REPORT.limits,
    "counts": _REPORT.counts,
    "a bootstrap": _REPORT.bootstrap,
    "fixed strings": wolves(),
    "a species": _SPECIES,
    "presentation attacks": PadRates((_SPECIES,), 10, _RATE),
    "an attack on a promise": an_attack(0.5),
    "an evaluation": _EVALUATION,
    "a measured rate": _EVALUATION.rates[0].fmr,
    "a profile": PROFILE,
    "an alignment": ARCFACE,
    "preprocessing": PROFILE.preprocessing,
    "a set of faces": PROFILE.sets[0],
    "clips": PROFILE.clips,
    "provenance": PROFILE.provenance,
    "a condition": PROFILE.conditions[0],
    "a prior": _PRIOR,
    "a shift by fusing": _PRIOR.references,
    "distances": _PRIOR.at_weights[0],
    "terms of a release": ReleaseTerms(PROFILE, "mask", 0.01, 2, 1),
    # Plans, ledgers and sums.
    "a plan": _PLAN,
    "a plan with tuning": replace(
        PrivacyPlan.for_epsilon(
            8.0, delta=1e-5, people=24, organisations=4, dimension=192, directions=58, tuned=100, steps=3
        )
    ),
    "an evaluation's plan": _QUESTIONS,
    "a group": _QUESTIONS.groups[0],
    "a line of a ledger": LedgerEntry("reserve", "people", "run 1", (2.0,), 0.0, 0.0, "", "0" * 64),
    "a policy of an organisation": LocalPolicy(
        8.0, 16.0, 1e-5, 1, ("moments", "threshold"), frozenset({_HEX}), 480, 1080
    ),
    "a session of sums": Session(
        "run 1", "moments", bytes(32), tuple(bytes([n]) * IDENTITY_BYTES for n in range(1, 7)), 5, 2, 1
    ),
    "settings of a frontier": FrontierSettings(),
    # The log.
    "an attempt": AttemptEntry(NOW, "example.org", PURPOSE, AttemptOutcome.OPENED, bytes(32), 1),
    "attempts that were refused": AttemptEntry(NOW, "example.org", PURPOSE, AttemptOutcome.NOT_COVERED, bytes(32), 3),
    "a personal entry": PersonalEntry(PersonalKind.RENEWAL, NOW, bytes(32)),
    "a public entry": PublicEntry(PublicKind.POLICY, NOW, b"content"),
    "trust in a log": LogTrust(SIGNER.key, _KEYS, 2),
    "a policy of a log": LogPolicy(
        SIGNER.key, tuple(NamedWitness(key, "https://witness.example") for key in _KEYS), _KEYS, 2
    ),
    "a named witness": NamedWitness(_KEYS[0], "https://witness.example"),
    "a key of a log": SIGNER.key,
    "a signature": LOG.signed().note.signatures[0],
    "a checkpoint": LOG.signed().checkpoint,
    "a head": LOG.signed().head,
    "a logged entry": LOG.logged(3),
    "a growth": LOG.growth(6),
    "a tile": Tile(1, 5, 256),
    # What crosses the wire between device and server.
    "a session's request": SessionRequest(bytes(32), PURPOSE, AUDIENCE, bytes(32)),
    "a session": SessionGrant(bytes(16), bytes(32), bytes(32)),
    "a change": Change(b"receipt", BINDING.device_public_key, _TEMPLATE),
    "a probe": ProbeSubmission(bytes(16), _PROBE, bytes(64), 7),
    "a probe with a change": ProbeSubmission(
        bytes(16), _PROBE, bytes(64), 7, Change(b"receipt", BINDING.device_public_key, _TEMPLATE), b"n" * 64
    ),
    "a token": TokenSubmission(bytes(16), bytes(range(16)), 7),
    "a transcript": _TRANSCRIPT,
    "an owner's proof": OwnerProof(OwnerOperation.REVOKE, bytes(32), AUDIENCE, NOW, bytes(64)),
    "a change of devices": DeviceChange(admits=hashlib.sha256(b"ticket").digest()),
    "a removal of a device": DeviceChange(removes=hashlib.sha256(b"key").digest()),
    "an admission": Admission(BINDING.device_public_key, bytes(32), bytes(64), bytes(100)),
    "a person's file": PersonFile("localhost:7443", "trial", Ticket(bytes(20)), dict.fromkeys(FILES, b"")),
    "an enrolment": Enrolment(PURPOSE, AUDIENCE, bytes(32), EnrolmentState.ENROLLED, "trial", b"{}", 7),
    "a cost of scrypt": ScryptCost(),
}
