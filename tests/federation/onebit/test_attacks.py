"""The product's conscience: hostile probes of forty families, with an offline search after every reply.

What a thief without the face may still do is send the best string that he can think of. So in these sessions a fixed
string is hopeless by construction (templates are uniform, the code that the thief is given is one bit short), and every
accept is a forgery.
"""

import os
from collections import Counter

import numpy as np
import pytest

from federation.errors import MalformedMessageError
from federation.onebit import Material
from federation.onebit.parameters import PARAMETER_SETS
from tests.federation.onebit import old_arithmetic as old
from tests.federation.onebit.campaign import in_processes, known_of, table, threshold_of
from tests.federation.onebit.hostile_probes import FAMILIES, Known
from tests.federation.onebit.thief import InProcess, Ring, Thief, attack, wrapping_square

SLOW_SESSIONS = 100_000


@pytest.fixture
def thief(parameters):
    return Thief(parameters, np.random.default_rng(7))


@pytest.fixture
def service(owner, parameters):
    return InProcess(owner.template, threshold_of(parameters), lambda: Material.draw(parameters))


@pytest.fixture(scope="module")
def known(owner):
    return known_of(owner)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hostile_probe_is_not_accepted(name, thief, service, known):
    outcomes = Counter(attack(thief, service, FAMILIES[name](thief, known), fast=True) for _ in range(2))
    malformed = name in {"malformed_lengths", "residues_out_of_range"}
    assert outcomes == {"malformed" if malformed else "rejected": 2}


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_a_hundred_thousand_hostile_probes_are_not_accepted():
    """Half of them against each parameter set, on all cores. Prints the counts by family (make check-slow ARGS=-s)."""
    outcomes = {parameters: Counter() for parameters in PARAMETER_SETS}
    for parameters, counts in in_processes(PARAMETER_SETS, SLOW_SESSIONS, os.cpu_count()):
        outcomes[parameters] += counts
        print(sum(each.total() for each in outcomes.values()), "sessions", flush=True)  # noqa: T201 - it takes long
    for parameters, counts in outcomes.items():
        print(f"\n{parameters.name}\n{table(counts)}")  # noqa: T201 - quoted in docs/onebit.md
    total = sum(outcomes.values(), Counter())
    assert total.total() == SLOW_SESSIONS
    assert {name for name, _ in total} == set(FAMILIES)
    assert [name for name, outcome in total if outcome == "accepted"] == []


def test_there_are_at_least_twenty_families():
    assert len(FAMILIES) >= 20


# ---------------------------------------------------------------------- controls: the harness can accept


def test_a_thief_at_the_threshold_is_accepted_through_the_same_harness(thief, service, owner, parameters):
    """Wallet and a code within tau of the template are the face. Both searches find the token."""
    code = owner.at(threshold_of(parameters))
    for fast in (True, False):
        hostile = thief.encrypt(thief.ring.slots(code), codes=[code])
        assert attack(thief, service, hostile, fast=fast) == "accepted"


def test_x_itself_is_the_template_for_whoever_holds_the_keys(thief, service, owner):
    """Why no call returns x, and why backups of the database are as secret as the faces."""
    hostile = thief.encrypt(thief.ring.slots(owner.stored), codes=[owner.stored])
    assert attack(thief, service, hostile) == "accepted"


def test_the_search_finds_a_string_that_it_does_not_know_exactly(thief, service, owner, parameters):
    code = owner.at(threshold_of(parameters))
    unsure = (1, 5, 9, 10, 11, 12)
    believed = code.copy()
    believed[[1, 9, 12]] ^= 1
    hostile = thief.encrypt(thief.ring.slots(code), codes=[believed], unsure=unsure)
    for fast in (True, False):
        assert attack(thief, service, hostile, fast=fast) == "accepted"
    blind = thief.encrypt(thief.ring.slots(code), codes=[believed])
    assert attack(thief, service, blind, fast=True) == "rejected"


def test_the_search_reads_replies_that_wrapped_round_q0(thief, service, owner, parameters):
    """A constant that moves every coefficient of the phase by q_0 is found by reading it one turn further."""
    code = owner.at(0)
    hostile = thief.encrypt(thief.ring.slots(code), codes=[code])
    reply = service.submit(hostile.probe)
    assert thief.search(reply, hostile, oracle=service.token, wraps=(0,)) == service.token
    assert thief.search(reply, hostile, oracle=service.token, wraps=(1, -1)) is None


@pytest.mark.parametrize("name", ["one_bit_short", "wrapping_squares", "uniform_slots"])
def test_the_fast_search_and_the_one_that_hashes_agree(name, thief, service, known):
    hostile = FAMILIES[name](thief, known)
    for fast in (True, False):
        assert attack(thief, service, hostile, fast=fast, wraps=(0,), neighbours=4) == "rejected"


def test_a_thief_who_is_one_bit_short_is_rejected_and_one_who_is_not_is_accepted(thief, service, known, owner):
    nearer = Known(owner.at(threshold_of(owner.parameters)), known.template, known.earlier, known.foreign)
    assert attack(thief, service, FAMILIES["one_bit_short"](thief, known), fast=True) == "rejected"
    assert attack(thief, service, FAMILIES["one_bit_short"](thief, nearer), fast=True) == "accepted"


def test_malformed_probes_are_refused_before_anything_is_computed(thief, service, known):
    for name in ("malformed_lengths", "residues_out_of_range"):
        with pytest.raises(MalformedMessageError, match=r"probe message|residue"):
            service.submit(FAMILIES[name](thief, known).probe)


# ---------------------------------------------------------------------- control: the old arithmetic


def test_in_the_old_arithmetic_an_honest_probe_is_decided_by_its_distance():
    template = [1, 0, 1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0]
    for flips, accepted in ((0, True), (3, True), (4, False)):
        code = [bit ^ (i < flips) for i, bit in enumerate(template)]
        assert old.session(template, old.pack(code), 3) is accepted


def test_in_the_old_arithmetic_a_probe_that_is_no_code_fails_the_zero_test():
    template = [1, 0, 1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 0, 1, 0]
    probe = [old.inflation(sum(template))] + [0] * (old.N - 1)
    assert old.session(template, probe, 3, zero_test=False)
    assert not any(old.session(template, probe, 3) for _ in range(5))


def test_in_the_old_arithmetic_a_square_that_wraps_round_q_is_accepted():
    """The thief knows nothing about the template but a guess at its weight: no face, and the zero test sees zero."""
    random, accepted = np.random.default_rng(8), 0
    v = old.inflation(6)
    wrapped = [wrapping_square(old.Q, old.T, v)] + [0] * (old.N - 1)
    for _ in range(60):
        template = random.integers(0, 2, old.SLOTS).tolist()
        if sum(template) == 6:  # the guess
            assert old.session(template, wrapped, 1)
            accepted += 1
    assert accepted >= 3


def test_the_same_squares_win_nothing_against_the_product(thief, service, parameters, owner):
    """Fitted to the template's own weight, which no thief knows."""
    ring, weight = Ring(parameters), int(owner.stored.sum())
    v = -weight * pow(parameters.slots - 2 * weight, -1, ring.t) % ring.t
    number = wrapping_square(ring.q, ring.t, v)
    assert (number * number - number) % ring.q % ring.t == 0  # it would pass the old zero test
    hostile = thief.send(ring.constant(number), codes=[owner.stored, 1 - owner.stored])
    assert attack(thief, service, hostile) == "rejected"
