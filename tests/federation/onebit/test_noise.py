"""Noise of a reply against the formulas of `parameters`, also at margins where it must fail."""

import dataclasses
import math
import os

import numpy as np
import pytest
from scipy import stats

from federation.onebit.matcher import Masks, _prepare
from federation.onebit.ntt import plus, times, transform
from federation.onebit.parameters import Parameters
from federation.onebit.sampling import ternary
from federation.onebit.seal import engine
from federation.onebit.slots import from_bits, to_slots
from tests.federation.onebit.seal_decryptor import seal_decrypt
from tests.federation.onebit.thief import Ring

SIGNIFICANCE = 1e-6


class Run:
    """One session without messages: what the device could see of its own reply, and what it should decrypt to."""

    def __init__(self, parameters, masks, bits):
        n, seal = parameters.ring_dimension, engine(parameters)
        coefficients = ternary(n, os.urandom)
        key = seal.secret_key(coefficients)
        seed, residues = seal.encrypt(key, from_bits(bits, parameters))
        prepared = _prepare(parameters, masks)
        self.parameters, q0 = parameters, parameters.reply_prime
        self.components = seal.evaluate(seal.load_probe(seed, residues), prepared.multiplier, prepared.mask)
        secret = transform(q0, n).forward((coefficients % q0).astype(np.uint64))
        values = plus(self.components[0], times(self.components[1], secret, q0), q0)
        phase = transform(q0, n).backward(values).astype(np.int64)
        self.noise = np.where(phase > q0 // 2, phase - q0, phase) / parameters.plain_modulus
        offset, delta = to_slots(masks.offset, parameters), to_slots(masks.delta, parameters)
        t = np.uint64(parameters.plain_modulus)
        expected = np.where(bits[:, None] == 1, (offset + delta) % t, offset)
        seen = to_slots(seal_decrypt(seal, key, self.components), parameters)
        self.wrong = int((seen != expected).any(axis=1).sum())


def unflooded(parameters):
    """Honest masks but for f = 0: the phase is then the noise, and the keys, which are below one unit."""
    nothing = np.full(parameters.ring_dimension, parameters.flood_bound, np.uint64)
    return dataclasses.replace(Masks.draw(parameters, os.urandom), flood=nothing)


def codes(parameters):
    random = np.random.default_rng(1).integers(0, 2, parameters.slots, dtype=np.uint8)
    return random, np.zeros_like(random), np.ones_like(random)


def test_the_noise_of_a_reply_is_what_the_formula_says(parameters):
    runs = [Run(parameters, unflooded(parameters), bits) for bits in codes(parameters) for _ in range(3)]
    deviations = [run.noise.std() for run in runs]
    # One run's deviation is known to 0.9 %: 8192 coefficients, and a secret whose weight differs. Five of that, each.
    assert deviations == pytest.approx([parameters.reply_noise] * len(deviations), rel=0.045)
    assert np.mean(deviations) == pytest.approx(parameters.reply_noise, rel=0.02)
    assert max(abs(run.noise).max() for run in runs) < parameters.margin
    assert abs(np.mean([run.noise.mean() for run in runs])) < 1
    assert parameters.reply_noise == pytest.approx(math.hypot(parameters.product_noise, parameters.rounding_noise))


def test_without_the_centring_constant_the_rounding_of_seal_is_biased(parameters, monkeypatch):
    monkeypatch.setattr(Parameters, "centring", 0)
    bits = codes(parameters)[0]
    runs = [Run(parameters, unflooded(parameters), bits) for _ in range(6)]
    assert max(run.noise.std() for run in runs) > 1.1 * parameters.reply_noise
    assert max(abs(run.noise).max() for run in runs) > 100


def test_the_noise_of_the_product_is_what_the_formula_says(parameters):
    """Before the switch, in arithmetic of our own: what multiplying by Delta + t u leaves."""
    ring, masks = Ring(parameters), unflooded(parameters)
    t, q = ring.t, ring.q
    multiplier = ring.element(masks.delta.astype(np.int64) + masks.multiple * t)
    spread = []
    for seed in range(3):
        bits = np.random.default_rng(seed).integers(0, 2, parameters.slots, dtype=np.uint8)
        error = np.random.default_rng(2).binomial(42, 0.5, ring.n) - 21
        fresh = ring.element(from_bits(bits, parameters).astype(np.int64) + error * t)
        product = ring.product(fresh, multiplier)
        rows = [
            transform(prime, ring.n).backward(row).astype(object)
            for prime, row in zip(ring.primes, product, strict=True)
        ]
        first, second = ring.primes
        lifted = (rows[0] * second * pow(second, -1, first) + rows[1] * first * pow(first, -1, second)) % q
        centred = np.where(lifted > q // 2, lifted - q, lifted)
        spread.append(float(np.std((centred / (t * second)).astype(float))))
    # Codes differ by a fifth either way in the first term: their coefficients have other means.
    assert np.mean(spread) == pytest.approx(parameters.product_noise, rel=0.15)


def with_margin(parameters, margin):
    """The set with another margin, past the checks that forbid it."""
    loose = object.__new__(Parameters)
    for field in dataclasses.fields(Parameters):
        object.__setattr__(loose, field.name, getattr(parameters, field.name))
    object.__setattr__(loose, "margin", margin)
    return loose


def failures(parameters, margin, sessions):
    """Coefficients that decrypt wrongly in so many sessions, and how many the formula predicts."""
    loose, wrong = with_margin(parameters, margin), 0
    bits = codes(parameters)[0]
    for _ in range(sessions):
        wrong += Run(loose, Masks.draw(loose, os.urandom), bits).wrong > 0
    return wrong, sessions * (1 - math.exp(-(2**loose.decryption_failure_bits)))


def test_decryption_fails_as_often_as_predicted_where_the_margin_is_too_small(parameters):
    sessions = 100
    none, predicted = failures(parameters, 0, sessions)
    assert stats.binomtest(none, sessions, predicted / sessions).pvalue > SIGNIFICANCE
    many, more = failures(parameters, -100, sessions)  # the flood reaches beyond half of q
    assert stats.binomtest(many, sessions, more / sessions).pvalue > SIGNIFICANCE
    assert stats.binomtest(many, sessions, predicted / sessions).pvalue < SIGNIFICANCE


def test_no_reply_decrypts_wrongly(parameters):
    assert sum(Run(parameters, Masks.draw(parameters, os.urandom), bits).wrong for bits in codes(parameters) * 4) == 0


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_no_reply_of_thousands_decrypts_wrongly(parameters):
    for _ in range(1_000):
        for bits in codes(parameters):
            assert Run(parameters, Masks.draw(parameters, os.urandom), bits).wrong == 0
