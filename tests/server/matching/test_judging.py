"""Each judgement of the matching service by itself: who may begin, what a probe may bring, what is held for a match."""

from __future__ import annotations

import dataclasses
import hashlib
from types import SimpleNamespace

import pytest

from federation.errors import MalformedMessageError, ProofError, RefusedError, UnavailableError, UsageError
from federation.onebit import Operation
from federation.rules.policy import Reason, Refused
from federation.transparency import AttemptOutcome, PublicEntry, PublicKind
from federation.wire.convert import SessionGrant, SessionRequest
from federation.wire.devices import Admission, DeviceChange, code_of
from federation.wire.ticket import Ticket
from server.log.refusals import Refusal
from server.matching import service as module
from server.matching.owners import NOBODY, STRANGER
from server.matching.service import MatchingService, _operation, _require_for, _require_signed_by_new
from server.matching.stepping import Progress
from server.storage.limits import AttemptLimits
from server.storage.sessions import SessionLimits, Step
from server.storage.storage import NO_TICKET, IssuedTicket
from tests.server.matching.calls import Calls, Disk
from tests.stored import (
    DEVICE,
    KEY,
    NOW,
    OTHER_DEVICE,
    OTHER_KEY,
    THIRD_DEVICE,
    THIRD_KEY,
    a_template,
    account_of,
    an_open_session,
    digest,
)

LIMITS = SessionLimits(capacity=50, per_peer=7, lifetime_seconds=45, answer_seconds=12)
WANTED = SessionRequest(KEY, "door-access", "example.org")
TICKET = Ticket(bytes(range(20)))
ACCOUNT = account_of(DEVICE)
PARAMETERS = SimpleNamespace(name="profile/1", slots=1024)
FORMER_PARAMETERS = SimpleNamespace(name="profile/2", slots=2048)
PRESENT = SimpleNamespace(digest=b"\4" * 32, parameters=PARAMETERS, manifest=b"m1", standing="standing of now")
FORMER = SimpleNamespace(digest=b"\6" * 32, parameters=FORMER_PARAMETERS, manifest=b"m2", standing="of before")


class Scene:
    """A service whose parts note what they are told."""

    def __init__(self, monkeypatch, *, issued=None, issuer=True, templates=None):
        self.calls = calls = Calls()
        service = self.service = MatchingService.__new__(MatchingService)
        service.on_disk, service._clock, service._session_limits = Disk(calls), lambda: NOW + 0.9, LIMITS
        service._present = PRESENT
        service._releases = SimpleNamespace(every=(PRESENT, FORMER))
        service._issuer = "an issuer" if issuer else None
        service._software, service._declared = b"provenance", 0
        service._nobody = a_template(THIRD_DEVICE)
        service._steps = SimpleNamespace(read=self.read)
        service._rules = SimpleNamespace(
            registered=calls.of("registered", ("a name", "another")),
            public_entries=calls.of("rules", [PublicEntry(PublicKind.POLICY, NOW, b"a rule")]),
            decide=calls.of("decide", "allowed"),
            decide_to_leave=calls.of("leave", "allowed"),
        )
        self.templates = templates or {}
        service._storage = SimpleNamespace(
            ticket=calls.of("ticket", issued), start_session=calls.of("started"), template=self.template
        )
        service.journal = SimpleNamespace(
            refusals=SimpleNamespace(note=calls.later("logged")), declare=calls.later("declared"), log="the log"
        )
        monkeypatch.setattr(module, "peer_of", lambda context: context.peer)
        monkeypatch.setattr(module, "name_of", lambda context: context.name)
        self.context = SimpleNamespace(peer=b"\x0e" * 32, name="bob")

    def template(self, key_id):
        self.calls.note("template", key_id)
        return self.templates.get(key_id)

    async def read(self, parse, request):
        self.calls.note("read", parse.__self__.__name__)
        return request


