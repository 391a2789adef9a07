"""The two parameter sets against the specification's table, and what cannot be built."""

import dataclasses
import math

import numpy as np
import pytest
from scipy import integrate, stats

from federation.errors import UsageError
from federation.onebit import wire
from federation.onebit.parameters import ONEBIT_1024, ONEBIT_2048, is_prime, parameters_for

# profile: log2 t, log2 q_0, log2 q_1, failure, cost of flooding, bits of Delta_j, bytes up, bytes down at a threshold
SPECIFICATION = {
    2048: (29, 50, 38, -42, 1.6, 114.4, 90_184, 700, 146_442),
    1024: (24, 46, 32, -43, 0.8, 191.1, 79_944, 350, 116_266),
}


def test_primality_agrees_with_trial_division():
    def slow(n):
        return n > 1 and all(n % d for d in range(2, math.isqrt(n) + 1))

    assert [n for n in range(3000) if is_prime(n)] == [n for n in range(3000) if slow(n)]


def test_primality_rejects_a_strong_pseudoprime_to_the_first_nine_bases():
    assert not is_prime(3_825_123_056_546_413_051)


def test_a_set_is_what_the_specification_says(parameters):
    log_t, log_q0, log_q1, failure, shown, key, up, threshold, down = SPECIFICATION[parameters.slots]
    assert parameters.plain_modulus.bit_length() == log_t
    assert [prime.bit_length() for prime in parameters.data_primes] == [log_q0, log_q1]
    assert round(parameters.decryption_failure_bits) == failure
    assert round(parameters.shown_bits, 1) == shown
    assert round(parameters.key_bits - parameters.shown_bits, 1) == key
    assert wire.probe_length(parameters) == up
    assert wire.reply_length(threshold, parameters) == down
    assert 21.2 < parameters.reply_noise < 21.8
    assert parameters.ring_dimension == 8192
    assert parameters.modulus_bits < 165


def test_slots_are_fields_of_the_stated_degree(parameters):
    """x^N + 1 splits into factors of degree k, where k is the order of t modulo 2N."""
    t, n = parameters.plain_modulus, parameters.ring_dimension
    assert next(k for k in range(1, 17) if pow(t, k, 2 * n) == 1) == parameters.slot_degree
    assert parameters.slots * parameters.slot_degree == n


def test_the_failure_formula_is_the_integral_over_a_uniform_flood(parameters):
    """Noise of deviation sigma on top of a uniform number that ends `margin` short of the edge, on both sides."""
    sigma, margin, width = parameters.reply_noise, parameters.margin, parameters.reply_prime / parameters.plain_modulus
    overshoot, _ = integrate.quad(lambda x: stats.norm.sf(x, scale=sigma), margin, margin + 40 * sigma, epsabs=0)
    exact = parameters.ring_dimension * 2 * overshoot / width
    assert parameters.decryption_failure_bits == pytest.approx(math.log2(exact), abs=0.01)


def test_flooding_stays_within_the_circle_and_leaves_the_margin(parameters):
    t, q, f = parameters.plain_modulus, parameters.modulus, parameters.flood_bound
    room = parameters.margin * t * parameters.data_primes[1]
    assert t * f + room <= q // 2 < t * (f + 1) + room
    cost = parameters.ring_dimension * math.log2(q / ((2 * f + 1) * t))
    assert parameters.shown_bits == pytest.approx(cost, rel=1e-3)


def test_the_centring_constant_is_a_multiple_of_t_that_rounds_to_one_half(parameters):
    assert parameters.centring % parameters.plain_modulus == 0
    halves = parameters.centring / parameters.plain_modulus / parameters.data_primes[1]
    assert halves == pytest.approx(0.5, abs=1e-9)


def test_a_code_length_names_its_set(parameters):
    assert parameters_for(parameters.slots) is parameters
    with pytest.raises(UsageError, match="2048 or 1024"):
        parameters_for(parameters.slots + 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"plain_modulus": 536_690_689}, "slots must be fields"),  # 1 mod 16384: slots would be F_t
        ({"plain_modulus": 536_752_131}, "must be a prime"),
        ({"plain_modulus": 12_289}, "a key is worth"),  # the right congruence, 14 bits
        ({"plain_modulus": 8_589_905_921}, "below 2\\^32"),
        ({"slot_degree": 2}, "degree 4, 8 or 16"),
        ({"margin": 100}, "decryption fails"),
        ({"margin": 200}, "flooding costs"),
        ({"margin": 1 << 21}, "no room for flooding"),
        ({"data_primes": (1_125_899_906_826_241,)}, "three distinct primes"),
        ({"data_primes": (1_125_899_906_826_241, 1_125_899_906_826_241)}, "three distinct primes"),
        ({"data_primes": (1_125_899_906_826_241, 274_877_562_883)}, "1 mod 16384"),
        ({"data_primes": (1_125_899_906_826_241, 2_147_352_577)}, "even number of bits"),
        ({"data_primes": (72_057_594_037_616_641, 274_877_562_881)}, "at most 50"),
        ({"ring_dimension": 5000}, "no security table"),
    ],
)
def test_a_set_that_misses_a_bound_cannot_be_constructed(change, message):
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(ONEBIT_2048, **change)


def test_a_modulus_beyond_the_post_quantum_table_cannot_be_constructed():
    small = {"ring_dimension": 4096, "slot_degree": 4, "plain_modulus": 268_367_873}
    with pytest.raises(UsageError, match="post-quantum limit 83"):
        dataclasses.replace(ONEBIT_2048, name="too wide", **small)


def test_the_two_sets_differ_in_name_and_number():
    assert ONEBIT_2048.name != ONEBIT_1024.name
    zeros = (np.zeros(each.slots, np.uint8) for each in (ONEBIT_2048, ONEBIT_1024))
    messages = [
        wire.PaddedTemplate(bytes(32), bits).to_bytes(each)
        for bits, each in zip(zeros, (ONEBIT_2048, ONEBIT_1024), strict=True)
    ]
    assert [wire.parameters_of(message) for message in messages] == [ONEBIT_2048, ONEBIT_1024]
