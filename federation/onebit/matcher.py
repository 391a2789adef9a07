"""The server's side of the one-bit match. Holds no secret key and never sees a score. See docs/onebit.md.

Theory of operation
-------------------
The server stores x = T xor K, the device encrypts y = P xor K, so the distance of T and P is the number of places in
which x and y differ. Behind slot j the server puts two random keys, ``kappa_{j,0} = slot_j(r)`` and
``kappa_{j,1} = slot_j(r + Delta)``, and answers a ciphertext ct with

    switch( (Delta + t u) * ct + (r + t f, t e) + C )

whose slot j is ``r + y_j Delta``: the one key that belongs to y_j, if ct holds a bit there, and the key of nothing if
it holds anything else. Hashed, the two keys of a slot carry labels whose difference, corrected by

    g_j = h_{j,0} + alpha (1 - 2 x_j) - h_{j,1},

makes the labels of the chosen keys sum to ``S_0 + alpha d``, for ``S_0 = sum_j (h_{j,0} - alpha x_j)`` and the distance
d. The token lies under a pad from ``S_0 + alpha k`` for each accepted k, in random order.

* Delta, r: uniform in R_t. Whoever knows one Delta, or sees two replies from one, has the whole template: material is
  spent before it is used, and never comes back.
* u ternary, e an error: make the second component a ring-LWE sample whose public part is the probe's own.
* f: uniform in [-F, F]; hides everything in the first component but for a factor (q / L)^N.
* C: a public constant against the bias of SEAL's rounding.

Only the corrections, S_0 and with it the table touch the template, and only the one product touches the probe. All
else is made ahead, for nobody in particular.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError
from federation.onebit import wire
from federation.onebit.ntt import plus, times, transform
from federation.onebit.parameters import Parameters
from federation.onebit.sampling import RandomBytes, centred_binomial, ternary, uniform_below
from federation.onebit.seal import Ciphertext, Plaintext, engine
from federation.onebit.slots import Labels, PadFunction, hash_keys, to_slots
from federation.secrecy import Guarded


@dataclass(frozen=True)
class Challenge:
    """The server's answer to a probe.

    Attributes:
        reply: reply message for the device.
        token: 16 bytes that only a device at an accepted distance can return. Stays with the server until then.
    """

    reply: bytes
    token: bytes = field(repr=False)


@dataclass(frozen=True, eq=False, repr=False)
class Masks(Guarded):
    """The fresh secrets of one session. Whoever holds them can open the session's score and the template.

    Attributes:
        delta: (N,) Delta, uniform mod t.
        offset: (N,) r, uniform mod t.
        multiple: (N,) u, ternary.
        error: (N,) e.
        flood: (N,) f + F, uniform in 0..2F.
        salt: 16 bytes.
        token: 16 bytes, not all zero.
        step: (2,) alpha.
    """

    delta: NDArray[np.uint64]
    offset: NDArray[np.uint64]
    multiple: NDArray[np.int64]
    error: NDArray[np.int64]
    flood: NDArray[np.uint64]
    salt: bytes
    token: bytes
    step: Labels

    @classmethod
    def draw(cls, parameters: Parameters, random_bytes: RandomBytes) -> Masks:
        """Fresh masks."""
        t, n = parameters.plain_modulus, parameters.ring_dimension
        token = wire.NO_MATCH
        while token == wire.NO_MATCH:
            token = random_bytes(wire.TOKEN_BYTES)
        return cls(
            delta=uniform_below(t, n, random_bytes),
            offset=uniform_below(t, n, random_bytes),
            multiple=ternary(n, random_bytes),
            error=centred_binomial(n, random_bytes),
            flood=uniform_below(2 * parameters.flood_bound + 1, n, random_bytes),
            salt=random_bytes(wire.SALT_BYTES),
            token=token,
            step=np.frombuffer(random_bytes(wire.LABEL_BYTES), "<u8").astype(np.uint64),
        )


class Material(Guarded):
    """Everything of one comparison that depends on neither template nor probe. Answers once, then is spent.

    A copy of a process's memory would answer once more. A forked child refuses; a machine whose memory is put back must
    start its servers afresh (docs/onebit.md).
    """

    def __init__(self, parameters: Parameters, masks: Masks) -> None:
        self.parameters = parameters
        self._process = os.getpid()
        self._ready = [_prepare(parameters, masks)]

    @classmethod
    def draw(cls, parameters: Parameters, random_bytes: RandomBytes = os.urandom) -> Material:
        """Material from fresh masks."""
        return cls(parameters, Masks.draw(parameters, random_bytes))

    def __repr__(self) -> str:
        return f"Material({'ready' if self._ready else 'spent'})"

    def answer(
        self, template: bytes, probe: bytes, transcript: bytes, threshold: int, random_bytes: RandomBytes = os.urandom
    ) -> Challenge:
        """Compares. Spends the material even when it raises.

        Args:
            template: template message, as it was enrolled.
            probe: probe message, from the device.
            transcript: bytes of the session's transcript, whose signature has been checked.
            threshold: tau, the largest accepted Hamming distance, from the model release.
            random_bytes: source of the table's order.

        Raises:
            MalformedMessageError: a message does not parse.
            UsageError: this material was used before, in whatever copy, or the threshold is not a distance.
        """
        if os.getpid() != self._process:
            raise UsageError("material is of the process that drew it; a forked one draws its own")
        try:
            prepared = self._ready.pop()  # before anything else, and atomic: of two threads one gets it
        except IndexError:
            raise UsageError("material answers one probe only; draw again") from None
        if not 0 <= threshold < self.parameters.slots:
            raise UsageError(f"a threshold lies in 0..{self.parameters.slots - 1}, got {threshold}")
        padded = wire.PaddedTemplate.from_bytes(template, self.parameters)
        message = wire.Probe.from_bytes(probe, self.parameters)
        seal = engine(self.parameters)
        components = seal.evaluate(seal.load_probe(message.seed, message.residues), prepared.multiplier, prepared.mask)
        step, shifts = prepared.step, prepared.step * padded.bits[:, None]
        start = (prepared.first - shifts).sum(axis=0, dtype=np.uint64)
        accepted = start + step * np.arange(threshold + 1, dtype=np.uint64)[:, None]
        table = PadFunction(prepared.salt, transcript)(accepted) ^ np.frombuffer(prepared.token, np.uint8)
        reply = wire.Reply(
            components=components,
            salt=prepared.salt,
            token_digest=hashlib.sha256(prepared.token).digest(),
            corrections=prepared.first + step - shifts - shifts - prepared.second,
            table=_shuffled(table, random_bytes),
        )
        return Challenge(reply.to_bytes(self.parameters), prepared.token)


@dataclass(frozen=True, eq=False, repr=False)
class _Prepared:
    """Delta + t u, the mask, the labels (m, 2) of both keys of every slot, and what the table needs of the masks."""

    salt: bytes
    token: bytes
    step: Labels
    multiplier: Plaintext
    mask: Ciphertext
    first: Labels
    second: Labels


def match(
    template: bytes, probe: bytes, transcript: bytes, threshold: int, random_bytes: RandomBytes = os.urandom
) -> Challenge:
    """One comparison with material of its own, under the parameter set that the template names.

    Raises:
        MalformedMessageError: a message does not parse.
        UsageError: the threshold is not a distance.
    """
    material = Material.draw(wire.parameters_of(template), random_bytes)
    return material.answer(template, probe, transcript, threshold, random_bytes)


def _prepare(parameters: Parameters, masks: Masks) -> _Prepared:
    t, q = parameters.plain_modulus, parameters.data_primes
    multiplier, first, second = (np.empty((2, parameters.ring_dimension), np.uint64) for _ in range(3))
    lowest = t * parameters.flood_bound  # f is kept as f + F
    for row, prime in enumerate(q):
        flooded = times(masks.flood % np.uint64(prime), np.uint64(t % prime), prime)
        constant = np.uint64((parameters.centring - lowest) % prime)
        coefficients = np.stack(
            [
                plus(masks.delta % np.uint64(prime), _multiple(masks.multiple, t, prime), prime),
                plus(plus(flooded, masks.offset % np.uint64(prime), prime), constant, prime),
                plus(_multiple(masks.error, t, prime), np.uint64(parameters.centring % prime), prime),
            ]
        )
        multiplier[row], first[row], second[row] = transform(prime, parameters.ring_dimension).forward(coefficients)
    seal = engine(parameters)
    offset, delta = to_slots(masks.offset, parameters), to_slots(masks.delta, parameters)
    return _Prepared(
        salt=masks.salt,
        token=masks.token,
        step=masks.step,
        multiplier=seal.multiplier(multiplier),
        mask=seal.ciphertext(first, second),
        first=hash_keys(masks.salt, offset),
        second=hash_keys(masks.salt, plus(offset, delta, t)),
    )


def _multiple(small: NDArray[np.int64], t: int, prime: int) -> NDArray[np.uint64]:
    """Small integers times t, modulo a prime."""
    return (small * t % prime).astype(np.uint64)


def _shuffled(rows: NDArray[np.uint8], random_bytes: RandomBytes) -> NDArray[np.uint8]:
    """Rows in a uniformly random order: sorted by random 64-bit keys, whose ties have odds below 2^-43."""
    return rows[np.argsort(np.frombuffer(random_bytes(8 * len(rows)), "<u8"))]