def started(scene):
    """The session that was stored; what else was told with it is as it must be."""
    name, session, now, limits = scene.calls[-1]
    assert (name, now, limits) == ("started", NOW, LIMITS)
    assert (session.step, session.request, session.peer) == (Step.PROBE, WANTED, scene.context.peer)
    assert session.expires_at == NOW + 45
    return session


def granted(response, session):
    assert SessionGrant.from_proto(response) == SessionGrant(session.session_id, session.nonce, PRESENT.digest)


# ---------------------------------------------------------------------- what it is made of
def test_each_part_of_a_service_has_the_storage_the_journal_and_the_clock_that_it_was_given(monkeypatch):
    told, clock = {}, lambda: NOW + 0.9
    for name in ("Releases", "Disk", "Steps", "Deeds", "OwnerService", "LogService", "CertificateService"):

        def made(*arguments, name=name, **named):
            told[name] = (*arguments, *named.values())
            return SimpleNamespace(present=SimpleNamespace(**vars(PRESENT))) if name == "Releases" else f"the {name}"

        monkeypatch.setattr(module, name, made)
    rules, journal = SimpleNamespace(registered="registered"), SimpleNamespace(log="the log")
    workers = SimpleNamespace(metrics="metrics")
    options = {"former": ["a former bundle"], "issuer": "issuer", "limits": "limits", "session_limits": LIMITS}
    service = MatchingService(
        "a bundle", "storage", workers, rules, journal, software=b"provenance", clock=clock, **options
    )
    assert told == {
        "Releases": ("a bundle", ["a former bundle"]),
        "Disk": ("storage",),
        "Steps": ("storage", "the Disk", journal, "registered", clock),
        "Deeds": ("storage", "the Disk", journal, clock),
        "OwnerService": ("storage", "the Disk", journal, "the Deeds", clock),
        "LogService": ("the log", b"provenance"),
        "CertificateService": ("storage", "the Disk", clock),
    }
    assert (service._limits, service._session_limits, service._issuer) == ("limits", LIMITS, "issuer")
    assert (service._storage, service._workers, service._rules, service.journal) == ("storage", workers, rules, journal)
    assert (service.metrics, service._software, service._clock, service._declared) == (
        "metrics",
        b"provenance",
        clock,
        0,
    )
    nobody = service._nobody
    assert (nobody.device_public_key, nobody.template, nobody.release_digest) == (NOBODY, bytes(128), PRESENT.digest)
    assert (nobody.parameters, nobody.purpose, nobody.audience) == ("profile/1", "nothing", "nobody")
    usual = MatchingService("a bundle", "storage", workers, rules, journal)
    assert (usual._limits, usual._session_limits, usual._issuer) == (AttemptLimits(), SessionLimits(), None)


# ---------------------------------------------------------------------- who may begin
LET_IN = {
    "anybody": IssuedTicket(TICKET.digest, ACCOUNT, None, NOW + 60),
    "by name": IssuedTicket(TICKET.digest, ACCOUNT, "bob", NOW + 60),
    "by a device": IssuedTicket(code_of(KEY).digest, ACCOUNT, None, NOW + 60, b"an admission"),
}


@pytest.mark.parametrize("how", LET_IN)
async def test_whoever_brings_a_ticket_of_theirs_has_a_session_that_makes_its_account(monkeypatch, how):
    scene = Scene(monkeypatch, issued=LET_IN[how])
    ticket = code_of(KEY) if how == "by a device" else TICKET
    answer = await scene.service.StartEnrolment(SimpleNamespace(ticket=ticket, session=WANTED), scene.context)
    assert scene.calls[:-1] == [("read", "EnrolmentRequest"), ("ticket", ticket.digest, NOW), ("need not last",)]
    session = started(scene)
    assert (session.operation, session.account) == (Operation.ENROL, ACCOUNT)
    granted(answer, session)


NOT_LET_IN = {
    "no ticket": (None, TICKET),
    "another's name": (IssuedTicket(TICKET.digest, ACCOUNT, "eve", NOW + 60), TICKET),
    "another's code": (
        dataclasses.replace(LET_IN["by a device"], digest=code_of(OTHER_KEY).digest),
        code_of(OTHER_KEY),
    ),
    "a code of another's name": (dataclasses.replace(LET_IN["by a device"], client="eve"), code_of(KEY)),
}


