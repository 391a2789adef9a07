"""Proofs of range, judged by a second reading of their format (`range_reading`) and by known answers."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from federation.errors import PeerError, RefusedError
from federation.secagg import masking
from federation.secagg import ranges as range_proofs
from federation.secagg.masking import Edge
from federation.secagg.ranges import Ranges
from federation.secagg.ring import SCALE
from tests.federation.secagg import range_reading
from tests.federation.secagg.range_reading import N

KNOWN = json.loads((Path(__file__).parents[2] / "vectors/secagg/range.json").read_text())


@dataclass
class Case:
    """A member with two masks to another survivor, one in each direction, and one with a member that left."""

    context: bytes
    seeds: dict[int, bytes]
    keys: dict[Edge, bytes]
    masked: list[int]

    member = 2

    @classmethod
    def of(cls, values, seed=1):
        """An input under masks that only tests can repeat."""
        rng = np.random.default_rng(seed)
        seeds = {member: rng.bytes(32) for member in (1, 2)}
        keys = {edge: rng.bytes(32) for edge in ((1, 2), (2, 1), (2, 3), (3, 2))}
        case, size = cls(rng.bytes(32), seeds, keys, []), len(values)
        made = np.array(values, dtype=np.int64).astype(np.uint64) + masking.self_mask(seeds[2], case.context, size)
        for edge, key in keys.items():
            made = made + masking.mask(key, size) if edge[0] == 2 else made - masking.mask(key, size)
        case.masked = [int(value) for value in made]
        return case

    @property
    def gone(self):
        return {edge: key for edge, key in self.keys.items() if 3 in edge}

    @property
    def edges(self):
        return sorted(edge for edge in self.keys if 3 not in edge)

    @property
    def ranges(self):
        return Ranges(self.context, self.seeds, len(self.masked))

    def show(self, bound):
        return self.ranges.show(self.member, np.array(self.masked, dtype=np.uint64), self.keys, bound)

    def fails(self, bound, shown):
        """Whether the coordinator refuses, and the second reading's word for what is wrong. They must agree."""
        known = range_reading.known_sums(self.member, self.masked, self.context, self.seeds, self.gone)
        word = range_reading.why_not(self.member, known, self.context, self.edges, bound, shown)
        masked = np.array(self.masked, dtype=np.uint64)
        try:
            self.ranges.check(self.member, masked, self.gone, self.edges, bound, shown)
        except PeerError:
            assert word is not None
            return word
        assert word is None
        return None


def known_case():
    keys = {tuple(edge): bytes.fromhex(key) for *edge, key in KNOWN["keys"]}
    seeds = {int(member): bytes.fromhex(seed) for member, seed in KNOWN["seeds"].items()}
    return Case(bytes.fromhex(KNOWN["context"]), seeds, keys, KNOWN["masked"])


@pytest.mark.parametrize("name", sorted(KNOWN["shown"]))
def test_both_readings_take_the_known_proof_and_refuse_the_known_forgeries_alike(name):
    good, known = bytes.fromhex(KNOWN["good"]), KNOWN["shown"][name]
    start, end = known["same_at_start"], len(good) - known["same_at_end"]
    shown = good[:start] + bytes.fromhex(known["between"]) + good[end:]
    assert known_case().fails(KNOWN["bound"], shown) == known["fault"]


@pytest.mark.parametrize("bound", [1, 4, 7])
@pytest.mark.parametrize("end", [-1, 1])
def test_an_input_at_either_end_of_its_bound_is_shown_and_one_beyond_is_not(bound, end):
    """The upper end is as near as the lower one: a power of two above it would let three times as long inputs pass."""
    assert Case.of([0, 0, bound]).fails(bound, Case.of([0, 0, bound]).show(bound)) is None
    with pytest.raises(RefusedError, match="longer than it may be"):
        Case.of([0, 0, end * (bound + 1)]).show(bound)


@pytest.mark.parametrize("bound", [4, 5])
@pytest.mark.parametrize("beyond", [1, 3])
def test_bits_whose_weights_are_all_powers_of_two_are_refused(monkeypatch, bound, beyond):
    """Four of them make 15, which is more than twice the bound: the forger's input is that much too long."""
    seed = next(seed for seed in count() if Case.of([0, 0, 0], seed).ranges.signs[:, 0].all())
    case, draw = Case.of([bound + beyond, 0, 0], seed), range_proofs._BitProof.draw
    masked = np.array(case.masked, dtype=np.uint64)
    with monkeypatch.context() as lying:
        lying.setattr(range_proofs, "_last", lambda _: 8)
        more = 7 - bound
        forged = lambda value, blinding, _, edges: draw(value - more, blinding, 7, edges)  # noqa: E731 - one expression
        lying.setattr(range_proofs._BitProof, "draw", forged)
        shown = case.show(bound)
        assert case.ranges.check(case.member, masked, case.gone, case.edges, bound, shown)  # by such weights it holds
    assert case.fails(bound, shown) == "number"


def test_a_challenge_that_forgets_what_is_proved_is_refused(monkeypatch):
    case, original = Case.of([1, -2, 3]), range_proofs._challenge
    with monkeypatch.context() as lying:
        lying.setattr(range_proofs, "_challenge", lambda c, m, b, _, *rest: original(c, m, b, [0] * 8, *rest))
        shown = case.show(7)
    assert case.fails(7, shown) == "bit"


def test_signed_sums_wrap_around_and_are_shown_all_the_same():
    case = Case.of([-2, 1, 2, 0], seed=4)
    plain = [value if value < 2**63 else value - 2**64 for value in case.masked]
    assert max(map(abs, plain)) > 2**60
    assert case.fails(8, case.show(8)) is None


def test_the_second_generator_is_the_first_point_that_its_text_gives():
    assert (int(range_proofs._H.x), int(range_proofs._H.y)) == range_reading.H
    assert range_reading.times(N, range_reading.H) is None


def test_a_bound_is_seven_deviations_of_what_honest_inputs_sum_to():
    """By drawing inputs: people of norm 1 whose signs nobody knew, and noise; each signed sum is about as long."""
    size, people, std = 64, 30.0, 9.0 * SCALE
    ranges = Ranges(bytes(32), {1: bytes(32), 2: b"s" * 32}, size)
    random, found = np.random.default_rng(2), []
    for _ in range(400):
        towards = random.normal(size=size)
        values = people * SCALE * towards / np.linalg.norm(towards) + std * random.normal(size=size)
        sums = ranges.sums(np.rint(values).astype(np.int64).astype(np.uint64))
        found += [(one + 2**63) % 2**64 - 2**63 for one in sums]
    assert ranges.bound(people, std) == pytest.approx(7 * np.std(np.array(found, float)), rel=0.05)
