"""In which order a deed is announced, logged and done, and what is said of it at each step: with nobody who does it."""

from __future__ import annotations

import dataclasses
import hashlib
from types import SimpleNamespace

import pytest

from federation.errors import RefusedError, UnavailableError
from federation.onebit import Decision, Operation
from federation.transparency import PersonalKind
from federation.wire.devices import Admission
from server.matching import deeds
from server.matching.deeds import Deeds
from tests.stored import DEVICE, KEY, NOW, OTHER_DEVICE, OTHER_KEY, a_session, a_template, an_open_session, digest

ASKED, OF_TICKET = digest(7), digest(8)
TEMPLATE = b"padded template " * 10
ADMITTING = dataclasses.replace(
    a_template(), admission=Admission(DEVICE, OF_TICKET, bytes(64), b"a transcript").to_bytes()
)


def sha(data):
    return hashlib.sha256(data).hexdigest()


class Scene:
    """Whom deeds call, in one list: what each of them was told. An answer that is an exception is raised."""

    def __init__(self, **answers):
        self.told, self.answers = [], answers
        self.journal = SimpleNamespace(about_to=self.about_to, revocation=self.revocation, erase=self.erased)
        self.deeds = Deeds(self, self, self.journal, clock=lambda: NOW + 0.9)

    def answer(self, name, otherwise=None):
        answer = self.answers.get(name, otherwise)
        if isinstance(answer, Exception):
            raise answer
        return answer

    # the disk
    async def __call__(self, call, *arguments):
        return call(*arguments)

    async def step(self, call, *arguments, lasts):
        self.told.append("lasts" if lasts else "need not last")
        return call(*arguments)

    # the storage
    def __getattr__(self, name):
        def called(*arguments, **named):
            self.told.append((name, *arguments, *named.values()))
            return self.answer(name)

        return called

    def template(self, key_id):
        return self.answers.get("templates", {}).get(key_id)

    def announce(self, *announced):
        facts = ((deed.kind, deed.key_id, deed.session_id, deed.template) for deed in announced)
        assert len({deed.commitment for deed in announced}) == len(announced)
        assert {(deed.announced_at, deed.request_digest) for deed in announced} == {(NOW, ASKED)}
        self.commitments = [deed.commitment for deed in announced]
        self.told.append(("announce", *facts))
        self.answer("announce")

    # the journal
    async def about_to(self, *openings, log_size):
        assert self.commitments == [opening.commitment for _, opening in openings]
        assert all(opening.reveal()["key_id"] == key_id.hex() for key_id, opening in openings)
        facts = ({name: value for name, value in one.reveal().items() if name != "key_id"} for _, one in openings)
        of_each = zip(openings, facts, strict=True)
        self.told.append(("log", log_size, *((key_id, one.kind, rest) for (key_id, one), rest in of_each)))
        self.answer("about_to")
        return tuple(f"receipt {number}" for number, _ in enumerate(openings))

    async def revocation(self, key_id, *, log_size):
        self.told.append(("find", key_id, log_size))
        return self.answer("revocation")

    async def erased(self, key_id):
        self.told.append(("tombstone", key_id))
        return self.answer("tombstone")


class Recorded:
    """An answer, as it is kept."""

    def __init__(self, *said):
        self.said = said

    def to_proto(self):
        return self

    def SerializeToString(self, *, deterministic):  # noqa: N802 - as protobuf has it
        return repr((self.said, deterministic)).encode()


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    monkeypatch.setattr(deeds, "RecordedDecision", Recorded)


async def decided(scene, operation, decision=Decision.MATCH, **options):
    session = dataclasses.replace(an_open_session(number=3), operation=operation)
    given = {"assertion": "an assertion", "log_size": 5, "expires_at": NOW + 30, "request_digest": ASKED} | options
    answer = await scene.deeds.decide(session, decision, **given)
    return session, answer.said


