"""Malformed ciphertexts: probes whose "noise" is a ring element that the thief chose.

Who holds the secret key can make c_0 + c_1 s any element V modulo q. Two choices defeat the algebra of the circuit:

* An idempotent, V^2 = V, such as the integer that is 1 modulo one prime and 0 modulo the others. U (V^2 - V) vanishes,
  and B and Z, small integers equal modulo every prime, disappear in the modulus switch: the first component is left
  with A (1 - 2 T), unmasked but for rounding: 11 of 48 bits of every coefficient. Truncation and flooding are why this
  shows nothing.
* One half. 2 U V - U vanishes, so the second component plus 2 s times the third, which the key's holder can compute, is
  c_1 A (1 - 2 T): 16 of 48 bits of every coefficient. Z is why this shows nothing.

The statistic is the coherence of the difference of two sessions that share A, template and probe, which a real server
would never do; everything else is fresh. It is 1 when they agree, and about n^-1/2 when one of them is uniform.
"""

import numpy as np
import pytest

from federation.onebit import DeviceSecret, check_template, matcher, wire
from federation.onebit.matcher import Reference, prepare
from federation.onebit.seal import Engine
from tests.onebit.variants import (
    HEAD,
    NO_ZERO,
    PARAMETERS,
    PRIMES,
    Q0,
    N,
    accepts,
    answer,
    coefficients_of,
    coherence,
    components,
    constant,
    draw,
    integer,
    multiply_residues,
    padded,
    transformed,
    untruncated_reply,
)

TAU = 700
PREAMBLE = 8
Q = int(np.prod(np.array(PRIMES, object)))


def idempotent(*primes):
    """1 modulo the named primes, 0 modulo the others."""
    return constant(*(int(i in primes) for i in range(len(PRIMES))))


def idempotent_in_half_of_the_transform():
    """1 in a random half of all positions of the NTT domain, 0 in the others: the ring has 2^24576 idempotents."""
    return np.random.default_rng(3).integers(0, 2, (len(PRIMES), N), np.uint64)


