"""The frozen parameters of the one-bit match, and the bounds that they must satisfy.

Theory of operation
-------------------
A BGV ciphertext ``(c_0, c_1)`` has the *phase* ``c_0 + c_1 s mod q = m + t e``. Decryption reads ``m`` while the phase,
centred, stays below ``q / 2``. Noise is counted in units of t, as the standard deviation of one coefficient, under the
usual independence heuristic; tests compare each figure with measurement.

1. The server multiplies a fresh encryption of y by ``Delta + t u`` and adds ``r + t f`` to the first and ``t e`` to the
   second component. What the product leaves has the deviation ``t sqrt(m^2/48 + 7m/144 + 10.5 N/3 + 2m/9 + 7 N)``:
   Delta y, Delta times the encryption's error, u y, and u times that error. Coefficients of Delta and y are lifted to
   0..t-1, so their mean is t/2; the first term is what the means leave.
2. Switching from q to q_0 divides that by q_1 and rounds both components to multiples of t: ``sqrt((1 + 2 N/3) / 12)``
   more. SEAL rounds towards one side; the server adds the public constant that takes the bias out (`centring`).
3. f is uniform in [-F, F]. It hides everything in the first component but for its edges: any event is more probable by
   the factor ``(q / L)^N`` at most than if the first component were uniform, with ``L = (2 F + 1) t``.
4. A coefficient decrypts wrongly only if f lies so near the edge that the noise carries it over: with probability
   ``2 sigma t / q_0 (phi(z) - z Q(z))`` at ``z = margin / sigma``.

Source of the security tables: the Homomorphic Encryption Standard (2018), table 1, ternary secret, 128 bits classical;
the 128-bit post-quantum column is the one that Apple's swift-homomorphic-encryption publishes for the same secret.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from federation.errors import UsageError

CLASSICAL_128_BITS = {1024: 27, 2048: 54, 4096: 109, 8192: 218, 16384: 438}
"""Largest log2 q for 128-bit classical security, by ring dimension."""
POST_QUANTUM_128_BITS = {1024: 21, 2048: 41, 4096: 83, 8192: 165, 16384: 330}
"""Largest log2 q for 128-bit post-quantum security, by ring dimension."""

MAXIMUM_FAILURE_BITS = -40.0
"""log2 of the largest tolerated probability that any coefficient of one reply decrypts wrongly."""
MAXIMUM_SHOWN_BITS = 2.0
"""log2 of the largest tolerated factor (q / L)^N."""
MINIMUM_KEY_BITS = 100.0
"""log2 of the least odds against guessing the second key of a slot, the factor (q / L)^N taken off."""

_ERROR_VARIANCE = 21 / 2  # SEAL: centred binomial with 2 x 21 bits
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
    """One parameter set of the scheme. A set that misses a bound cannot be constructed.

    Attributes:
        name: part of every transcript, so that two sets never mix.
        ring_dimension: N, a power of two.
        slot_degree: g, a power of two from 4 on: each of the m = N/g slots is the field of t^g elements.
        plain_modulus: t, a prime with t = 2m + 1 mod 4m, so that x^N + 1 splits mod t into m irreducible factors
            x^g - zeta.
        data_primes: (q_0, q_1) with product q; the reply is switched down to q_0.
        margin: room that is kept for noise when flooding, in units of t, after the switch.

    Raises:
        UsageError: a congruence, a security table or a bound does not hold.
    """

    name: str
    ring_dimension: int
    slot_degree: int
    plain_modulus: int
    data_primes: tuple[int, int]
    margin: int

    def __post_init__(self) -> None:
        n, t = self.ring_dimension, self.plain_modulus
        if n not in CLASSICAL_128_BITS:
            raise UsageError(f"ring dimension {n} is in no security table; use one of {sorted(CLASSICAL_128_BITS)}")
        if self.slot_degree not in {4, 8, 16}:
            raise UsageError(f"slots have degree 4, 8 or 16, not {self.slot_degree}")
        m = self.slots
        if not is_prime(t) or t % (4 * m) != 2 * m + 1 or t >= 1 << 32:
            raise UsageError(
                f"plain modulus {t} must be a prime below 2^32 that is {2 * m + 1} mod {4 * m}: slots must be fields"
            )
        for prime in self.data_primes:
            if not is_prime(prime) or prime % (2 * n) != 1 or prime.bit_length() % 2 or prime.bit_length() > 50:  # noqa: PLR2004 - see `federation.onebit.ntt`
                raise UsageError(
                    f"{prime} must be a prime of an even number of bits, at most 50, that is 1 mod {2 * n}"
                )
        if len(self.data_primes) != 2 or len({*self.data_primes, t}) != 3:  # noqa: PLR2004 - q_0, q_1 and t
            raise UsageError("q_0, q_1 and t must be three distinct primes")
        self._require_bounds()

    def _require_bounds(self) -> None:
        n = self.ring_dimension
        for table, limits in (("classical", CLASSICAL_128_BITS), ("post-quantum", POST_QUANTUM_128_BITS)):
            if self.modulus_bits > limits[n]:
                raise UsageError(
                    f"log2 q = {self.modulus_bits:.1f} exceeds the 128-bit {table} limit {limits[n]} for N = {n}"
                )
        if self.flood_bound < 1:
            raise UsageError("the margin leaves no room for flooding; use larger primes")
        if self.decryption_failure_bits > MAXIMUM_FAILURE_BITS:
            raise UsageError(f"decryption fails with 2^{self.decryption_failure_bits:.0f}, 2^-40 is the limit")
        if self.shown_bits > MAXIMUM_SHOWN_BITS:
            raise UsageError(f"flooding costs {self.shown_bits:.1f} bits, {MAXIMUM_SHOWN_BITS} are the limit")
        if self.key_bits - self.shown_bits < MINIMUM_KEY_BITS:
            raise UsageError(
                f"a key is worth {self.key_bits - self.shown_bits:.0f} bits, {MINIMUM_KEY_BITS} are needed"
            )

    # ------------------------------------------------------------------ shape

    @property
    def slots(self) -> int:
        """m, number of slots: one code bit each."""
        return self.ring_dimension // self.slot_degree

    @property
    def modulus(self) -> int:
        """Product q = q_0 q_1."""
        return math.prod(self.data_primes)

    @property
    def reply_prime(self) -> int:
        """q_0, the modulus of the reply."""
        return self.data_primes[0]

    @property
    def centring(self) -> int:
        """Step 2: the multiple of t, next to t q_1 / 2, that takes the bias out of SEAL's rounding."""
        return self.plain_modulus * ((self.data_primes[1] - 1) // 2)

    @cached_property
    def flood_bound(self) -> int:
        """F: f is uniform in [-F, F]."""
        t = self.plain_modulus
        return (self.modulus // 2 - self.margin * t * self.data_primes[1]) // t

    # ------------------------------------------------------------------ security and noise

    @property
    def modulus_bits(self) -> float:
        """log2 q: the product of all primes under which anything is ever encrypted."""
        return math.log2(self.modulus)

    @property
    def key_bits(self) -> float:
        """Entropy g log2 t of Delta_j, the difference of the two keys of a slot."""
        return self.slot_degree * math.log2(self.plain_modulus)

    @property
    def shown_bits(self) -> float:
        """Step 3: log2 of (q / L)^N, what flooding over less than all of q costs."""
        width = (2 * self.flood_bound + 1) * self.plain_modulus
        return self.ring_dimension * math.log1p((self.modulus - width) / width) / math.log(2)

    @property
    def product_noise(self) -> float:
        """Step 1, after the switch: what the product leaves, in units of t."""
        n, m = self.ring_dimension, self.slots
        code = m * m / 48 + 7 * m / 144 + m * _SECRET_VARIANCE / 3
        variance = code + n * _ERROR_VARIANCE / 3 + n * _SECRET_VARIANCE * _ERROR_VARIANCE
        return self.plain_modulus * math.sqrt(variance) / self.data_primes[1]

    @property
    def rounding_noise(self) -> float:
        """Step 2: what the switch adds, in units of t."""
        return math.sqrt((1 + self.ring_dimension * _SECRET_VARIANCE) / 12)

    @property
    def reply_noise(self) -> float:
        """sigma: noise of a coefficient of a reply, in units of t."""
        return math.hypot(self.product_noise, self.rounding_noise)

    @property
    def decryption_failure_bits(self) -> float:
        """Step 4: log2 of the probability that any of N coefficients decrypts wrongly."""
        z = self.margin / self.reply_noise
        density = math.exp(-z * z / 2) / math.sqrt(2 * math.pi)
        overshoot = density - z * math.erfc(z / math.sqrt(2)) / 2
        each = 2 * self.reply_noise * self.plain_modulus / self.reply_prime * overshoot
        return math.log2(self.ring_dimension * each) if each > 0 else -math.inf


ONEBIT_2048 = Parameters(
    name="intaglio-onebit-2048/2",
    ring_dimension=8192,
    slot_degree=4,
    plain_modulus=536_752_129,
    data_primes=(1_125_899_906_826_241, 274_877_562_881),
    margin=144,
)
"""2048 code bits in fields of 116 bits: log2 q = 50 + 38."""

ONEBIT_1024 = Parameters(
    name="intaglio-onebit-1024/2",
    ring_dimension=8192,
    slot_degree=8,
    plain_modulus=16_709_633,
    data_primes=(70_368_743_669_761, 4_294_475_777),
    margin=144,
)
"""1024 code bits in fields of 192 bits, for which the proof alone suffices: log2 q = 46 + 32."""

PARAMETER_SETS = (ONEBIT_2048, ONEBIT_1024)


def parameters_for(code_length: int) -> Parameters:
    """The parameter set for codes of that many bits.

    Raises:
        UsageError: there is none.
    """
    for parameters in PARAMETER_SETS:
        if parameters.slots == code_length:
            return parameters
    raise UsageError(f"codes have {' or '.join(str(each.slots) for each in PARAMETER_SETS)} bits, not {code_length}")
