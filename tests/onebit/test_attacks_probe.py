"""Probes that are no code: what a thief with the keys, but without the face, can encrypt.

Attackers here know the secret key and choose the plaintext freely. With every guard in place no such probe is
accepted; with R, A, B or the field of t^4 elements removed the attack that the guard is there for succeeds.
"""

import hashlib
import itertools
import os
import struct
from typing import ClassVar

import numpy as np
import pytest

from federation.onebit import BITS
from federation.onebit.matcher import prepare, uniform_below
from federation.onebit.parameters import is_prime
from federation.onebit.transcript import PadFunction
from tests.onebit.variants import (
    HEAD,
    PARAMETERS,
    SEAL,
    SLOTS,
    N,
    T,
    accepts,
    answer,
    draw,
    evaluated,
    padded,
    search_table,
    slot_values,
)

TAU = 700


def wrapped_square(target, seed=0):
    """A number whose square mod t is `target`, give or take 150."""
    start = np.random.default_rng(seed).integers(2, T - (1 << 22))
    numbers = np.arange(start, start + (1 << 22), dtype=np.uint64)
    distance = (numbers * numbers % T + T - target % T + 150) % T
    return int(numbers[np.flatnonzero(distance <= 300)[0]])


def wrapping_probe(random):
    """A random code with one slot that makes its squared distance small mod t if the template has a zero there."""
    values = random.integers(0, 2, SLOTS)
    values[random.integers(SLOTS)] = wrapped_square(TAU // 2 - BITS // 2, int(random.integers(1 << 30)))
    return values


class Probes:
    """Slot values or coefficients of every kind of bad probe. `template` is known to the strongest attackers only."""

    def __init__(self, template, random):
        self._template, self._random = template, random

    def inflated_guess(self):
        return SEAL.pack(self._random.integers(0, 2, SLOTS) * self._random.integers(2, T) % T)

    def doubled_template(self):
        return SEAL.pack(2 * self._template)

    def halves(self):
        return SEAL.pack(np.full(SLOTS, pow(2, -1, T)))

    def template_with_one_bad_slot(self):
        values = self._template.astype(np.int64)
        values[self._random.integers(SLOTS)] = self._random.integers(2, T)
        return SEAL.pack(values)

    def template_with_one_slot_of_minus_one(self):
        values = self._template.astype(np.int64)
        values[self._random.integers(SLOTS)] = T - 1
        return SEAL.pack(values)

    def one_slot_wrap(self):
        return SEAL.pack(wrapping_probe(self._random))

    def junk_in_all_slots(self):
        return SEAL.pack(self._random.integers(0, T, SLOTS))

    def uniform_polynomial(self):
        return self._random.integers(0, T, N)

    def template_outside_the_constants(self):
        """One slot holds x, an element outside the prime field."""
        slot = np.zeros(SLOTS, np.int64)
        slot[self._random.integers(SLOTS)] = 1
        return (SEAL.pack(self._template) + np.roll(SEAL.pack(slot), 1)) % T

    KINDS: ClassVar = (
        "inflated_guess",
        "doubled_template",
        "halves",
        "template_with_one_bad_slot",
        "template_with_one_slot_of_minus_one",
        "one_slot_wrap",
        "junk_in_all_slots",
        "uniform_polynomial",
        "template_outside_the_constants",
    )


@pytest.mark.parametrize("kind", Probes.KINDS)
def test_a_probe_that_is_no_code_is_not_accepted(device, wallet, reference, template_code, kind):
    make = getattr(Probes(template_code, np.random.default_rng(5)), kind)
    for _ in range(8):
        assert not accepts(device, prepare(reference, TAU).answer(wallet.encrypt(make()), b"transcript"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_ten_thousand_probes_that_are_no_code_are_not_accepted(device, wallet, reference, template_code):
    probes = Probes(template_code, np.random.default_rng())
    for _, kind in zip(range(10_000), itertools.cycle(Probes.KINDS), strict=False):
        probe = wallet.encrypt(getattr(probes, kind)())
        assert not accepts(device, prepare(reference, TAU).answer(probe, b"transcript")), kind


# ---------------------------------------------------------------------- R: the probe must be binary


def without_r(reference):
    """U = R + A, so U = A leaves the plain A (T - P)^2 + B + Z."""
    masks = draw(reference)
    return draw(reference, scale=masks.scale, uniform=padded(masks.scale))


def test_without_r_one_slot_that_wraps_is_accepted(device, wallet, reference):
    random = np.random.default_rng(7)
    tries = [wallet.encrypt_slots(wrapping_probe(random)) for _ in range(30)]
    successes = sum(accepts(device, answer(reference, without_r(reference), probe, TAU)) for probe in tries)
    assert successes >= 10  # one guessed bit: about half of them
    assert not any(accepts(device, answer(reference, draw(reference), probe, TAU)) for probe in tries[:10])


def test_without_r_a_probe_of_halves_is_always_accepted(device, wallet, reference):
    # (0 - 1/2)^2 = (1 - 1/2)^2 = 1/4, so the distance to every template is 2048 / 4 = 512.
    probe = wallet.encrypt_slots(np.full(SLOTS, pow(2, -1, T)))
    for _ in range(5):
        assert accepts(device, answer(reference, without_r(reference), probe, SLOTS // 4))
        assert not accepts(device, answer(reference, draw(reference), probe, SLOTS // 4))


# ---------------------------------------------------------------------- A and B: the one-time MAC of the distance


def test_without_a_the_token_follows_from_any_rejected_distance(device, wallet, reference, flipped):
    """A = 1 + x + x^2 + x^3, known: y tells every other y, up to the 2048 possible differences of distances."""
    probe, tau = device.encrypt(flipped(60)), 10
    public = np.ones(HEAD, np.uint64)

    def attack(challenge):
        y = np.array(wallet.masked_distance(challenge.reply))
        steps = np.arange(BITS)[:, None] * PARAMETERS.distance_scale % T
        return wallet.search(challenge.reply, (y - steps) % T) == challenge.token

    assert attack(answer(reference, draw(reference, scale=public), probe, tau))
    assert not attack(answer(reference, draw(reference), probe, tau))


def test_without_the_first_four_of_b_four_zeros_open_every_table(device, wallet, reference):
    def attack(masks):
        challenge = answer(reference, masks, device.encrypt(np.zeros(SLOTS, np.uint8)), TAU)
        return wallet.search(challenge.reply, [(0, 0, 0, 0)]) == challenge.token

    masks = draw(reference)
    assert attack(draw(reference, offset=padded([0] * HEAD)))
    assert attack(draw(reference, offset=np.concatenate([np.zeros(HEAD, np.uint64), masks.offset[HEAD:]])))
    assert not attack(masks)


def test_without_the_rest_of_b_the_untruncated_component_is_the_template(wallet, reference, template_code):
    """B's other coefficients are the second line behind truncation: without both, the slots of E show T xor P."""
    code = np.random.default_rng(8).integers(0, 2, SLOTS)
    probe, differs = wallet.encrypt_slots(code), slot_values(SEAL.pack(template_code ^ code))[0] == 1
    masks = draw(reference)
    without = draw(reference, scale=masks.scale, offset=padded(masks.offset[:HEAD]))
    shown = slot_values(wallet.decrypt(evaluated(reference, without, probe)))[0]
    assert len(np.unique(shown)) == 2
    assert len(np.unique(shown[differs])) == len(np.unique(shown[~differs])) == 1
    hidden = slot_values(wallet.decrypt(evaluated(reference, masks, probe)))[0]
    assert len(np.unique(hidden)) > SLOTS - 10


# ---------------------------------------------------------------------- slots are fields of t^4 elements


def rank(rows, t):
    """Rank modulo a prime."""
    rows, found = [[int(entry) % t for entry in row] for row in rows], 0
    for column in range(len(rows[0])):
        pivot = next((i for i in range(found, len(rows)) if rows[i][column]), None)
        if pivot is None:
            continue
        rows[found], rows[pivot] = rows[pivot], rows[found]
        inverse = pow(rows[found][column], -1, t)
        for i in range(found + 1, len(rows)):
            factor = rows[i][column] * inverse % t
            rows[i] = [(a - factor * b) % t for a, b in zip(rows[i], rows[found], strict=True)]
        found += 1
    return found


def shift_of_one_bad_slot(wallet, reference, template_code, masks, value=12_345):
    """What R (P^2 - P) adds to (y_0..y_3) when the probe is the template but for one slot."""
    values = template_code.astype(np.int64)
    values[0] = value
    y = wallet.masked_distance(answer(reference, masks, wallet.encrypt_slots(values), TAU).reply)
    distance = (int(template_code[0]) - value) ** 2
    honest = (int(alpha) * PARAMETERS.distance_scale * distance + int(beta) for alpha, beta in mac(masks))
    return [(seen - expected) % T for seen, expected in zip(y, honest, strict=True)]


def mac(masks):
    return zip(masks.scale, masks.offset[:HEAD], strict=True)


def over_the_prime_field(masks):
    """R has coefficients at powers of y = x^4 only: in each slot it lies in F_t. U = R + A."""
    r = np.zeros(N, np.uint64)
    r[::4] = masks.uniform[::4]
    return (r + padded(masks.scale)) % np.uint64(T)


def test_one_bad_slot_shifts_all_four_coordinates(wallet, reference, template_code):
    shifts = [shift_of_one_bad_slot(wallet, reference, template_code, draw(reference)) for _ in range(6)]
    assert rank(shifts, T) == HEAD
    # Each is fresh in every coordinate.
    assert all(len({shift[j] for shift in shifts}) == len(shifts) for j in range(HEAD))


def test_with_r_over_the_prime_field_a_wrapped_slot_shifts_one_coordinate_only(wallet, reference, template_code):
    """Three coordinates come out right; the fourth is one of 2^26, found offline. Here: a stretch that holds it."""
    masks = draw(reference)
    masks = draw(reference, scale=masks.scale, offset=masks.offset, uniform=over_the_prime_field(masks))
    shift = shift_of_one_bad_slot(wallet, reference, template_code, masks)
    assert shift[0] != 0
    assert shift[1:] == [0, 0, 0]

    values = np.random.default_rng(9).integers(0, 2, SLOTS)
    bad = int(np.flatnonzero(template_code == 0)[0])  # the one guess that the attacker makes
    values[bad] = wrapped_square(TAU // 2 - BITS // 2)
    challenge = answer(reference, masks, wallet.encrypt_slots(values), TAU)
    distance = int(((template_code.astype(object) - values) ** 2).sum()) % T
    assert distance <= TAU
    assert wallet.search(challenge.reply, [wallet.masked_distance(challenge.reply)]) is None
    alpha, beta = int(masks.scale[0]), int(masks.offset[0])
    y_0 = (alpha * PARAMETERS.distance_scale * distance + beta) % T
    others = wallet.masked_distance(challenge.reply)[1:]
    stretch = [((y_0 + step) % T, *others) for step in range(-100, 101)]
    assert wallet.search(challenge.reply, stretch) == challenge.token


class ToyMatch:
    """The same circuit on 4 slots in plain polynomials mod (x^16 + 1, t): what encryption would carry, without it."""

    N, CODE, THRESHOLD = 16, (1, 0, 1, 1), 1

    def __init__(self, t):
        self.t = t
        generator = next(g for g in range(2, t) if pow(g, (t - 1) // 2, t) == t - 1)
        self.root = pow(generator, (t - 1) // 8, t)

    def times(self, left, right):
        full = np.convolve(left, right)
        full = np.append(full, np.zeros(2 * self.N - len(full), np.int64))
        return (full[: self.N] - full[self.N :]) % self.t

    def pack(self, bits):
        packed = np.zeros(self.N, np.int64)
        for k in range(4):
            terms = (bit * pow(self.root, -k * (2 * i + 1), self.t) for i, bit in enumerate(bits))
            packed[4 * k] = sum(terms) * pow(4, -1, self.t) % self.t
        return packed

    def session(self, probe):
        """(y_0..y_3), what they would be for a binary probe at distance 0, table, digest and token."""
        t, n = self.t, self.N
        uniform, offset = (uniform_below(t, n, os.urandom).astype(np.int64) for _ in range(2))
        scale = np.append(1 + uniform_below(t - 1, HEAD, os.urandom).astype(np.int64), np.zeros(n - HEAD, np.int64))
        one, template = np.eye(1, n, dtype=np.int64)[0], self.pack(self.CODE)
        inner = self.times(uniform, probe - one) + self.times(scale, one - 2 * template)
        y = (self.times(probe, inner % t) + self.times(scale, template) + offset)[:HEAD] % t
        c = pow(4, -1, t)
        accepted = [(scale[:HEAD] * c * k + offset[:HEAD]) % t for k in range(self.THRESHOLD + 1)]
        token, pad = os.urandom(32), PadFunction(b"transcript")
        rows = [bytes(a ^ b for a, b in zip(token, pad(struct.pack("<4I", *row)), strict=True)) for row in accepted]
        table = np.frombuffer(b"".join(rows), np.uint8).reshape(-1, 32)
        return y, accepted[0], table, hashlib.sha256(token).digest(), token


def test_with_slots_in_the_prime_field_a_bad_slot_is_found_offline():
    """t = 1 mod 2N splits x^N + 1 into linear factors; a probe that is bad at one root shifts y along one known line.

    t = 12289 stands for the 26 bits: the search over one unknown takes t steps whatever t is. What is accepted is a
    probe that is no code. It wins no distance, because A (T + P - 2 T P) moves along the same line.
    """
    toy = ToyMatch(12_289)
    assert toy.t % (2 * toy.N) == 1
    z = next(z for z in range(2, toy.t) if pow(z, toy.N, toy.t) == toy.t - 1)
    line = np.array([pow(z, -k, toy.t) for k in range(toy.N)])
    probe = (toy.pack(toy.CODE) + 4321 * line) % toy.t  # 4321 N at the root z, the template at the others
    sessions = [toy.session(probe) for _ in range(6)]
    assert rank([y - honest for y, honest, *_ in sessions], toy.t) == 1
    y, _, table, token_digest, token = sessions[0]
    candidates = (y - np.arange(toy.t)[:, None] * line[:HEAD]) % toy.t
    assert search_table(table, token_digest, candidates) == token


def test_with_slots_in_the_field_of_t_4_there_is_no_line():
    toy = ToyMatch(next(t for t in range(12_297, 20_000, 16) if is_prime(t)))
    assert toy.t % toy.N == toy.N // 2 + 1
    assert not any(pow(z, toy.N, toy.t) == toy.t - 1 for z in range(toy.t))
    bad = np.roll(toy.pack((1, 0, 0, 0)), 1) * 4321  # 4321 x in the first slot
    sessions = [toy.session((toy.pack(toy.CODE) + bad) % toy.t) for _ in range(6)]
    shifts = [(y - honest) % toy.t for y, honest, *_ in sessions]
    assert rank(shifts, toy.t) == HEAD
    y, _, table, token_digest, _ = sessions[0]
    candidates = (y - np.arange(toy.t)[:, None] * shifts[1]) % toy.t  # the best guess at a line: an earlier shift
    assert search_table(table, token_digest, candidates) is None
