"""The scheme with one guard removed at a time, and the thief who then wins. `GUARDS` is the index of docs/onebit.md.

Every attack here ends in the same way: the thief knows both keys of a slot, so

    alpha = +- (g_j + h_{j,1} - h_{j,0}),

and with S = S_0 + alpha d of the string that was opened he tries S + alpha k for every k.
"""

import dataclasses
import hashlib
import os

import numpy as np

from federation.onebit import Material, wire
from federation.onebit.matcher import Masks
from federation.onebit.ntt import plus, times, transform
from federation.onebit.slots import PadFunction, hash_keys, to_slots
from tests.federation.onebit.thief import TRANSCRIPT, Thief

GUARDS = {
    "Delta: another key for each value": "test_with_one_key_for_both_values_alpha_is_what_a_correction_shows",
    "r: the first key is random": "test_without_r_both_keys_are_known_before_the_session",
    "Delta is used once": "test_two_probes_to_one_delta_are_the_whole_template",
    "the second polynomial comes out of a seed": "test_a_second_polynomial_of_ones_choice_shows_delta",
    "f floods the first component": "test_without_flooding_the_first_component_shows_the_leading_bits_of_delta",
    "t u and t e hide Delta in the second component": "test_without_u_and_e_the_second_component_divides_by_the_probe",
    "slots are fields of t^g elements": "test_with_slots_in_the_prime_field_the_second_key_is_found_offline",
    "one pad for one template": "test_two_templates_under_one_pad_show_their_distance_to_whoever_steals_the_database",
    "one code seed for one template": "test_one_seed_connects_templates_for_two_servers_that_lie",
    "the code seed is as secret as the pad": "test_with_the_code_seed_a_pattern_of_differences_is_the_face",
    "alpha has order above 2048": "test_in_characteristic_two_everybody_is_accepted",
    "the digest of the token is whole": "test_with_a_short_digest_a_server_learns_which_of_two_sets_opened",
    "the table is shuffled": "test_without_the_shuffle_the_opened_entry_is_the_distance",
    "the pad depends on the transcript": "test_without_the_transcript_a_reply_opens_in_another_session",
    "the signature covers the probe": "test_without_the_probe_in_the_signature_a_thief_of_the_database_needs_no_wallet",
    "a device says zeros whatever is wrong": "test_a_device_that_aborts_gives_a_second_bit",
    "a constant takes the bias out of the rounding": (
        "test_without_the_centring_constant_the_rounding_of_seal_is_biased"
    ),
    "a margin keeps noise from the edge": ("test_decryption_fails_as_often_as_predicted_where_the_margin_is_too_small"),
    "nothing of the device is multiplied by anything of the device": (
        "test_in_the_old_arithmetic_a_square_that_wraps_round_q_is_accepted"
    ),
}
"""Guard -> the test in which the attack succeeds, or the property fails, without it."""


def weakened(parameters, **masks):
    """Material from honest masks, with the named ones replaced."""
    return Material(parameters, dataclasses.replace(Masks.draw(parameters, os.urandom), **masks))


def labels_of(reply, keys):
    return hash_keys(reply.salt, keys)


def try_steps(reply, start, step, transcript=TRANSCRIPT):
    """The token under S + alpha k for some k between -m and m, or None."""
    m = len(reply.corrections)
    counts = np.arange(-m, m + 1).astype(np.uint64)
    pads = PadFunction(reply.salt, transcript)(start + counts[:, None] * step)
    for entry in reply.table[:3]:  # any entry opens under its own k
        for token in pads ^ entry:
            if hashlib.sha256(token.tobytes()).digest() == reply.token_digest:
                return token.tobytes()
    return None


def open_with_both_keys(message, parameters, zeros, ones, slot=0):
    """What follows from both keys (m, g) of every slot: (token, x). `slot` is where alpha is read off.

    x is known up to its complement, and which of the two it is shows when a table opens.
    """
    reply = wire.Reply.from_bytes(message, parameters)
    first, second = labels_of(reply, zeros), labels_of(reply, ones)
    signed = reply.corrections + second - first  # alpha (1 - 2 x_j)
    alpha = signed[slot]
    x = (signed != alpha).any(axis=1).astype(np.uint8)
    start = first.sum(axis=0, dtype=np.uint64)  # S_0 + alpha weight(x)
    return try_steps(reply, start, alpha), x


def open_with_one_slot(message, parameters, chosen, code, other_key, slot):
    """What follows from the chosen key of every slot and the other key of one: the token."""
    reply = wire.Reply.from_bytes(message, parameters)
    labels = labels_of(reply, chosen)
    start = (labels + reply.corrections * code[:, None]).sum(axis=0, dtype=np.uint64)
    both = chosen.copy()
    both[slot] = other_key
    other = labels_of(reply, both)[slot]
    pair = (other, labels[slot]) if code[slot] else (labels[slot], other)
    return try_steps(reply, start, reply.corrections[slot] + pair[1] - pair[0])


def read(thief, message, secret=None):
    """(m, g): what every slot of a reply decrypts to."""
    reply = wire.Reply.from_bytes(message, thief.parameters)
    secrets = [thief.secret[0] if secret is None else secret]
    return next(iter(thief.readings(reply, secrets)))


def coefficients(thief, message, component=None):
    """(N,) centred coefficients modulo q_0 of a reply's phase, or of one component."""
    p, q0 = thief.parameters, thief.parameters.reply_prime
    parts = wire.Reply.from_bytes(message, p).components
    values = plus(parts[0], times(parts[1], thief.secret[0], q0), q0) if component is None else parts[component]
    phase = transform(q0, p.ring_dimension).backward(values).astype(np.int64)
    return np.where(phase > q0 // 2, phase - q0, phase)


def decoded(thief, phase):
    """Coefficients modulo q_0 -> slots (m, g), as the device decrypts."""
    p = thief.parameters
    residues = phase % p.plain_modulus * (p.data_primes[1] % p.plain_modulus) % p.plain_modulus
    return to_slots(residues.astype(np.uint64), p)


def same_x_or_complement(found, x):
    return np.array_equal(found, x) or np.array_equal(1 - found, x)


def new_thief(parameters, seed=11):
    return Thief(parameters, np.random.default_rng(seed))
