"""Somebody who stole a wallet and has no face: a client of its own that speaks bytes.

It holds the code seed, the pad and the signing key, picks any secret s, sends any ring element, and may search offline
as long as it likes. Of the product it uses SEAL's expansion of a seed, the transforms and the two hash functions: what
anybody can write down from docs/formats.md. The tests give it more than a thief has: a code that is one bit short.
"""

import hashlib
import itertools
import math
from dataclasses import dataclass, field

import numpy as np

from federation.errors import MalformedMessageError
from federation.onebit import wire
from federation.onebit.ntt import plus, times, transform
from federation.onebit.sampling import centred_binomial, ternary
from federation.onebit.seal import _CIPHERTEXT_PREFIX, _read_array, _save, engine
from federation.onebit.slots import PadFunction, from_bits, hash_keys, to_slots

TRANSCRIPT = b"transcript"


def minus(left, right, prime):
    return (left + np.uint64(prime) - right) % np.uint64(prime)


class Ring:
    """Arithmetic modulo q for ring elements as values (2, N), one row for each of q_0 and q_1."""

    def __init__(self, parameters):
        self.parameters = parameters
        self.primes, self.q, self.t = parameters.data_primes, parameters.modulus, parameters.plain_modulus
        self.n, self.m = parameters.ring_dimension, parameters.slots

    def element(self, coefficients):
        """(N,) integers of any size -> values (2, N)."""
        coefficients = np.asarray(coefficients)
        if coefficients.dtype != object:
            coefficients = coefficients.astype(np.int64)
        rows = [(coefficients % prime).astype(np.uint64) for prime in self.primes]
        return np.stack([transform(p, self.n).forward(row) for p, row in zip(self.primes, rows, strict=True)])

    def constant(self, number):
        """An integer as a ring element."""
        return np.repeat(np.array([int(number) % prime for prime in self.primes], np.uint64)[:, None], self.n, axis=1)

    def product(self, left, right):
        return np.stack([times(*pair, prime) for *pair, prime in zip(left, right, self.primes, strict=True)])

    def sum(self, left, right):
        return np.stack([plus(*pair, prime) for *pair, prime in zip(left, right, self.primes, strict=True)])

    def difference(self, left, right):
        return np.stack([minus(*pair, prime) for *pair, prime in zip(left, right, self.primes, strict=True)])

    def slots(self, values):
        """(m,) numbers mod t as the constants of the slots -> (N,) coefficients mod t."""
        packed = np.zeros((self.m, self.parameters.slot_degree), np.uint64)
        numbers = np.asarray(values).astype(np.int64) % self.t
        packed[:, 0] = transform(self.t, self.m).backward(numbers.astype(np.uint64))
        return packed.ravel()

    def code(self, bits):
        """A code as a ring element, without noise."""
        return self.element(from_bits(np.asarray(bits, np.uint8), self.parameters))

    def expand(self, seed):
        """The second polynomial that a seed stands for: values (2, N)."""
        ciphertext = engine(self.parameters).load_probe(seed, np.zeros((2, self.n), np.uint64))
        return _read_array(_save(ciphertext), _CIPHERTEXT_PREFIX, 4 * self.n).reshape(2, 2, self.n)[1]


@dataclass
class Hostile:
    """One hostile probe, and what the thief hopes to have said with it.

    Attributes:
        probe: bytes to send.
        codes: strings b that the reply may have opened, likeliest first.
        unsure: slots of which both values are tried.
        secrets: values (N,) modulo q_0 of each s under which to read the reply.
    """

    probe: bytes
    codes: list = field(default_factory=list)
    unsure: tuple = ()
    secrets: list = field(default_factory=list)


