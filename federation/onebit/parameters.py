"""The frozen parameters of the one-bit match, and the noise analysis that they must satisfy.

Theory of operation
-------------------
A BGV ciphertext ``(c_0, c_1[, c_2])`` has the *phase* ``c_0 + c_1 s + c_2 s^2 mod q = m + t e``. Decryption reads ``m``
while the phase, centred, stays below ``q / 2``. Every figure below is the standard deviation of one coefficient of a
phase, in bits, under the usual independence heuristic; tests compare each with measurement.

1. A fresh encryption has the phase ``P + t e``, with ``e`` from SEAL's centred binomial distribution.
2. The circuit ``P (U P + W) + C`` is dominated by ``P U P``: two ring products of dimension N.
3. Switching from q to the last prime divides that by the dropped primes and adds rounding noise: each of the three
   components is rounded to a multiple of t, and the third is multiplied by ``s^2``. SEAL rounds towards one side, so
   a part of that noise, ``-(t / 2) (1 + s + s^2) (1 + x + ... + x^(N-1))``, is the same in every reply to one key
   (`rounding_constant`). Its tail over keys is exponential: a device draws its secret again in the rare case that
   this part is larger than half of the margin.
4. What the circuit left must lie far below that rounding noise (`MINIMUM_GAP_BITS`), because only the rounding noise
   is independent of template and probe.
5. The four coefficients that leave the server are flooded with ``t u``, ``u`` uniform over the room that is left once
   `rounding_margin` is set aside. Decryption fails only if the rounding noise exceeds that margin.

In squares, P^2 and s^2, every pair of coefficients counts twice: their variance is twice that of a product.

Source of the security tables: the Homomorphic Encryption Standard (2018), table 1, ternary secret, 128 bits classical;
the 128-bit post-quantum column is the one that Apple's swift-homomorphic-encryption publishes for the same secret.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from federation.errors import UsageError

CLASSICAL_128_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438}
"""Largest log2 q for 128-bit classical security, by ring dimension."""
POST_QUANTUM_128_BITS = {1024: 21, 2048: 41, 4096: 83, 8192: 165, 16384: 330}
"""Largest log2 q for 128-bit post-quantum security, by ring dimension."""

MINIMUM_GAP_BITS = 24.0
"""How far rounding noise must lie above what the circuit left, in bits of standard deviation."""
MAXIMUM_FAILURE_BITS = -40.0
"""log2 of the largest tolerated probability that one reply decrypts wrongly."""
MINIMUM_TOKEN_BITS = 100.0
"""log2 of the least work to guess a token, and of the least odds against a non-binary probe."""

_ERROR_STANDARD_DEVIATION = math.sqrt(21 / 2)  # SEAL: centred binomial with 2 x 21 bits
_SECRET_VARIANCE = 2 / 3  # uniform ternary
_WITNESSES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37)  # Miller-Rabin is exact below 3.3e24 with these


def is_prime(number: int) -> bool:
    """Whether `number` (< 2^64) is prime. Deterministic Miller-Rabin."""
    if number < 2:  # noqa: PLR2004 - the first prime
        return False
    for witness in _WITNESSES:
        if number % witness == 0:
            return number == witness
    odd, twos = number - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for witness in _WITNESSES:
        power = pow(witness, odd, number)
        if power in {1, number - 1}:
            continue
        if not any((power := power * power % number) == number - 1 for _ in range(twos - 1)):
            return False
    return True


@dataclass(frozen=True)
class Parameters:
    """One profile of the scheme. A profile that misses a bound cannot be constructed.

    Attributes:
        name: part of every wire message, so that two profiles never mix.
        ring_dimension: N, a power of two.
        plain_modulus: t, a prime with t = N/2 + 1 mod N, so that x^N + 1 splits mod t into N/4 irreducible factors of
            degree four: each of the N/4 slots is the field of t^4 elements.
        data_primes: q_0, q_1, q_2 with product q; the reply is switched down to q_0.

    Raises:
        UsageError: a congruence, a security table or a noise bound does not hold.
    """

    name: str
    ring_dimension: int
    plain_modulus: int
    data_primes: tuple[int, ...]

    def __post_init__(self) -> None:
        n, t = self.ring_dimension, self.plain_modulus
        if n not in CLASSICAL_128_BITS:
            raise UsageError(f"ring dimension {n} is in no security table; use one of {sorted(CLASSICAL_128_BITS)}")
        if not is_prime(t) or t % n != n // 2 + 1:
            raise UsageError(
                f"plain modulus {t} must be a prime that is {n // 2 + 1} mod {n}: slots must be fields of t^4"
            )
        for prime in self.data_primes:
            if not is_prime(prime) or prime % (2 * n) != 1 or prime.bit_length() % 8:
                raise UsageError(f"{prime} must be a prime of whole bytes that is 1 mod {2 * n}")
        if len(set(self.data_primes)) != len(self.data_primes) or t in self.data_primes:
            raise UsageError("the primes must be distinct")
        self._require_bounds()

    def _require_bounds(self) -> None:
        n = self.ring_dimension
        for table, limits in (("classical", CLASSICAL_128_BITS), ("post-quantum", POST_QUANTUM_128_BITS)):
            if self.modulus_bits > limits[n]:
                raise UsageError(
                    f"log2 q = {self.modulus_bits:.1f} exceeds the 128-bit {table} limit {limits[n]} for N = {n}"
                )
        if self.circuit_noise_bits + math.log2(2 * self._tail) > math.log2(math.prod(self.data_primes)) - 1:
            raise UsageError("the circuit overflows the data primes before the switch; use larger primes")
        if self.gap_bits < MINIMUM_GAP_BITS:
            raise UsageError(f"the switch leaves a gap of {self.gap_bits:.1f} bits, {MINIMUM_GAP_BITS} are needed")
        if self.decryption_failure_bits > MAXIMUM_FAILURE_BITS:
            raise UsageError(f"decryption fails with 2^{self.decryption_failure_bits:.0f}, 2^-40 is the limit")
        if self.token_bits < MINIMUM_TOKEN_BITS:
            raise UsageError(f"a token is worth {self.token_bits:.0f} bits, {MINIMUM_TOKEN_BITS} are needed")
        if self.flood_bound < 1:
            raise UsageError("the last prime leaves no room for flooding")

    # ------------------------------------------------------------------ shape

    @property
    def slots(self) -> int:
        """Number of slots, N / 4: one code bit each."""
        return self.ring_dimension // 4

    @property
    def reply_prime(self) -> int:
        """q_0, the modulus of the reply."""
        return self.data_primes[0]

    @property
    def distance_scale(self) -> int:
        """Inverse of the number of slots mod t (the specification's c): coefficient 0 is c times a sum over slots."""
        return pow(self.slots, -1, self.plain_modulus)

    @property
    def reply_correction(self) -> int:
        """BGV correction factor of the reply: the inverse of the dropped primes mod t, a public constant."""
        return pow(math.prod(self.data_primes[1:]), -1, self.plain_modulus)

    # ------------------------------------------------------------------ security and noise, in bits

    @property
    def modulus_bits(self) -> float:
        """log2 q: the product of all primes under which anything is ever encrypted."""
        return sum(math.log2(prime) for prime in self.data_primes)

    @property
    def token_bits(self) -> float:
        """Four coefficients mod t: log2 of the work to guess them, and of the odds against one bad slot."""
        return 4 * math.log2(self.plain_modulus)

    @property
    def fresh_noise_bits(self) -> float:
        """Step 1: standard deviation of the phase of a fresh encryption."""
        return math.log2(self.plain_modulus * math.hypot(_ERROR_STANDARD_DEVIATION, 1 / math.sqrt(12)))

    @property
    def circuit_noise_bits(self) -> float:
        """Step 2: standard deviation of the phase of P U P, before the switch."""
        return math.log2(self.ring_dimension) + 2 * self.fresh_noise_bits + self._uniform_bits + 0.5

    @property
    def leftover_noise_bits(self) -> float:
        """Step 3: what the circuit leaves once the dropped primes are divided out."""
        return self.circuit_noise_bits - math.log2(math.prod(self.data_primes[1:]))

    @property
    def rounding_noise_bits(self) -> float:
        """Step 3: standard deviation of the part of the rounding noise that is fresh in every reply."""
        n = self.ring_dimension
        norm_squared = 1 + n * _SECRET_VARIANCE + 2 * (n * _SECRET_VARIANCE) ** 2
        return self._uniform_bits + math.log2(norm_squared) / 2

    @property
    def gap_bits(self) -> float:
        """Step 4: rounding noise over what the circuit left."""
        return self.rounding_noise_bits - self.leftover_noise_bits

    @cached_property
    def rounding_margin(self) -> int:
        """Step 5: room kept for rounding noise when flooding, 1/32 of the whole."""
        return self.reply_prime // 64

    @property
    def rounding_constant_bound(self) -> int:
        """Step 3: the largest constant part of the rounding noise that a device accepts of its own key."""
        return self.rounding_margin // 2

    @cached_property
    def flood_bound(self) -> int:
        """Step 5: u is uniform in [-flood_bound, flood_bound]."""
        return (self.reply_prime // 2 - self.rounding_margin) // self.plain_modulus

    @property
    def decryption_failure_bits(self) -> float:
        """log2 of the probability that rounding noise exceeds the margin in one of four coefficients.

        The constant part takes at most half of the margin; the fresh part has the Gaussian tail bound 2 exp(-z^2 / 2).
        """
        z = (self.rounding_margin - self.rounding_constant_bound) / math.exp2(self.rounding_noise_bits)
        return math.log2(8) - z * z / 2 / math.log(2)

    @property
    def _uniform_bits(self) -> float:
        return math.log2(self.plain_modulus / math.sqrt(12))

    @property
    def _tail(self) -> float:
        """Standard deviations that cover N coefficients but for 2^-40."""
        return math.sqrt(2 * math.log(2) * (40 + math.log2(2 * self.ring_dimension)))


def rounding_constant(parameters: Parameters, secret: NDArray[np.int64]) -> int:
    """The largest of the first four coefficients of (t / 2) (1 + s + s^2) (1 + x + ... + x^(N-1)), by absolute value.

    Args:
        parameters: the profile.
        secret: (N,) coefficients of s in {-1, 0, 1}.
    """
    times_ones = 2 * np.cumsum(secret) - secret.sum()  # x^N = -1: a coefficient that wraps changes its sign
    constants = []
    for place in range(4):
        aligned = np.roll(times_ones[::-1], place + 1)
        aligned[place + 1 :] *= -1
        constants.append(abs(1 + int(times_ones[place]) + int(secret @ aligned)))
    return parameters.plain_modulus * max(constants) // 2


ONEBIT_2048 = Parameters(
    name="intaglio-onebit-2048/1",
    ring_dimension=8192,
    plain_modulus=67_104_769,
    data_primes=(281_474_976_694_273, 281_474_976_546_817, 1_099_511_480_321),
)
"""The profile of this version: 2048 code bits, log2 q = 48 + 48 + 40, 104-bit tokens."""
