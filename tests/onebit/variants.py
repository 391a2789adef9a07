"""The one-bit match with one guard taken away, and the tools of its attackers. Test code only.

Every guard is there because something breaks without it. This table is the index of the attack suite; a test checks
that it names real tests.

=====================  =============================================================================================
guard                  the test in which its removal lets an attack, or a statistic, succeed
=====================  =============================================================================================
R                      test_without_r_one_slot_that_wraps_is_accepted
R                      test_without_r_a_probe_of_halves_is_always_accepted
A                      test_without_a_the_token_follows_from_any_rejected_distance
B, first four          test_without_the_first_four_of_b_four_zeros_open_every_table
B, the others          test_without_the_rest_of_b_the_untruncated_component_is_the_template
field of t^4           test_with_r_over_the_prime_field_a_wrapped_slot_shifts_one_coordinate_only
field of t^4           test_with_slots_in_the_prime_field_a_bad_slot_is_found_offline
truncation             test_without_truncation_an_idempotent_probe_shows_the_template_unmasked
flooding               test_without_flooding_an_idempotent_probe_shows_four_unmasked_numbers
Z                      test_without_z_a_probe_of_one_half_cancels_u_in_the_other_components
G, at enrolment        test_without_the_fresh_encryption_of_zero_an_idempotent_template_passes
ciphertext signature   test_without_the_digest_in_the_transcript_the_stored_template_is_a_probe
transcript in the pad  test_without_the_transcript_in_the_pad_a_reply_opens_in_another_session
table shuffle          test_without_the_shuffle_the_opened_entry_is_the_distance
new code seed          test_without_a_new_seed_two_templates_of_one_face_are_linked
=====================  =============================================================================================

The scheme's own code stays whole: a variant replaces one of the `Masks`, or reads a value that no reply carries.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import os
import struct

import numpy as np

from federation.onebit import wire
from federation.onebit.matcher import Masks, accepted_values, assemble
from federation.onebit.parameters import ONEBIT_2048
from federation.onebit.seal import _CIPHERTEXT_PREFIX, _PLAINTEXT_PREFIX, SEED_BYTES, _read_array, _save, engine
from federation.onebit.transcript import PadFunction

PARAMETERS = ONEBIT_2048
T = PARAMETERS.plain_modulus
N = PARAMETERS.ring_dimension
SLOTS = PARAMETERS.slots
PRIMES = PARAMETERS.data_primes
Q0 = PARAMETERS.reply_prime
HEAD = wire.HEAD_COEFFICIENTS
SEAL = engine(PARAMETERS)
NO_ZERO = SEAL._ciphertext(*3 * (SEAL._constant(0),))
"""A "randomiser" that randomises nothing."""

# ---------------------------------------------------------------------- sessions, honest but for one mask


def draw(reference, **weakened):
    """Honest masks, with the named ones replaced."""
    return dataclasses.replace(Masks.draw(reference, os.urandom), **weakened)


def padded(head):
    """(4,) -> (N,): a polynomial with these first coefficients and no others."""
    return np.concatenate([np.asarray(head, np.uint64), np.zeros(N - len(head), np.uint64)])


def answer(reference, masks, probe, threshold, *, transcript=b"transcript", shuffled=True):
    """One comparison from given masks."""
    accepted = accepted_values(PARAMETERS, masks, threshold)
    if shuffled:
        accepted = np.random.default_rng().permutation(accepted)
    return assemble(reference, masks, accepted).answer(probe, transcript)


def accepts(device, challenge, transcript=b"transcript"):
    """Whether the server of this challenge would accept what this device answers."""
    return device.open_reply(challenge.reply, transcript) == challenge.token


def evaluated(reference, masks, probe):
    """E before the modulus switch, which no party ever sees."""
    material = assemble(reference, masks, accepted_values(PARAMETERS, masks, 0))._material
    message = wire.SeededMessage.from_bytes(probe, wire.Kind.CIPHERTEXT)
    encrypted = SEAL.load_ciphertext(message.seed, message.residues)
    inner = SEAL.add(SEAL.multiply_plain(SEAL.minus_one(encrypted), material.multiplier), material.linear)
    return SEAL.add(SEAL.multiply(encrypted, inner), material.constant)


def untruncated_reply(reference, masks, probe):
    """The reply as it would be if the whole first component left the server, without flooding: (3, 1, N), NTT form."""
    return components(SEAL.switch_to_reply(evaluated(reference, masks, probe)), 3, 1)


# ---------------------------------------------------------------------- ring arithmetic outside SEAL


def multiply_residues(left, right, primes):
    """Products modulo primes of at most 48 bits, in 64-bit words: digit by digit of the right factor."""
    modulus = np.array(primes, np.uint64)[:, None]
    product = np.zeros(np.broadcast_shapes(left.shape, right.shape), np.uint64)
    for shift in (32, 16, 0):
        digit = right >> np.uint64(shift) & np.uint64(0xFFFF)
        product = ((product << np.uint64(16)) % modulus + left * digit % modulus) % modulus
    return product


def constant(*residues):
    """The ring element that is this integer modulo each data prime, in NTT form (primes, N)."""
    return np.repeat(np.array(residues, np.uint64)[:, None], N, axis=1)


def integer(value):
    """An integer modulo q as a ring element."""
    return constant(*(value % prime for prime in PRIMES))


def transformed(coefficients):
    """(N,) coefficients mod t -> NTT form (primes, N)."""
    encoded = _save(SEAL.plaintext_ntt(np.asarray(coefficients, np.uint64)))
    return _read_array(encoded, _PLAINTEXT_PREFIX, len(PRIMES) * N).reshape(-1, N)


def coefficients_of(residues):
    """NTT form (primes, N) -> centred integers (N,), as Python integers."""
    primes = PRIMES[: len(residues)]
    level = SEAL._first if len(primes) == len(PRIMES) else SEAL._last
    # SEAL refuses a ciphertext whose second component is zero; what stands there does not matter.
    carrier = SEAL._load_ciphertext((residues, np.ones_like(residues)), level, 1)
    SEAL._evaluator.transform_from_ntt_inplace(carrier)
    q = math.prod(primes)
    lifted = 0
    for row, prime in zip(components(carrier, 2, len(primes))[0], primes, strict=True):
        lifted = lifted + row.astype(object) * (q // prime * pow(q // prime, -1, prime))
    return (lifted + q // 2) % q - q // 2


def components(ciphertext, size, primes):
    """(size, primes, N) residues of a ciphertext."""
    return _read_array(_save(ciphertext), _CIPHERTEXT_PREFIX, size * primes * N).reshape(size, primes, N)


def slot_values(coefficients):
    """Evaluates each of the four polynomials in y = x^4 at every root: (N,) mod t -> (4, slots)."""
    generator = next(g for g in range(2, T) if pow(g, (T - 1) // 2, T) == T - 1)  # so that the root has full order
    root = pow(generator, (T - 1) // (2 * SLOTS), T)
    powers = np.ones(2 * SLOTS, np.uint64)
    for k in range(1, 2 * SLOTS):
        powers[k] = int(powers[k - 1]) * root % T
    exponents = np.outer(2 * np.arange(SLOTS) + 1, np.arange(SLOTS)) % (2 * SLOTS)
    parts = np.asarray(coefficients, np.uint64).reshape(SLOTS, 4).T
    return np.stack([(powers[exponents] * part % T).sum(axis=1) % T for part in parts])


def coherence(phases):
    """How far numbers modulo q_0 agree: length of their mean on the circle, 1 for equal, about n^-1/2 for uniform."""
    angles = 2 * np.pi * (np.asarray(phases, object) % Q0).astype(float) / Q0
    return float(np.hypot(np.cos(angles).mean(), np.sin(angles).mean()))


# ---------------------------------------------------------------------- the thief


class StolenWallet:
    """What somebody can do who holds a device's keys, but neither its owner's face nor its template."""

    def __init__(self, device):
        self._device = device
        words = (len(PRIMES) + 1) * N  # SEAL keeps the key under its unused prime too
        self.secret = _read_array(_save(device._key), _PLAINTEXT_PREFIX, words).reshape(-1, N)[: len(PRIMES)]

    def encrypt(self, coefficients):
        """A well-formed encryption of any polynomial (N,) mod t."""
        seed, residues = SEAL.encrypt_parts(self._device._key, np.asarray(coefficients, np.uint64))
        return wire.SeededMessage(wire.Kind.CIPHERTEXT, seed, residues).to_bytes()

    def encrypt_slots(self, values):
        """A well-formed encryption of one number mod t for each slot."""
        return self.encrypt(SEAL.pack(np.asarray(values) % T))

    def with_phase(self, phase, seed=None):
        """A malformed probe: c_0 + c_1 s is this ring element (primes, N) exactly. c_1 is what the seed says."""
        seed = seed or os.urandom(SEED_BYTES)
        modulus = np.array(PRIMES, np.uint64)[:, None]
        masked = multiply_residues(self.second(seed), self.secret, PRIMES)
        return wire.SeededMessage(wire.Kind.CIPHERTEXT, seed, (phase + modulus - masked) % modulus).to_bytes()

    @staticmethod
    def second(seed):
        """Expands a seed to c_1."""
        return components(SEAL.load_ciphertext(seed, SEAL._constant(1)), 2, len(PRIMES))[1]

    def phase(self, parts):
        """c_0 + c_1 s + c_2 s^2 from components (size, primes, N), as centred integers (N,)."""
        primes = PRIMES[: parts.shape[1]]
        modulus = np.array(primes, np.uint64)[:, None]
        total = np.zeros_like(parts[0])
        for part in parts[::-1]:
            total = (multiply_residues(total, self.secret[: len(primes)], primes) + part) % modulus
        return coefficients_of(total)

    def decrypt(self, ciphertext):
        """All coefficients (N,) mod t of a ciphertext that was not switched."""
        return (self.phase(components(ciphertext, 3, len(PRIMES))) % T).astype(np.uint64)

    def head_phase(self, reply):
        """The four ring coefficients that a reply shows, as centred integers modulo q_0."""
        parsed = wire.Reply.from_bytes(reply)
        rest = self.phase(np.stack([np.zeros_like(parsed.second), parsed.second, parsed.third])[:, None])[:HEAD]
        return (rest + parsed.head.astype(object) + Q0 // 2) % Q0 - Q0 // 2

    def masked_distance(self, reply):
        """(y_0..y_3) as the device decrypts them."""
        parsed = wire.Reply.from_bytes(reply)
        return SEAL.decrypt_reply(self._device._key, parsed.head, parsed.second, parsed.third)

    @staticmethod
    def search(reply, candidates, transcript=b"transcript"):
        """Offline: tries candidates for (y_0..y_3) against the table and the digest. The token, or None."""
        parsed = wire.Reply.from_bytes(reply)
        return search_table(parsed.table, parsed.token_digest, candidates, transcript)


def search_table(table, token_digest, candidates, transcript=b"transcript"):
    """Tries pads of candidates (n, 4) on every entry of a table (entries, 32)."""
    pad, entries = PadFunction(transcript), [int.from_bytes(entry.tobytes()) for entry in table]
    for candidate in candidates:
        key = int.from_bytes(pad(struct.pack("<4I", *candidate)))
        for entry in entries:
            token = (entry ^ key).to_bytes(wire.TOKEN_BYTES)
            if hashlib.sha256(token).digest() == token_digest:
                return token
    return None