@pytest.mark.parametrize("why", NOT_LET_IN)
async def test_whoever_brings_none_has_one_answer_and_one_entry_that_names_only_what_is_registered(monkeypatch, why):
    issued, ticket = NOT_LET_IN[why]
    scene = Scene(monkeypatch, issued=issued)
    with pytest.raises(RefusedError, match=f"^{NO_TICKET}$"):
        await scene.service.StartEnrolment(SimpleNamespace(ticket=ticket, session=WANTED), scene.context)
    assert scene.calls == [
        ("read", "EnrolmentRequest"),
        ("ticket", ticket.digest, NOW),
        ("registered", "example.org", "door-access"),
        ("logged", Refusal(AttemptOutcome.NOT_COVERED, "a name", "another"), scene.context.peer),
    ]


@pytest.mark.parametrize(("nonce", "issuer"), [(b"", True), (b"\x0a" * 32, True), (b"", False)])
async def test_anybody_has_a_session_to_verify_and_nobody_is_looked_up_for_it(monkeypatch, nonce, issuer):
    monkeypatch.setattr(f"{__name__}.WANTED", dataclasses.replace(WANTED, audience_nonce=nonce))
    scene = Scene(monkeypatch, issuer=issuer)
    answer = await scene.service.StartVerification(WANTED, scene.context)
    assert scene.calls[:-1] == [("read", "SessionRequest"), ("need not last",)]
    session = started(scene)
    assert (session.operation, session.account) == (Operation.VERIFY, None)
    granted(answer, session)


async def test_a_nonce_that_nobody_would_sign_begins_nothing(monkeypatch):
    scene, wanted = Scene(monkeypatch, issuer=False), dataclasses.replace(WANTED, audience_nonce=b"\x0a" * 32)
    with pytest.raises(UsageError, match=r"^this server issues no assertions; ask without a nonce$"):
        await scene.service.StartVerification(wanted, scene.context)
    assert scene.calls == [("read", "SessionRequest")]


# ---------------------------------------------------------------------- what is declared
OWN = [(PublicKind.RELEASE, b"m1"), (PublicKind.RELEASE, b"m2"), (PublicKind.SOFTWARE, b"provenance")]


async def test_what_was_declared_is_declared_again_only_where_there_is_more_or_the_log_did_not_take_it(monkeypatch):
    scene, told = Scene(monkeypatch), []

    async def declare(entries):
        told.append(entries)
        if len(told) == 1:
            raise UnavailableError("the log is busy")

    scene.service.journal.declare = declare
    with pytest.raises(UnavailableError, match="busy"):
        await scene.service._declare(NOW)
    for _ in range(2):
        await scene.service._declare(NOW)
    rules = [PublicEntry(PublicKind.POLICY, NOW, b"a rule"), PublicEntry(PublicKind.MORATORIUM, NOW, b"another")]
    scene.service._rules.public_entries = lambda _: rules
    for _ in range(2):
        await scene.service._declare(NOW + 5)
    assert [len(entries) for entries in told] == [4, 4, 5]
    assert scene.calls == [("rules", NOW)] * 3


async def test_before_the_first_call_the_database_is_level_with_its_log_and_then_release_software_and_rules_stand_there(
    monkeypatch,
):
    scene = Scene(monkeypatch)
    monkeypatch.setattr(module, "take_up", scene.calls.of("level"))
    await scene.service.begin()
    own = [PublicEntry(kind, NOW, content) for kind, content in OWN]
    assert scene.calls == [
        ("level", scene.service._storage, "the log", NOW),
        ("rules", NOW),
        ("declared", [*own, PublicEntry(PublicKind.POLICY, NOW, b"a rule")]),
    ]
    scene.service._software, scene.service._declared = None, 0
    await scene.service._declare(NOW)
    assert scene.calls[-1] == ("declared", [*own[:2], PublicEntry(PublicKind.POLICY, NOW, b"a rule")])


