"""Hostile probes of every family through the served API: a thief's wallet, the whole protocol, real searches.

Five attempts are free for each template, so two thousand of them take four hundred enrolments.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np
import pytest

from federation.errors import IntaglioError, PeerError
from federation.onebit import Decision, parameters_for, wire
from server.storage.limits import AttemptLimits
from server.storage.sqlstorage import open_storage
from tests.federation.onebit.campaign import known_of, table
from tests.federation.onebit.hostile_probes import FAMILIES
from tests.federation.onebit.thief import Hostile, Thief
from tests.running import RunningServer, a_face, a_pki, a_release, a_service, a_wallet, public_rules

OWNER = 1
FREE = AttemptLimits().free_failures
SERVED = 2_000
PARAMETERS = parameters_for(a_release().code_length)
MALFORMED = {"malformed_lengths", "residues_out_of_range"}


@pytest.fixture
def storage(tmp_path):
    with open_storage(tmp_path / "matching.db") as storage:
        yield storage


@pytest.fixture
def server(tmp_path, workers, storage):
    service = a_service(a_release(), storage, workers, public_rules(), tmp_path)
    with RunningServer(service, a_pki(tmp_path / "tls")) as running:
        yield running


class Victim:
    """What the judge knows of an enrolment: `known_of` makes what the thief is given of it."""

    def __init__(self, template: bytes) -> None:
        self.parameters, self.template = PARAMETERS, template
        self.padded = wire.PaddedTemplate.from_bytes(template, PARAMETERS).bits

    def at(self, distance: int) -> Any:
        code = self.padded.copy()
        code[np.random.default_rng().permutation(PARAMETERS.slots)[:distance]] ^= 1
        return code


class ThiefsKey:
    """In the place of a session's key: sends a hostile probe, and searches the reply with hashes alone."""

    def __init__(self, thief: Thief, hostile: Hostile) -> None:
        self._thief, self._hostile = thief, hostile

    def encrypt(self, _: Any) -> bytes:
        return self._hostile.probe

    def open_reply(self, reply: bytes, transcript: bytes) -> bytes | None:
        return self._thief.search(reply, self._hostile, transcript, wraps=(0,), neighbours=4)


def attempt(server: RunningServer, wallet: Any, thief: Thief, hostile: Hostile) -> str:
    with server.device(wallet, timeout_seconds=120) as device:  # a busy machine refuses nobody
        device._session_key = ThiefsKey(thief, hostile)
        try:
            outcome = device.verify(a_face(OWNER))
        except PeerError:
            return "malformed"
        except IntaglioError as error:
            return f"refused: {error}"
    return "accepted" if outcome.decision is Decision.MATCH else "rejected"


def enrolled(server: RunningServer) -> Any:
    with server.device(a_wallet(a_release())) as device:
        assert device.enrol(a_face(OWNER, 0), a_face(OWNER, 1)).decision is Decision.MATCH
        return device.wallet


def served(server: RunningServer, storage: Any, attempts: int) -> Counter[tuple[str, str]]:
    outcomes, thief = Counter[tuple[str, str]](), Thief(PARAMETERS, np.random.default_rng())
    names = itertools.cycle(FAMILIES)
    for _ in range(attempts // FREE):
        wallet = enrolled(server)
        known = known_of(Victim(storage.template(wallet.key_id).template), threshold=a_release().threshold)
        for name in itertools.islice(names, FREE):
            outcomes[name, attempt(server, wallet, thief, FAMILIES[name](thief, known))] += 1
    return outcomes


@pytest.mark.integration
def test_hostile_probes_through_the_served_api_are_not_accepted(server, storage):
    outcomes = served(server, storage, 10)
    assert {outcome for name, outcome in outcomes if name not in MALFORMED} == {"rejected"}


@pytest.mark.integration
def test_the_same_thief_at_the_threshold_is_accepted_through_the_served_api(server, storage):
    wallet = enrolled(server)
    victim = Victim(storage.template(wallet.key_id).template)
    thief = Thief(PARAMETERS, np.random.default_rng())
    for distance, outcome in ((a_release().threshold, "accepted"), (a_release().threshold + 1, "rejected")):
        code = victim.at(distance)
        hostile = thief.encrypt(thief.ring.slots(code), codes=[code])
        assert attempt(server, wallet, thief, hostile) == outcome


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(7200)
def test_two_thousand_hostile_probes_through_the_served_api_are_not_accepted(server, storage):
    outcomes = served(server, storage, SERVED)
    print("\n" + table(outcomes))  # noqa: T201 - quoted in docs/onebit.md
    assert outcomes.total() == SERVED
    assert {name for name, _ in outcomes} == set(FAMILIES)
    assert {outcome for name, outcome in outcomes if name in MALFORMED} == {"malformed"}
    assert {outcome for name, outcome in outcomes if name not in MALFORMED} == {"rejected"}
