"""A server that is killed at any moment loses nothing that it acknowledged, and gives no second try to anybody.

A real process is killed with SIGKILL in the middle of enrolments, verifications, renewals, revocations and erasures.
The dead server's files are looked at, the next one is started on them without anybody's help, and the people go on.
"""

from __future__ import annotations

import hashlib
import random
from contextlib import closing, suppress

import pytest

from client import connection
from client.wallet.wallet import EnrolmentState
from federation.errors import RefusedError, UnavailableError, UsageError
from federation.onebit import Decision
from federation.transparency import Frontier, PersonalKind
from server.log.storage import open_log_storage
from server.storage.sqlstorage import open_storage
from tests.integration.killing import Ambush, KillableServer, Person
from tests.running import LOG_TRUST, a_face, a_release, a_wallet

pytestmark = pytest.mark.integration

CALLS = {"enrol": 3, "verify": 3, "agree": 3, "renew": 3, "revoke": 1, "erase": 2}
"""How many calls each deed takes."""


class Town:
    """People who use a server that dies all the time."""

    def __init__(self, server, seed):
        self.server, self.rng = server, random.Random(seed)  # noqa: S311 - chooses moments, keeps no secret
        self.people, self.usual, self.deeds = [], {}, dict.fromkeys(CALLS, 0)

    def newcomer(self):
        person = Person(len(self.people) + 1, a_wallet(a_release()))
        self.people.append(person)
        return person

    def choose(self):
        """A deed and who does it; there are always some who may verify."""
        able = [person for person in self.people if person.may_verify]
        if len(able) < 3:
            return "enrol", self.newcomer()
        deed = self.rng.choices(list(CALLS), weights=[2, 4, 1.5, 1.5, 1.5, 1.5])[0]
        return deed, self.newcomer() if deed == "enrol" else self.rng.choice(able)

    def round(self):
        """One deed that a kill interrupts, and what must be true after it."""
        deed, person = self.choose()
        self.deeds[deed] += 1
        nth = self.rng.randint(1, CALLS[deed])
        watch = person.watch_verification if deed in ("verify", "agree", "renew") else lambda *_: None
        ambush = Ambush(self.server, nth, self.rng.uniform(0, 1.2), self.usual, watch)
        with suppress(UnavailableError):  # nobody knows how far it got; any other error is a failure
            self.do(deed, person, ambush)
        ambush.spring()
        self.check_files()
        self.server.start()
        self.check_story()
        self.go_on(deed, person)

    def do(self, deed, person, ambush=None):
        person.asked.add(deed)
        if deed in ("revoke", "erase"):
            with self.server.owner(person.wallet) as owner:
                if ambush:
                    ambush.lay(owner._connection)
                if deed == "revoke":
                    owner.revoke(LOG_TRUST)
                else:
                    owner.erase(LOG_TRUST)
                    person.is_erased = True
                person.is_revoked = True
            return
        with self.server.device(person.wallet, keep=person.keep) as device:
            if ambush:
                ambush.lay(device._connection)
            first, second = (a_face(person.number, capture) for capture in (0, 1))
            match deed:
                case "enrol":
                    outcome = device.enrol(first, second)
                    person.is_enrolled = True
                case "verify":
                    outcome = device.verify(a_face(person.number, 2))
                case "agree":
                    outcome = device.renew_consent(a_face(person.number, 2))
                case "renew":
                    if person.successor is None:
                        person.successor = Person(person.number, a_wallet(a_release()))
                        self.people.append(person.successor)
                    successor = person.successor
                    outcome = device.renew_template(first, second, into=successor.wallet, keep=successor.keep)
                    person.is_revoked = successor.is_enrolled = True
            assert outcome.decision is Decision.MATCH

    def go_on(self, deed, person):
        """The person finds out how far it got, in the way that the program tells them to."""
        if deed == "verify":
            self.send_the_last_probe_again(person)
        elif deed == "enrol" and not person.is_enrolled:
            person.is_enrolled = self.settles(person)
            if not person.is_enrolled:
                self.enrol_again(person)
        elif deed == "agree":
            with self.server.owner(person.wallet) as owner:
                person.wallet = owner.with_held_consent(LOG_TRUST)
        elif deed == "renew" and not person.is_revoked:
            successor = person.successor
            if successor is not None and self.settles(successor):
                person.is_revoked = successor.is_enrolled = True
            else:
                person.asked.discard("renew")  # nothing became of it
        elif deed in ("revoke", "erase"):
            try:
                self.do(deed, person)
            except RefusedError:
                assert deed == "erase"  # the answer was lost: nobody knows the person any more
                person.is_revoked = person.is_erased = True
        self.verify_again(person)
        if person.successor is not None:
            self.verify_again(person.successor)

    def settles(self, person):
        """Whether the server has the template whose last answer was lost, as the person's program asks it."""
        with self.server.owner(person.wallet) as owner:
            try:
                person.wallet = owner.settle(LOG_TRUST)
            except RefusedError:  # the server knows nothing of it; the person tries again
                return False
        return person.wallet.require_enrolment().state is EnrolmentState.ENROLLED

    def verify_again(self, person):
        if person.may_verify:
            with self.server.device(person.wallet, keep=person.keep) as device:
                Ambush(self.server, -1, 0, self.usual, person.watch_verification).lay(device._connection)
                assert device.verify(a_face(person.number, 3)).decision is Decision.MATCH
        elif person.is_revoked and not person.is_erased:
            # Either the server refuses, or the wallet was told and does so itself.
            with (
                pytest.raises((RefusedError, UsageError), match=r"revoked for good|not enrolled"),
                self.server.device(person.wallet, keep=person.keep) as device,
            ):
                device.verify(a_face(person.number, 3))

    def send_the_last_probe_again(self, person):
        """The same bytes after the restart: the same answer, a refusal, or the one attempt that it always was."""
        if person.probe is None:
            return
        with (
            self.server.device(person.wallet) as device,
            suppress(RefusedError, UnavailableError),  # over, or taken and never answered
        ):
            device._call(device._stub.SubmitProbe, person.probe)

    def check_files(self):
        """What the dead server left on its disk."""
        with open_storage(self.server.database) as storage, closing(open_log_storage(self.server.log_database)) as log:
            for person in self.people:
                key_id = person.wallet.key_id
                template, history = storage.template(key_id), storage.history(key_id)
                if person.may_verify:
                    assert template is not None
                if person.is_revoked:
                    assert template is None
                if person.is_erased:
                    assert storage.owner(key_id) is None
                if template is not None:
                    assert person.learnt <= history.attempts <= person.sent
                    assert person.matches <= history.attempts - history.failures <= history.attempts
            self.check_log(log)

    def check_story(self):
        """Once the next server runs, its database holds what the log says of each person, without anybody's help."""
        with open_storage(self.server.database) as storage, closing(open_log_storage(self.server.log_database)) as log:
            assert storage.deeds() == [] or not self.logged(storage.deeds(), log)
            for person in self.people:
                key_id = person.wallet.key_id
                kinds = [opening.kind for opening in log.openings(key_id).values()]
                facts = [opening.reveal() for opening in log.openings(key_id).values()]
                if PersonalKind.REVOCATION in kinds:
                    assert storage.template(key_id) is None
                    assert storage.knows(key_id)
                elif PersonalKind.ENROLMENT in kinds:
                    template = storage.template(key_id)
                    assert template is not None
                    renewed = [fact["receipt"] for kind, fact in zip(kinds, facts, strict=True) if kind == "renewal"]
                    held = [hashlib.sha256(receipt).hexdigest() for receipt in template.receipts.splitlines()]
                    assert held[1:] == renewed
                    attempts = sum("transcript" in fact for fact in facts)
                    assert attempts <= storage.history(key_id).attempts <= person.sent

    def logged(self, deeds, log):
        commitments = {opening.commitment for deed in deeds for opening in log.openings(deed.key_id).values()}
        return [deed for deed in deeds if deed.commitment in commitments]

    def enrol_again(self, person):
        try:
            self.do("enrol", person)
        except UnavailableError as error:  # what the dead server announced, and did not log, is in the way for an hour
            assert "something else is being done" in str(error)  # noqa: PT017 - most rounds have no error

    def check_log(self, log):
        """Every tree that a device believed is the beginning of what is stored."""
        trees = {head for person in self.people for head in person.seen}
        frontier = Frontier()
        for head in sorted(trees, key=lambda tree: tree.size):
            while frontier.size < head.size:
                frontier, _ = frontier.grow(log.entries(frontier.size, head.size))
            assert frontier.head == head
        for person in self.people:
            if person.is_erased:
                assert log.openings(person.wallet.key_id) == {}


@pytest.fixture
def impatient(monkeypatch):
    """Devices do not call again by themselves: the server that they called is dead."""
    monkeypatch.setattr(connection, "_PATIENCE_SECONDS", -1.0)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "kills", [12, pytest.param(1000, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])], ids=["12", "1000"]
)
def test_a_server_that_is_killed_at_any_moment_loses_nothing_that_it_acknowledged(kills, tmp_path):
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")  # noqa: T201 - shown when the test fails
    with KillableServer(tmp_path) as server:
        server.start()
        town = Town(server, seed)
        for _ in range(kills):
            town.round()
        for person in town.people:
            town.go_on("nothing", person)
    assert sum(town.deeds.values()) == kills