async def test_a_database_that_is_behind_declares_nothing(monkeypatch):
    scene = Scene(monkeypatch)
    monkeypatch.setattr(module, "take_up", scene.calls.of("level"))
    scene.calls.failing["level"] = UsageError("is behind its log")
    with pytest.raises(UsageError, match="is behind its log"):
        await scene.service.begin()
    assert [call[0] for call in scene.calls] == ["level"]


# ---------------------------------------------------------------------- what a probe may bring
NEW = SimpleNamespace(has_template=True, template=b"template", receipt=b"a receipt")
CONSENT = SimpleNamespace(has_template=False, template=b"", receipt=b"a receipt")
ADMITS, REMOVES = DeviceChange(admits=digest(8)), DeviceChange(removes=OTHER_KEY)
ENROLS, VERIFIES = Operation.ENROL, Operation.VERIFY
BRINGS = {
    "nothing": (VERIFIES, None, b"", b"", VERIFIES),
    "nothing, for a site": (VERIFIES, None, b"", b"\x0a" * 32, VERIFIES),
    "an enrolment": (ENROLS, NEW, b"", b"", ENROLS),
    "an enrolment, for a site": (ENROLS, NEW, b"", b"\x0a" * 32, ENROLS),
    "a consent": (VERIFIES, CONSENT, b"", b"", Operation.RENEW_CONSENT),
    "a template": (VERIFIES, NEW, b"signature", b"", Operation.RENEW_TEMPLATE),
    "a device": (VERIFIES, ADMITS, b"", b"", Operation.ADMIT_DEVICE),
    "a device's end": (VERIFIES, REMOVES, b"", b"", Operation.REMOVE_DEVICE),
}
REFUSED = {
    "an enrolment of nothing": (ENROLS, None, b"", b"", "brings a device key, a template and a consent"),
    "an enrolment of a consent": (ENROLS, CONSENT, b"", b"", "brings a device key, a template and a consent"),
    "an enrolment of a device": (ENROLS, ADMITS, b"", b"", "brings a device key, a template and a consent"),
    "an enrolment signed twice": (ENROLS, NEW, b"signature", b"", "has one device key and one signature"),
    "a template signed once": (VERIFIES, NEW, b"", b"", "comes with the signature of its own device key too"),
    "a consent for a site": (VERIFIES, CONSENT, b"", b"\x0a" * 32, "has no audience's nonce"),
    "a template for a site": (VERIFIES, NEW, b"signature", b"\x0a" * 32, "has no audience's nonce"),
    "a device for a site": (VERIFIES, ADMITS, b"", b"\x0a" * 32, "has no audience's nonce"),
}


def brought(operation, change, new_signature, nonce):
    request = dataclasses.replace(WANTED, audience_nonce=nonce)
    session = dataclasses.replace(an_open_session(operation=operation), request=request)
    return session, SimpleNamespace(change=change, new_signature=new_signature)


@pytest.mark.parametrize("what", BRINGS)
def test_what_a_match_does_is_what_the_probe_brought(what):
    *parts, operation = BRINGS[what]
    assert _operation(*brought(*parts)) is operation


@pytest.mark.parametrize("what", REFUSED)
def test_a_probe_that_brings_too_little_or_too_much_is_no_message(what):
    *parts, said = REFUSED[what]
    with pytest.raises(MalformedMessageError, match=said):
        _operation(*brought(*parts))


@pytest.mark.parametrize(
    ("template", "probe", "said"),
    [
        (PARAMETERS, PARAMETERS, ""),
        (None, PARAMETERS, ""),
        (None, FORMER_PARAMETERS, ""),
        (PARAMETERS, FORMER_PARAMETERS, ""),
        (FORMER_PARAMETERS, PARAMETERS, "codes of 1024 bits"),
        (None, SimpleNamespace(name="profile/3"), "codes of 1024 bits"),
    ],
)
def test_a_template_is_of_the_present_release_and_a_probe_of_one_that_is_known(monkeypatch, template, probe, said):
    scene = Scene(monkeypatch)
    monkeypatch.setattr(module, "parameters_of", {b"template": template, b"probe": probe}.get)
    change = NEW if template else CONSENT
    if not said:
        scene.service._require_parameters(SimpleNamespace(change=change, probe=b"probe"))
        return
    with pytest.raises(MalformedMessageError, match=said):
        scene.service._require_parameters(SimpleNamespace(change=change, probe=b"probe"))


