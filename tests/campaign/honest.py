"""Honest people: a process of them with several doors. They write down whatever a server acknowledged.

Each deed is a connection of its own, as a person's program makes it, and ends with the person knowing what became of
it, or in doubt. Whoever is in doubt finds out first, in the way that the program tells them to, before anything else.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from client.connection import ClientTls
from client.device.verification import Device
from client.log.policy import read_log_policy
from client.rights.conditions import Conditions
from client.rights.owner import Owner
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet
from federation.errors import IntaglioError, RefusedError, UnavailableError, UsageError
from federation.onebit import Decision, hamming_distance
from federation.release.bundle import Bundle
from federation.rules.rulebook import Rulebook
from federation.wire.convert import NO_MATCH
from federation.wire.ticket import Ticket
from federation.wire.v1 import verification_pb2 as pb
from server.people.tickets import open_servers_storage
from tests.agreeing import AUDIENCE, PURPOSE
from tests.campaign.figures import Deed, plain
from tests.campaign.ledger import Account
from tests.running import DEPLOYMENT, TERMS, a_face, a_ticket

WEIGHTS = {"verify": 70, "impostor": 12, "enrol": 5, "agree": 3, "renew": 4, "revoke": 3, "erase": 3}
_PEOPLE = 12
"""Of one process. Those who revoke or erase are followed by newcomers."""
_MANY_ATTEMPTS, _MANY_FAILURES = 400, 30
"""After so many the person renews the template, before the server closes it at 500 and 50."""
_IN_A_ROW = 2
"""Known failures and doubtful ones after which only the owner tries."""
_GOES_AWAY_SECONDS = 15.0
_AUDIT_SECONDS = 120.0


@dataclass(frozen=True)
class Place:
    """Where honest people go.

    Attributes:
        target: host:port.
        folder: with release, rules and certificates.
        policy: of the log.
        certificate: name of theirs.
        database: where the operator issues tickets.
    """

    target: str
    folder: Path
    policy: Path
    certificate: str
    database: str

    def ticket(self) -> Ticket:
        """One for somebody who is about to enrol; the database is under faults, too."""
        with open_servers_storage(self.database) as storage:
            return a_ticket(storage)


@dataclass
class Person:
    """Somebody with a wallet."""

    number: int
    wallet: Wallet
    account: Account
    reference: int = 0
    doubt: str = ""
    successor: Person | None = None
    probe: Any = None
    token: Any = None
    in_a_row: int = 0
    failures: int = 0
    not_before: float = 0.0
    is_closed: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class Neighbourhood:
    """The people of one process.

    Args:
        place: where they go.
        number: of the process; whose faces they have follows from it.
        seed: of what they do.
        out: file for events, one JSON array a line.
    """

    def __init__(self, place: Place, number: int, seed: int, out: Path) -> None:
        self._place = place
        self._rng = random.Random(f"{seed} {number}")  # noqa: S311 - chooses deeds, keeps no secret
        self._numbers = itertools.count(100_000 * (number + 1))
        self._captures = itertools.count(2)
        self._tls = ClientTls.read(place.folder / "tls", place.certificate)
        self._trust = read_log_policy(place.policy)
        bundle = Bundle.from_bytes((place.folder / "release.zip").read_bytes())
        rules = Rulebook.from_file((place.folder / "rules.jsonl").read_bytes(), read_at=int(time.time()))
        self._release = bundle.release
        self._conditions = Conditions(rules, self._trust, bundle.release, bundle.manifest.standing, TERMS)
        self.people = list[Person]()
        self._lock = threading.Lock()
        self._out = out.open("a")
        self._heads = set[tuple[int, str]]()

    # ------------------------------------------------------------------ what happens at the door

    def come(self, due: float) -> None:
        """Somebody comes at `due`, does something, and it is written down."""
        if time.monotonic() - due > _GOES_AWAY_SECONDS:
            self._note(Deed("any", due, due, due + _GOES_AWAY_SECONDS, "WentAway", "nobody's turn for long"))
            return
        person, name = self._next()
        try:
            self._try(person, name, due)
        finally:
            person.lock.release()

    def _next(self) -> tuple[Person, str]:
        """Somebody who is free, locked, and what they do."""
        with self._lock:
            name = self._rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            now = time.monotonic()
            living = [one for one in self.people if one.account.state in ("enrolled", "doubt")]
            free = [one for one in living if one.not_before < now and not one.lock.locked()]
            if len(living) < _PEOPLE or name == "enrol" or not free:
                person = self._newcomer()
                person.lock.acquire()
                return person, "enrol"
            person = self._rng.choice(free)
            person.lock.acquire()
        if person.doubt:
            return person, "settle"
        if person.is_closed:
            return person, "revoke"
        if person.account.sent > _MANY_ATTEMPTS or person.failures > _MANY_FAILURES:
            return person, "renew"
        if name == "impostor" and person.in_a_row >= _IN_A_ROW:
            return person, "verify"
        return person, name

    def _newcomer(self) -> Person:
        number = next(self._numbers)
        person = self._with_wallet(number)
        self.people.append(person)
        return person

    def _with_wallet(self, number: int) -> Person:
        release_digest = bytes.fromhex(self._release.digest)
        enrolment = Enrolment(PURPOSE, AUDIENCE, release_digest, EnrolmentState.STARTED, DEPLOYMENT)
        wallet = Wallet.generate().with_enrolment(enrolment)
        return Person(number, wallet, Account(wallet.key_id.hex(), state="nobody"))

    def _try(self, person: Person, name: str, due: float) -> None:
        begun, result, why = time.monotonic(), "done", ""
        try:
            self.do(person, name)
        except IntaglioError as error:
            result, why = type(error).__name__, plain(str(error))
            self._in_doubt(person, name, error)
        except Exception as error:  # noqa: BLE001 - a mistake of the device or of the campaign is a result too
            result, why = f"Mistake {type(error).__name__}", plain(str(error))
        self._note(Deed(name, due, begun, time.monotonic(), result, why))

    def _in_doubt(self, person: Person, name: str, error: IntaglioError) -> None:
        wait = getattr(error, "retry_after_seconds", 0.0)
        if name in ("verify", "impostor", "agree", "renew"):
            person.in_a_row += 1
            person.failures += 1
            if isinstance(error, UnavailableError) and "failed" in str(error):
                person.not_before = time.monotonic() + wait
            if isinstance(error, RefusedError) and "closed after" in str(error):
                person.is_closed = True
            elif isinstance(error, RefusedError) and ("not enrolled" in str(error) or "revoked" in str(error)):
                person.doubt = person.doubt or "missing"
        if name in ("enrol", "agree", "renew", "revoke", "erase"):
            person.doubt = name

    # ------------------------------------------------------------------ deeds

    def do(self, person: Person, name: str) -> None:
        """One deed, to its acknowledged end.

        Raises:
            IntaglioError: it was refused, or nobody knows.
        """
        match name:
            case "settle":
                self._settle(person)
            case "revoke" | "erase":
                person.account.state = "doubt" if person.account.state == "enrolled" else person.account.state
                self._end(person, name)
            case _:
                with self._device(person, name) as device:
                    self._with_face(device, person, name)

    def _with_face(self, device: Device, person: Person, name: str) -> None:
        if name == "enrol":
            person.account.state = "doubt"
            outcome = device.enrol(a_face(person.number, 0), a_face(person.number, 1))
            self._require(outcome.decision, Decision.MATCH, name)
            person.account.state = "enrolled"
            return
        capture = next(self._captures)
        shown = person.number + 50_000 if name == "impostor" else person.number
        probe = a_face(shown, 1 if name == "renew" else capture)
        secret = person.wallet.require_template_secret()
        distance = hamming_distance(
            secret.padded_code(a_face(person.number, person.reference)), secret.padded_code(probe)
        )
        expected = Decision.MATCH if distance <= self._release.threshold else Decision.NON_MATCH
        match name:
            case "verify" | "impostor":
                outcome = device.verify(probe)
            case "agree":
                outcome = device.renew_consent(probe)
            case _:
                outcome = self._renew(device, person, capture)
        self._require(outcome.decision, expected, name)
        if outcome.decision is Decision.MATCH:
            person.in_a_row = 0
        else:
            person.in_a_row += 1
            person.failures += 1

    def _renew(self, device: Device, person: Person, capture: int) -> Any:
        """The new template is of another picture, in another wallet: from then on that is another person here."""
        successor = person.successor = self._with_wallet(person.number)
        successor.reference, successor.account.state = capture, "doubt"

        def keep(wallet: Wallet) -> None:
            successor.wallet = wallet

        person.account.state = "doubt"
        outcome = device.renew_template(
            a_face(person.number, capture), a_face(person.number, 1), into=successor.wallet, keep=keep
        )
        if outcome.decision is Decision.MATCH:
            self._move(person, successor)
        else:
            person.account.state, person.successor = "enrolled", None
        return outcome

    def _move(self, person: Person, successor: Person) -> None:
        person.account.state, successor.account.state, person.successor = "revoked", "enrolled", None
        with self._lock:
            self.people.append(successor)

    def _end(self, person: Person, name: str) -> None:
        with self._owner(person) as owner:
            try:
                if name == "revoke":
                    owner.revoke(self._trust)
                else:
                    owner.erase(self._trust)
            except RefusedError:
                if person.doubt != "erase":
                    raise
                name = "erase"  # the answer was lost: nobody knows the person any more
            finally:
                person.wallet = owner.wallet
        person.account.state, person.doubt = ("revoked" if name == "revoke" else "erased"), ""

    def _settle(self, person: Person) -> None:
        """Finds out what became of the last deed."""
        match person.doubt:
            case "enrol":
                person.account.state = "enrolled" if self._is_enrolled(person) else "nobody"
            case "agree":
                with self._owner(person) as owner:
                    person.wallet = owner.with_held_consent(self._trust)
            case "renew":
                if person.successor is not None and self._is_enrolled(person.successor):
                    self._move(person, person.successor)
                else:
                    person.account.state = "enrolled"
                    if person.successor is not None:  # may still be under way, so it is kept: see "missing"
                        person.successor.account.state = "nobody"
            case "revoke" | "erase":
                self._end(person, person.doubt)
            case _:
                self._find_the_missing(person)
        person.doubt = ""

    def _find_the_missing(self, person: Person) -> None:
        """The server does not know an enrolment that it acknowledged: it was replaced, or it is lost."""
        with self._owner(person) as owner, suppress(RefusedError):
            if owner.receipts():
                return  # it is there: what was refused was a session
        if person.successor is not None and self._is_enrolled(person.successor):
            self._move(person, person.successor)
            return
        self._fact("lost", [person.account.key_id[:8], "an acknowledged enrolment is refused as not enrolled"])
        person.is_closed = True

    def _is_enrolled(self, person: Person) -> bool:
        if person.wallet.template_secret is None or person.wallet.require_enrolment().receipt is None:
            return False  # nothing left
        with self._owner(person) as owner:
            try:
                person.wallet = owner.settle(self._trust)
            except RefusedError:
                return False
        return person.wallet.require_enrolment().state is EnrolmentState.ENROLLED

    def _require(self, decision: Decision, expected: Decision, name: str) -> None:
        if decision is not expected:
            self._fact("wrong", [name, f"{decision.value} in the place of {expected.value}"])

    # ------------------------------------------------------------------ what is written down

    def _device(self, person: Person, name: str) -> Device:
        def keep(wallet: Wallet) -> None:
            person.wallet = wallet
            self._saw(wallet)

        device = Device(
            person.wallet,
            target=self._place.target,
            tls=self._tls,
            conditions=self._conditions,
            ticket=self._place.ticket() if name == "enrol" else None,
            keep=keep,
        )
        original, logged = device._connection._call_once, device._require_logged
        account = person.account

        def call(method: Any, request: Any) -> Any:
            if name == "enrol":  # is with no stored template, and nobody counts it
                return original(method, request)
            if isinstance(request, pb.SubmitProbeRequest) and request != person.probe:
                account.sent, person.probe = account.sent + 1, request
            is_token = isinstance(request, pb.SubmitTokenRequest) and request.token not in (b"", NO_MATCH)
            if is_token and request != person.token:
                account.tokens, person.token = account.tokens + 1, request
            answer = original(method, request)
            if isinstance(answer, pb.SubmitProbeResponse):
                account.learnt += 1
            if isinstance(answer, pb.SubmitTokenResponse):
                account.matches += answer.decision == pb.DECISION_MATCH
            return answer

        def require_logged(reply: Any, transcript: bytes) -> None:
            logged(reply, transcript)
            entry = reply.log.logged
            account.decisions[entry.index] = hashlib.sha256(entry.entry).hexdigest()
            if name != "enrol":
                account.kept.append(entry.index)

        device._connection._call_once = call
        device._require_logged = require_logged
        return device

    def _owner(self, person: Person) -> Owner:
        return Owner(person.wallet, target=self._place.target, tls=self._tls)

    def _saw(self, wallet: Wallet) -> None:
        if wallet.log is not None:
            head = wallet.log.checkpoint.head
            if (seen := (head.size, head.root.hex())) not in self._heads:
                self._heads.add(seen)
                self._fact("head", seen)

    def _note(self, deed: Deed) -> None:
        self._fact("deed", asdict(deed))

    def _fact(self, kind: str, content: Any) -> None:
        with self._lock:
            self._out.write(json.dumps([kind, content]) + "\n")
            self._out.flush()

    # ------------------------------------------------------------------ the end

    def audit(self) -> dict[str, Any]:
        """When all faults are over: everybody settles, everybody who is enrolled verifies, and accounts are closed."""
        deadline, waiting = time.monotonic() + _AUDIT_SECONDS, list(self.people)
        checked = {"verified": 0, "exported": 0, "proofs": 0}
        problems, last = list[str](), ""
        while waiting and time.monotonic() < deadline:
            person = waiting.pop(0)
            try:
                if person.doubt:
                    self._settle(person)
                if person.account.state == "enrolled":
                    self._check(person, checked)
            except UnavailableError as error:
                waiting.append(person)
                if len(waiting) == 1:
                    time.sleep(0.5)
                last = str(error)
            except IntaglioError as error:
                problems.append(f"{person.account.key_id[:8]}: {type(error).__name__}: {plain(str(error))}")
        problems += [f"{one.account.key_id[:8]}: nothing was learnt in time: {plain(last)}" for one in waiting]
        self._out.close()
        everybody = [*self.people, *(one.successor for one in self.people if one.successor)]
        accounts = {one.account.key_id: one.account.to_json() for one in everybody}
        return {"accounts": list(accounts.values()), "problems": problems, **checked}

    def _check(self, person: Person, checked: dict[str, int]) -> None:
        if not person.is_closed and person.not_before < time.monotonic():
            try:
                self.do(person, "verify")
                checked["verified"] += 1
            except UnavailableError as error:
                if "failed" not in str(error):
                    raise
            except RefusedError as error:
                if "closed after" not in str(error):
                    raise
        with self._owner(person) as owner:  # also whoever has to wait or is closed is still there
            held = owner.export()
            if missing := set(person.account.kept) - set(held.openings):
                raise UsageError(f"{len(missing)} openings of decisions are missing from the export")
            some = dict(itertools.islice(sorted(held.openings.items(), reverse=True), 10))
            checked["proofs"] += len(owner.history(some, self._trust))
            checked["exported"] += 1


def live(place: Place, number: int, seed: int, out: Path, doors: int, orders: Any) -> None:
    """A process of honest people: does what it is told over the pipe, and answers.

    Orders: ("as fast as possible", seconds) answers with the deeds that were done; ("rate", a second, until) comes at
    random moments; ("audit",) answers with what `Neighbourhood.audit` says, and ends.
    """
    people = Neighbourhood(place, number, seed, out)
    rng = random.Random(f"{seed} door {number}")  # noqa: S311 - draws moments
    while True:
        match orders.recv():
            case ("as fast as possible", seconds):
                orders.send(_at_doors(people, doors, itertools.repeat(None), time.monotonic() + seconds))
            case ("rate", rate, until):
                orders.send(_at_doors(people, doors, _moments(rng, rate, until), until))
            case ("audit",):
                orders.send(people.audit())
                return


def _moments(rng: random.Random, rate: float, until: float):
    at = time.monotonic()
    while (at := at + rng.expovariate(rate)) < until:
        yield at


def _at_doors(people: Neighbourhood, doors: int, moments: Any, until: float) -> int:
    """People come one after the other and go to whichever door is free. Returns how many came."""
    lock, came, iterator = threading.Lock(), [0], iter(moments)

    def door() -> None:
        while True:
            with lock:
                due = next(iterator, "over")
                if due == "over" or time.monotonic() >= until + _GOES_AWAY_SECONDS:
                    return
                if due is None and time.monotonic() >= until:
                    return
                came[0] += 1
            if due is not None:
                time.sleep(max(0.0, due - time.monotonic()))
            people.come(due if due is not None else time.monotonic())

    threads = [threading.Thread(target=door) for _ in range(doors)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return came[0]


def read_events(path: Path) -> list[tuple[str, Any]]:
    """What a process wrote, also when it was cut off in a line."""
    found = []
    for line in path.read_text().splitlines():
        with suppress(ValueError):
            kind, content = json.loads(line)
            found.append((kind, content))
    return found
