"""The server's side of the one-bit match. Holds no secret key and never sees a score.

Theory of operation
-------------------
Template T and probe P hold one bit per slot, so their Hamming distance is the sum over slots of ``T + P - 2 T P``. The
server computes, under encryption,

    E = A (T + P - 2 T P) + U (P^2 - P) + B + Z

with A, U, B, Z fresh for every session. This is the specification's ``A (T - P)^2 + R (P^2 - P) + B + Z`` with
``U = R + A``, using ``T^2 = T``, which the enrolment check has shown; U is uniform because R is.

* A: four non-zero coefficients alpha_0..alpha_3. Coefficient j < 4 of E is ``y_j = alpha_j c d + beta_j``, a one-time
  affine MAC of the distance d (c is the inverse of the number of slots).
* U: a uniform polynomial. ``P^2 - P`` vanishes exactly when every slot is 0 or 1. One bad slot shifts (y_0..y_3) by an
  element that is uniform in the field of t^4 elements.
* B: a uniform polynomial; its first four coefficients are beta_0..beta_3, the others hide everything else.
* Z: an encryption of zero with three components, ``(b v, b u + a v + t f, a u + t e)`` for the public key (b, a) and
  fresh small u, v, e, f. The last two are ring-LWE samples with independent secrets: pseudo-uniform modulo all of q
  even for the owner of the secret key, and whatever b a malicious device chose. The first is never shown whole.

Factored for few products, ``E = P (U (P - 1) + A (1 - 2 T)) + C`` with ``C = A T + B + Z``. All but P can be made
ahead; what is left is one product with a plaintext, one product of ciphertexts and the modulus switch.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from federation.errors import MalformedMessageError, UsageError
from federation.onebit import wire
from federation.onebit.parameters import ONEBIT_2048, Parameters
from federation.onebit.sampling import RandomBytes, centred_binomial, ternary, uniform_below
from federation.onebit.seal import Ciphertext, Engine, Plaintext, engine
from federation.onebit.transcript import PadFunction

_HEAD = wire.HEAD_COEFFICIENTS


@dataclass(frozen=True)
class Challenge:
    """The server's answer to a probe.

    Attributes:
        reply: reply message for the device.
        token: 32 bytes that only a device at an accepted distance can return. Stays with the server until then.
    """

    reply: bytes
    token: bytes = field(repr=False)


@dataclass(frozen=True)
class Reference:
    """A device's public key and encrypted template, parsed and ready to compute with.

    Attributes:
        public_key: encryption of zero.
        template: encryption of T.
        direction: encryption of 1 - 2 T, from the template.
        template_seed: the seed of the template's second polynomial. No probe may repeat it: whoever stole a stored
            template, but no secret key, can re-randomise it under this seed only.
    """

    public_key: Ciphertext
    template: Ciphertext
    direction: Ciphertext
    template_seed: bytes
    parameters: Parameters = ONEBIT_2048

    @classmethod
    def from_bytes(cls, public_key: bytes, template: bytes, parameters: Parameters = ONEBIT_2048) -> Reference:
        """Parses foreign bytes.

        Raises:
            MalformedMessageError: not a public key message, or not a ciphertext message.
        """
        key = wire.SeededMessage.from_bytes(public_key, wire.Kind.PUBLIC_KEY, parameters)
        encoded = wire.SeededMessage.from_bytes(template, wire.Kind.CIPHERTEXT, parameters)
        seal = engine(parameters)
        loaded = seal.load_ciphertext(encoded.seed, encoded.residues)
        return cls(
            public_key=seal.load_ciphertext(key.seed, key.residues),
            template=loaded,
            direction=seal.negate(seal.minus_one(seal.add(loaded, loaded))),
            template_seed=encoded.seed,
            parameters=parameters,
        )


@dataclass(frozen=True, eq=False, repr=False)
class Masks:
    """The fresh secrets of one session. Whoever holds them can open the session's score.

    Attributes:
        scale: (4,) A, each coefficient in 1..t-1.
        uniform: (N,) U, uniform mod t.
        offset: (N,) B, uniform mod t.
        zero: Z, an encryption of zero with three components.
        flood: (4,) multiples of t, uniform over the room that decryption leaves, modulo the reply's prime.
        token: 32 bytes.
    """

    scale: NDArray[np.uint64]
    uniform: NDArray[np.uint64]
    offset: NDArray[np.uint64]
    zero: Ciphertext
    flood: NDArray[np.uint64]
    token: bytes

    @classmethod
    def draw(cls, reference: Reference, random_bytes: RandomBytes) -> Masks:
        """Fresh masks."""
        parameters = reference.parameters
        t, n = parameters.plain_modulus, parameters.ring_dimension
        return cls(
            scale=1 + uniform_below(t - 1, _HEAD, random_bytes),
            uniform=uniform_below(t, n, random_bytes),
            offset=uniform_below(t, n, random_bytes),
            zero=_encrypt_zero(reference, random_bytes),
            flood=_draw_flood(parameters, random_bytes),
            token=random_bytes(wire.TOKEN_BYTES),
        )


class PreparedMatch:
    """Everything of one comparison that does not depend on the probe. Answers once, then is spent.

    Made by `prepare` or `prepare_template_check`.
    """

    def __init__(self, parameters: Parameters, material: _Material) -> None:
        self._parameters = parameters
        self._material: _Material | None = material

    def __repr__(self) -> str:
        return f"PreparedMatch({'spent' if self._material is None else 'ready'})"

    def answer(self, probe: bytes, transcript: bytes) -> Challenge:
        """Compares. Spends the material even when it raises.

        Args:
            probe: ciphertext message of P, from the device.
            transcript: bytes of the session's transcript, whose signature has been checked.

        Raises:
            MalformedMessageError: `probe` is not a ciphertext message, or repeats the template.
            UsageError: this material was used before.
        """
        material, self._material = self._material, None
        if material is None:
            raise UsageError("prepared material answers one probe only; prepare again")
        message = wire.SeededMessage.from_bytes(probe, wire.Kind.CIPHERTEXT, self._parameters)
        if message.seed == material.forbidden_seed:
            raise MalformedMessageError("a probe must be encrypted afresh, not made from the stored template")
        seal = engine(self._parameters)
        evaluated = material.evaluate(seal.load_ciphertext(message.seed, message.residues), seal)
        head, second, third = seal.reply_parts(evaluated)
        reply = wire.Reply(
            head=(head + material.flood) % np.uint64(self._parameters.reply_prime),
            second=second,
            third=third,
            token_digest=hashlib.sha256(material.token).digest(),
            table=_accept_table(material.accepted, material.token, PadFunction(transcript)),
        )
        return Challenge(reply.to_bytes(self._parameters), material.token)


@dataclass(frozen=True, eq=False, repr=False)
class _Material:
    """U in NTT form, A (1 - 2 T), C, the accepted values of (y_0..y_3) in the order of the table, and the rest."""

    multiplier: Plaintext
    linear: Ciphertext
    constant: Ciphertext
    accepted: NDArray[np.uint32]
    flood: NDArray[np.uint64]
    token: bytes
    forbidden_seed: bytes | None

    def evaluate(self, probe: Ciphertext, seal: Engine) -> Ciphertext:
        """E = P (U (P - 1) + A (1 - 2 T)) + C, switched down to the reply's prime."""
        inner = seal.add(seal.multiply_plain(seal.minus_one(probe), self.multiplier), self.linear)
        return seal.switch_to_reply(seal.add(seal.multiply(probe, inner), self.constant))


