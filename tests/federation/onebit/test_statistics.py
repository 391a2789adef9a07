"""Equal decisions look equal whatever the score: to the device, and to the server.

Every test rejects at 1e-6, and is shown to reject when the guard that it watches is removed.
"""

import dataclasses
import os

import numpy as np
import pytest
from scipy import stats

from federation.onebit import Material, SessionKey, wire
from federation.onebit.matcher import Masks
from federation.onebit.slots import PadFunction, hash_keys
from tests.federation.onebit.thief import TRANSCRIPT
from tests.federation.onebit.variants import coefficients, new_thief, read

SIGNIFICANCE = 1e-6
TAU = 60


def uniform_p(values, modulus, bins=64):
    """Chi-square p-value of the hypothesis that integers are uniform below `modulus`."""
    edges = np.linspace(0, modulus, bins + 1)
    return stats.chisquare(np.histogram(np.asarray(values, float), edges)[0]).pvalue


def session(owner, thief, distance, threshold=TAU, **weak):
    """One honest probe, and everything that its device can work out of an honest reply: named samples of numbers."""
    p, code = owner.parameters, owner.at(distance, seed=int(thief.random.integers(1 << 30)))
    hostile = thief.encrypt(thief.ring.slots(code))
    material = Material(p, dataclasses.replace(Masks.draw(p, os.urandom), **weak))
    challenge = material.answer(owner.template, hostile.probe, TRANSCRIPT, threshold)
    reply = wire.Reply.from_bytes(challenge.reply, p)
    keys = read(thief, challenge.reply)
    labels = hash_keys(reply.salt, keys) + reply.corrections * code[:, None]
    total = labels.sum(axis=0, keepdims=True, dtype=np.uint64)
    opened = (reply.table ^ PadFunction(reply.salt, TRANSCRIPT)(total)) == np.frombuffer(challenge.token, np.uint8)
    return {
        "length": [len(challenge.reply)],
        "first component": reply.components[0][::64],
        "second component": reply.components[1][::64],
        "phase": coefficients(thief, challenge.reply)[::64],
        "keys": keys[::64].ravel(),
        "corrections": reply.corrections[::16].ravel() >> np.uint64(11),
        "table": reply.table[::8].ravel(),
        "digest": list(reply.token_digest),
        "label": total.ravel() >> np.uint64(11),
        "opened entry": np.flatnonzero(opened.all(axis=1)),
    }


def differing(owner, distances, sessions, **weak):
    """What of a reply is distributed differently at two distances."""
    thief, samples = new_thief(owner.parameters), ({}, {})
    for sample, distance in zip(samples, distances, strict=True):
        for _ in range(sessions):
            for name, values in session(owner, thief, distance, **weak).items():
                sample.setdefault(name, []).extend(float(value) for value in values)
    return {
        name
        for name in samples[0]
        if len(samples[0][name]) != len(samples[1][name])
        or (samples[0][name] and stats.ks_2samp(samples[0][name], samples[1][name]).pvalue < SIGNIFICANCE)
    }


def test_accepting_replies_do_not_show_the_distance(owner):
    assert differing(owner, (0, TAU), 25) == set()


def test_rejecting_replies_do_not_show_the_distance(owner):
    assert differing(owner, (TAU + 1, owner.parameters.slots), 25) == set()


def test_accepting_and_rejecting_replies_differ_in_the_entry_that_opens_only(owner):
    assert differing(owner, (TAU, TAU + 1), 25) == {"opened entry"}


def test_without_the_shuffle_the_place_of_the_opened_entry_shows_the_distance(owner, monkeypatch):
    monkeypatch.setattr("federation.onebit.matcher._shuffled", lambda rows, _: rows)
    assert differing(owner, (0, TAU), 20) == {"opened entry"}


def test_with_alpha_known_a_label_and_a_start_show_the_distance(owner):
    """alpha = 0 makes S and S_0 equal at every distance: all entries open."""
    opened = session(owner, new_thief(owner.parameters), 500, step=np.zeros(2, np.uint64))["opened entry"]
    assert len(opened) == TAU + 1


def test_every_part_of_a_reply_is_uniform(owner, parameters):
    thief = new_thief(parameters)
    sessions = [session(owner, thief, distance) for distance in [0, TAU, 400] * 5]
    moduli = {
        "first component": parameters.reply_prime,
        "second component": parameters.reply_prime,
        "keys": parameters.plain_modulus,
        "corrections": 1 << 53,
        "table": 256,
    }
    for name, modulus in moduli.items():
        values = np.concatenate([each[name] for each in sessions])
        assert uniform_p(values, modulus) > SIGNIFICANCE, name
        assert uniform_p(values, modulus * 1.2) < SIGNIFICANCE, name


def test_the_entry_that_opens_is_uniform_over_the_table(owner):
    thief = new_thief(owner.parameters)
    places = [session(owner, thief, 0)["opened entry"][0] for _ in range(120)]
    assert uniform_p(places, TAU + 1, bins=8) > SIGNIFICANCE
    assert uniform_p(np.zeros(120), TAU + 1, bins=8) < SIGNIFICANCE


def test_what_the_server_receives_for_one_decision_does_not_depend_on_the_score(owner, parameters):
    """It receives a ciphertext, and its own token or zeros."""
    residues = {}
    for distance in (0, TAU, TAU + 1, parameters.slots):
        key = SessionKey.generate(parameters)
        probe = key.encrypt(owner.at(distance))
        challenge = Material.draw(parameters).answer(owner.template, probe, TRANSCRIPT, TAU)
        assert key.open_reply(challenge.reply, TRANSCRIPT) == (challenge.token if distance <= TAU else None)
        residues[distance] = wire.Probe.from_bytes(probe, parameters).residues[0].astype(float)
    assert stats.ks_2samp(residues[0], residues[TAU]).pvalue > SIGNIFICANCE
    assert uniform_p(residues[parameters.slots], parameters.data_primes[0]) > SIGNIFICANCE


@pytest.mark.parametrize("same", ["seed of the second polynomial", "residues", "session key"])
def test_two_probes_of_one_face_share_nothing(owner, parameters, same):
    keys = [SessionKey.generate(parameters) for _ in range(2)]
    probes = [wire.Probe.from_bytes(key.encrypt(owner.padded), parameters) for key in keys]
    if same == "residues":
        assert (probes[0].residues == probes[1].residues).mean() < 0.01
    elif same == "seed of the second polynomial":
        assert probes[0].seed != probes[1].seed
    else:
        reply = Material.draw(parameters).answer(owner.template, probes[0].to_bytes(parameters), TRANSCRIPT, TAU).reply
        assert keys[1].open_reply(reply, TRANSCRIPT) is None