# ---------------------------------------------------------------------- with what it is compared
async def test_a_probe_is_compared_with_whoever_is_enrolled_or_with_nobody_after_the_same_look(monkeypatch):
    session = dataclasses.replace(an_open_session(), request=WANTED)
    for templates, compared in (({KEY: a_template()}, a_template()), ({}, a_template(THIRD_DEVICE))):
        scene = Scene(monkeypatch, templates=templates)
        for operation in (Operation.VERIFY, Operation.RENEW_TEMPLATE):
            assert await scene.service._compared(operation, session, NEW) == compared
        assert scene.calls == [("template", KEY)] * 2


def own_change(device=DEVICE):
    return SimpleNamespace(
        key_id=hashlib.sha256(device).digest(),
        device_public_key=device,
        template=b"a template of now",
        receipt=b"a receipt",
        has_template=True,
    )


async def test_an_enrolment_is_compared_with_its_own_template_under_the_account_of_its_ticket(monkeypatch):
    scene = Scene(monkeypatch)
    monkeypatch.setattr(module, "parameters_of", lambda _: PARAMETERS)
    session = dataclasses.replace(an_open_session(operation=ENROLS), request=WANTED, account=account_of(OTHER_DEVICE))
    new = await scene.service._compared(ENROLS, session, own_change())
    assert new == dataclasses.replace(
        a_template(), template=b"a template of now", receipts=b"a receipt", account=account_of(OTHER_DEVICE)
    )
    assert (new.enrolled_at, new.admission, scene.calls) == (NOW, None, [])
    with pytest.raises(ProofError, match="the device key is not the one that the session was opened for"):
        await scene.service._compared(ENROLS, session, own_change(OTHER_DEVICE))


FITS = [
    (VERIFIES, "example.org", "door-access", None, True),
    (VERIFIES, "example.org", "payroll", None, False),
    (VERIFIES, "example.org", "payroll", "a consent", False),
    (VERIFIES, "site.example", "payroll", "a consent", True),
    (VERIFIES, "site.example", "door-access", None, False),
    (Operation.RENEW_CONSENT, "site.example", "payroll", None, True),
    (Operation.RENEW_CONSENT, "example.org", "payroll", None, False),
    (Operation.RENEW_TEMPLATE, "site.example", "door-access", "a consent", False),
    (Operation.ADMIT_DEVICE, "site.example", "door-access", "a consent", False),
    (Operation.REMOVE_DEVICE, "site.example", "door-access", "a consent", False),
    (Operation.ADMIT_DEVICE, "example.org", "door-access", None, True),
]


@pytest.mark.parametrize(("operation", "audience", "purpose", "consent", "serves"), FITS)
def test_a_template_serves_what_it_was_enrolled_for_and_sites_with_a_consent(
    monkeypatch, operation, audience, purpose, consent, serves
):
    asked = []
    monkeypatch.setattr(module, "consent_to", lambda *of: asked.append(of) or consent)
    wanted = SessionRequest(KEY, purpose, audience)
    if serves:
        _require_for(operation, a_template(), wanted)
    else:
        with pytest.raises(RefusedError, match=f"^{STRANGER}$"):
            _require_for(operation, a_template(), wanted)
    assert asked == [(b"first", audience)] * (operation is VERIFIES and audience != "example.org")


