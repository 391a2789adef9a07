"""The pool of prepared material, with real material and two people."""

from __future__ import annotations

import numpy as np
import pytest

from federation.errors import MalformedMessageError, UsageError
from federation.onebit import SessionKey, TemplateSecret, parameters_for
from federation.onebit.parameters import PARAMETER_SETS
from server.matching.preparing import Pool

FACES = np.random.default_rng(1).standard_normal((2, 64))


class Person:
    def __init__(self, parameters, face):
        self._parameters, self._face = parameters, face
        self._secret = TemplateSecret.generate(parameters)
        self.template = self._secret.template(face)

    def decides(self, pool, template=None, threshold=0):
        """Whether the pool had material ready, and whether the token opened."""
        key = SessionKey.generate(self._parameters)
        probe = key.encrypt(self._secret.padded_code(self._face))
        challenge, was_ready = pool.match(template or self.template, probe, b"transcript", threshold)
        return was_ready, key.open_reply(challenge.reply, b"transcript") == challenge.token


@pytest.fixture(params=PARAMETER_SETS, ids=lambda each: each.name)
def people(request):
    return [Person(request.param, face) for face in FACES]


@pytest.fixture
def pool(people):
    return Pool(people[0]._parameters, capacity=2)


def test_material_is_for_nobody_in_particular_and_used_once(pool, people):
    one, other = people
    assert one.decides(pool) == (False, True)
    assert [pool.fill(), pool.fill(), pool.fill()] == [True, True, False]
    assert pool.depth == 2
    assert one.decides(pool) == (True, True)
    assert other.decides(pool) == (True, True)
    assert pool.depth == 0
    assert other.decides(pool) == (False, True)


def test_material_serves_every_threshold_and_every_template(pool, people):
    one, other = people
    pool.fill()
    pool.fill()
    assert one.decides(pool, threshold=100) == (True, True)
    assert one.decides(pool, template=other.template, threshold=0) == (True, False)


def test_two_pieces_of_material_share_nothing(pool, people):
    key = SessionKey.generate(people[0]._parameters)
    probe = key.encrypt(people[0]._secret.padded_code(FACES[0]))
    pool.fill()
    pool.fill()
    (first, _), (second, _), (fresh, _) = (pool.match(people[0].template, probe, b"transcript", 0) for _ in range(3))
    assert len({first.token, second.token, fresh.token}) == 3
    assert len({challenge.reply for challenge in (first, second, fresh)}) == 3


@pytest.mark.parametrize("damage", ["template", "probe", "other parameters"])
def test_whatever_comes_of_it_the_material_is_spent_before(pool, people, damage):
    person = people[0]
    probe = SessionKey.generate(person._parameters).encrypt(person._secret.padded_code(FACES[0]))
    template = person.template
    if damage == "template":
        template = template[:-1]
    elif damage == "probe":
        probe = probe[:100] + b"\xff" * 100 + probe[200:]  # residues above their prime
    else:
        other = parameters_for(3072 - person._parameters.slots)
        template = TemplateSecret.generate(other).template(FACES[0])
    pool.fill()
    pool.fill()
    with pytest.raises(MalformedMessageError, match=r"message|residue"):
        pool.match(template, probe, b"transcript", 0)
    assert pool.depth == (2 if damage == "other parameters" else 1)  # those have material of their own, made just then


def test_who_comes_over_from_other_parameters_gets_material_of_their_own_and_leaves_what_is_ready(pool, people):
    other = Person(parameters_for(3072 - people[0]._parameters.slots), FACES[1])
    pool.fill()
    assert other.decides(pool) == (False, True)
    assert other.decides(pool, Person(other._parameters, FACES[0]).template) == (False, False)
    assert pool.depth == 1
    assert people[0].decides(pool) == (True, True)


def test_a_threshold_that_is_no_distance_is_refused_and_spends_the_material(pool, people):
    probe = SessionKey.generate(people[0]._parameters).encrypt(people[0]._secret.padded_code(FACES[0]))
    for threshold in (-1, people[0]._parameters.slots):
        pool.fill()
        with pytest.raises(UsageError, match="threshold"):
            pool.match(people[0].template, probe, b"transcript", threshold)
        assert pool.depth == 0
