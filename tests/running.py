"""A matching server on loopback inside the test process, with faces that are made up."""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import threading
import time
from concurrent.futures import Future
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from client.connection import ClientTls
from client.device.verification import Device
from client.log.watching import LogTrust
from client.rights.conditions import Conditions
from client.rights.owner import Owner
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet
from federation.consent.assertion import PairwiseSecret
from federation.consent.purposes import Category, Tier
from federation.consent.receipts import Party
from federation.recognition.model import ModelRelease
from federation.release.bundle import Bundle
from federation.rules.entries import Deployment, Issuer, PolicyPack, PurposeRule
from federation.rules.rulebook import Rulebook, RuleSigners, SignedRule
from federation.transparency import KeyKind, NoteSigner
from federation.wire.convert import EnrolmentRequest
from federation.wire.v1 import verification_pb2 as pb
from server.certificates import write_pki
from server.log.storage import open_log_storage
from server.log.transparency_log import TransparencyLog
from server.matching.admission import Admission
from server.matching.journal import Journal
from server.matching.service import MatchingService
from server.matching.serving import start_server
from server.people.tickets import issue_ticket
from server.rules.assertions import AssertionIssuer
from server.rules.public import PublicRules
from tests import agreeing
from tests.agreeing import AUDIENCE, PURPOSE, public
from tests.bundles import DIMENSION, TRUST, a_bundle, a_release
from tests.bundles import signed as sealed

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from federation.wire.ticket import Ticket
    from server.matching.workers import MatchWorkers
    from server.storage.storage import Storage

DEPLOYMENT = "trial"
TERMS = replace(
    agreeing.TERMS,
    controller=Party("Example Office Ltd", "1 Example Street, 10115 Berlin", "mailto:privacy@example.org"),
    withdrawal="mailto:withdraw@example.org",
    notice_version="1",
)
SIGNERS = (Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate())
ISSUER_KEY = Ed25519PrivateKey.generate()
ISSUER = Issuer("https://verify.example.org", public(ISSUER_KEY))
LOG_SIGNER = NoteSigner("example.org/log", KeyKind.NOTE, bytes(range(32)))
LOG_TRUST = LogTrust(LOG_SIGNER.key)


def a_face(person: int, capture: int = 0) -> NDArray[np.float64]:
    """Captures of one person lie about 25 degrees apart (near 145 of 1024 bits), people about 90 (512 bits)."""
    centre = np.random.default_rng(person).standard_normal(DIMENSION)
    noise = np.random.default_rng([person, capture, 1]).standard_normal(DIMENSION)
    vector = centre / np.linalg.norm(centre) + 0.33 * noise / np.linalg.norm(noise)
    return vector / np.linalg.norm(vector)


def signed(rule: Any, signers: tuple[Ed25519PrivateKey, ...] = SIGNERS) -> bytes:
    entry = SignedRule(rule)
    for key in signers:
        entry = entry.signed_by(key)
    return entry.to_bytes()


def a_rules_file(*entries: bytes, releases: tuple[ModelRelease, ...] = (), issuer: Issuer | None = ISSUER) -> bytes:
    """Lets `TERMS` be served from yesterday on for a year, in Germany; then come `entries`."""
    begin = int(time.time()) - 86_400
    end = begin + 365 * 86_400
    rule = PurposeRule(PURPOSE, Category.PHYSICAL_ACCESS, Tier.MINIMAL, begin, end)
    digests = {bytes.fromhex(release.digest) for release in releases or (a_release(), a_release(301))}
    rules = [
        PolicyPack("DE", 1, begin, end, (rule,)),
        PolicyPack("EU", 1, begin, end, (rule,)),
        Deployment(
            identifier=DEPLOYMENT,
            operator="Example Office Ltd",
            contact="mailto:privacy@example.org",
            audience=AUDIENCE,
            purposes=(PURPOSE,),
            jurisdictions=("DE", "EU"),
            release_digests=tuple(sorted(digests)),
            begins_at=begin,
            ends_at=end,
            issuer=issuer,
        ),
    ]
    signers = RuleSigners(frozenset(map(public, SIGNERS)), threshold=2)
    return b"\n".join([signers.to_bytes(), *map(signed, rules), *entries])


def public_rules(file: bytes | None = None) -> PublicRules:
    """As the server reads them."""
    content = file or a_rules_file()
    return PublicRules(lambda: content, deployment=DEPLOYMENT, now=int(time.time()))


def conditions(file: bytes | None = None, **changes: Any) -> Conditions:
    """As the device reads them."""
    book = Rulebook.from_file(file or a_rules_file(), read_at=int(time.time()))
    standing = a_bundle().manifest.standing
    usual = {"rules": book, "log": LOG_TRUST, "release": a_release(), "standing": standing, "terms": TERMS}
    return Conditions(**usual | changes)


def an_issuer(bundle: Bundle | None = None) -> AssertionIssuer:
    """The one that the rules register."""
    return AssertionIssuer(ISSUER.address, ISSUER_KEY, PairwiseSecret(bytes(32)), bundle or a_bundle())