REVOKES, ENROLS = PersonalKind.REVOCATION, PersonalKind.ENROLMENT
OWN, NEW = (a_template(device, receipts=b"the first") for device in (DEVICE, OTHER_DEVICE))
ENROLLED = {
    "audience": "example.org",
    "device_public_key": OTHER_DEVICE.hex(),
    "receipt": sha(b"the first"),
    "template": sha(TEMPLATE + OTHER_DEVICE),
}
OWN_FACTS = ENROLLED | {"device_public_key": DEVICE.hex(), "template": sha(TEMPLATE + DEVICE)}
OLDER = a_template(receipts=b"one\ntwo\nthree")
DEEDS = {
    Operation.ENROL: (
        OWN,
        [
            ("require_new", KEY),
            ("announce", (ENROLS, KEY, a_session(3), OWN)),
            (
                "log",
                5,
                (KEY, ENROLS, OWN_FACTS),
            ),
        ],
        1,
    ),
    Operation.RENEW_TEMPLATE: (
        NEW,
        [
            ("require_new", OTHER_KEY),
            ("announce", (REVOKES, KEY, a_session(3), NEW), (ENROLS, OTHER_KEY, a_session(3), None)),
            ("log", 5, (KEY, REVOKES, {"request": ASKED.hex()}), (OTHER_KEY, ENROLS, ENROLLED)),
        ],
        2,
    ),
    Operation.RENEW_CONSENT: (
        OLDER,
        [
            ("announce", (PersonalKind.RENEWAL, KEY, a_session(3), OLDER)),
            ("log", 5, (KEY, PersonalKind.RENEWAL, {"receipt": sha(b"three")})),
        ],
        1,
    ),
    Operation.ADMIT_DEVICE: (
        ADMITTING,
        [
            ("announce", (PersonalKind.ADMISSION, KEY, a_session(3), ADMITTING)),
            ("log", 5, (KEY, PersonalKind.ADMISSION, {"admits": OF_TICKET.hex()})),
        ],
        1,
    ),
    Operation.REMOVE_DEVICE: (
        NEW,
        [
            ("announce", (REVOKES, OTHER_KEY, a_session(3), None)),
            ("log", 5, (OTHER_KEY, REVOKES, {"request": ASKED.hex()})),
        ],
        1,
    ),
}


@pytest.mark.parametrize(("operation", "held", "told", "receipts"), [(one, *DEEDS[one]) for one in DEEDS])
async def test_what_a_match_does_is_announced_and_logged_and_then_done(operation, held, told, receipts):
    """Whom a removal is about is there, and nobody else is; so is whoever is renewed."""
    there = {KEY: ADMITTING} if operation is not Operation.ENROL else {}
    if operation is Operation.REMOVE_DEVICE:
        there[OTHER_KEY] = NEW
    scene = Scene(templates=there, held_template=held)
    session, said = await decided(scene, operation)
    assert said == (Decision.MATCH, "an assertion", tuple(f"receipt {number}" for number in range(receipts)))
    done = ("decide", session, Decision.MATCH, held, repr((said, True)).encode(), NOW, NOW + 30, ASKED)
    assert scene.told == [("held_template", a_session(3)), *told, done]


@pytest.mark.parametrize("operation", DEEDS)
@pytest.mark.parametrize("fails", ["announce", "about_to"])
async def test_what_is_not_announced_is_not_logged_and_what_is_not_logged_is_not_done(operation, fails):
    held, told, _ = DEEDS[operation]
    there = {OTHER_KEY: NEW} if operation is Operation.REMOVE_DEVICE else {}
    scene = Scene(templates=there, held_template=held, **{fails: UnavailableError("not now")})
    with pytest.raises(UnavailableError, match="not now"):
        await decided(scene, operation)
    assert scene.told == [("held_template", a_session(3)), *(told if fails == "about_to" else told[:-1])]


