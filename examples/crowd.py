"""People who are made up, their release, and the processes of their devices: for the load test."""

from __future__ import annotations

import os
import secrets
import time
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.connection import ClientTls
from client.device.verification import Device
from client.log.policy import read_log_policy
from client.rights.conditions import Conditions
from client.wallet.wallet import Enrolment, EnrolmentState, Wallet
from examples.demo.auditing import audit, trial_bundle
from examples.demo.verifying import BUNDLE, DEPLOYMENT, TERMS, TRUST, Person, Server
from examples.made_up_release import made_up_release
from federation.consent.assertion import ACCOUNT_BYTES
from federation.errors import UsageError
from federation.experiments.wolves import Owner
from federation.onebit import Decision, parameters_for
from federation.onebit.wire import template_length
from federation.recognition.model import ModelRelease
from federation.release.bundle import Bundle
from federation.rules.rulebook import Rulebook
from server.database import connect, database_url
from server.storage.schema import templates
from server.storage.sqltemplates import deflated

_DIMENSION, _THRESHOLD = 128, 300
_RECEIPT_BYTES = 2_000
_WARM_UP = 3
_ROWS_AT_ONCE = 10_000


def face(person: int, capture: int = 0) -> NDArray[np.float64]:
    """A made-up embedding; captures of one person lie about 25 degrees apart."""
    centre = np.random.default_rng(person).standard_normal(_DIMENSION)
    noise = np.random.default_rng([person, capture, 1]).standard_normal(_DIMENSION)
    vector: NDArray[np.float64] = centre / np.linalg.norm(centre) + 0.33 * noise / np.linalg.norm(noise)
    unit: NDArray[np.float64] = vector / np.linalg.norm(vector)
    return unit


def write_release(folder: Path) -> Bundle:
    """Writes a signed trial of a release that adapts nothing."""
    release = made_up_release(
        _DIMENSION,
        threshold=_THRESHOLD,
        reason="a load test needs no adaptation",
        created="2026-01-01T00:00:00+00:00",
    )
    people = [
        Person(str(n), np.array([face(n), face(n, 1)]), np.array([face(n, 2), face(n, 3)])) for n in range(1000, 1012)
    ]
    owners = [Owner(one.name, one.references, {"face": np.concatenate([one.references, one.probes])}) for one in people]
    bundle, trust = trial_bundle(audit(people, owners, release), release, measured=None, now=int(time.time()))
    (folder / BUNDLE).write_bytes(bundle.to_bytes())
    (folder / TRUST).write_bytes(trust.to_bytes())
    return bundle


def write_templates(database: str, count: int, release: ModelRelease) -> None:
    """Templates of people who never come, in a database that has its tables."""
    parameters, digest = parameters_for(release.code_length), bytes.fromhex(release.digest)
    engine = connect(database_url(database))
    for begun in range(0, count, _ROWS_AT_ONCE):
        rows = [
            {
                "key_id": secrets.token_bytes(32),
                "device_public_key": secrets.token_bytes(32),
                "template": secrets.token_bytes(template_length(parameters)),
                "release_digest": digest,
                "parameters": parameters.name,
                "purpose": TERMS.purposes[0],
                "audience": TERMS.audience,
                "enrolled_at": int(time.time()),
                "account": secrets.token_bytes(ACCOUNT_BYTES),
                "receipts": deflated(secrets.token_bytes(_RECEIPT_BYTES)),
            }
            for _ in range(min(_ROWS_AT_ONCE, count - begun))
        ]
        with engine.begin() as run:
            run.execute(templates.insert(), rows)
    engine.dispose()


# ---------------------------------------------------------------------- in a device's process

_devices = list[tuple[int, Device]]()
"""Of this process: person and device. The first one comes again and again, the others come once."""


def enrol(numbers: list[int], server: Server, bundle_file: Path) -> int:
    """Makes this process the devices of people, who enrol; the first one verifies a few times to warm up."""
    bundle = Bundle.from_bytes(bundle_file.read_bytes())
    release_digest = bytes.fromhex(bundle.release.digest)
    enrolment = Enrolment(
        TERMS.purposes[0], TERMS.audience, release_digest, EnrolmentState.STARTED, deployment=DEPLOYMENT
    )
    tls = ClientTls.read(server.tls)
    for number in numbers:
        conditions = Conditions(
            rules=Rulebook.from_file(server.rules.read_bytes(), read_at=int(time.time())),
            log=read_log_policy(server.log_policy),
            release=bundle.release,
            standing=bundle.manifest.standing,
            terms=TERMS,
        )
        wallet = Wallet.generate().with_enrolment(enrolment)
        reach = partial(Device, target=server.target, tls=tls, conditions=conditions)
        with reach(wallet, ticket=server.ticket()) as device:
            if device.enrol(face(number), face(number, 1)).decision is not Decision.MATCH:
                raise UsageError("a made-up face does not match itself")
            enrolled = device.wallet
        _devices.append((number, reach(enrolled)))
    verify_again(_WARM_UP, time.time())
    return os.getpid()


def verify_again(count: int, begin_at: float) -> Measured:
    """The first person verifies again and again."""
    return _measure([(*_devices[0], 10 + n) for n in range(count)], begin_at)


def verify_once(count: int, begin_at: float) -> Measured:
    """People verify who have not come since they enrolled."""
    coming = [_devices.pop() for _ in range(count)]
    return _measure([(*one, 10) for one in coming], begin_at)


Measured = tuple[list[tuple[float, float]], float, float]
"""Waiting and computing of each, in seconds and milliseconds; begin and end."""


def _measure(coming: list[tuple[int, Device, int]], begin_at: float) -> Measured:
    probes = [(device, face(number, capture)) for number, device, capture in coming]
    time.sleep(max(0.0, begin_at - time.time()))
    first, times = time.time(), []
    for device, probe in probes:
        begun = time.perf_counter()
        outcome = device.verify(probe)
        times.append((time.perf_counter() - begun, outcome.device_ms))
        if outcome.decision is not Decision.MATCH:
            raise UsageError("a made-up face does not match itself")
    return times, first, time.time()