IDEMPOTENTS = {
    "q0": idempotent(0),
    "q1": idempotent(1),
    "q2": idempotent(2),
    "q0 and q1": idempotent(0, 1),
    "q0 and q2": idempotent(0, 2),
    "q1 and q2": idempotent(1, 2),
    "half of the transform": idempotent_in_half_of_the_transform(),
}
HALF = integer(pow(2, -1, Q))
MALFORMED = IDEMPOTENTS | {
    "one half": HALF,
    "one third": integer(pow(3, -1, Q)),
    "minus one": integer(-1),
    "large": integer(Q // 3),
    "uniform": np.random.default_rng(4).integers(0, np.array(PRIMES)[:, None], (len(PRIMES), N)).astype(np.uint64),
}


def uniform_limit(count):
    """What the coherence of `count` uniform phases exceeds with probability 1e-6 (Rayleigh)."""
    return np.sqrt(6 * np.log(10) / count)


# ---------------------------------------------------------------------- the real path


def test_the_thief_can_send_any_ring_element(wallet):
    message = wire.SeededMessage.from_bytes(wallet.with_phase(HALF), wire.Kind.CIPHERTEXT)
    parts = np.stack([message.residues, wallet.second(message.seed)])
    assert (2 * wallet.phase(parts) % Q == padded([1])).all()


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_ciphertext_is_not_accepted(device, wallet, reference, name):
    for _ in range(4):
        probe = wallet.with_phase(MALFORMED[name])
        assert not accepts(device, prepare(reference, TAU).answer(probe, b"transcript"))


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_thousands_of_malformed_ciphertexts_are_not_accepted(device, wallet, reference):
    for name, phase in MALFORMED.items():
        for _ in range(200):
            probe = wallet.with_phase(phase)
            assert not accepts(device, prepare(reference, TAU).answer(probe, b"transcript")), name


def differences_of_heads(wallet, reference, phase, count, **weakened):
    """Differences of the four ring coefficients between sessions that share A and the probe: (count, 4)."""
    scale, probe = draw(reference).scale, wallet.with_phase(phase)
    replies = (answer(reference, draw(reference, scale=scale, **weakened), probe, 0).reply for _ in range(count + 1))
    return np.diff([wallet.head_phase(reply) for reply in replies], axis=0)


def test_a_reply_to_an_idempotent_shows_nothing_measurable(wallet, reference):
    shown = np.concatenate([differences_of_heads(wallet, reference, phase, 10) for phase in IDEMPOTENTS.values()])
    assert coherence(shown) < uniform_limit(shown.size)


def test_without_flooding_an_idempotent_probe_shows_four_unmasked_numbers(wallet, reference):
    no_flood = np.zeros(HEAD, np.uint64)
    shown = differences_of_heads(wallet, reference, idempotent(0), 5, flood=no_flood)
    assert coherence(shown) > 0.999


@pytest.mark.parametrize("name", IDEMPOTENTS)
def test_an_idempotent_template_does_not_pass_the_enrolment_check(device, wallet, name):
    template = wallet.with_phase(IDEMPOTENTS[name])
    for _ in range(3):
        assert not accepts(device, check_template(device.public_key, template, b"transcript"))


@pytest.mark.parametrize("name", IDEMPOTENTS)
def test_a_device_without_a_secret_does_not_enrol_an_idempotent_either(name):
    """With s = 0 and b = 0 an encryption of zero would have no phase at all, were it not for noise of its own."""
    nobody = DeviceSecret(np.zeros(N, np.uint64), public_key_of_nobody())
    template = wire.SeededMessage(wire.Kind.CIPHERTEXT, bytes(64), IDEMPOTENTS[name]).to_bytes()
    assert not accepts(nobody, check_template(nobody.public_key, template, b"transcript"))


def public_key_of_nobody():
    return wire.SeededMessage(wire.Kind.PUBLIC_KEY, bytes(64), integer(0)).to_bytes()


def test_without_the_fresh_encryption_of_zero_an_idempotent_template_passes(device, wallet, monkeypatch):
    no_noise = Reference.from_bytes(device.public_key, wallet.with_phase(integer(0))).template
    samples = iter([matcher._rlwe_sample, matcher._rlwe_sample, lambda *_: no_noise])  # two for Z, then G

    def sample(*arguments):
        return next(samples)(*arguments)

    monkeypatch.setattr(matcher, "_rlwe_sample", sample)
    monkeypatch.setattr(Engine, "add_error", lambda _engine, ciphertext, _error: ciphertext)
    template = wallet.with_phase(idempotent(0))
    assert accepts(device, check_template(device.public_key, template, b"transcript"))


def test_flooding_leaves_less_than_a_tenth_of_a_bit_of_each_number():
    """It is uniform over all of the circle but the margin for rounding, so it hides all but -log2 of that share."""
    covered = (2 * PARAMETERS.flood_bound + 1) * PARAMETERS.plain_modulus / Q0
    assert -np.log2(covered) < 0.1


# ---------------------------------------------------------------------- without truncation


def test_without_truncation_an_idempotent_probe_shows_the_template_unmasked(wallet, reference, device, template_code):
    scale, probe = draw(reference).scale, wallet.with_phase(idempotent(0))
    shown = wallet.phase(untruncated_reply(reference, draw(reference, scale=scale), probe))
    assert coherence(shown - predicted(wallet, reference, scale)) > 0.999
    other = Reference.from_bytes(device.public_key, device.encrypt(1 - template_code))
    assert coherence(shown - predicted(wallet, other, scale)) < uniform_limit(N)


def predicted(wallet, reference, scale):
    """A (1 - 2 T), noise of the template included, divided by q_1 q_2 modulo q_0."""
    direction = components(reference.direction, 2, len(PRIMES))
    product = np.stack([multiply_residues(part, transformed(padded(scale)), PRIMES) for part in direction])
    dropped = pow(PRIMES[1] * PRIMES[2], -1, Q0)
    return wallet.phase(product) * dropped


def test_an_honest_probe_shows_nothing_even_without_truncation(device, wallet, reference, template):
    scale = draw(reference).scale
    first, second = (
        wallet.phase(untruncated_reply(reference, draw(reference, scale=scale), template)) for _ in range(2)
    )
    noise = (first - second).astype(float)
    assert np.log2(noise.std()) < PARAMETERS.rounding_noise_bits + 2  # both are noise around fresh masks, no more


# ---------------------------------------------------------------------- without Z


def combined(wallet, reference, probe, **weakened):
    """The second component plus 2 s times the third: (N,) modulo q_0. A reply holds both whole."""
    _, second, third = untruncated_reply(reference, draw(reference, **weakened), probe)
    doubled = multiply_residues(2 * wallet.secret[:1] % np.uint64(Q0), third, PRIMES[:1])
    return coefficients_of((second + doubled) % np.uint64(Q0))


def test_without_z_a_probe_of_one_half_cancels_u_in_the_other_components(wallet, reference):
    scale, probe = draw(reference).scale, wallet.with_phase(HALF)
    first, second = (combined(wallet, reference, probe, scale=scale, zero=NO_ZERO) for _ in range(2))
    assert coherence(first - second) > 0.999
    assert np.median(np.abs((first - second + Q0 // 2) % Q0 - Q0 // 2)) < 2.0**33  # 15 of 48 bits agree


def test_with_z_the_other_components_share_nothing(wallet, reference):
    scale, probe = draw(reference).scale, wallet.with_phase(HALF)
    first, second = (combined(wallet, reference, probe, scale=scale) for _ in range(2))
    assert coherence(first - second) < uniform_limit(N)


@pytest.mark.parametrize("phase", ["zero", "q0", "half"])
def test_a_malicious_public_key_does_not_weaken_z(device, wallet, template, phase):
    """Z is made from the public key, whose first polynomial is the device's to choose."""
    chosen = {"zero": integer(0), "q0": idempotent(0), "half": HALF}[phase]
    forged = wallet.with_phase(chosen)
    reference = Reference.from_bytes(device.public_key[:PREAMBLE] + forged[PREAMBLE:], template)
    scale, probe = draw(reference).scale, wallet.with_phase(HALF)
    first, second = (combined(wallet, reference, probe, scale=scale) for _ in range(2))
    assert coherence(first - second) < uniform_limit(N)