def prepare(reference: Reference, threshold: int, random_bytes: RandomBytes = os.urandom) -> PreparedMatch:
    """Draws A, U, B, Z for one comparison with `reference` and makes A (1 - 2 T) and C.

    Args:
        reference: the enrolled template under its owner's key.
        threshold: tau, the largest accepted Hamming distance, from the model release.
        random_bytes: source of all masks.

    Raises:
        UsageError: the threshold is not a distance.
    """
    masks = Masks.draw(reference, random_bytes)
    return assemble(reference, masks, _shuffled(accepted_values(reference.parameters, masks, threshold), random_bytes))


def accepted_values(parameters: Parameters, masks: Masks, threshold: int) -> NDArray[np.uint32]:
    """(tau + 1, 4): the values of (y_0..y_3) at the distances 0..tau, in this order.

    Raises:
        UsageError: the threshold is not a distance.
    """
    if not 0 <= threshold < parameters.slots:
        raise UsageError(f"a threshold lies in 0..{parameters.slots - 1}, got {threshold}")
    t = np.uint64(parameters.plain_modulus)
    scaled = np.arange(threshold + 1, dtype=np.uint64) * np.uint64(parameters.distance_scale) % t
    # alpha, c k and beta are below 2^26, so the products fit 64 bits.
    return ((masks.scale * scaled[:, None] + masks.offset[:_HEAD]) % t).astype(np.uint32)


