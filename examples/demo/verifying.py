"""The second half of the demo: held-out people enrol from wallets and verify, through the encrypted match."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.connection import ClientTls
from client.device.outcomes import VerificationOutcome
from client.device.verification import Device
from client.log.policy import read_log_policy
from client.rights.conditions import Conditions
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet, create_wallet, write_wallet
from examples.demo.results import Attempts
from federation.consent.receipts import Party, Terms
from federation.errors import UnavailableError
from federation.onebit import Decision, hamming_distance
from federation.recognition.embeddings import EmbeddingSet
from federation.recognition.fusing import fused, fused_groups
from federation.recognition.model import ModelRelease
from federation.recognition.profiles import PROBE, REFERENCE
from federation.release.bundle import Bundle, require_servable
from federation.release.manifest import ReleaseTrust
from federation.rules.rulebook import Rulebook
from federation.sealing import ScryptCost
from federation.transparency import LogPolicy, VerifierKey
from federation.transparency.policy import NamedWitness
from federation.wire.ticket import Ticket
from server.people.tickets import issue_ticket, open_servers_storage

GENUINE_PER_PERSON = 3
IMPOSTORS_PER_PERSON = 2
"""Five attempts in all: the server makes a template wait after five failures in a row."""

TERMS = Terms(
    controller=Party("Demo", "This machine", "mailto:nobody@example.org"),
    audience="example.org",
    purposes=("demo-door",),
    jurisdiction="DE",
    storage_location="DE",
    retention_days=0,
    alternative="Nobody is enrolled here: the demo plays all parties with pictures of a public data set.",
    contest="mailto:nobody@example.org",
    withdrawal="mailto:nobody@example.org",
    notice="https://example.org/notice",
    notice_version="1",
    language="en",
)
DEPLOYMENT = "demo"
_TICKET_SECONDS = 3600
BUNDLE, TRUST = "release.zip", "trust.json"
_LOG = "demo.example.org/log"
_START_SECONDS, _STOP_SECONDS = 60.0, 20.0
_SCRYPT = ScryptCost(log2_n=15)  # the least that wallets allow: these passphrases are random and thrown away


@dataclass(frozen=True, eq=False)
class Person:
    """One held-out person, as adapted vectors (n, k) float64. Sensitive.

    Attributes:
        name: as in the data set.
        references: clean captures: the first averages as many pictures as the release says and enrols; the second is a
            picture more, which confirms.
        probes: degraded captures of other moments, each the average of as many as the release says.
    """

    name: str
    references: NDArray[np.float64] = field(repr=False)
    probes: NDArray[np.float64] = field(repr=False)


def people_of(embeddings: EmbeddingSet, release: ModelRelease) -> list[Person]:
    """Splits every person's images: the first half may enrol, only the second half is probed with."""
    people = []
    for name in sorted(set(embeddings.people.tolist())):
        mine = embeddings.select(embeddings.people == name)
        images = list(dict.fromkeys(mine.images.tolist()))
        early = np.isin(mine.images, images[: len(images) // 2])
        references = mine.embeddings[early & (mine.profiles == REFERENCE)]
        averaged = min(release.references, len(references) - 1)  # one is kept, to confirm
        enrolling = np.vstack([fused(references[:averaged]), references[averaged:]])
        probes = fused_groups(mine.embeddings[~early & (mine.profiles == PROBE)], release.frames)
        people.append(Person(name, release.adapt(enrolling, REFERENCE), release.adapt(probes, PROBE)))
    return people


def verify_everybody(
    people: list[Person],
    bundle: Bundle,
    trust: ReleaseTrust,
    folder: Path,
    *,
    progress: Callable[[int, int], None],
) -> tuple[Attempts, list[str]]:
    """Starts a matching server, enrols everybody, and makes genuine and impostor attempts.

    Args:
        people: held-out people, with at least two references and one probe each.
        bundle: signed; its release decides the threshold.
        trust: whose signatures the server and every device believe.
        folder: an empty folder for bundle, certificates, wallets and the server's database.
        progress: gets (attempts done, attempts in all).

    Returns:
        The outcomes, and one line for each person who could not enrol.

    Raises:
        UnavailableError: the server did not start.
        RefusedError: the audit failed, so nothing is served.
    """
    release = require_servable(bundle, trust, now=int(time.time()))
    (folder / BUNDLE).write_bytes(bundle.to_bytes())
    (folder / TRUST).write_bytes(trust.to_bytes())
    log, failures = _Log(release.threshold), []
    planned = [_attempts_on(people, index) for index in range(len(people))]
    with matching_server(folder) as server:
        tls = ClientTls.read(server.tls)
        rules = Rulebook.from_file(server.rules.read_bytes(), read_at=int(time.time()))
        log_trust = read_log_policy(server.log_policy)
        conditions = Conditions(rules, log_trust, release, bundle.manifest.standing, TERMS)
        for person, attempts in zip(people, planned, strict=True):
            wallet = _enrol(person, release, folder, server, tls, conditions)
            if wallet is None:
                failures.append(f"{person.name}: failure to enrol, the second capture did not match the first")
                continue
            secret = wallet.require_template_secret()  # the pad is the same in both codes, so it drops out
            code = secret.padded_code(person.references[0])
            with Device(wallet, target=server.target, tls=tls, conditions=conditions) as device:
                for probe, genuine in attempts:
                    distance = hamming_distance(code, secret.padded_code(probe))
                    log.add(device.verify(probe), genuine=genuine, distance=distance)
                    progress(log.made, sum(map(len, planned)))
    times = json.loads((folder / "server-times.json").read_text())["match"]["times_ms"]
    return log.attempts(server_ms=times[-log.made :]), failures


def _attempts_on(people: list[Person], index: int) -> list[tuple[NDArray[np.float64], bool]]:
    """Probes against the template of one person: (adapted embedding, whether it is the owner's)."""
    owner = [(probe, True) for probe in people[index].probes[:GENUINE_PER_PERSON]]
    others = [people[(index + step) % len(people)] for step in range(1, IMPOSTORS_PER_PERSON + 1)]
    return owner + [(other.probes[0], False) for other in others if other is not people[index]]


def _enrol(
    person: Person, release: ModelRelease, folder: Path, server: Server, tls: ClientTls, conditions: Conditions
) -> Wallet | None:
    """Creates a wallet and enrols it. The passphrase is thrown away: a demo's wallets serve once."""
    path, passphrase = folder / "wallets" / f"{secrets.token_hex(8)}.wallet", secrets.token_urlsafe()
    path.parent.mkdir(mode=0o700, exist_ok=True)
    enrolment = Enrolment(
        TERMS.purposes[0], TERMS.audience, bytes.fromhex(release.digest), EnrolmentState.STARTED, DEPLOYMENT
    )
    wallet = create_wallet(path, passphrase, _SCRYPT).with_enrolment(enrolment)
    ticket = server.ticket()
    with Device(wallet, target=server.target, tls=tls, conditions=conditions, ticket=ticket) as device:
        outcome = device.enrol(person.references[0], person.references[1])
    if outcome.decision is Decision.NON_MATCH:
        return None
    write_wallet(path, device.wallet, passphrase, _SCRYPT)
    return device.wallet


class _Log:
    """Adds attempts up, and compares each decision with the codes in the clear."""

    def __init__(self, threshold: int) -> None:
        self._threshold = threshold
        self._outcomes: list[tuple[VerificationOutcome, bool]] = []
        self._disagreements = 0

    @property
    def made(self) -> int:
        """Attempts so far."""
        return len(self._outcomes)

    def add(self, outcome: VerificationOutcome, *, genuine: bool, distance: int) -> None:
        """Takes one attempt in."""
        self._outcomes.append((outcome, genuine))
        self._disagreements += (outcome.decision is Decision.MATCH) != (distance <= self._threshold)

    def attempts(self, *, server_ms: list[float]) -> Attempts:
        """The sums."""
        accepted = [genuine for outcome, genuine in self._outcomes if outcome.decision is Decision.MATCH]
        owners = sum(genuine for _, genuine in self._outcomes)
        return Attempts(
            genuine=owners,
            genuine_accepted=sum(accepted),
            impostor=self.made - owners,
            impostor_accepted=len(accepted) - sum(accepted),
            plaintext_disagreements=self._disagreements,
            server_ms=np.array(server_ms),
            device_ms=np.array([outcome.device_ms for outcome, _ in self._outcomes]),
            upload_bytes=max(outcome.upload_bytes for outcome, _ in self._outcomes),
            reply_bytes=max(outcome.reply_bytes for outcome, _ in self._outcomes),
        )


@dataclass(frozen=True)
class Server:
    """A running matching server.

    Attributes:
        target: host:port.
        tls: folder with the certificates.
        rules: file with the public rules.
        log_policy: file that names the log.
        database: of its templates: file or URL.
        pid: of its process.
    """

    target: str
    tls: Path
    rules: Path
    log_policy: Path
    database: str
    pid: int

    def ticket(self) -> Ticket:
        """A new one, as an operator gives it to one person."""
        with open_servers_storage(self.database) as storage:
            return issue_ticket(storage, ends_at=int(time.time()) + _TICKET_SECONDS)


@contextmanager
def matching_server(folder: Path, *, witnesses: int = 1, batch_seconds: float = 0.0) -> Iterator[Server]:
    """Runs `intaglio-server` as its own process on loopback, for the bundle in `folder`. Stops it at the end.

    Args:
        folder: of bundle and trust.
        witnesses: of the log, each a process of its own; every device waits for all of them.
        batch_seconds: from one batch of the log to the next, at least.

    Raises:
        UnavailableError: it did not start; its log in `folder` says why.
    """
    with ExitStack() as running:
        prepare_server(folder, running, witnesses=witnesses)
        database = str(folder / "templates.sqlite")
        yield running.enter_context(one_server(folder, "server", database=database, batch_seconds=batch_seconds))


def prepare_server(folder: Path, running: ExitStack, *, witnesses: int) -> None:
    """Makes what servers share beside their database: certificates, rules, the log's folder and its witnesses.

    Args:
        folder: of bundle and trust.
        running: stops the witnesses.
        witnesses: of the log, each a process of its own; every device waits for all of them.
    """
    _run("pki", "init", folder / "tls", "--json")
    terms, rules = folder / "terms.json", folder / "rules"
    terms.write_text(json.dumps(asdict(TERMS)))
    signer = folder / "assertions"
    _run("assertions", "init", signer, "--issuer", "https://demo.example.org")
    named_in_rules = ("--release", folder / BUNDLE, "--deployment", DEPLOYMENT, "--assertions", signer)
    _run("rules", "init", rules, "--terms", terms, *named_in_rules)
    log_key = VerifierKey.from_text(_run("log", "init", folder / "log", _LOG).strip())
    named = tuple(_witness(folder, log_key, number, running) for number in range(witnesses))
    policy = LogPolicy(log_key, named, tuple(one.key for one in named), threshold=witnesses)
    (folder / "log" / "policy").write_text(policy.to_text())


@contextmanager
def one_server(
    folder: Path,
    name: str,
    *,
    database: str,
    log_database: str | None = None,
    cores: Collection[int] = (),
    batch_seconds: float = 0.0,
) -> Iterator[Server]:
    """Runs a front end with its match process. Several may share a folder and databases; each has a name.

    Args:
        folder: what `prepare_server` prepared.
        name: of its log and of the file with its times.
        database: file or URL.
        log_database: URL, when it is not in the log's folder.
        cores: where it may run; anywhere when there are none.
        batch_seconds: from one batch of the log to the next, at least.

    Raises:
        UnavailableError: it did not start; its log in `folder` says why.
    """
    tls, rules = folder / "tls", folder / "rules" / "rules.jsonl"
    options: dict[str, object] = {"release": folder / BUNDLE, "release-trust": folder / TRUST, "log": folder / "log"}
    options |= {"stats": folder / f"{name}-times.json", "tls": tls, "rules": rules, "database": database, "port": 0}
    options |= {"peer-rate": 10_000}  # everybody has the same certificate here
    options |= {"deployment": DEPLOYMENT, "batch-seconds": batch_seconds}
    options |= {"log-database": log_database} if log_database else {}
    arguments = [part for option, value in options.items() for part in (f"--{option}", str(value))]
    with ExitStack() as running:
        process, port = _started(running, folder / name, "matching", "start", *arguments, cores=cores)
        yield Server(f"localhost:{port}", tls, rules, folder / "log" / "policy", database, process.pid)


def _witness(folder: Path, log_key: VerifierKey, number: int, running: ExitStack) -> NamedWitness:
    """Starts a witness of the log."""
    own = folder / f"seen{number}"
    key = VerifierKey.from_text(_run("log", "witness-init", own, f"witness{number}.example.org/demo").strip())
    arguments = ("--key", log_key.to_text(), "--port", "0")
    _, port = _started(running, folder / f"witness{number}", "log", "serve-witness", own, *arguments)
    return NamedWitness(key, f"http://127.0.0.1:{port}")


def _started(
    running: ExitStack, path: Path, *arguments: Path | str, cores: Collection[int] = ()
) -> tuple[subprocess.Popen[bytes], int]:
    """Starts a command that listens, and stops it with `running`. The process and its port."""
    ready, log = path.with_suffix(".json"), path.with_suffix(".log")
    with log.open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - our own program, no shell
            [_command(), *map(str, arguments), "--ready-file", str(ready)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def stop() -> None:
        process.send_signal(signal.SIGTERM)
        process.wait(_STOP_SECONDS)

    running.callback(stop)
    if cores:
        os.sched_setaffinity(process.pid, cores)  # before it starts threads and processes of its own
    deadline = time.monotonic() + _START_SECONDS
    while not ready.is_file():
        if process.poll() is not None or time.monotonic() > deadline:
            raise UnavailableError(f"`intaglio-server {' '.join(map(str, arguments[:2]))}` did not start; read {log}")
        time.sleep(0.05)
    return process, int(json.loads(ready.read_text())["port"])


def _run(*arguments: Path | str) -> str:
    """Runs a command to its end. Gives what it printed."""
    command = [_command(), *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 - ours


def _command() -> str:
    return str(Path(sys.executable).parent / "intaglio-server")