def test_nobody_is_enrolled_by_others(monkeypatch):
    asked, answers = [], iter([True, False])
    monkeypatch.setattr(module, "is_signed", lambda *of: asked.append(of) or next(answers))
    _require_signed_by_new(own_change(OTHER_DEVICE), b"signature", b"transcript")
    with pytest.raises(ProofError, match="the new device key did not sign this renewal"):
        _require_signed_by_new(own_change(OTHER_DEVICE), b"signature", b"transcript")
    assert asked == [(OTHER_DEVICE, b"signature", b"transcript")] * 2


# ---------------------------------------------------------------------- what is held for a match
class Consents:
    """In the place of what consents decide."""

    def __init__(self, monkeypatch, *, in_force):
        self.told = []
        consent = SimpleNamespace(renew=self.noted("renewed"))
        monkeypatch.setattr(module, "SignedReceipt", SimpleNamespace(from_bytes=lambda data: f"read {data}"))
        monkeypatch.setattr(module, "Consent", SimpleNamespace(grant=self.noted("granted")))
        monkeypatch.setattr(
            module, "consent_to", lambda *of: self.told.append(("looked", *of)) or (consent if in_force else None)
        )
        monkeypatch.setattr(module, "parameters_of", lambda _: PARAMETERS)

    def noted(self, name):
        return lambda signed, *, binding, purpose, audience, now: self.told.append(
            (name, signed, binding, purpose, audience, now)
        )


def test_a_verification_holds_nothing(monkeypatch):
    consents, scene = Consents(monkeypatch, in_force=True), Scene(monkeypatch)
    assert scene.service._held(VERIFIES, a_template(), WANTED, own_change()) is None
    assert scene.service._held(Operation.ADMIT_DEVICE, a_template(), WANTED, None) is None
    assert consents.told == []


@pytest.mark.parametrize("in_force", [True, False])
def test_a_consent_is_held_behind_those_of_before_and_begins_only_where_there_is_none(monkeypatch, in_force):
    consents, scene = Consents(monkeypatch, in_force=in_force), Scene(monkeypatch)
    wanted, compared = SessionRequest(KEY, "payroll", "site.example"), a_template()
    held = scene.service._held(Operation.RENEW_CONSENT, compared, wanted, CONSENT)
    assert held == dataclasses.replace(compared, receipts=b"first\na receipt")
    what = ("renewed" if in_force else "granted", "read b'a receipt'", compared.binding, "payroll", "site.example", NOW)
    assert consents.told == [("looked", b"first", "site.example"), what]


def test_a_new_template_is_held_under_the_account_of_the_old_one_and_begins_a_consent_of_its_own(monkeypatch):
    consents, scene = Consents(monkeypatch, in_force=True), Scene(monkeypatch)
    compared = dataclasses.replace(a_template(), enrolled_at=NOW - 77, release_digest=FORMER.digest)
    held = scene.service._held(Operation.RENEW_TEMPLATE, compared, WANTED, own_change(OTHER_DEVICE))
    assert held == dataclasses.replace(
        a_template(OTHER_DEVICE), template=b"a template of now", receipts=b"a receipt", account=ACCOUNT
    )
    granted_to = ("granted", "read b'a receipt'", held.binding, "door-access", "example.org", NOW)
    assert consents.told == [granted_to]
    enrolled = a_template(receipts=b"a receipt")
    assert scene.service._held(ENROLS, enrolled, WANTED, own_change()) is enrolled
    assert consents.told[1:] == [("granted", "read b'a receipt'", enrolled.binding, "door-access", "example.org", NOW)]


SECOND = dataclasses.replace(a_template(OTHER_DEVICE), account=ACCOUNT)


async def test_a_device_is_let_in_by_the_one_that_matched_with_what_it_signed(monkeypatch):
    scene = Scene(monkeypatch)
    held = await scene.service._held_for(ADMITS, a_template(), b"\x0b" * 64, b"a transcript")
    admission = Admission(DEVICE, digest(8), b"\x0b" * 64, b"a transcript")
    assert (held, held.admission) == (a_template(), admission.to_bytes())
    assert scene.calls == []


