"""What a device does in each kind of session, step by step, and what it remembers when any one of the steps fails.

Everything that a session calls stands in here and says what it was given. `what_sessions_do.txt` has each step after
the wallet that the device has when just this step fails. ``python -m tests.client.device.test_sessions`` writes it
anew: read what changed.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest

from client.device import new_template, verification
from client.device.verification import Device
from client.rights.conditions import Comparison, Destination
from client.wallet.wallet import MOST_ANSWERS, Enrolment, EnrolmentState, Wallet
from federation.consent.life import Consent
from federation.errors import PeerError, RefusedError, UnavailableError, UsageError
from federation.onebit import Decision
from federation.onebit.wire import NO_MATCH
from federation.wire.convert import Change, SessionRequest
from federation.wire.devices import DeviceChange, code_of
from tests.agreeing import DAY, DEVICE, NOW, RECEIPT, TERMS, a_key
from tests.client.device.enrolled import ENROLMENT, SECOND

WRITTEN = Path(__file__).with_name("what_sessions_do.txt")
TEMPLATE = RECEIPT.binding.template_digest
NEWER = replace(TERMS, notice_version="2031-01")
TICKET = code_of(bytes(32))


class Said:
    """A value by what it was made of."""

    def __init__(self, text):
        self.text = text

    def to_proto(self):
        return self

    def ByteSize(self):  # noqa: N802 - protobuf's name
        return 2345


class Watch:
    """Steps that are timed are told with a star."""

    def __init__(self, booth):
        self.booth, self.milliseconds = booth, 1.5

    def __enter__(self):
        self.booth.is_timed = True

    def __exit__(self, *_):
        self.booth.is_timed = False


class Booth:
    """Where a session runs: what it calls, in order.

    Attributes:
        told: what was called.
        fails: number of the step that fails, or None.
        token: that a reply opens to, or `NO_MATCH`.
        recorded: what the server says it recorded.
        grant: with the digest of the release that the server runs.
    """

    def __init__(self, patch, fails=None):
        self.told, self.fails, self.kiosk, self.answered, self.place = [], fails, False, True, True
        self.token, self.keys, self.said, self.is_timed, self.decision = b"t" * 16, 0, set(), False, None
        self.mine = Wallet(DEVICE, self.secret("old"), ENROLMENT, self.memory(5))
        self.fresh = Wallet(a_key(22))
        self.grant = SimpleNamespace(session_id=b"session", nonce=b"nonce", release_digest=bytes([0xAB]) * 32)
        self.receipt, *self.deeds = (
            SimpleNamespace(name=f"receipt {n}", logged=SimpleNamespace(name=f"entry {n}", index=n))
            for n in (11, 12, 13)
        )
        self.conditions, self.others = self._conditions("a", "ab", 1024, 300), self._conditions("b", "cd", 2048, 600)
        self._stand_in(patch)

    def _conditions(self, name, digits, length, threshold):
        release = SimpleNamespace(name=f"release {name}", digest=digits * 32, code_length=length, threshold=threshold)
        return SimpleNamespace(
            name=f"conditions {name}",
            release=release,
            rules=SimpleNamespace(names_kiosk=lambda one: self.tell("names_kiosk", one, gives=self.kiosk)),
            log=SimpleNamespace(name=f"log {name}"),
            terms=None,
            days=30 if name == "a" else 60,
            require_release_of=lambda enrolment: self.tell("require_release_of", enrolment),
            issuer_for=lambda enrolment: self.tell("issuer_for", enrolment, gives=SimpleNamespace(name="issuer")),
        )

    def secret(self, name):
        return SimpleNamespace(
            name=name, padded_code=lambda probe: self.tell("padded_code", name, probe, gives=f"padded {probe}")
        )

    def memory(self, size):
        head = SimpleNamespace(size=size)
        return SimpleNamespace(name=f"log of {size}", checkpoint=SimpleNamespace(head=head))

    def _stand_in(self, patch):
        def standing(name, **methods):
            patch.setattr(verification, name, SimpleNamespace(**methods) if methods else self.maker(name))

        patch.setattr(verification, "Connection", self.connection)
        standing("SessionKey", generate=self.key)
        patch.setattr(verification, "DeviceSession", self.session)
        patch.setattr(verification, "SessionTerms", self.terms)
        for name in ("ProbeSubmission", "EnrolmentRequest", "TokenSubmission"):
            standing(name)
        standing("SessionGrant", from_proto=lambda answer: self.tell("granted", answer, gives=self.grant))
        standing("LoggedReply", from_proto=lambda answer: self.tell("replied", answer, gives=self.reply()))
        standing("RecordedDecision", from_proto=lambda answer: self.tell("recorded", answer, gives=self.recorded()))
        standing("NewTemplate", draw=self.draw)
        patch.setattr(verification, "parameters_for", lambda length: SimpleNamespace(name=f"parameters of {length}"))
        for name in ("require_allowed", "require_asserted"):
            patch.setattr(verification, name, lambda *a, _n=name, **k: self.tell(_n, *a, **k))
        patch.setattr(verification, "comparison_facts", self.maker("facts"))
        patch.setattr(verification, "expected_of", lambda *a: self.tell("expected_of", *a, gives="expected"))
        patch.setattr(verification, "check_comparison", lambda *a, **k: self.log("check_comparison", 6, *a, **k))
        patch.setattr(verification, "check_done", lambda *a, **k: self.log("check_done", 8, *a, **k))
        patch.setattr(verification, "tell", "tell")
        patch.setattr(verification, "Stopwatch", lambda: Watch(self))
        patch.setattr(verification, "certificate_in", lambda answer: f"certificate in {answer}")
        patch.setattr(new_template, "secrets", SimpleNamespace(token_bytes=lambda count: b"r" * count))
        made = verification.a_receipt
        patch.setattr(verification, "a_receipt", lambda *a, **k: self.tell("a_receipt", *a, gives=made(*a, **k), **k))

    # ------------------------------------------------------------------ what stands in

    def tell(self, name, *given, gives=None, **named):
        step = f"{'* ' if self.is_timed else ''}{name}({self.shown(*given, **named)})"
        self.told.append(step)
        if len(self.told) - 1 == self.fails:
            raise UnavailableError("made up")
        return step if gives is None else gives

    def maker(self, name):
        return lambda *given, **named: Said(f"{name}({self.shown(*given, **named)})")

    def connection(self, *given, **named):
        self.tell("Connection", *given, **named)
        names = ("StartEnrolment", "StartVerification", "SubmitProbe", "SubmitToken", "RenewCertificate")
        stub = SimpleNamespace(**{name: name for name in names})
        return SimpleNamespace(
            verification=stub,
            certificates=stub,
            answered=self.answered,
            call=lambda method, request: self.tell(
                method, request if isinstance(request, Said) else self.started(request), gives=f"answer to {method}"
            ),
            close=lambda: self.tell("close"),
        )

    def started(self, request):
        who = "mine" if request.key_id == self.mine.key_id else request.key_id.hex()[:4]
        return f"{who} {request.purpose} {request.audience} {request.audience_nonce.hex()[:4]}"

    def key(self, parameters):
        self.keys += 1
        return self.tell("key", parameters, gives=SimpleNamespace(name=f"key {self.keys}"))

    def terms(self, **named):
        text = self.tell("terms", **named)
        return SimpleNamespace(
            name="terms", log_size=named["log_size"], transcript=lambda probe: b"transcript of " + probe, text=text
        )

    def session(self, terms, key, signing):
        self.tell("session", terms, key, "my key" if signing is self.mine.signing_key else "another key")
        return SimpleNamespace(
            send_probe=lambda code: self.tell("send_probe", code, gives=(b"probe", b"signature")),
            receive_reply=lambda reply: self.tell("receive_reply", reply, gives=self.token),
        )

    def reply(self):
        return SimpleNamespace(log=self.receipt, reply=b"the reply")

    def recorded(self):
        decision = self.decision
        if decision is None:
            decision = Decision.NON_MATCH if self.token == NO_MATCH else Decision.MATCH
        return SimpleNamespace(decision=decision, deeds=self.deeds, assertion="assertion")

    def log(self, name, size, *given, **named):
        return self.tell(name, *given, gives=self.memory(size), **named)

    def draw(self, wallet, *given, **named):
        self.tell("draw", wallet, *given, **named)
        receipt = replace(RECEIPT, binding=replace(RECEIPT.binding, template_digest=b"n" * 32)).sign(DEVICE)
        enrolment = replace(wallet.require_enrolment(), receipt=receipt.to_bytes())
        return SimpleNamespace(
            wallet=wallet.with_template_secret(self.secret("new")).with_enrolment(enrolment),
            change=SimpleNamespace(name="new template", digest=b"digest of the new template"),
            consent=Consent((receipt,)),
            require_agreement=lambda *a, **k: self.tell("require_agreement", *a, **k),
        )

    def keep(self, wallet):
        self.tell("keep", wallet)

    def follow(self, tls, ask, say, *, now):
        self.tell("follow", tls, say, "asks" if ask else "does not ask", now=now)
        if ask is not None:
            assert ask(Said("wish")) == "certificate in answer to RenewCertificate"

    def keep_new(self, wallet):
        self.tell("keep_new", wallet)

    # ------------------------------------------------------------------ in words

    def shown(self, *given, **named):
        return ", ".join([*map(self.word, given), *(f"{name}={self.word(value)}" for name, value in named.items())])

    def word(self, value):
        plain = {
            Wallet: lambda: f"<{self.named(value)}>",
            Enrolment: lambda: f"<{self.enrolled(value)}>",
            Said: lambda: value.text,
            SessionRequest: lambda: self.started(value),
            SimpleNamespace: lambda: value.name,
            bytes: lambda: self.digits(value),
            tuple | list: lambda: f"[{self.shown(*value)}]",
            Consent: lambda: f"{len(value.receipts)} receipts",
            Comparison: lambda: self.compared(value),
            Destination: lambda: f"to {value.conditions.name} {value.deployment}",
            DeviceChange: lambda: f"admits {value.admits.hex()[:4]} removes {value.removes.hex()[:4]}",
            Change: lambda: "newer consent",
            type(TERMS): lambda: f"terms of {value.notice_version}",
            type(RECEIPT.binding): lambda: "binding",
            type(TICKET): lambda: "ticket",
        }
        return next((say() for kind, say in plain.items() if isinstance(value, kind)), str(value))

    def digits(self, value):
        mine = {
            self.mine.key_id: "mine",
            self.fresh.key_id: "fresh",
            TEMPLATE: "old template",
            b"n" * 32: "new template",
            verification.NO_CHANGE: "no change",
            NO_MATCH: "no match",
            RECEIPT.receipt_id: "first receipt",
            SECOND.receipt.receipt_id: "second receipt",
        }
        if value in mine:
            return mine[value]
        return value.decode() if value.isascii() and value.decode().isprintable() else f"{value.hex()[:4]}.."

    def compared(self, one):
        parts = {name: getattr(one, name) for name in one.__dataclass_fields__}
        text = f"comparison({self.shown(parts.pop('operation').name, **{k: v for k, v in parts.items() if v})})"
        if text in self.said:
            return "the comparison"
        self.said = {text}
        return text

    def named(self, wallet):
        name = "fresh" if wallet.key_id == self.fresh.key_id else "mine"
        secret = wallet.template_secret.name if wallet.template_secret else "no secret"
        held = self.enrolled(wallet.enrolment) if wallet.enrolment else "never enrolled"
        return f"{name}: {held}, {secret}, {wallet.log.name if wallet.log else 'no log'}"

    def enrolled(self, held):
        days = (
            [(one.receipt.expires_at - one.receipt.issued_at) // DAY for one in held.require_consent().receipts]
            if held.receipt
            else []
        )
        place = f"{held.purpose} {held.audience} {held.deployment} {held.release_digest.hex()[:2]}"
        return f"{held.state.value} {place} {held.answers} answers {days}"


# ---------------------------------------------------------------------- sessions


def begun(booth):
    booth.mine = replace(booth.mine, template_secret=None, log=None).with_enrolment(
        replace(ENROLMENT, state=EnrolmentState.STARTED, receipt=None, answers=0)
    )
    booth.conditions.terms = TERMS


def enrol(device, _):
    return device.enrol("reference", "second")


def verify(device, _):
    return device.verify("probe")


def for_somebody(device, _):
    return device.verify("probe", audience_nonce=b"\x5a" * 32)


def film(booth):
    return lambda nonce: booth.tell("film", nonce, gives="filmed")


def filmed(device, booth):
    return device.verify(film(booth))


def twice(device, _):
    device.verify("probe")
    return device.verify("another probe")


def renew_consent(device, _):
    return device.renew_consent("probe")


def come_over(device, _):
    return device.renew_consent("probe", deployment="next")


def admit(device, _):
    return device.admit("probe", TICKET)


def remove(device, _):
    return device.remove("probe", bytes([9]) * 32)


def renew(device, booth):
    return device.renew_template("reference", "second", into=booth.fresh, keep=booth.keep_new)


def renew_again(device, booth):
    tried = replace(ENROLMENT, state=EnrolmentState.STARTED, receipt=None, answers=3)
    into = booth.fresh.with_enrolment(tried).with_template_secret(booth.secret("of before"))
    return device.renew_template("reference", film(booth), into=into, keep=booth.keep_new)


def enter(device, booth):
    to = Destination(booth.others, "next")
    booth.grant.release_digest = bytes([0xCD]) * 32
    return device.renew_template("reference", ("left", "entered"), into=booth.fresh, keep=booth.keep_new, to=to)


def enter_filmed(device, booth):
    to = Destination(booth.others, "next")
    booth.grant.release_digest = bytes([0xCD]) * 32
    films = lambda nonce: booth.tell("film", nonce, gives=("left", "entered"))  # noqa: E731 - short
    return device.renew_template("reference", films, into=booth.fresh, keep=booth.keep_new, to=to)


def non_match(booth):
    booth.token = NO_MATCH
    booth.deeds = ()


def lost(booth):
    booth.mine = booth.mine.with_state(EnrolmentState.STARTED)


def never_seen(booth):
    booth.mine = replace(booth.mine, log=None)


def newer(booth):
    booth.conditions.terms = NEWER


def lost_and_non_match(booth):
    lost(booth)
    non_match(booth)


def kiosk(booth):
    booth.kiosk = True


def fixed(booth):
    booth.place = False


def silent(booth):
    booth.answered = False


def usual(_):
    pass


SESSIONS = {
    "enrol": (enrol, begun),
    "enrol, non-match": (enrol, begun, non_match),
    "verify": (verify, usual),
    "verify, non-match": (verify, non_match),
    "verify after a lost answer": (verify, lost),
    "verify after a lost answer, non-match": (verify, lost_and_non_match),
    "verify for somebody": (for_somebody, never_seen),
    "verify, filmed": (filmed, usual),
    "verify twice": (twice, usual),
    "renew the consent": (renew_consent, usual),
    "renew the consent to newer terms": (renew_consent, newer),
    "renew the consent and come over": (come_over, usual),
    "renew the consent, non-match": (come_over, non_match),
    "admit": (admit, usual),
    "remove": (remove, usual),
    "remove, non-match": (remove, non_match),
    "renew the template": (renew, usual),
    "renew the template, non-match": (renew, non_match),
    "renew the template again, filmed": (renew_again, newer),
    "enter another release": (enter, usual),
    "enter another release, filmed": (enter_filmed, usual),
    "a kiosk": (verify, kiosk),
    "a certificate that nobody renews": (verify, fixed),
    "a server that has not answered": (verify, silent),
}


def a_device(booth, ticket=None):
    place = SimpleNamespace(follow=booth.follow) if booth.place else None
    return Device(
        booth.mine,
        target="there:1",
        tls=SimpleNamespace(name="tls", certificate_digest=b"certificate", place=place),
        conditions=booth.conditions,
        ticket=ticket,
        keep=booth.keep,
        clock=partial(next, itertools.count(NOW + 0.9)),  # each look at it is a second later
    )


def run(name, fails=None):
    """The steps of a session, and how it and its wallet end; or the wallet alone when a step fails."""
    session, *states = SESSIONS[name]
    with pytest.MonkeyPatch.context() as patch:
        booth = Booth(patch, fails)
        for state in states:
            state(booth)
        device = None
        try:
            with a_device(booth, TICKET if session is enrol else None) as device:
                outcome = session(device, booth)
        except UnavailableError:
            key = "a key" if device and device._session_key is not None else "no key"
            return booth.told, f"{booth.named(device.wallet)}, {key}" if device else "no device"
    sizes = f"{outcome.upload_bytes} up, {outcome.reply_bytes} down, entry {outcome.log_position}"
    told = [
        f"{outcome.decision.value}, {outcome.device_ms} ms, {sizes}, {outcome.assertion}",
        booth.named(device.wallet),
    ]
    return booth.told, told


def told(name):
    """Each step of a session, with the wallet that is left when it fails; of a step that follows, the same is `"`."""
    steps, (*ended, left) = run(name)
    lines, before = [], None
    for number, step in enumerate(steps):
        done, after = run(name, number)
        close = ["close()"] if after != "no device" and step != "close()" else []
        assert done == [*steps[: number + 1], *close], f"{name}: goes on after {step}, or does not close"
        if after != before:
            lines.append(f"    {after}")
        before = after
        lines.append(step)
    return "\n".join([f"# {name}", *lines, *(f"=> {one}" for one in (*ended, left))])


def sections():
    return WRITTEN.read_text().removeprefix("# ").rstrip("\n").split("\n\n# ")


@pytest.mark.parametrize("name", SESSIONS)
def test_a_session_does_this_in_this_order_and_a_device_remembers_this_where_it_fails(name):
    written = {section.partition("\n")[0]: f"# {section}" for section in sections()}
    assert written.keys() == SESSIONS.keys()
    assert told(name) == written[name]


# ---------------------------------------------------------------------- what is refused, and how far it came


def without_terms(booth):
    begun(booth)
    booth.conditions.terms = None


def enrolled(booth):
    booth.conditions.terms = TERMS


def without_consent(booth):
    booth.mine = booth.mine.with_enrolment(replace(ENROLMENT, receipt=None))


def without_template(booth):
    booth.mine = booth.mine.with_template_secret(None)


def tired(booth):
    booth.mine = booth.mine.with_enrolment(replace(ENROLMENT, answers=MOST_ANSWERS))


def of_another_release(booth):
    booth.grant.release_digest = bytes([0xCD]) * 32


def begun_with_another_release(booth):
    begun(booth)
    of_another_release(booth)


def recorded_as_none(booth):
    booth.decision = Decision.NON_MATCH


def recorded_as_match(booth):
    non_match(booth)
    booth.decision = Decision.MATCH


def renew_into_itself(device, booth):
    return device.renew_template("reference", "second", into=booth.mine, keep=booth.keep_new)


def renew_into_one_in_use(device, booth):
    return device.renew_template("reference", "second", into=booth.fresh.with_enrolment(ENROLMENT), keep=booth.keep_new)


def renew_into_a_revoked_one(device, booth):
    into = booth.fresh.with_enrolment(replace(ENROLMENT, state=EnrolmentState.REVOKED))
    return device.renew_template("reference", "second", into=into, keep=booth.keep_new)


BEGUN = ("require_release_of", "key", "Connection")
ASKED = (*BEGUN, "require_allowed", "StartVerification", "granted")
SHOWN = (*ASKED, "terms", "session", "* padded_code", "* send_probe")
RECORDED = (
    *SHOWN,
    "keep",
    "SubmitProbe",
    "replied",
    "require_allowed",
    "* check_comparison",
    "* keep",
    "* receive_reply",
)
RECORDED = (*RECORDED, "SubmitToken", "recorded")
ENDED = "was revoked for good; create a new wallet"
ANOTHER = "the server runs another model release than the one that was named"
NEW = "a renewed template needs a new wallet, with a key of its own"
OTHERWISE = "the server recorded another decision than the one that this device opened"
REFUSALS = [
    (enrol, without_terms, UsageError, "an enrolment needs terms that the person agreed to", BEGUN),
    (enrol, enrolled, UsageError, "this wallet is enrolled; a new template needs a new wallet", BEGUN),
    (
        enrol,
        begun_with_another_release,
        RefusedError,
        ANOTHER,
        (*BEGUN, "* draw", "require_allowed", "StartEnrolment", "granted"),
    ),
    (verify, without_consent, RefusedError, "receipt", BEGUN),
    (verify, without_template, UsageError, "this wallet is not enrolled", BEGUN),
    (verify, tired, RefusedError, "has answered 500 sessions", SHOWN),
    (verify, of_another_release, RefusedError, ANOTHER, ASKED),
    (verify, recorded_as_none, PeerError, OTHERWISE, RECORDED),
    (verify, recorded_as_match, PeerError, OTHERWISE, RECORDED),
    (renew, of_another_release, RefusedError, ANOTHER, (*BEGUN, "* draw", "require_agreement", "keep_new", *ASKED[3:])),
    (renew_into_itself, usual, UsageError, NEW, BEGUN),
    (renew_into_one_in_use, usual, UsageError, NEW, BEGUN),
    (renew_into_a_revoked_one, usual, UsageError, ENDED, BEGUN),
]


@pytest.mark.parametrize(("session", "state", "error", "words", "steps"), REFUSALS)
def test_what_is_refused_ends_there_and_closes_and_asks_for_no_certificate(
    session, state, error, words, steps, monkeypatch
):
    booth = Booth(monkeypatch)
    state(booth)
    device = a_device(booth, TICKET if session is enrol else None)
    before = device.wallet
    with pytest.raises(error, match=words), device:
        session(device, booth)
    assert [step.partition("(")[0] for step in booth.told] == [*steps, "close"]
    kept = [step for step in booth.told if step.startswith(("keep(", "* keep("))]
    assert booth.named(device.wallet) == (kept[-1].partition("<")[2].partition(">")[0] if kept else booth.named(before))


def test_without_a_ticket_nobody_enrols(monkeypatch):
    booth = Booth(monkeypatch)
    begun(booth)
    device = a_device(booth)
    with pytest.raises(UsageError, match="an enrolment needs a ticket"), device:
        enrol(device, booth)
    assert [step.partition("(")[0] for step in booth.told] == [*BEGUN, "close"]


if __name__ == "__main__":
    WRITTEN.write_text("\n\n".join(map(told, SESSIONS)) + "\n")