class Thief:
    """Keys of a thief's own choice, and the search through a reply."""

    def __init__(self, parameters, random):
        self.parameters, self.ring, self.random = parameters, Ring(parameters), random
        self.set_secret(ternary(parameters.ring_dimension, random.bytes))

    def set_secret(self, coefficients):
        self.secret = self.ring.element(coefficients)

    # ------------------------------------------------------------------ probes

    def message(self, first, seed=None):
        """A probe with any first polynomial (2, N) and any seed."""
        return wire.Probe(seed or self.random.bytes(wire.SEED_BYTES), first).to_bytes(self.parameters)

    def send(self, phase, *, seed=None, codes=(), unsure=()):
        """A probe whose c_0' + c_1' s is this ring element V exactly."""
        seed = seed or self.random.bytes(wire.SEED_BYTES)
        first = self.ring.difference(phase, self.ring.product(self.ring.expand(seed), self.secret))
        return Hostile(self.message(first, seed), list(codes), tuple(unsure), [self.secret[0]])

    def noise(self):
        """t e for a fresh error."""
        return self.ring.element(centred_binomial(self.ring.n, self.random.bytes) * self.ring.t)

    def encrypt(self, coefficients, **hopes):
        """A well-formed encryption of any polynomial (N,) mod t."""
        return self.send(self.ring.sum(self.ring.element(coefficients), self.noise()), **hopes)

    # ------------------------------------------------------------------ the offline search

    def readings(self, reply, secrets, wraps=(0,)):
        """Slots (m, g) as they decrypt under each secret, with every coefficient wrapped round q_0 so often."""
        p, q0 = self.parameters, self.parameters.reply_prime
        for secret in secrets:
            values = plus(reply.components[0], times(reply.components[1], secret, q0), q0)
            phase = transform(q0, p.ring_dimension).backward(values).astype(np.int64)
            phase = np.where(phase > q0 // 2, phase - q0, phase)
            for wrap in wraps:
                residues = (phase + wrap * q0) % p.plain_modulus * (p.data_primes[1] % p.plain_modulus)
                yield to_slots((residues % p.plain_modulus).astype(np.uint64), p)

    def sums(self, reply, hostile, wraps=(0, 1, -1), neighbours=24):
        """Candidates (n, 2) for S_0 + alpha k: every reading, with every string that the thief hopes for."""
        found = [np.zeros((1, 2), np.uint64), reply.corrections.sum(axis=0, dtype=np.uint64)[None]]
        m = self.parameters.slots
        codes = [*hostile.codes, np.zeros(m, np.uint8), np.ones(m, np.uint8)]
        near = self.random.integers(0, m, neighbours)
        for slots in self.readings(reply, hostile.secrets, wraps):
            labels = hash_keys(reply.salt, slots)
            base = labels.sum(axis=0, dtype=np.uint64)
            for code in codes:
                chosen = base + (reply.corrections * code[:, None]).sum(axis=0, dtype=np.uint64)
                unsure = np.array(hostile.unsure, int)
                toggles = np.array([*itertools.product((0, 1), repeat=len(unsure))], np.uint64)
                signed = np.where(
                    code[unsure, None] == 1, np.uint64(0) - reply.corrections[unsure], reply.corrections[unsure]
                )
                found += [
                    chosen + (toggles[:, :, None] * signed[None]).sum(axis=1, dtype=np.uint64),
                    chosen + reply.corrections[near],  # one slot says the other value
                    chosen - reply.corrections[near],
                    chosen - labels[near],  # one slot is left out
                ]
        return np.concatenate(found)

    def search(self, message, hostile, transcript=TRANSCRIPT, oracle=None, **width):
        """The token if any candidate opens an entry, else None.

        Args:
            message: reply bytes.
            hostile: what was sent.
            transcript: of the session.
            oracle: the token, where a judge knows it: then a candidate is compared, which is fast, and not hashed.
            width: of `sums`.
        """
        reply = wire.Reply.from_bytes(message, self.parameters)
        pads = PadFunction(reply.salt, transcript)(self.sums(reply, hostile, **width))
        first = int(self.random.integers(len(reply.table)))
        loose = [reply.table, reply.table ^ reply.table[first]]  # entries as they are, and what two of them share
        if oracle is not None:
            token = np.frombuffer(oracle, np.uint8)
            keys = {row.tobytes() for row in reply.table ^ token}
            hit = any(pad.tobytes() in keys for pad in pads) or any((each == token).all(axis=1).any() for each in loose)
            return oracle if hit else None
        for candidates in itertools.chain((reply.table ^ pad for pad in pads), loose):
            data = candidates.tobytes()
            for at in range(0, len(data), wire.TOKEN_BYTES):
                token = data[at : at + wire.TOKEN_BYTES]
                if hashlib.sha256(token).digest() == reply.token_digest:
                    return token
        return None


class InProcess:
    """The matcher's own entry point, as a service without a network: `submit` a probe, `redeem` a token."""

    def __init__(self, template, threshold, draw):
        self._template, self._threshold, self._draw = template, threshold, draw
        self.token = b""

    def submit(self, probe, transcript=TRANSCRIPT):
        challenge = self._draw().answer(self._template, probe, transcript, self._threshold)
        self.token = challenge.token
        return challenge.reply

    def redeem(self, token):
        return token == self.token


def attack(thief, service, hostile, *, fast=False, **width):
    """One session of a thief: sends, searches, redeems. Says "accepted", "rejected" or "malformed"."""
    try:
        reply = service.submit(hostile.probe)
    except MalformedMessageError:
        return "malformed"
    token = thief.search(reply, hostile, oracle=service.token if fast else None, **width)
    return "accepted" if token is not None and service.redeem(token) else "rejected"


def wrapping_square(q, t, v):
    """An integer V = v mod t whose V^2 - V wraps round q to a small multiple of t: what broke the old arithmetic."""
    h = (v * v - v) * pow(q, -1, t) % t
    root = math.isqrt(q * h)
    start = root - root % t + v
    return min((start - t, start, start + t), key=lambda candidate: abs(candidate * candidate - candidate - q * h))