@pytest.mark.parametrize(
    ("found", "removes"),
    [(None, OTHER_KEY), (a_template(OTHER_DEVICE), OTHER_KEY), (a_template(), KEY)],
    ids=["nobody", "another account", "itself"],
)
async def test_nobody_but_another_device_of_the_same_person_is_removed(monkeypatch, found, removes):
    scene = Scene(monkeypatch, templates={removes: found})
    with pytest.raises(RefusedError, match="no other device of this person has that name"):
        await scene.service._held_for(DeviceChange(removes=removes), a_template(), b"\x0b" * 64, b"a transcript")
    scene.templates = {OTHER_KEY: SECOND, THIRD_KEY: None}
    assert await scene.service._held_for(REMOVES, a_template(), b"\x0b" * 64, b"a transcript") is SECOND
    assert scene.calls == [("template", removes), ("template", OTHER_KEY)]


# ---------------------------------------------------------------------- what the rules say
PERSONAL, PUBLIC = Refused(Reason.RECEIPT_EXPIRED, "has expired"), Refused(Reason.MORATORIUM, "is stopped")


@pytest.mark.parametrize(
    ("verdict", "means"), [(PERSONAL, AttemptOutcome.NOT_COVERED), (PUBLIC, AttemptOutcome.PROHIBITED)]
)
def test_what_the_rules_refuse_is_said_to_the_owner_and_logged_as_theirs_or_everybody_s(monkeypatch, verdict, means):
    scene, progress = Scene(monkeypatch), Progress()
    scene.service._rules.decide = scene.calls.of("decide", verdict)
    compared, wanted = a_template(), SessionRequest(KEY, "payroll", "site.example")
    with pytest.raises(RefusedError, match=f"^{verdict.detail}$"):
        scene.service._require_allowed(compared, wanted, "a level", progress)
    told = ("decide", "payroll", "site.example", compared.binding, b"first", "standing of now", "a level", NOW)
    assert (scene.calls, progress.refusal) == ([told], means)


def test_what_the_rules_allow_leaves_the_meaning_of_a_refusal_as_it_was(monkeypatch):
    scene, progress = Scene(monkeypatch), Progress(AttemptOutcome.LIMITED)
    scene.service._require_allowed(a_template(), WANTED, None, progress)
    scene.service._require_leaving(Operation.RENEW_TEMPLATE, a_template(), FORMER, WANTED, progress)
    assert progress.refusal is AttemptOutcome.LIMITED
    assert scene.calls[1:] == [("leave", "door-access", "example.org", a_template().binding, "of before", NOW)]


@pytest.mark.parametrize("operation", [one for one in Operation if one is not Operation.RENEW_TEMPLATE])
def test_under_a_former_release_nothing_but_coming_over_is_asked_of_the_rules(monkeypatch, operation):
    scene, progress = Scene(monkeypatch), Progress(AttemptOutcome.NOT_COVERED)
    with pytest.raises(RefusedError, match="enrolled under a former model release; come over to the present one"):
        scene.service._require_leaving(operation, a_template(), FORMER, WANTED, progress)
    assert (scene.calls, progress.refusal) == ([], AttemptOutcome.NOT_COVERED)


def test_rules_that_let_nobody_leave_are_heard(monkeypatch):
    scene, progress = Scene(monkeypatch), Progress()
    scene.service._rules.decide_to_leave = lambda *_, **__: PUBLIC
    with pytest.raises(RefusedError, match="is stopped"):
        scene.service._require_leaving(Operation.RENEW_TEMPLATE, a_template(), FORMER, WANTED, progress)
    assert progress.refusal is AttemptOutcome.PROHIBITED


def test_what_is_swept_and_counted_is_so_at_the_time_of_now(monkeypatch):
    scene = Scene(monkeypatch)
    scene.service._storage.sweep = scene.calls.of("sweep")
    scene.service._storage.open_sessions = scene.calls.of("count", 6)
    scene.service._sweep()
    assert scene.service._open_sessions() == 6
    assert scene.calls == [("sweep", NOW), ("count", NOW)]
    assert scene.service._time().timestamp() == NOW + 0.9
