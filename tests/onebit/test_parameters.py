import dataclasses
import math

import pytest

from federation.errors import UsageError
from federation.onebit.parameters import ONEBIT_2048, is_prime


def test_primality_agrees_with_trial_division():
    def slow(n):
        return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))

    assert [n for n in range(3000) if is_prime(n)] == [n for n in range(3000) if slow(n)]


def test_primality_rejects_a_strong_pseudoprime_to_the_first_nine_bases():
    assert not is_prime(3_825_123_056_546_413_051)


def test_the_profile_meets_the_bounds_of_the_specification():
    assert ONEBIT_2048.slots == 2048
    assert ONEBIT_2048.modulus_bits <= 165
    assert ONEBIT_2048.gap_bits >= 24
    assert ONEBIT_2048.decryption_failure_bits <= -40
    assert ONEBIT_2048.token_bits >= 100


def test_slots_are_fields_of_degree_four():
    t, n = ONEBIT_2048.plain_modulus, ONEBIT_2048.ring_dimension
    # x^n + 1 splits into factors of degree k where k is the order of t modulo 2 n.
    order = next(k for k in range(1, 9) if pow(t, k, 2 * n) == 1)
    assert order == 4
    assert t % (2 * ONEBIT_2048.slots) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plain_modulus": 67_043_329}, "slots must be fields"),  # 1 mod 16384: slots would be F_t
        ({"plain_modulus": 67_104_767}, "must be a prime"),
        ({"plain_modulus": 12_289}, "a token is worth"),  # right congruence, 14 bits
        ({"data_primes": (281_474_976_694_273, 1_099_511_480_321, 1_099_510_890_497)}, None),  # 24.01 bits: allowed
        ({"data_primes": (281_474_976_694_273, 281_474_976_546_817)}, "overflows"),
        ({"data_primes": (281_474_976_694_273, 281_474_976_546_817, 281_474_976_317_441)}, None),  # 144 bits
        ({"data_primes": (2**64 - 2**32 + 1, 281_474_976_546_817, 72_057_594_037_616_641)}, "post-quantum"),
        ({"data_primes": (281_474_976_694_273, 281_474_976_694_273, 1_099_511_480_321)}, "distinct"),
        ({"data_primes": (281_474_976_694_273, 281_474_976_546_817, 1_099_511_480_323)}, "must be a prime"),
        ({"ring_dimension": 5000}, "no security table"),
    ],
)
def test_a_profile_that_misses_a_bound_cannot_be_constructed(change, message):
    if message is None:
        dataclasses.replace(ONEBIT_2048, **change)
        return
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(ONEBIT_2048, **change)