def asserted_to(audience: str, purpose: str, nonce: bytes) -> dict[str, Any]:
    """What somebody expects of an assertion of that issuer's."""
    who = {"issuer_public_key": ISSUER.public_key, "expected_issuer": ISSUER.address}
    return who | {"expected_audience": audience, "expected_purpose": purpose, "expected_nonce": nonce}


def a_journal(directory: Path) -> Journal:
    """Servers whose journals are of one directory write one log. It keeps real time, as devices do."""
    storage = open_log_storage(directory / "log.db")
    return Journal(TransparencyLog(storage, LOG_SIGNER, clock=lambda: int(time.time())), clock=time.time)


def a_service(
    release: ModelRelease,
    storage: Storage,
    workers: MatchWorkers,
    rules: PublicRules,
    directory: Path,
    **options: Any,
) -> MatchingService:
    """With the log of `directory`."""
    return MatchingService(sealed(a_bundle(release)), storage, workers, rules, a_journal(directory), **options)


def write_release(directory: Path, release: ModelRelease | None = None) -> None:
    """release.zip and trust.json."""
    (directory / "release.zip").write_bytes(sealed(a_bundle(release)).to_bytes())
    (directory / "trust.json").write_bytes(TRUST.to_bytes())


def write_rules(directory: Path, issuer: Issuer | None = ISSUER) -> None:
    """rules.jsonl, terms.json, and what `intaglio-server log init` makes in transparency."""
    (directory / "transparency").mkdir()
    (directory / "transparency" / "key").write_text(LOG_SIGNER.secret_text() + "\n")
    (directory / "transparency" / "policy").write_text(f"log {LOG_SIGNER.key.to_text()}\nquorum none\n")
    (directory / "rules.jsonl").write_bytes(a_rules_file(issuer=issuer))
    (directory / "terms.json").write_text(json.dumps(asdict(TERMS)))


def unchecked(device: Device) -> Device:
    """A device that asks nobody whether it may; and that shows a receipt only if it has one."""
    device._require_allowed = lambda _: None  # type: ignore[method-assign] # that is the point of it
    return device


def a_wallet(release: ModelRelease, *, purpose: str = PURPOSE, audience: str = AUDIENCE) -> Wallet:
    enrolment = Enrolment(purpose, audience, bytes.fromhex(release.digest), EnrolmentState.STARTED, DEPLOYMENT)
    return Wallet.generate().with_enrolment(enrolment)


def a_ticket(storage: Storage, **options: Any) -> Ticket:
    """As `intaglio-server tickets issue` makes it, for an hour."""
    return issue_ticket(storage, **{"ends_at": int(time.time()) + 3600} | options)


def to_enrol(device: Device) -> pb.StartEnrolmentRequest:
    """The message with which that device begins."""
    assert device._ticket is not None
    return EnrolmentRequest(device._request(), device._ticket).to_proto()


def a_pki(directory: Path) -> Path:
    write_pki(directory, hosts=["localhost", "127.0.0.1"], clients=["client"], now=dt.datetime.now(dt.UTC))
    return directory


class Clock:
    """Real time, and as many seconds ahead as a test says. Logs keep real time."""

    ahead = 0

    def __call__(self) -> float:
        return time.time() + self.ahead


class RunningServer:
    """Serves in a thread of its own until the block ends."""

    def __init__(self, service: MatchingService, tls: Path, **options: Any) -> None:
        self._service = service
        self._tls = tls
        self._options = options
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()))
        self.target = ""

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def settle(self) -> None:
        """All refusals that were counted stand in the log, as they do after a minute."""
        writing = self._service.journal.refusals.write(everything=True)
        asyncio.run_coroutine_threadsafe(writing, self._loop).result(30)

    def begin_to_drain(self, grace_seconds: float) -> Future[None]:
        return asyncio.run_coroutine_threadsafe(self.front_end.drain(grace_seconds), self._loop)

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        async with self._service.journal:
            self.admission = Admission(self._tls)
            self.front_end = await start_server(
                self._service, self.admission.credentials(), admission=self.admission, **self._options
            )
            self.target = f"localhost:{self.front_end.port}"
            self._ready.set()
            await self._stop.wait()
            await self.front_end.drain(None)
            self._service.close()

    def device(self, wallet: Wallet, *, tls: Path | None = None, name: str = "client", **options: Any) -> Device:
        certificates = ClientTls.read(tls or self._tls, name)
        named = wallet.enrolment.release_digest.hex() if wallet.enrolment else ""
        release = {each.digest: each for each in (a_release(), a_release(301))}.get(named, a_release())
        options = {"conditions": conditions(release=release), "timeout_seconds": 30} | options
        if wallet.enrolment and wallet.enrolment.state is EnrolmentState.STARTED and "ticket" not in options:
            options["ticket"] = self.ticket()
        return Device(wallet, target=self.target, tls=certificates, **options)

    def ticket(self, **options: Any) -> Ticket:
        return a_ticket(self._service._storage, **options)

    def certificates(self, name: str = "client") -> ClientTls:
        return ClientTls.read(self._tls, name)

    def owner(self, wallet: Wallet, *, name: str = "client", **options: Any) -> Owner:
        return Owner(wallet, target=self.target, tls=ClientTls.read(self._tls, name), timeout_seconds=30, **options)
