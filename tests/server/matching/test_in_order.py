"""What each part of a server is told while a step of a session is worked on, in order, and how far a refusal comes."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest

from federation.errors import MalformedMessageError, ProofError, RefusedError, UnavailableError
from federation.onebit import Decision, Operation, Transcript
from federation.presentation.levels import PadLevel
from federation.transparency import AttemptOutcome
from federation.wire.convert import SessionRequest
from federation.wire.devices import Admission, DeviceChange
from server.matching import service as module
from server.matching.service import MatchingService
from server.matching.stepping import Progress
from server.threads import Aside, to_thread
from tests.server.matching.calls import Calls, Disk
from tests.stored import (
    DEVICE,
    KEY,
    NOW,
    OTHER_DEVICE,
    OTHER_KEY,
    a_session,
    a_template,
    account_of,
    an_open_session,
    digest,
)

PARAMETERS = SimpleNamespace(name="profile/1", slots=1024)
PRESENT = SimpleNamespace(digest=b"\4" * 32, parameters=PARAMETERS, threshold=77, standing="standing")
FORMER = SimpleNamespace(digest=b"\6" * 32, parameters=PARAMETERS, threshold=55, standing="of before")
NONCE, SIGNATURE, NEW_SIGNATURE = b"\x0a" * 32, b"\x0b" * 64, b"\x0c" * 64
CHANGE_DIGEST = digest(20)
REPLY = SimpleNamespace(reply=b"the ciphertext", token=b"the token")
PAD = PadLevel.ON_DEVICE
COMPARED = a_template()
SECOND = dataclasses.replace(a_template(OTHER_DEVICE), account=COMPARED.account)
NEW = SimpleNamespace(
    has_template=True, device_public_key=OTHER_DEVICE, key_id=OTHER_KEY, template=b"new", receipt=b"a receipt"
)
OWN = SimpleNamespace(has_template=True, device_public_key=DEVICE, key_id=KEY, template=b"own", receipt=b"a receipt")
CONSENT = SimpleNamespace(has_template=False, receipt=b"a receipt")
ADMITS, REMOVES = DeviceChange(admits=digest(8)), DeviceChange(removes=OTHER_KEY)
HELD = a_template(OTHER_DEVICE, receipts=b"a receipt")


class Answer:
    """What a device gets."""

    def __init__(self, *said):
        self.said = said

    def to_proto(self):
        return self

    def SerializeToString(self):  # noqa: N802 - as protobuf has it
        return repr(self.said).encode()


class Scene:
    """A service whose parts note what they are told. It works on one step."""

    def __init__(self, monkeypatch, *, operation=Operation.VERIFY, nonce=NONCE, change=None):
        self.calls = calls = Calls()
        opened_as = Operation.ENROL if operation is Operation.ENROL else Operation.VERIFY
        request = SessionRequest(KEY, "door-access", "example.org", nonce)
        account = account_of(DEVICE) if operation is Operation.ENROL else None
        session = an_open_session(number=3, operation=opened_as)
        self.session = dataclasses.replace(session, request=request, account=account)
        self.submission = SimpleNamespace(
            session_id=a_session(3),
            probe=b"a probe",
            signature=SIGNATURE,
            log_size=5,
            change=change,
            change_digest=CHANGE_DIGEST,
            new_signature=NEW_SIGNATURE if operation is Operation.RENEW_TEMPLATE else b"",
            presentation_checked=True,
        )
        self.templates = {KEY: COMPARED, OTHER_KEY: SECOND}
        service = self.service = MatchingService.__new__(MatchingService)
        service._steps, service.on_disk, service._clock = self, Disk(calls), lambda: NOW + 0.9
        service._workers = SimpleNamespace(require_room=calls.of("room"), match=calls.later("match", REPLY))
        service._releases = SimpleNamespace(find=calls.of("find", PRESENT), every=(PRESENT,))
        service._present, service._limits = PRESENT, "limits"
        service._session_limits = SimpleNamespace(answer_seconds=30)
        service._storage = SimpleNamespace(
            template=self.template,
            require_new=calls.of("require_new"),
            open_attempt=calls.of("open_attempt"),
            await_token=calls.of("await_token"),
        )
        service._rules = SimpleNamespace(pad_level=calls.of("pad", PAD), decide=calls.of("decide", "allowed"))
        receipt = SimpleNamespace(logged=SimpleNamespace(to_bytes=lambda: b"the entry"))
        self.receipt = receipt
        service.journal = SimpleNamespace(compared=calls.later("log", receipt))
        service._held = self.held
        service._issuer = SimpleNamespace(issue=calls.of("issue", "an assertion"))
        service._of_issuer = Aside("the key", seconds=30.0)
        service._deeds = SimpleNamespace(decide=calls.later("deeds", "the answer"))
        monkeypatch.setattr(module, "is_signed", calls.of("signed", True))
        monkeypatch.setattr(module, "parameters_of", lambda _: PARAMETERS)
        monkeypatch.setattr(module, "LoggedReply", Answer)
        monkeypatch.setattr(module, "peer_of", lambda context: f"peer of {context}")
        monkeypatch.setattr(module, "request_digest", lambda request: f"digest of {request}")
        monkeypatch.setattr(module, "LoggedEntry", SimpleNamespace(from_bytes=lambda data: f"read {data}"))

    def template(self, key_id):
        self.calls.note("template", key_id)
        return self.templates.get(key_id)

    def held(self, operation, compared, wanted, change):
        self.calls.note("held", operation, wanted)
        if change is None or operation is Operation.VERIFY:
            return None
        return compared if operation is Operation.ENROL else HELD

    async def read(self, _parse, _request):
        return self.submission

    async def once(self, step, _request, session_id, _kind, work):
        self.step, self.progress = (step.name, session_id), Progress()
        return await work(self.session, self.progress)


def transcript_of(operation, compared=COMPARED, nonce=NONCE, session=None):
    return Transcript(
        parameters="profile/1",
        operation=operation,
        session_id=a_session(3),
        nonce=session.nonce,
        purpose="door-access",
        audience="example.org",
        audience_nonce=nonce,
        key_id=KEY,
        template_digest=hashlib.sha256(compared.template).digest(),
        release_digest=b"\4" * 32,
        change_digest=CHANGE_DIGEST,
        log_size=5,
        probe_digest=hashlib.sha256(b"a probe").digest(),
        presentation_checked=True,
    ).to_bytes()


OF_OWN_KEY = dataclasses.replace(COMPARED, template=b"own", receipts=b"a receipt", enrolled_at=NOW)
PROBES = {
    Operation.VERIFY: None,
    Operation.ENROL: OWN,
    Operation.RENEW_CONSENT: CONSENT,
    Operation.RENEW_TEMPLATE: NEW,
    Operation.ADMIT_DEVICE: ADMITS,
    Operation.REMOVE_DEVICE: REMOVES,
}


def expected(operation, scene):
    """Written down by hand: each call with all that it is told."""
    enrols = operation is Operation.ENROL
    compared = OF_OWN_KEY if enrols else COMPARED
    transcript = transcript_of(operation, compared, scene.session.request.audience_nonce, scene.session)
    admission = Admission(DEVICE, digest(8), SIGNATURE, transcript)
    held = {
        Operation.VERIFY: None,
        Operation.ENROL: OF_OWN_KEY,
        Operation.RENEW_CONSENT: HELD,
        Operation.RENEW_TEMPLATE: HELD,
        Operation.ADMIT_DEVICE: dataclasses.replace(COMPARED, admission=admission.to_bytes()),
        Operation.REMOVE_DEVICE: SECOND,
    }[operation]
    pad = None if enrols else PAD
    judged = held if operation in {Operation.RENEW_CONSENT, Operation.RENEW_TEMPLATE} else compared
    answer = repr((b"the ciphertext", scene.receipt)).encode()
    logged = b"the entry" if scene.session.request.audience_nonce else None
    brings = operation in {Operation.ENROL, Operation.RENEW_TEMPLATE}
    counted = ("open_attempt", a_session(3), KEY, hashlib.sha256(transcript).digest(), NOW, "limits")
    return [
        ("room",),
        *[("template", KEY)] * (not enrols),
        ("find", b"\4" * 32, "profile/1"),
        ("signed", DEVICE, SIGNATURE, transcript),
        *[("signed", OTHER_DEVICE, NEW_SIGNATURE, transcript)] * (operation is Operation.RENEW_TEMPLATE),
        ("held", operation, scene.session.request),
        ("pad", True, "peer of a context", NOW),
        (
            "decide",
            "door-access",
            "example.org",
            judged.binding,
            judged.receipts,
            "standing",
            pad,
            NOW,
        ),
        *[("template", OTHER_KEY)] * (operation is Operation.REMOVE_DEVICE),
        *[("require_new", KEY if enrols else OTHER_KEY)] * brings,
        *[("lasts",), counted] * (not enrols),
        ("match", compared.template, b"a probe", transcript, 77),
        ("log", scene.session.request, transcript, b"the ciphertext", 5, not enrols),
        ("need not last",),
        ("await_token", a_session(3), operation, answer, hashlib.sha256(b"the token").digest(), logged, PAD, held),
    ]


@pytest.mark.parametrize("operation", PROBES)
async def test_a_probe_is_judged_and_counted_and_compared_and_logged_before_anything_leaves(monkeypatch, operation):
    nonce = NONCE if operation in {Operation.VERIFY, Operation.ENROL} else b""
    scene = Scene(monkeypatch, operation=operation, nonce=nonce, change=PROBES[operation])
    answer = await scene.service.SubmitProbe("a request", "a context")
    assert answer.said == (b"the ciphertext", scene.receipt)
    assert scene.step == ("PROBE", a_session(3))
    wanted = expected(operation, scene)
    assert scene.calls == wanted
    kept, should = scene.calls[-1][-1], wanted[-1][-1]
    assert (kept and kept.admission) == (should and should.admission)  # which no comparison of templates looks at


COVERED, LIMITED, INVALID = AttemptOutcome.NOT_COVERED, AttemptOutcome.LIMITED, AttemptOutcome.INVALID


@pytest.mark.parametrize(
    ("fails", "means"),
    [("find", COVERED), ("pad", COVERED), ("open_attempt", LIMITED), ("match", INVALID), ("log", INVALID)],
)
async def test_what_fails_ends_the_work_there_and_a_refusal_means_how_far_it_came(monkeypatch, fails, means):
    scene = Scene(monkeypatch)
    scene.calls.failing[fails] = UnavailableError("not now")
    with pytest.raises(UnavailableError, match="not now"):
        await scene.service.SubmitProbe("a request", "a context")
    wanted = expected(Operation.VERIFY, scene)
    last = next(number for number, call in enumerate(wanted) if call[0] == fails)
    assert scene.calls == wanted[: last + 1]
    assert scene.progress.refusal is means


STOPPED = {
    "not signed": (Operation.VERIFY, {"signed": False}, RefusedError, "^not enrolled here with this key", "signed"),
    "not signed by the new": (
        Operation.RENEW_TEMPLATE,
        {"signed by new": False},
        ProofError,
        "^the new device key did not sign this renewal$",
        "signed",
    ),
    "another purpose": (Operation.VERIFY, {"purpose": "payroll"}, RefusedError, "^not enrolled here with", "signed"),
    "an unknown release": (Operation.VERIFY, {"release": None}, RefusedError, "^enrolled under another", "signed"),
    "other parameters": (Operation.VERIFY, {"parameters": "others"}, RefusedError, "^enrolled under another", "signed"),
    "a former release": (Operation.VERIFY, {"release": FORMER}, RefusedError, "^enrolled under a former", "signed"),
    "a key that is somebody's": (
        Operation.RENEW_TEMPLATE,
        {"fails": "require_new"},
        RefusedError,
        "^no$",
        "require_new",
    ),
    "nobody's device": (Operation.REMOVE_DEVICE, {"second": None}, RefusedError, "^no other device", "template"),
}


@pytest.mark.parametrize("why", STOPPED)
async def test_a_probe_that_is_refused_is_neither_counted_nor_compared(monkeypatch, why):
    operation, wrong, error, said, last = STOPPED[why]
    scene = Scene(monkeypatch, operation=operation, nonce=b"", change=PROBES[operation])
    wanted = expected(operation, scene)
    by_key = {DEVICE: wrong.get("signed", True), OTHER_DEVICE: wrong.get("signed by new", True)}
    monkeypatch.setattr(module, "is_signed", lambda key, *of: scene.calls.note("signed", key, *of) or by_key[key])
    if "purpose" in wrong:
        scene.templates[KEY] = dataclasses.replace(COMPARED, purpose=wrong["purpose"])
    if "release" in wrong:
        scene.service._releases.find = scene.calls.of("find", wrong["release"])
    if "parameters" in wrong:
        monkeypatch.setattr(scene.service, "_require_parameters", lambda _: None)
        monkeypatch.setattr(module, "parameters_of", lambda _: wrong["parameters"])
    if "fails" in wrong:
        scene.calls.failing[wrong["fails"]] = RefusedError("no")
    scene.templates[OTHER_KEY] = wrong.get("second", SECOND)
    with pytest.raises(error, match=said):
        await scene.service.SubmitProbe("a request", "a context")
    stopped_at = max(number for number, call in enumerate(wanted) if call[0] == last)
    assert scene.calls == wanted[: stopped_at + 1]
    assert scene.progress.refusal is COVERED


async def test_who_comes_over_is_compared_under_the_release_that_is_left_and_judged_under_both(monkeypatch):
    operation = Operation.RENEW_TEMPLATE
    scene = Scene(monkeypatch, operation=operation, nonce=b"", change=PROBES[operation])
    scene.service._releases.find = scene.calls.of("find", FORMER)
    scene.service._rules.decide_to_leave = scene.calls.of("leave", "allowed")
    await scene.service.SubmitProbe("a request", "a context")
    wanted = expected(operation, scene)
    left = ("leave", "door-access", "example.org", COMPARED.binding, "of before", NOW)
    wanted.insert([call[0] for call in wanted].index("held"), left)
    (at,) = (number for number, call in enumerate(wanted) if call[0] == "match")
    wanted[at] = (*wanted[at][:-1], 55)
    assert scene.calls == wanted


async def test_a_probe_for_which_there_is_no_room_takes_no_session(monkeypatch):
    scene = Scene(monkeypatch)
    scene.calls.failing["room"] = UnavailableError("too many comparisons are waiting")
    with pytest.raises(UnavailableError, match="are waiting"):
        await scene.service.SubmitProbe("a request", "a context")
    assert scene.calls == [("room",)]
    assert not hasattr(scene, "step")


async def test_a_parameter_set_that_nobody_has_is_refused_before_a_template_is_looked_for(monkeypatch):
    scene = Scene(monkeypatch)
    monkeypatch.setattr(module, "parameters_of", lambda _: SimpleNamespace(name="profile/9"))
    with pytest.raises(MalformedMessageError, match="codes of 1024 bits"):
        await scene.service.SubmitProbe("a request", "a context")
    assert (scene.calls, scene.progress.refusal) == ([("room",)], INVALID)


# ---------------------------------------------------------------------- the token
async def told_of_a_token(monkeypatch, *, token, logged=b"the entry", template=COMPARED, scene=None):
    scene = scene or Scene(monkeypatch)
    scene.templates = {KEY: template, OTHER_KEY: SECOND}
    scene.submission = SimpleNamespace(session_id=a_session(3), token=token, log_size=5)
    token_digest = hashlib.sha256(b"the token").digest()
    scene.session = dataclasses.replace(scene.session, token_digest=token_digest, logged=logged, pad=PAD)
    try:
        return scene, await scene.service.SubmitToken("a request", "a context")
    except (ProofError, RefusedError) as error:
        return scene, error


def decided(scene, decision, assertion):
    return ("deeds", scene.session, decision, assertion, 5, NOW + 30, "digest of a request")


async def test_a_match_is_asserted_of_the_template_and_the_entry_and_what_stood_before_and_is_then_decided(monkeypatch):
    scene, answer = await told_of_a_token(monkeypatch, token=b"the token")
    issued = ("issue", scene.session.request, COMPARED, "read b'the entry'", PAD, NOW)
    assert (answer, scene.step) == ("the answer", ("TOKEN", a_session(3)))
    assert scene.calls == [("template", KEY), issued, decided(scene, Decision.MATCH, "an assertion")]


async def test_a_key_that_is_silent_for_ever_keeps_no_thread_from_others_and_is_said_to_be(monkeypatch):
    """Each call kept one of the threads that the log is read on, and when all were kept nobody was told anything."""
    silent, scene = threading.Event(), None
    try:
        for _ in range(2):
            monkeypatch.undo()
            scene = Scene(monkeypatch)
            scene.service._of_issuer = Aside("the key", seconds=0.01)
            scene.service._issuer = SimpleNamespace(issue=lambda *_, **__: silent.wait(30))
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
            with pytest.raises(UnavailableError, match=r"^the key does not answer; try again later$"):
                await told_of_a_token(monkeypatch, token=b"the token", scene=scene)
            assert scene.calls == [("template", KEY)]
            assert await asyncio.wait_for(to_thread(str.upper, "read"), 20) == "READ"
    finally:
        silent.set()


async def test_without_a_nonce_or_a_match_nothing_is_asserted_and_a_guess_is_decided_before_it_is_refused(monkeypatch):
    scene, answer = await told_of_a_token(monkeypatch, token=b"the token", logged=None)
    assert (answer, scene.calls) == ("the answer", [decided(scene, Decision.MATCH, None)])
    scene, answer = await told_of_a_token(monkeypatch, token=None)
    assert (answer, scene.calls) == ("the answer", [decided(scene, Decision.NON_MATCH, None)])
    scene, error = await told_of_a_token(monkeypatch, token=b"a guess")
    assert str(error) == "the token is wrong; the attempt counts as a non-match"
    assert scene.calls == [decided(scene, Decision.NON_MATCH, None)]


@pytest.mark.parametrize("template", [None, dataclasses.replace(COMPARED, release_digest=b"\6" * 32)])
async def test_of_a_template_that_has_gone_or_is_of_another_release_nothing_is_asserted_or_decided(
    monkeypatch, template
):
    scene, error = await told_of_a_token(monkeypatch, token=b"the token", template=template)
    assert "no session waits for this message" in str(error)
    assert scene.calls == [("template", KEY)]