@pytest.mark.parametrize("operation", [Operation.ENROL, Operation.RENEW_TEMPLATE])
async def test_a_key_that_is_known_is_refused_before_anything_is_announced_and_what_is_done_is_said_again(operation):
    held, told, _ = DEEDS[operation]
    scene = Scene(held_template=held, require_new=RefusedError("enrolled already"))
    with pytest.raises(RefusedError, match="enrolled already"):
        await decided(scene, operation)
    assert scene.told == [("held_template", a_session(3)), told[0]]
    again = Scene(held_template=held, templates={held.key_id: held})
    await decided(again, operation)
    assert again.told[:-1] == [("held_template", a_session(3)), *told[1:]]


async def test_a_device_that_was_removed_already_is_not_announced():
    scene = Scene(held_template=NEW, templates={KEY: ADMITTING})
    with pytest.raises(RefusedError, match="removed already"):
        await decided(scene, Operation.REMOVE_DEVICE)
    assert scene.told == [("held_template", a_session(3))]


@pytest.mark.parametrize("operation", Operation)
async def test_what_puts_nothing_in_force_announces_nothing_and_must_last(operation):
    for decision in (Decision.NON_MATCH, *([Decision.MATCH] if operation is Operation.VERIFY else [])):
        scene = Scene(held_template=NEW)
        session, said = await decided(scene, operation, decision)
        assert said == (decision, "an assertion", ())
        done = ("decide", session, decision, None, repr((said, True)).encode(), NOW, NOW + 30, ASKED)
        assert scene.told == ["lasts", done]


# ---------------------------------------------------------------------- what an owner asks for
def revoking(key_id=KEY):
    return [
        ("announce", (REVOKES, key_id, None, None)),
        ("log", 5, (key_id, REVOKES, {"request": ASKED.hex()})),
        ("revoke", key_id, NOW, ASKED),
    ]


async def test_a_revocation_is_logged_before_it_is_done_and_said_again_where_it_was():
    scene = Scene(templates={KEY: OWN, OTHER_KEY: NEW})
    assert await scene.deeds.revoke(OTHER_KEY, ASKED, log_size=5) == "receipt 0"
    assert scene.told == revoking(OTHER_KEY)
    scene = Scene(templates={KEY: OWN}, revocation="the first receipt")
    assert await scene.deeds.revoke(OTHER_KEY, ASKED, log_size=5) == "the first receipt"
    assert scene.told == [("find", OTHER_KEY, 5)]
    scene = Scene(templates={KEY: OWN})
    assert await scene.deeds.revoke(OTHER_KEY, ASKED, log_size=5) == "receipt 0"
    assert scene.told == [("find", OTHER_KEY, 5), *revoking(OTHER_KEY)]


@pytest.mark.parametrize("is_there", [True, False])
async def test_an_erasure_is_announced_and_comes_after_the_revocation_and_the_owner_goes_last(is_there):
    scene = Scene(templates={KEY: OWN} if is_there else {OTHER_KEY: NEW}, tombstone="a tombstone")
    assert await scene.deeds.erase(KEY, ASKED) == "a tombstone"
    announced, logged, done = revoking()
    revoked = [announced, ("log", 0, *logged[2:]), done] if is_there else []
    erases = ("announce", (PersonalKind.ERASURE, KEY, None, None))
    assert scene.told == [erases, *revoked, ("tombstone", KEY), ("erase", KEY, ASKED)]


@pytest.mark.parametrize(("fails", "steps"), [("announce", 1), ("about_to", 3), ("revoke", 4), ("tombstone", 5)])
async def test_an_erasure_that_fails_goes_no_further(fails, steps):
    scene = Scene(templates={KEY: OWN}, **{fails: UnavailableError("not now")})
    with pytest.raises(UnavailableError, match="not now"):
        await scene.deeds.erase(KEY, ASKED)
    assert len(scene.told) == steps
    assert scene.told[-1][0] == {"about_to": "log"}.get(fails, fails)
