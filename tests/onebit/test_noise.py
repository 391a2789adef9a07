"""Measured noise against the predictions of `federation.onebit.parameters`, worst honest inputs included."""

import math

import numpy as np
import pytest

from federation.onebit import BITS, DeviceSecret, parameters, wire
from federation.onebit.matcher import Reference, accepted_values
from tests.onebit.variants import (
    PARAMETERS,
    PRIMES,
    SEAL,
    N,
    T,
    answer,
    coefficients_of,
    components,
    draw,
    evaluated,
    integer,
    multiply_residues,
    transformed,
)

RANDOM = np.random.default_rng(11).integers(0, 2, (2, BITS), np.uint8)
ONES, ZEROS = np.ones(BITS, np.uint8), np.zeros(BITS, np.uint8)
LOG_Q = math.log2(math.prod(PRIMES))
INPUTS = {
    "random": (RANDOM[0], RANDOM[1]),
    "equal": (RANDOM[0], RANDOM[0]),
    "opposite": (RANDOM[0], 1 - RANDOM[0]),
    "all ones": (ONES, ONES),
    "zeros and ones": (ZEROS, ONES),
    "all zeros": (ZEROS, ZEROS),
    "alternating": (np.arange(BITS) % 2, np.arange(BITS) % 2),
    "one bit": (np.eye(1, BITS)[0], np.eye(1, BITS, BITS - 1)[0]),
}


def encrypted(device, name):
    template, probe = (code.astype(np.uint8) for code in INPUTS[name])
    return Reference.from_bytes(device.public_key, device.encrypt(template)), device.encrypt(probe)


def deviation_bits(phase):
    """log2 of the root mean square."""
    return math.log2(math.sqrt(float(np.mean(phase.astype(float) ** 2))))


def test_a_fresh_encryption_has_the_predicted_noise(device, wallet):
    message = wire.SeededMessage.from_bytes(device.encrypt(RANDOM[0]), wire.Kind.CIPHERTEXT)
    phase = wallet.phase(np.stack([message.residues, wallet.second(message.seed)]))
    noise = (phase - SEAL.pack(RANDOM[0]).astype(object)) // T
    assert deviation_bits(noise * T) == pytest.approx(PARAMETERS.fresh_noise_bits, abs=0.1)
    assert max(abs(noise)) <= 21  # centred binomial of 2 x 21 bits


@pytest.mark.parametrize("name", INPUTS)
def test_the_circuit_and_the_switch_leave_the_predicted_noise(device, wallet, name):
    reference, probe = encrypted(device, name)
    before = evaluated(reference, draw(reference), probe)
    phase = wallet.phase(components(before, 3, len(PRIMES)))
    assert abs(deviation_bits(phase) - PARAMETERS.circuit_noise_bits) < 0.4
    largest = math.log2(max(abs(phase)))
    assert SEAL.noise_budget(device._key, before) == pytest.approx(LOG_Q - 1 - largest, abs=1.1)

    switched = wallet.phase(components(SEAL.switch_to_reply(before), 3, 1))
    fresh_part = deviation_bits(switched - rounding_constant(wallet))
    assert abs(fresh_part - PARAMETERS.rounding_noise_bits) < 0.4
    left = deviation_bits(phase) - math.log2(math.prod(PRIMES[1:]))
    assert fresh_part - left > PARAMETERS.gap_bits - 0.6
    assert max(abs(switched)) < PARAMETERS.rounding_margin


def rounding_constant(wallet):
    """What SEAL's one-sided rounding adds for one key: -(t / 2) (1 + s + s^2) (1 + x + ... + x^(N - 1))."""
    modulus = np.array(PRIMES, np.uint64)[:, None]
    squared = multiply_residues(wallet.secret, wallet.secret, PRIMES)
    sums = (integer(1) + wallet.secret + squared) % modulus
    return -coefficients_of(multiply_residues(sums, transformed(np.ones(N)), PRIMES)) * (T // 2)


def test_the_constant_part_is_what_the_device_computes_of_its_own_key(device, wallet):
    signed = (device._coefficients.astype(np.int64) + 1) % T - 1
    expected = max(abs(rounding_constant(wallet)[:4]))
    assert parameters.rounding_constant(PARAMETERS, signed) == pytest.approx(
        expected, rel=1e-6
    )  # t / 2 is rounded once


def test_a_device_draws_again_when_its_key_rounds_too_far():
    """All coefficients 1: the constant part is then about (t / 2) N^2 / 2."""
    ones, zeros = b"\2\0\0\0", b"\1\0\0\0"
    stream = iter([ones * N, zeros * N])
    drawn = DeviceSecret.generate(lambda count: next(stream)[:count])
    assert set(drawn._coefficients.tolist()) == {0}
    with pytest.raises(StopIteration):
        next(stream)


def failures(device, wallet, runs):
    """Replies that decrypt to another value than the masks say, over all inputs in turn."""
    wrong = 0
    names = list(INPUTS)
    for run in range(runs):
        name = names[run % len(names)]
        reference, probe = encrypted(device, name)
        masks = draw(reference)
        distance = int(np.count_nonzero(INPUTS[name][0] != INPUTS[name][1]))
        expected = accepted_values(PARAMETERS, masks, min(distance, BITS - 1))[-1].astype(object)
        if distance == BITS:  # one more step than a threshold can be
            expected = (expected + masks.scale.astype(object) * PARAMETERS.distance_scale) % T
        reply = answer(reference, masks, probe, 0).reply
        wrong += wallet.masked_distance(reply) != list(expected)
    return wrong


def test_no_reply_decrypts_wrongly(device, wallet):
    assert failures(device, wallet, 24) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_reply_of_thousands_decrypts_wrongly(device, wallet):
    assert failures(device, wallet, 5_000) == 0
