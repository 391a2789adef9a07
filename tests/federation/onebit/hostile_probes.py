"""Families of hostile probes, each with the strings that its thief hopes to have opened.

A family is a function of (thief, known) to a `Hostile`. `known` is more than a thief has: a code `near` at distance
tau + 1 of the template, so that a gain of a single bit shows; and messages of `earlier` sessions.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from federation.onebit import wire
from federation.onebit.parameters import parameters_for
from tests.federation.onebit.thief import Hostile, Ring, wrapping_square


@dataclass
class Known:
    """What the thief was given."""

    near: np.ndarray
    template: bytes
    earlier: list
    foreign: bytes


FAMILIES = {}


def family(function):
    FAMILIES[function.__name__] = function
    return function


@lru_cache(maxsize=2)
def inverse_of_one_plus_x(slots):
    """(1 + x)^-1 modulo q: 1 + x is a unit, and its powers are the primes over 2."""
    ring = Ring(parameters_for(slots))
    coefficients = np.zeros(ring.n, np.int64)
    coefficients[:2] = 1
    values = ring.element(coefficients)
    return np.array([[pow(int(v), -1, p) for v in row] for row, p in zip(values, ring.primes, strict=True)], np.uint64)


def coin(thief, *choices):
    return choices[thief.random.integers(len(choices))]


def anything(thief, low, high):
    """A uniform integer in low..high-1, of any size."""
    return low + int.from_bytes(thief.random.bytes(24), "little") % (high - low)


def anywhere(thief, count):
    return thief.random.choice(thief.ring.m, count, replace=False)


def with_slots(thief, known, places, values, **hopes):
    """The code that is one bit short, with other numbers in some slots."""
    numbers = known.near.astype(np.int64)
    numbers[places] = values
    return thief.encrypt(thief.ring.slots(numbers), codes=[known.near], unsure=places[:6], **hopes)


# ---------------------------------------------------------------------- codes


@family
def one_bit_short(thief, known):
    return thief.encrypt(thief.ring.slots(known.near), codes=[known.near], unsure=anywhere(thief, 6))


@family
def uniform_code(thief, known):
    code = thief.random.integers(0, 2, thief.ring.m, dtype=np.uint8)
    return thief.encrypt(thief.ring.slots(code), codes=[code, known.near])


@family
def all_zero_or_all_one(thief, known):
    bit = int(thief.random.integers(2))
    return thief.encrypt(thief.ring.slots(np.full(thief.ring.m, bit)), codes=[known.near])


@family
def pad_alone_or_template_bytes(thief, known):
    """The bits of the stored message in another order, or from its salt: x as somebody may misread it."""
    bits = np.unpackbits(np.frombuffer(known.template, np.uint8), bitorder="big")[: thief.ring.m]
    return thief.encrypt(thief.ring.slots(bits), codes=[bits, known.near])


# ---------------------------------------------------------------------- bad slots, well-formed ciphertexts


@family
def one_slot_off_by_one(thief, known):
    place = anywhere(thief, 1)
    return with_slots(thief, known, place, np.where(known.near[place] == 1, 2, -1))  # and not the other bit


@family
def one_slot_of_junk(thief, known):
    return with_slots(thief, known, anywhere(thief, 1), anything(thief, 2, thief.ring.t))


@family
def halves_in_a_few_slots(thief, known):
    """(0 - 1/2)^2 = (1 - 1/2)^2: where distances are squares, a half wins what a guess loses."""
    count = int(thief.random.integers(2, 40))
    return with_slots(thief, known, anywhere(thief, count), pow(2, -1, thief.ring.t))


@family
def halves_everywhere(thief, known):
    return thief.encrypt(thief.ring.slots(np.full(thief.ring.m, pow(2, -1, thief.ring.t))), codes=[known.near])


@family
def inflated(thief, known):
    factor = coin(thief, 2, 3, -1, 1000, anything(thief, 2, thief.ring.t))
    return thief.encrypt(thief.ring.slots(known.near.astype(np.int64) * factor), codes=[known.near])


@family
def sign_pattern(thief, known):
    high, low = int(thief.random.integers(1, 200)), -int(thief.random.integers(0, 200))
    return thief.encrypt(thief.ring.slots(np.where(known.near == 1, high, low)), codes=[known.near])


@family
def uniform_slots(thief, known):
    return thief.encrypt(thief.ring.slots(thief.random.integers(0, thief.ring.t, thief.ring.m)), codes=[known.near])


@family
def uniform_polynomial(thief, known):
    return thief.encrypt(thief.random.integers(0, thief.ring.t, thief.ring.n), codes=[known.near])


@family
def outside_the_constants(thief, known):
    """One slot holds a multiple of x^i, an element outside the prime field."""
    slot = np.zeros(thief.ring.m, np.int64)
    place = anywhere(thief, 1)
    slot[place] = coin(thief, 1, anything(thief, 1, thief.ring.t))
    shift = int(thief.random.integers(1, thief.parameters.slot_degree))
    moved = np.roll(thief.ring.slots(slot), shift).astype(np.int64)
    coefficients = (thief.ring.slots(known.near).astype(np.int64) + moved) % thief.ring.t
    return thief.encrypt(coefficients, codes=[known.near], unsure=place)


# ---------------------------------------------------------------------- ring elements that are no encryption


@family
def wrapping_squares(thief, known):
    """What was accepted in four of five faces under the first construction."""
    v = coin(thief, 15, -14, 37, 6, anything(thief, 2, thief.ring.t)) % thief.ring.t
    return thief.send(thief.ring.constant(wrapping_square(thief.ring.q, thief.ring.t, v)), codes=[known.near])


@family
def constants_modulo_q(thief, known):
    q, t = thief.ring.q, thief.ring.t
    number = coin(thief, 2, -1, q // 2, q // 3, q // 5, pow(2, -1, q), pow(3, -1, q), anything(thief, 0, q), t, q - t)
    return thief.send(thief.ring.constant(number), codes=[known.near])


@family
def q_over_t(thief, known):
    q, t = thief.ring.q, thief.ring.t
    number = coin(thief, q // t, q // (2 * t), q // t**2, q // t + 1, 3 * (q // t), q // thief.ring.m)
    return thief.send(thief.ring.sum(thief.ring.constant(number), thief.ring.code(known.near)), codes=[known.near])


@family
def inverse_of_t(thief, known):
    inverse = pow(thief.ring.t, -1, thief.ring.q)
    number = inverse * coin(thief, 1, 2, -1, int(thief.random.integers(1 << 20)))
    base = coin(thief, thief.ring.constant(0), thief.ring.code(known.near))
    return thief.send(thief.ring.sum(base, thief.ring.constant(number)), codes=[known.near])


@family
def idempotent_of_a_slot_over_t(thief, known):
    """V in the inverse of a slot's ideal: multiples of Delta that agree in the other slots stay small."""
    slot = np.zeros(thief.ring.m, np.int64)
    places = anywhere(thief, coin(thief, 1, 2, 100))
    slot[places] = 1
    values = thief.ring.element(thief.ring.slots(slot))
    q, t = thief.ring.q, thief.ring.t
    scaled = thief.ring.product(values, thief.ring.constant(coin(thief, pow(t, -1, q), q // t, q // (2 * t))))
    return thief.send(thief.ring.sum(scaled, thief.ring.code(known.near)), codes=[known.near], unsure=places[:6])


@family
def idempotents_modulo_one_prime(thief, known):
    """1 modulo one prime and 0 modulo the other, times a code, or plus it."""
    which = int(thief.random.integers(2))
    idempotent = np.zeros((2, thief.ring.n), np.uint64)
    idempotent[which] = 1
    code = thief.ring.code(known.near)
    return thief.send(coin(thief, idempotent, thief.ring.product(idempotent, code)), codes=[known.near])


@family
def multiples_of_one_prime(thief, known):
    """What is a multiple of q_1 passes the switch without rounding; what is one of q_0 vanishes in it."""
    number = coin(thief, *thief.ring.primes) * coin(thief, 1, -1, 2, thief.ring.t, int(thief.random.integers(1 << 30)))
    base = coin(thief, thief.ring.constant(0), thief.ring.code(known.near))
    return thief.send(thief.ring.sum(base, thief.ring.constant(number)), codes=[known.near])


@family
def random_idempotents(thief, known):
    """1 in some places of the transform and 0 in the others: the ring has 2^16384 of them."""
    share = coin(thief, 1 / thief.ring.n, 0.01, 0.5)
    return thief.send((thief.random.random((2, thief.ring.n)) < share).astype(np.uint64), codes=[known.near])


@family
def roots_of_one_times_a_code(thief, known):
    """V -> 1 - V in some places of the transform keeps V^2 - V."""
    phase = thief.ring.sum(thief.ring.code(known.near), thief.noise())
    flipped = thief.ring.difference(thief.ring.constant(1), phase)
    share = coin(thief, 1 / thief.ring.n, 0.01, 0.5)
    flips = thief.random.random((2, thief.ring.n)) < share
    return thief.send(np.where(flips, flipped, phase), codes=[known.near, 1 - known.near])


@family
def complement_modulo_one_prime(thief, known):
    code, other = thief.ring.code(known.near), thief.ring.code(1 - known.near)
    mixed = code.copy()
    which = int(thief.random.integers(2))
    mixed[which] = other[which]
    return thief.send(mixed, codes=[known.near, 1 - known.near])


@family
def inverse_powers_of_one_plus_x(thief, known):
    inverse, power = inverse_of_one_plus_x(thief.ring.m), thief.ring.constant(1)
    for _ in range(int(thief.random.integers(1, 9))):
        power = thief.ring.product(power, inverse)
    base = coin(thief, thief.ring.constant(1), thief.ring.code(known.near))
    return thief.send(thief.ring.product(power, base), codes=[known.near])


@family
def roots_of_unity(thief, known):
    """x^k, and a code turned by it."""
    k = int(thief.random.integers(1, thief.ring.n))
    monomial = np.zeros(thief.ring.n, np.int64)
    monomial[coin(thief, k, thief.ring.n // 2, 1)] = coin(thief, 1, -1)
    base = coin(thief, thief.ring.constant(1), thief.ring.code(known.near))
    return thief.send(thief.ring.product(thief.ring.element(monomial), base), codes=[known.near])


@family
def subring_elements(thief, known):
    step = coin(thief, thief.parameters.slot_degree, 2, 64, thief.ring.n // 2)
    coefficients = np.zeros(thief.ring.n, object)
    for place in range(0, thief.ring.n, step):
        coefficients[place] = anything(thief, 0, thief.ring.q)
    return thief.send(thief.ring.element(coefficients), codes=[known.near])


@family
def uniform_ring_elements(thief, known):
    rows = [thief.random.integers(0, prime, thief.ring.n, dtype=np.uint64) for prime in thief.ring.primes]
    return thief.send(np.stack(rows), codes=[known.near])


@family
def half_of_q_times_a_code(thief, known):
    factor = coin(thief, thief.ring.q // 2, thief.ring.q // thief.ring.t, pow(2, -1, thief.ring.q))
    scaled = thief.ring.product(thief.ring.code(known.near), thief.ring.constant(factor))
    return thief.send(scaled, codes=[known.near])


# ---------------------------------------------------------------------- noise of one's own


@family
def no_noise_at_all(thief, known):
    return thief.send(thief.ring.code(known.near), codes=[known.near])


@family
def noise_at_the_edge(thief, known):
    """t e so large that Delta times it wraps in some coefficients and not in others."""
    bound = 1 << int(thief.random.integers(4, 26))
    error = thief.random.integers(-bound, bound + 1, thief.ring.n) * thief.ring.t
    phase = thief.ring.sum(thief.ring.code(known.near), thief.ring.element(error))
    return thief.send(phase, codes=[known.near])


@family
def noise_in_one_coefficient(thief, known):
    error = np.zeros(thief.ring.n, object)
    error[thief.random.integers(thief.ring.n)] = anything(thief, 0, thief.ring.q // thief.ring.t) * thief.ring.t
    phase = thief.ring.sum(thief.ring.code(known.near), thief.ring.element(error))
    return thief.send(phase, codes=[known.near])


# ---------------------------------------------------------------------- messages


@family
def junk_residues(thief, known):
    rows = [thief.random.integers(0, prime, thief.ring.n, dtype=np.uint64) for prime in thief.ring.primes]
    return Hostile(thief.message(np.stack(rows)), [known.near], (), [thief.secret[0], np.zeros_like(thief.secret[0])])


@family
def zero_polynomial(thief, known):
    """c_0' = 0: the phase is c_1' s, and with s = 0 it is nothing."""
    zeros = np.zeros((2, thief.ring.n), np.uint64)
    return Hostile(thief.message(zeros), [known.near], (), [np.zeros_like(thief.secret[0]), thief.secret[0]])


@family
def crafted_seeds(thief, known):
    """Equal bytes; one seed for ever; and the one of a few whose expansion begins smallest."""
    ground = [thief.random.bytes(wire.SEED_BYTES) for _ in range(3)]
    smallest = min(ground, key=lambda seed: int(thief.ring.expand(seed)[0, 0]))
    seed = coin(thief, bytes(64), b"\xff" * 64, bytes(range(64)), smallest)
    phase = thief.ring.sum(thief.ring.code(known.near), thief.noise())
    return thief.send(phase, seed=seed, codes=[known.near])


@family
def secrets_of_ones_choice(thief, known):
    """s = 0, 1, all ones, or uniform: a secret need not be short to read a reply."""
    n, kept = thief.ring.n, thief.secret
    choice = int(thief.random.integers(4))
    uniform = thief.random.integers(0, thief.ring.t, n)
    thief.set_secret([np.zeros(n, int), np.eye(1, n, dtype=int)[0], np.ones(n, int), uniform][choice])
    hostile = thief.send(thief.ring.code(known.near), codes=[known.near])
    thief.secret = kept
    return hostile


@family
def old_probe(thief, known):
    """An owner's probe of an earlier session, recorded on the wire, with changes that need no key."""
    message = wire.Probe.from_bytes(coin(thief, *known.earlier), thief.parameters)
    change = thief.ring.element(thief.ring.slots(thief.random.integers(0, 2, thief.ring.m)))
    first = coin(thief, message.residues, thief.ring.sum(message.residues, change))
    return Hostile(thief.message(first, message.seed), [known.near], (), [thief.secret[0]])


@family
def foreign_probe(thief, known):
    """Another person's probe, under another person's key."""
    return Hostile(known.foreign, [known.near], (), [thief.secret[0]])


@family
def old_probe_under_another_seed(thief, known):
    message = wire.Probe.from_bytes(coin(thief, *known.earlier), thief.parameters)
    return Hostile(thief.message(message.residues), [known.near], (), [thief.secret[0]])


@family
def two_probes_added(thief, known):
    """Sums of the thief's own code and small errors under one seed: y + 2 t e, y + y."""
    phase = thief.ring.code(known.near)
    for _ in range(int(thief.random.integers(2, 5))):
        phase = thief.ring.sum(phase, thief.noise())
    phase = coin(thief, phase, thief.ring.sum(phase, thief.ring.code(known.near)))
    return thief.send(phase, codes=[known.near])


@family
def malformed_lengths(thief, known):
    message = thief.message(np.zeros((2, thief.ring.n), np.uint64))
    cut = int(thief.random.integers(0, len(message)))
    damaged = coin(thief, message[:cut], message + thief.random.bytes(1 + cut % 90_000), known.template, b"")
    return Hostile(damaged)


@family
def residues_out_of_range(thief, known):
    body = bytearray(thief.message(np.zeros((2, thief.ring.n), np.uint64)))
    place = 72 + int(thief.random.integers(0, len(body) - 72 - 16))
    body[place : place + 16] = b"\xff" * 16
    return Hostile(bytes(body))
