"""Hostile peers: a process of them, each with its own certificate, all the time and sometimes as fast as they can."""

from __future__ import annotations

import itertools
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc

from client.connection import ClientTls, Connection
from client.device.verification import Device
from client.log.policy import read_log_policy
from client.rights.conditions import Conditions
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet
from federation.errors import IntaglioError
from federation.release.bundle import Bundle
from federation.rules.rulebook import Rulebook
from federation.wire.ticket import Ticket
from federation.wire.v1 import verification_pb2 as pb
from server.pairs import client_credentials
from server.people.tickets import open_servers_storage
from tests.agreeing import AUDIENCE, PURPOSE
from tests.integration.hostile import CALLS, Refusal, send
from tests.running import DEPLOYMENT, TERMS, a_face, a_ticket

BEHAVIOURS = {
    "holds calls without a message": 1.0,
    "holds silent sockets": 0.5,
    "enrols without a ticket": 2.0,
    "sends malformed calls": 0.3,
    "invents requesters": 0.3,
    "replays old answers": 0.3,
    "abandons sessions": 0.3,
}
"""What strangers do, and seconds between two of it when they are not in a rush."""
_HELD_CALLS, _HELD_SOCKETS = 40, 64
_HOLDING_SECONDS = 12.0


class Strangers:
    """All of them.

    Args:
        target: host:port.
        folder: with release, rules and certificates.
        policy: of the log.
        database: in which the operator issues tickets, also to those who then misbehave.
        seed: of what they send.
        rushing: set while they are in a rush.
        over: set at the end.
    """

    def __init__(
        self, target: str, folder: Path, policy: Path, database: str, seed: int, rushing: Any, over: Any
    ) -> None:
        self._target, self._folder, self._database = target, folder, database
        self._rushing, self._over = rushing, over
        self._rng = random.Random(f"{seed} strangers")  # noqa: S311 - chooses bytes, keeps no secret
        bundle = Bundle.from_bytes((folder / "release.zip").read_bytes())
        rules = Rulebook.from_file((folder / "rules.jsonl").read_bytes(), read_at=int(time.time()))
        self._release = bundle.release
        trust = read_log_policy(policy)
        self._conditions = Conditions(rules, trust, bundle.release, bundle.manifest.standing, TERMS)
        self.counts = {behaviour: Counter[str]() for behaviour in BEHAVIOURS}
        self._faces = itertools.count(10_000_000)

    def live(self) -> dict[str, dict[str, int]]:
        """Until it is over. Returns how often each behaviour was answered how."""
        works: list[Callable[[str, Counter[str]], None]] = [
            self._hold_calls,
            self._hold_sockets,
            self._enrol,
            self._malformed,
            self._invent,
            self._replay,
            self._abandon,
        ]
        threads = [
            threading.Thread(target=self._again_and_again, args=(work, behaviour, f"stranger{number}"))
            for number, (work, behaviour) in enumerate(zip(works, BEHAVIOURS, strict=True))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {behaviour: dict(counts) for behaviour, counts in self.counts.items()}

    def _again_and_again(self, work: Callable[[str, Counter[str]], None], behaviour: str, name: str) -> None:
        while not self._over.is_set():
            try:
                work(name, self.counts[behaviour])
            except (IntaglioError, OSError) as error:
                self.counts[behaviour][type(error).__name__] += 1
                self._over.wait(0.05)
            if not self._rushing.is_set():
                self._over.wait(BEHAVIOURS[behaviour])

    def _hold_calls(self, name: str, counts: Counter[str]) -> None:
        credentials = client_credentials(self._folder / "tls", name)
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.secure_channel(self._target, credentials, options) for _ in range(2)]
        done = threading.Event()

        def nothing():
            done.wait(_HOLDING_SECONDS)
            yield from ()

        try:
            method = "/federation.wire.v1.LogService/GetCheckpoint"
            stubs = [channel.stream_unary(method) for channel in channels]
            calls = [stubs[n % 2].future(nothing(), timeout=_HOLDING_SECONDS) for n in range(_HELD_CALLS)]
            self._over.wait(_HOLDING_SECONDS - 1)
            for call in calls:
                counts[call.code().name if call.done() else "held"] += 1
        finally:
            done.set()
            for channel in channels:
                channel.close()

    def _hold_sockets(self, _name: str, counts: Counter[str]) -> None:
        host, port = self._target.rsplit(":", 1)
        held = []
        for _ in range(_HELD_SOCKETS):
            with suppress(OSError):
                held.append(socket.create_connection((host, int(port)), timeout=2))
        counts["held"] += len(held)
        self._over.wait(_HOLDING_SECONDS)
        for one in held:
            one.close()

    def _enrol(self, name: str, counts: Counter[str]) -> None:
        with self._device(self._wallet(), name, Ticket.draw()) as device:
            number = next(self._faces)
            counts[device.enrol(a_face(number, 0), a_face(number, 1)).decision.name] += 1

    def _malformed(self, name: str, counts: Counter[str]) -> None:
        connection = self._connection(name)
        try:
            for _ in range(40):
                if self._over.is_set():
                    return
                call, kind = self._rng.choice(list(CALLS.items()))
                data = self._rng.randbytes(self._rng.choice((0, 1, 16, 200, 5000)))
                if self._rng.random() < 0.5:
                    data = kind().SerializeToString() + data[:3]
                self._count(send(connection, call, data), counts)
                self._pause()
        finally:
            connection.close()

    def _invent(self, name: str, counts: Counter[str]) -> None:
        connection = self._connection(name)
        try:
            for _ in range(40):
                if self._over.is_set():
                    return
                ministry = f"ministry-of-{self._rng.randbytes(4).hex()}"
                request = pb.StartVerificationRequest(
                    key_id=self._rng.randbytes(32), purpose=ministry, audience=f"{ministry}.example"
                )
                self._count(send(connection, "VerificationService/StartVerification", request), counts)
                self._pause()
        finally:
            connection.close()

    def _replay(self, name: str, counts: Counter[str]) -> None:
        """Verifies once, honestly, and then says the same again and again, to the letter and with another end."""
        sent = []
        number = next(self._faces)
        with open_servers_storage(self._database) as storage:
            ticket = a_ticket(storage)
        with self._device(self._wallet(), name, ticket) as device:
            original = device._connection._call_once

            def call(method: Any, request: Any) -> Any:
                sent.append(request)
                return original(method, request)

            device._connection._call_once = call
            device.enrol(a_face(number, 0), a_face(number, 1))
            device.verify(a_face(number, 2))
            for _ in range(30):
                for request in sent:
                    if self._over.is_set():
                        return
                    service = next(call for call, kind in CALLS.items() if kind is type(request))
                    changed = type(request).FromString(request.SerializeToString())
                    if hasattr(changed, "log_size") and self._rng.random() < 0.3:
                        changed.log_size += 1
                    self._count(send(device._connection, service, changed), counts)
                    self._pause()

    def _abandon(self, name: str, counts: Counter[str]) -> None:
        connection = self._connection(name)
        wanted = {"key_id": self._rng.randbytes(32), "purpose": PURPOSE, "audience": AUDIENCE}
        try:
            for _ in range(40):
                if self._over.is_set():
                    return
                for call, request in (
                    ("VerificationService/StartVerification", pb.StartVerificationRequest(**wanted)),
                    ("VerificationService/StartEnrolment", pb.StartEnrolmentRequest(**wanted, ticket=bytes(20))),
                ):
                    self._count(send(connection, call, request), counts)
                    self._pause()
        finally:
            connection.close()

    def _pause(self) -> None:
        if not self._rushing.is_set():
            self._over.wait(0.3)

    def _count(self, answer: bytes | Refusal, counts: Counter[str]) -> None:
        counts[answer.code.name if isinstance(answer, Refusal) else "answered"] += 1

    def _wallet(self) -> Wallet:
        digest = bytes.fromhex(self._release.digest)
        return Wallet.generate().with_enrolment(
            Enrolment(PURPOSE, AUDIENCE, digest, EnrolmentState.STARTED, DEPLOYMENT)
        )

    def _device(self, wallet: Wallet, name: str, ticket: Ticket) -> Device:
        tls = ClientTls.read(self._folder / "tls", name)
        return Device(wallet, target=self._target, tls=tls, conditions=self._conditions, ticket=ticket)

    def _connection(self, name: str) -> Connection:
        return Connection(self._target, ClientTls.read(self._folder / "tls", name), timeout_seconds=20)


def live(
    target: str, folder: Path, policy: Path, database: str, seed: int, rushing: Any, over: Any, answers: Any
) -> None:
    """The process."""
    answers.send(Strangers(target, folder, policy, database, seed, rushing, over).live())