def assemble(reference: Reference, masks: Masks, accepted: NDArray[np.uint32]) -> PreparedMatch:
    """Makes A (1 - 2 T) and C = A T + B + Z from given masks. `prepare` is how a server gets there."""
    parameters = reference.parameters
    seal = engine(parameters)
    scale = seal.plaintext_ntt(np.concatenate([masks.scale, np.zeros(parameters.ring_dimension - _HEAD, np.uint64)]))
    scaled_template = seal.multiply_plain(reference.template, scale)
    material = _Material(
        multiplier=seal.plaintext_ntt(masks.uniform),
        linear=seal.multiply_plain(reference.direction, scale),
        constant=seal.add_plain(seal.add(masks.zero, scaled_template), seal.plaintext(masks.offset)),
        accepted=accepted,
        flood=masks.flood,
        token=masks.token,
        forbidden_seed=reference.template_seed,
    )
    return PreparedMatch(parameters, material)


def prepare_template_check(reference: Reference, random_bytes: RandomBytes = os.urandom) -> PreparedMatch:
    """Draws U, G, B, Z for the enrolment check ``E = U (T^2 - T) + G T + B + Z``: one accepted value, T is the probe.

    G is a fresh encryption of zero with noise in both components. To an honest template it adds noise and nothing
    else. A template whose *ring element* is idempotent, say 1 modulo q_0 and 0 modulo the other primes, makes
    ``T^2 - T`` vanish without being binary; G, whose noise such an element blows up to the size of q, refuses it.
    """
    parameters = reference.parameters
    seal = engine(parameters)
    masks = Masks.draw(reference, random_bytes)
    material = _Material(
        multiplier=seal.plaintext_ntt(masks.uniform),
        linear=seal.add_error(_rlwe_sample(reference, random_bytes), centred_binomial(parameters, random_bytes)),
        constant=seal.add_plain(masks.zero, seal.plaintext(masks.offset)),
        accepted=masks.offset[None, :_HEAD].astype(np.uint32),
        flood=masks.flood,
        token=masks.token,
        forbidden_seed=None,
    )
    return PreparedMatch(parameters, material)


def match(
    public_key: bytes,
    template: bytes,
    probe: bytes,
    transcript: bytes,
    threshold: int,
    random_bytes: RandomBytes = os.urandom,
) -> Challenge:
    """Prepares and answers one comparison. All arguments are bytes, so that a worker process can run it.

    Raises:
        MalformedMessageError: a message does not parse.
        UsageError: the threshold is not a distance.
    """
    return prepare(Reference.from_bytes(public_key, template), threshold, random_bytes).answer(probe, transcript)


def check_template(
    public_key: bytes, template: bytes, transcript: bytes, random_bytes: RandomBytes = os.urandom
) -> Challenge:
    """Challenges the owner to show that `template` is binary and under `public_key`. For enrolment.

    Raises:
        MalformedMessageError: a message does not parse.
    """
    return prepare_template_check(Reference.from_bytes(public_key, template), random_bytes).answer(template, transcript)


def _encrypt_zero(reference: Reference, random_bytes: RandomBytes) -> Ciphertext:
    """Z: a three-component encryption of zero, second and third component pseudo-uniform."""
    seal = engine(reference.parameters)
    shifted = seal.times_secret(_rlwe_sample(reference, random_bytes))
    return seal.add(shifted, _rlwe_sample(reference, random_bytes))


def _rlwe_sample(reference: Reference, random_bytes: RandomBytes) -> Ciphertext:
    """A fresh encryption of zero whose second component is pseudo-uniform."""
    parameters = reference.parameters
    return engine(parameters).rlwe_sample(
        reference.public_key,
        secret=ternary(parameters, random_bytes),
        error=centred_binomial(parameters, random_bytes),
    )


def _draw_flood(parameters: Parameters, random_bytes: RandomBytes) -> NDArray[np.uint64]:
    """(4,) multiples of t, modulo the reply's prime: t u with u uniform in [-flood_bound, flood_bound]."""
    drawn = uniform_below(2 * parameters.flood_bound + 1, _HEAD, random_bytes)
    signed = parameters.plain_modulus * (drawn.astype(np.int64) - parameters.flood_bound)
    return (signed % parameters.reply_prime).astype(np.uint64)


def _shuffled(rows: NDArray[np.uint32], random_bytes: RandomBytes) -> NDArray[np.uint32]:
    """Rows in a uniformly random order: sorted by random 64-bit keys, whose ties have odds below 2^-43."""
    return rows[np.argsort(np.frombuffer(random_bytes(8 * len(rows)), "<u8"))]


def _accept_table(accepted: NDArray[np.uint32], token: bytes, pad: PadFunction) -> NDArray[np.uint8]:
    """(entries, 32): the token under the pad of each accepted value."""
    encoded = accepted.astype("<u4").tobytes()
    row = struct.calcsize("<4I")
    pads = b"".join(pad(encoded[start : start + row]) for start in range(0, len(encoded), row))
    return np.frombuffer(pads, np.uint8).reshape(-1, wire.TOKEN_BYTES) ^ np.frombuffer(token, np.uint8)
